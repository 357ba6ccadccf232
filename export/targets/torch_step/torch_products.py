"""Products, windows, sums along axes and norms, in torch."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rnn_export.export.targets.torch_step.operands import Operands, Operator


def _gemm(x: Operands) -> Tensor:
    a = x[0].t() if x.attribute("transA", 0) else x[0]
    b = x[1] if x.attribute("transB", 0) else x[1].t()
    alpha, beta = x.attribute("alpha", 1.0), x.attribute("beta", 1.0)
    if alpha == beta == 1.0 and x.given(2) and x[2].dim() == 1:
        return F.linear(a, b, x[2])
    result: Tensor = F.linear(a, b) * alpha
    return result + beta * x[2] if x.given(2) else result


def _padding(x: Operands, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """The padding before each axis, and then behind each."""
    pads, auto = x.attribute("pads", [0] * 2 * len(kernel)), x.attribute("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        return list(pads)
    before, after = [], []
    for size, k, stride, dilation in zip(x[0].shape[2:], kernel, strides, dilations, strict=True):
        whole = max((-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
        small, large = whole // 2, whole - whole // 2
        before.append(small if auto == "SAME_UPPER" else large)
        after.append(large if auto == "SAME_UPPER" else small)
    return [*before, *after]


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    axes = len(pads) // 2
    flat = [n for axis in reversed(range(axes)) for n in (pads[axis], pads[axes + axis])]
    return F.pad(x, flat, value=value) if any(flat) else x


def _conv(x: Operands) -> Tensor:
    kernel = [*x[1].shape[2:]]
    strides, dilations = x.attribute("strides", [1] * len(kernel)), x.attribute("dilations", [1] * len(kernel))
    convolve = _by_axes(x, len(kernel), (F.conv1d, F.conv2d, F.conv3d))
    padded = _padded(x[0], _padding(x, kernel, strides, dilations))
    bias = x[2] if x.given(2) else None
    return convolve(padded, x[1], bias, stride=strides, dilation=dilations, groups=x.attribute("group", 1))


def _conv_transpose(x: Operands) -> Tensor:
    axes = x[1].dim() - 2
    strides, dilations = x.attribute("strides", [1] * axes), x.attribute("dilations", [1] * axes)
    if x.attribute("auto_pad", "NOTSET") != "NOTSET" or x.attribute("output_shape") is not None:
        raise x.refusal("its padding follows from the size of its result", id="torch-transposed-padding")
    pads, extra = x.attribute("pads", [0] * 2 * axes), x.attribute("output_padding", [0] * axes)
    convolve = _by_axes(x, axes, (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d))
    bias = x[2] if x.given(2) else None
    result = convolve(
        x[0], x[1], bias, stride=strides, output_padding=extra, dilation=dilations, groups=x.attribute("group", 1)
    )
    for axis in range(axes):
        size = result.shape[2 + axis] - pads[axis] - pads[axes + axis]
        result = result.narrow(2 + axis, pads[axis], size)
    return result


def _max_pool(x: Operands) -> Tensor:
    kernel = x.attribute("kernel_shape")
    strides, dilations = x.attribute("strides", [1] * len(kernel)), x.attribute("dilations", [1] * len(kernel))
    if x.attribute("ceil_mode", 0) or len(x.node.outputs) > 1:
        raise x.refusal("it rounds its size up, or gives places too", id="torch-max-pool-form")
    pool = _by_axes(x, len(kernel), (F.max_pool1d, F.max_pool2d, F.max_pool3d))
    padded = _padded(x[0], _padding(x, kernel, strides, dilations), float("-inf"))
    return pool(padded, kernel, strides, 0, dilations)


def _average_pool(x: Operands) -> Tensor:
    kernel = x.attribute("kernel_shape")
    strides = x.attribute("strides", [1] * len(kernel))
    pads = _padding(x, kernel, strides, [1] * len(kernel))
    if x.attribute("ceil_mode", 0) or x.attribute("dilations") not in (None, [1] * len(kernel)):
        raise x.refusal("it rounds its size up, or leaves values out", id="torch-average-pool-ceil")
    if any(pads) and not x.attribute("count_include_pad", 0):
        raise x.refusal("it has padding that it does not count", id="torch-average-pool-padding")
    return _by_axes(x, len(kernel), (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d))(_padded(x[0], pads), kernel, strides)


def _by_axes(x: Operands, axes: int, functions: Sequence[Callable[..., Tensor]]) -> Callable[..., Tensor]:
    if not 1 <= axes <= len(functions):
        raise x.refusal(f"it has windows of {axes} axes", id="torch-window-axes")
    return functions[axes - 1]


def _over_all(function: Callable[..., Tensor]) -> Operator:
    """Over all axes behind the first two."""
    return lambda x: function(x[0], dim=[*range(2, x[0].dim())], keepdim=True)


def _along(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def write(x: Operands) -> Tensor:
        axes = x.axes() or []
        if not axes and x.attribute("noop_with_empty_axes", 0):
            return x[0]
        # Of whole numbers torch makes wider ones.
        return function(x[0], axes or [*range(x[0].dim())], bool(x.attribute("keepdims", 1))).to(x[0].dtype)

    return write


def _mean(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keeps)
    return torch.div(x.sum(axes, keepdim=keeps), math.prod(x.shape[axis] for axis in axes), rounding_mode="trunc")


def _product(x: Tensor, axes: list[int], keeps: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keeps)
    return x


def _cumulative(x: Operands) -> Tensor:
    (axis,) = x.required(1)
    exclusive, reverse = x.attribute("exclusive", 0), x.attribute("reverse", 0)
    turned = x[0].flip(axis) if reverse else x[0]
    sums = turned.cumsum(axis).to(x[0].dtype)
    sums = sums - turned if exclusive else sums
    return sums.flip(axis) if reverse else sums


def _place(function: Callable[..., Tensor]) -> Operator:
    def write(x: Operands) -> Tensor:
        if x.attribute("select_last_index", 0):
            raise x.refusal("of several places it takes the last", id="torch-last-of-places")
        return function(x[0], x.attribute("axis", 0), keepdim=bool(x.attribute("keepdims", 1)))

    return write


def _einsum(x: Operands) -> Tensor:
    return torch.einsum(x.attribute("equation"), *x.all())


def _softmax(function: Callable[..., Tensor]) -> Operator:
    return lambda x: function(x[0], x.attribute("axis", -1))


def _layer_norm(x: Operands) -> Tensor:
    sizes = x[0].shape[x.attribute("axis", -1) % x[0].dim() :]
    weight, bias = x[1].expand(sizes), x[2].expand(sizes) if x.given(2) else None
    return F.layer_norm(x[0], sizes, weight, bias, x.attribute("epsilon", 1e-5))


def _batch_norm(x: Operands) -> Tensor:
    return F.batch_norm(x[0], x[3], x[4], x[1], x[2], False, 0.0, x.attribute("epsilon", 1e-5))


def _instance_norm(x: Operands) -> Tensor:
    return F.instance_norm(x[0], None, None, x[1], x[2], True, 0.0, x.attribute("epsilon", 1e-5))


OPERATORS: Mapping[str, Operator] = {
    "MatMul": lambda x: torch.matmul(x[0], x[1]),
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _over_all(torch.mean),
    "GlobalMaxPool": _over_all(torch.amax),
    "ReduceSum": _along(lambda x, axes, keeps: x.sum(axes, keepdim=keeps)),
    "ReduceMean": _along(_mean),
    "ReduceMax": _along(lambda x, axes, keeps: x.amax(axes, keepdim=keeps)),
    "ReduceMin": _along(lambda x, axes, keeps: x.amin(axes, keepdim=keeps)),
    "ReduceProd": _along(_product),
    "ReduceL1": _along(lambda x, axes, keeps: x.abs().sum(axes, keepdim=keeps)),
    "ReduceL2": _along(lambda x, axes, keeps: x.square().sum(axes, keepdim=keeps).sqrt()),
    "ReduceSumSquare": _along(lambda x, axes, keeps: x.square().sum(axes, keepdim=keeps)),
    "ReduceLogSumExp": _along(lambda x, axes, keeps: torch.logsumexp(x, axes, keepdim=keeps)),
    "CumSum": _cumulative,
    "ArgMax": _place(torch.argmax),
    "ArgMin": _place(torch.argmin),
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
}
