"""Pools: the largest value, the mean or the length of a window."""

import math

import onnx_ir as ir

from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.notation import index_expression, strides_of
from rnn_export.export.targets.c.operators.image_windows import SlidingWindow

# What the result starts as, and what is done with each value x.
POOLS = {
    "MaxPool": ("-1.0f / 0.0f", "sum = {x} > sum || {x} != {x} ? {x} : sum"),
    "AveragePool": ("0.0f", "sum += {x}"),
    "LpPool": ("0.0f", "sum += {x}"),
}
# Of |x| to the power of p, and what comes back of the sum of those.
POWERS = {1: ("({x} < 0.0f ? -{x} : {x})", "sum"), 2: ("{x} * {x}", "rnn_scalar(rnn_sqrt(rnn_all(sum)))")}


def pool(code: CodeBuilder, node: ir.Node) -> None:
    """MaxPool, AveragePool, LpPool, and those whose window is the whole image."""
    x, kind = code.read(node, 0), node.op_type.removeprefix("Global")
    if x.c_type != "float":
        raise refusal(node, f"it has no form for {x.c_type}", id="c-pool-dtype")
    with_places = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    if with_places and node.attributes.get_int("storage_order", 0) == 1:
        raise refusal(node, "its indices count column by column (storage_order)", id="c-pool-column-indices")
    window = x.shape[2:] if kind != node.op_type else node.attributes.get_ints("kernel_shape")
    y = code.new_output(node)
    sliding = SlidingWindow.of(node, x.shape, y.shape, window)
    index, tests = sliding.read()
    at, inside = f"c * {math.prod(sliding.sizes)} + {index}", " && ".join(tests) or "1"
    start, step = POOLS[kind]
    value, result = f"{x.address}[{at}]", "sum"
    if kind == "LpPool":
        value, result = _power(code, value, node.attributes.get_int("p", 2))
    counted, count = _counted(node, sliding) if kind == "AveragePool" else ("", "")
    target = index_expression(["c", *sliding.variables("l")], [math.prod(sliding.places), *strides_of(sliding.places)])
    places = code.new_output(node, 1) if with_places else None
    with code.loops(["c", *sliding.variables("l")], [x.shape[0] * x.shape[1], *sliding.places]):
        code.emit(f"float sum = {start};")
        if counted:
            code.emit("int count = 0;")
        if places:
            code.emit("int best = -1;")
        with code.loops(sliding.variables("k"), sliding.window):
            if counted:
                code.emit(f"count += {counted};")
            if places:
                code.emit(f"best = {inside} && (best < 0 || {value} > sum) ? {at} : best;")
            code.emit(f"if ({inside})")
            code.emit(f"    {step.format(x=value)};")
        if kind == "AveragePool":
            result = f"sum / {count}"
        code.emit(f"{y.address}[{target}] = {result};")
        if places:
            code.emit(f"{places.address}[{target}] = best;")


def _counted(node: ir.Node, sliding: SlidingWindow) -> tuple[str, str]:
    """The test that a value of a window counts for its mean, empty if all do; and the divisor of the sum."""
    if node.attributes.get_int("count_include_pad", 0):
        ends = [size + pad for size, pad in zip(sliding.sizes, sliding.pads[len(sliding.sizes) :], strict=True)]
        tests = [f"{sliding.index(axis)} < {end}" for axis, end in enumerate(ends) if sliding.last(axis) >= end]
    else:
        _, tests = sliding.read()
    if not tests:
        return "", f"{math.prod(sliding.window)}.0f"
    return " && ".join(tests), "(float)count"


def _power(code: CodeBuilder, value: str, p: int) -> tuple[str, str]:
    """|value| to the power of p, and the root of the sum of those."""
    if p not in POWERS:
        code.uses_libm = True
        return f"powf({value} < 0.0f ? -{value} : {value}, {p}.0f)", f"powf(sum, 1.0f / {p}.0f)"
    power, root = POWERS[p]
    return power.format(x=value), root
