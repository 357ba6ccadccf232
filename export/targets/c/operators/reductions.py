"""Reductions along axes: sums, products, extremes, and running sums."""

import math

import onnx_ir as ir

from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.notation import index_expression, strides_of

# What the sum starts as, what is done with each value x, and the result of n of them.
REDUCTIONS = {
    "ReduceSum": ("0", "sum += {x}", "{s}"),
    "ReduceMean": ("0", "sum += {x}", "{s} / {n}"),
    "ReduceSumSquare": ("0", "sum += {x} * {x}", "{s}"),
    "ReduceL1": ("0", "sum += {x} < 0 ? -{x} : {x}", "{s}"),
    "ReduceL2": ("0", "sum += {x} * {x}", "rnn_scalar(rnn_sqrt(rnn_all({s})))"),
    "ReduceMax": ("{first}", "sum = {x} > sum || {x} != {x} ? {x} : sum", "{s}"),
    "ReduceMin": ("{first}", "sum = {x} < sum || {x} != {x} ? {x} : sum", "{s}"),
    "ReduceProd": ("1", "sum *= {x}", "{s}"),
    "ReduceLogSum": ("0", "sum += {x}", "rnn_scalar(rnn_log(rnn_all({s})))"),
    "ReduceLogSumExp": (
        "0",
        "sum += rnn_scalar(rnn_exp(rnn_all({x} - most)))",
        "most + rnn_scalar(rnn_log(rnn_all({s})))",
    ),
}
# Those that whole numbers have too.
OF_WHOLE_NUMBERS = ("ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceMax", "ReduceMin", "ReduceProd")
OF_TRUTHS = ("ReduceMax", "ReduceMin")
# Of a node that has no axes, and is not to reduce all of them, opset 18 is read alike everywhere for these alone.
PLAIN = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
# What a running sum or product starts as, and how it goes on.
SCANS = {"CumSum": ("0", "+="), "CumProd": ("1", "*=")}


def reduce(code: CodeBuilder, node: ir.Node) -> None:
    x, given = code.read(node, 0), code.constant(node, 1)
    rank = len(x.shape)
    axes = [int(a) % rank for a in node.attributes.get_ints("axes", [] if given is None else given.tolist())]
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        if node.op_type not in PLAIN:
            raise refusal(
                node,
                "it has no axes and noop_with_empty_axes, which is not read alike everywhere",
                id="c-reduce-without-axes",
            )
        code.set_view(node, x)
        return
    known = {"float": tuple(REDUCTIONS), "uint8_t": OF_TRUTHS}.get(x.c_type, OF_WHOLE_NUMBERS)
    if node.op_type not in known:
        raise refusal(node, f"it has no form for {x.c_type}", id="c-reduce-dtype")
    axes = axes or list(range(rank))
    y = code.new_output(node)
    start, step, result = REDUCTIONS[node.op_type]
    if x.c_type != "float":
        step = step.replace(" || {x} != {x}", "")
    strides = strides_of(x.shape)
    outer, inner = [f"n{a}" for a in range(rank) if a not in axes], [f"n{a}" for a in axes]
    counts, reduced = [n for a, n in enumerate(x.shape) if a not in axes], [x.shape[a] for a in axes]
    row = index_expression(outer, [s for a, s in enumerate(strides) if a not in axes])
    value = f"{x.address}[{row} + {index_expression(inner, [strides[a] for a in axes])}]"
    first = f"{x.address}[{row}]"
    with code.loops(outer or ["once"], counts or [1]):
        if node.op_type == "ReduceLogSumExp":
            code.emit(f"float most = {first};")
            with code.loops(inner, reduced):
                code.emit(f"most = {value} > most ? {value} : most;")
            # Of what is infinite nothing is taken away.
            code.emit("most = most - most == 0.0f ? most : 0.0f;")
        code.emit(f"{x.c_type} sum = {start.format(first=first)};")
        with code.loops(inner, reduced):
            code.emit(f"{step.format(x=value)};")
        target, n = index_expression(outer, strides_of(counts)), math.prod(reduced)
        count = f"{n}.0f" if x.c_type == "float" else str(n)
        code.emit(f"{y.address}[{target}] = {result.format(s='sum', n=count)};")


def running(code: CodeBuilder, node: ir.Node) -> None:
    """CumSum and CumProd: each value with all before it, or with `exclusive` all before it alone; or all after it."""
    x, y = code.read(node, 0), code.new_output(node)
    axis = int(code.required(node, 1).reshape(-1)[0]) % len(x.shape)
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    start, step = SCANS[node.op_type]
    exclusive, reverse = (bool(node.attributes.get_int(name, 0)) for name in ("exclusive", "reverse"))
    with code.loops(["o", "c"], [outer, inner]):
        code.emit(f"{x.c_type} sum = {start};")
        with code.loop("i", n, down=reverse):
            at = f"(o * {n} + i) * {inner} + c"
            if exclusive:
                code.emit(f"{y.address}[{at}] = sum;")
            code.emit(f"sum {step} {x.address}[{at}];")
            if not exclusive:
                code.emit(f"{y.address}[{at}] = sum;")
