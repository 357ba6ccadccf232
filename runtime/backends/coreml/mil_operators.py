"""The operators of MIL that a program of a bundle may have: functions of tensors whose sizes are numbers.

Each of them can be verified without macOS. Left out are those that hold other programs, draw at random, keep lists, or
give as many values as their input makes them. `COMPUTE` are those that compute, and do not only move or convert.
"""

_MOVING = """
    argsort cast concat expand_dims fill gather gather_along_axis gather_nd identity one_hot pad range_1d read_state
    reshape reverse scatter scatter_along_axis scatter_nd select slice_by_index slice_by_size slice_update split squeeze
    stack tile topk transpose write_state
"""
_COMPUTE = """
    abs add atan avg_pool batch_norm ceil clip conv conv_transpose cos cumsum einsum elu equal erf exp exp2 floor
    floor_div gelu greater greater_equal instance_norm inverse layer_norm leaky_relu less less_equal linear
    linear_activation log logical_and logical_not logical_or logical_xor matmul max_pool maximum minimum mod mul
    not_equal pow prelu real_div reduce_argmax reduce_argmin reduce_l1_norm reduce_l2_norm reduce_log_sum_exp reduce_max
    reduce_mean reduce_min reduce_prod reduce_sum reduce_sum_square relu relu6 round rsqrt scaled_tanh sigmoid
    sigmoid_hard sign silu sin softmax softplus softsign sqrt square sub tan tanh threshold
"""
COMPUTE = frozenset(_COMPUTE.split())
OPERATORS = COMPUTE | frozenset(_MOVING.split())
