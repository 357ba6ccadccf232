"""The operators of MIL in numpy against torch's own, where their parameters differ from numpy's."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rnn_export.export.targets.coreml.mil_interpreter import FUNCTIONS

T = torch.from_numpy


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


X3, X4, TABLE = drawn(2, 6, 9), drawn(2, 4, 7, 8), np.array([2, 0, 5])
W1, W2, UP = drawn(8, 3, 3), drawn(6, 2, 3, 2), drawn(6, 2, 4)
POSITIVE = np.abs(X3) + 0.1
LAST = np.array([2])

# Operator, its parameters, and the same by torch.
CASES = {
    "conv, grouped": (
        {"x": X3, "weight": W1, "bias": W1[:, 0, 0], "strides": [2], "dilations": [2], "groups": 2},
        lambda: F.conv1d(T(X3), T(W1), T(W1[:, 0, 0]), 2, 0, 2, 2),
    ),
    "conv, padded on one side": (
        {"x": X3, "weight": W1, "pad_type": "custom", "pad": [3, 1], "groups": 2},
        lambda: F.conv1d(F.pad(T(X3), (3, 1)), T(W1), groups=2),
    ),
    "conv, of images": (
        {"x": X4, "weight": W2, "strides": [2, 1], "pad_type": "custom", "pad": [1, 1, 2, 2], "groups": 2},
        lambda: F.conv2d(T(X4), T(W2), None, (2, 1), (1, 2), 1, 2),
    ),
    "conv_transpose, grouped": (
        {"x": X3, "weight": UP, "strides": [3], "groups": 2},
        lambda: F.conv_transpose1d(T(X3), T(UP), None, 3, groups=2),
    ),
    "conv_transpose, cut": (
        {"x": X3, "weight": UP, "strides": [2], "pad_type": "custom", "pad": [1, 1], "dilations": [2]},
        lambda: F.conv_transpose1d(T(X3), T(UP), None, 2, 1, dilation=2),
    ),
    "max_pool": (
        {"x": X3, "kernel_sizes": [3], "strides": [2], "pad_type": "custom", "pad": [1, 1]},
        lambda: F.max_pool1d(T(X3), 3, 2, 1),
    ),
    "avg_pool": (
        {"x": X3, "kernel_sizes": [3], "strides": [2], "pad_type": "custom", "pad": [1, 1]},
        lambda: F.avg_pool1d(T(X3), 3, 2, 1),
    ),
    "avg_pool, of what is there": (
        {
            "x": X3, "kernel_sizes": [3], "strides": [2], "pad_type": "custom", "pad": [1, 1],
            "exclude_padding_from_average": True,
        },
        lambda: F.avg_pool1d(T(X3), 3, 2, 1, count_include_pad=False),
    ),
    "layer_norm": (
        {"x": X3, "axes": LAST, "gamma": X3[0, 0], "beta": X3[0, 1], "epsilon": 1e-3},
        lambda: F.layer_norm(T(X3), (9,), T(X3[0, 0]), T(X3[0, 1]), 1e-3),
    ),
    "batch_norm": (
        {"x": X3, "mean": X3[0, :, 0], "variance": POSITIVE[0, :, 0], "gamma": X3[0, :, 1], "beta": X3[0, :, 2]},
        lambda: F.batch_norm(T(X3), *map(T, (X3[0, :, 0], POSITIVE[0, :, 0], X3[0, :, 1], X3[0, :, 2]))),
    ),
    "instance_norm": ({"x": X3}, lambda: F.instance_norm(T(X3))),
    "softmax": ({"x": X3 * 50, "axis": 1}, lambda: F.softmax(T(X3 * 50), 1)),
    "gelu": ({"x": X3}, lambda: F.gelu(T(X3))),
    "gelu, by tanh": ({"x": X3, "mode": "TANH_APPROXIMATION"}, lambda: F.gelu(T(X3), approximate="tanh")),
    "elu": ({"x": X3, "alpha": 1.5}, lambda: F.elu(T(X3), 1.5)),
    "leaky_relu": ({"x": X3, "alpha": 0.2}, lambda: F.leaky_relu(T(X3), 0.2)),
    "prelu": ({"x": X3, "alpha": X3[0, :, 0]}, lambda: F.prelu(T(X3), T(X3[0, :, 0]))),
    "sigmoid": ({"x": X3 * 100}, lambda: torch.sigmoid(T(X3 * 100))),
    "softplus": ({"x": X3 * 30}, lambda: F.softplus(T(X3 * 30), threshold=1000)),
    "silu": ({"x": X3}, lambda: F.silu(T(X3))),
    "softsign": ({"x": X3}, lambda: F.softsign(T(X3))),
    "mod": ({"x": X3, "y": np.float32(0.7)}, lambda: torch.remainder(T(X3), 0.7)),
    "floor_div": ({"x": X3, "y": np.float32(0.7)}, lambda: torch.div(T(X3), 0.7, rounding_mode="floor")),
    "cast, to whole numbers": ({"x": X3 * 9, "dtype": "int32"}, lambda: (T(X3) * 9).to(torch.int32)),
    "round": ({"x": np.arange(-3, 4, dtype=np.float32) / 2}, lambda: torch.round(torch.arange(-3, 4) / 2)),
    "cumsum": ({"x": X3, "axis": 2, "reverse": True}, lambda: T(X3).flip(2).cumsum(2).flip(2)),
    "gather": ({"x": X3, "indices": TABLE, "axis": 1}, lambda: T(X3)[:, [2, 0, 5]]),
    "gather_along_axis": (
        {"x": X3, "indices": np.argsort(X3, 1), "axis": 1},
        lambda: torch.gather(T(X3), 1, T(np.argsort(X3, 1))),
    ),
    "gather_nd": ({"x": X3, "indices": np.array([[0, 3], [1, 2]])}, lambda: T(X3)[[0, 1], [3, 2]]),
    "scatter_along_axis": (
        {"data": X3, "indices": np.argsort(X3, 1), "updates": X3, "axis": 1, "mode": "update"},
        lambda: T(X3).scatter(1, T(np.argsort(X3, 1)), T(X3)),
    ),
    "scatter, added": (
        {"data": X3, "indices": TABLE, "updates": X3[:, :3], "axis": 1, "mode": "add"},
        lambda: T(X3).index_add(1, T(TABLE), T(X3[:, :3])),
    ),
    "scatter_nd": (
        {"data": X3, "indices": np.array([[0, 3], [1, 2]]), "updates": X3[0, :2], "mode": "update"},
        lambda: T(X3).index_put((torch.tensor([0, 1]), torch.tensor([3, 2])), T(X3[0, :2])),
    ),
    "pad, by reflection": ({"x": X3, "pad": [2, 1], "mode": "reflect"}, lambda: F.pad(T(X3), (2, 1), "reflect")),
    "pad, by a value": (
        {"x": X3, "pad": [0, 0, 1, 0, 2, 1], "constant_val": 3.0},
        lambda: F.pad(T(X3), (2, 1, 1, 0), value=3.0),
    ),
    "reduce_log_sum_exp": (
        {"x": X3 * 99, "axes": LAST, "keep_dims": True},
        lambda: torch.logsumexp(T(X3 * 99), 2, True),
    ),
    "reduce_argmax": ({"x": X3, "axis": 1}, lambda: T(X3).argmax(1)),
    "reduce_l2_norm": ({"x": X3, "axes": LAST}, lambda: T(X3).norm(dim=2)),
    "one_hot": ({"indices": TABLE, "one_hot_vector_size": 6}, lambda: F.one_hot(T(TABLE), 6)),
    "slice_by_index": (
        {
            "x": X3, "begin": [1, -5, 0], "end": [0, -1, 0], "stride": [1, 2, 1], "end_mask": [True, False, True],
            "squeeze_mask": [True, False, False],
        },
        lambda: T(X3)[1, -5:-1:2],
    ),
    "slice_update": (
        {"x": X3, "update": X3[:, :2, :4], "begin": [0, 2, 1], "end": [2, 4, 9], "stride": [1, 1, 2]},
        lambda: T(X3).slice_scatter(T(X3)[:, 2:4].slice_scatter(T(X3[:, :2, :4]), 2, 1, 9, 2), 1, 2, 4),
    ),
    "slice_by_size": ({"x": X3, "begin": [0, 1, 2], "size": [2, 3, -1]}, lambda: T(X3)[:, 1:4, 2:]),
    "concat, interleaved": (
        {"values": [X3, X3 + 1], "axis": 1, "interleave": True},
        lambda: torch.stack([T(X3), T(X3) + 1], 2).reshape(2, 12, 9),
    ),
    "reshape": ({"x": X3, "shape": [0, -1]}, lambda: T(X3).reshape(2, -1)),
    "matmul": (
        {"x": X3, "y": X3, "transpose_y": True},
        lambda: T(X3) @ T(X3).transpose(1, 2),
    ),
    "linear": ({"x": X3, "weight": X3[0], "bias": X3[0, :, 0]}, lambda: F.linear(T(X3), T(X3[0]), T(X3[0, :, 0]))),
    "log": ({"x": POSITIVE, "epsilon": 0.5}, lambda: torch.log(T(POSITIVE) + 0.5)),
    "rsqrt": ({"x": POSITIVE, "epsilon": 0.5}, lambda: torch.rsqrt(T(POSITIVE) + 0.5)),
    "inverse": ({"x": POSITIVE, "epsilon": 0.5}, lambda: 1 / (T(POSITIVE) + 0.5)),
    "tile": ({"x": X3, "reps": [1, 2, 3]}, lambda: T(X3).repeat(1, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_torch_s(case):
    given, by_torch = CASES[case]
    got = FUNCTIONS[case.partition(",")[0]](
        **{n: np.array(v) if n != "values" and isinstance(v, list) else v for n, v in given.items()}
    )
    want = by_torch().numpy()
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def test_the_largest_come_first():
    values, places = FUNCTIONS["topk"](x=X3, k=3, axis=1)
    want = T(X3).topk(3, 1)
    np.testing.assert_array_equal(values, want.values)
    np.testing.assert_array_equal(places, want.indices)


def test_parts_of_several_sizes():
    for got, want in zip(
        FUNCTIONS["split"](x=X3, axis=1, split_sizes=[1, 3, 2]), T(X3).split([1, 3, 2], 1), strict=True
    ):
        np.testing.assert_array_equal(got, want)
