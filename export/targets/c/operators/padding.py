"""Pad, in each of its modes."""

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.notation import index_expression, scalar_literal, strides_of

# The index along an axis of {n} values that is read for a place {i} that may lie beyond it.
SOURCES = {"reflect": "rnn_reflect({i}, {n})", "edge": "rnn_nearest({i}, {n})", "wrap": "rnn_wrap({i}, {n})"}


def pad(code: CodeBuilder, node: ir.Node) -> None:
    """A negative pad cuts off; raises ExportError where a mode asks for values that there are not."""
    x, pads, axes = code.read(node, 0), code.required(node, 1), code.constant(node, 3)
    mode, rank = node.attributes.get_string("mode", "constant"), len(x.shape)
    padded = list(range(rank)) if axes is None else [int(a) % rank for a in axes]
    if mode != "constant" and (mode not in SOURCES or (pads < 0).any()):
        raise refusal(
            node,
            f"its mode is {mode!r} with pads {pads.tolist()}, and only constant pads may be negative",
            id="c-pad-mode",
        )
    sizes = np.array([x.shape[axis] for axis in 2 * padded])
    if mode == "reflect" and (pads >= sizes).any():
        raise refusal(
            node, f"it mirrors {pads.tolist()} values of {list(x.shape)}, which are not so many", id="c-mirror-too-long"
        )
    before = dict(zip(padded, pads.tolist(), strict=False))
    y = code.new_output(node)
    loops = [f"n{axis}" for axis in range(rank)]
    places = [f"({n} - {before[axis]})" if before.get(axis) else n for axis, n in enumerate(loops)]
    indices = places
    if mode != "constant":
        form = SOURCES[mode]
        changed = {axis for axis, count in zip(2 * padded, pads.tolist(), strict=True) if count}
        indices = [form.format(i=p, n=x.shape[axis]) if axis in changed else p for axis, p in enumerate(places)]
    inside = []
    for axis, place in enumerate(places):
        first = before.get(axis, 0)
        if first > 0:
            inside.append(f"{place} >= 0")
        if y.shape[axis] - first > x.shape[axis]:
            inside.append(f"{place} < {x.shape[axis]}")
    source = f"{x.address}[{index_expression(indices, strides_of(x.shape))}]"
    with code.loops(loops, y.shape):
        read = f"{' && '.join(inside)} ? {source} : {_filler(code, node)}" if mode == "constant" and inside else source
        code.emit(f"{y.address}[{index_expression(loops, strides_of(y.shape))}] = {read};")


def _filler(code: CodeBuilder, node: ir.Node) -> str:
    if input_of(node, 2) is None:
        return "0"
    value = code.input(node, 2)
    return f"{value.address}[0]" if value.constant is None else scalar_literal(value.constant)
