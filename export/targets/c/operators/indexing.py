"""Operators that read or write at indices.

An index beyond an axis reads its last or first value, and writes nothing. The state notes it, unless the graph rules
it out, or the index is an input, which is checked before a step.
"""

import math
import re

import onnx_ir as ir

from rnn_export.export.graph.passes.module_paths import module_of
from rnn_export.export.graph.passes.nodes import input_name
from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.notation import index_expression, strides_of
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.operators.data_movement import slice_along
from rnn_export.export.targets.c.operators.integer_ranges import range_of

# What a value {u} does where there is {y}.
UPDATES = {
    "none": "{u}",
    "add": "{y} + {u}",
    "mul": "{y} * {u}",
    "max": "{u} > {y} || {u} != {u} ? {u} : {y}",
    "min": "{u} < {y} || {u} != {u} ? {u} : {y}",
}


def gather(code: CodeBuilder, node: ir.Node) -> None:
    """Rows of a table."""
    x, index = code.read(node, 0), code.input(node, 1)
    axis = node.attributes.get_int("axis", 0) % len(x.shape)
    outer, rows, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    if index.constant is not None and index.size == 1:
        row = int(index.constant.reshape(-1)[0])
        if not -rows <= row < rows:
            raise refusal(node, f"it takes {row} of {rows} along axis {axis}", id="c-gather-beyond-axis")
        part = [(row % rows if a == axis else 0, 1) for a in range(len(x.shape))]
        slice_along(code, node, x, part, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
        return
    index, y = code.with_address(index), code.new_output(node)
    note = ""
    if port := re.match(r"\(*(in\d+)\b", index.address):
        code.table_rows[port[1]] = min(rows, code.table_rows.get(port[1], rows))
    else:
        note = _note(code, node, rows)
    with code.loops(["o", "j"], [outer, index.size]):
        _emit_clamped(code, f"{index.address}[j]", rows, note)
        target = f"{y.address} + (o * {index.size} + j) * {inner}"
        code.emit(f"memcpy({target}, {x.address} + (o * {rows} + row) * {inner}, {inner} * sizeof({x.c_type}));")


def gather_elements(code: CodeBuilder, node: ir.Node) -> None:
    """Element by element: y[i, j, k] = x[i, index[i, j, k], k] for axis 1."""
    x, index, y = code.read(node, 0), code.read(node, 1), code.new_output(node)
    axis = node.attributes.get_int("axis", 0) % len(x.shape)
    loops = [f"n{a}" for a in range(len(x.shape))]
    note = _note(code, node, x.shape[axis])
    with code.loops(loops, index.shape):
        at = index_expression(loops, strides_of(index.shape))
        _emit_clamped(code, f"{index.address}[{at}]", x.shape[axis], note)
        places = ["row" if a == axis else n for a, n in enumerate(loops)]
        code.emit(f"{y.address}[{at}] = {x.address}[{index_expression(places, strides_of(x.shape))}];")


def gather_nd(code: CodeBuilder, node: ir.Node) -> None:
    """Rows of index (batch..., places..., depth) that name a part of x (batch..., sizes of depth..., part...)."""
    x, index, y = code.read(node, 0), code.read(node, 1), code.new_output(node)
    stacked, depth = node.attributes.get_int("batch_dims", 0), index.shape[-1]
    batch, places = math.prod(x.shape[:stacked]), math.prod(index.shape[stacked:-1])
    named, part = x.shape[stacked : stacked + depth], math.prod(x.shape[stacked + depth :])
    with code.loops(["o", "j"], [batch, places]):
        code.emit(f"int64_t from = o * {math.prod(named) * part};")
        for i, (size, stride) in enumerate(zip(named, strides_of(named), strict=True)):
            code.emit("{")
            note = _note(code, node, size, i)
            _emit_clamped(code, f"{index.address}[(o * {places} + j) * {depth} + {i}]", size, note)
            code.emit(f"from += row * {stride * part};")
            code.emit("}")
        target = f"{y.address} + (o * {places} + j) * {part}"
        code.emit(f"memcpy({target}, {x.address} + from, {part} * sizeof({x.c_type}));")


def scatter_elements(code: CodeBuilder, node: ir.Node) -> None:
    """The input, but y[i, index[i, j, k], k] = update[i, j, k] for axis 1."""
    index, update, y = code.read(node, 1), code.read(node, 2), _copied(code, node)
    axis = node.attributes.get_int("axis", 0) % len(y.shape)
    loops = [f"n{a}" for a in range(len(y.shape))]
    with code.loops(loops, index.shape):
        at = index_expression(loops, strides_of(index.shape))
        _emit_row(code, f"{index.address}[{at}]", y.shape[axis], _note(code, node, y.shape[axis]))
        places = ["row" if a == axis else n for a, n in enumerate(loops)]
        target = f"{y.address}[{index_expression(places, strides_of(y.shape))}]"
        code.emit(f"if (row >= 0 && row < {y.shape[axis]})")
        code.emit(f"    {target} = ({y.c_type})({_update(node, y, target, f'{update.address}[{at}]')});")


def scatter_nd(code: CodeBuilder, node: ir.Node) -> None:
    """The input, but the part of y that a row of index (places..., depth) names is of update (places..., part...)."""
    index, update, y = code.read(node, 1), code.read(node, 2), _copied(code, node)
    depth, places = index.shape[-1], math.prod(index.shape[:-1])
    named, part = y.shape[:depth], math.prod(y.shape[depth:])
    with code.loop("j", places):
        code.emit("int64_t to = 0;")
        code.emit("int inside = 1;")
        for i, (size, stride) in enumerate(zip(named, strides_of(named), strict=True)):
            code.emit("{")
            _emit_row(code, f"{index.address}[j * {depth} + {i}]", size, _note(code, node, size, i))
            code.emit(f"    inside = inside && row >= 0 && row < {size};")
            code.emit(f"    to += inside ? row * {stride * part} : 0;")
            code.emit("}")
        code.emit(f"for (int i = 0; inside && i < {part}; i++)")
        target = f"{y.address}[to + i]"
        code.emit(f"    {target} = ({y.c_type})({_update(node, y, target, f'{update.address}[j * {part} + i]')});")


def tensor_scatter(code: CodeBuilder, node: ir.Node) -> None:
    """A cache (batch, ..., length, ...) with new values from a position on, one for each row of the batch."""
    update, y = code.read(node, 1), _copied(code, node)
    axis = node.attributes.get_int("axis", -2) % len(y.shape)
    length, new = y.shape[axis], update.shape[axis]
    outer, inner = math.prod(y.shape[1:axis]), math.prod(y.shape[axis + 1 :])
    start = f"{code.read(node, 2).address}[b]" if len(node.inputs) > 2 and node.inputs[2] is not None else "0"
    circular = node.attributes.get_string("mode", "linear") == "circular"
    with code.loops(["b", "o", "j"], [y.shape[0], outer, new]):
        place = f"{start} + j"
        code.emit(f"const int64_t row = {f'(({place}) % {length} + {length}) % {length}' if circular else place};")
        code.emit(f"if (row >= 0 && row < {length})")
        target = f"{y.address} + ((b * {outer} + o) * {length} + row) * {inner}"
        source = f"{update.address} + ((b * {outer} + o) * {new} + j) * {inner}"
        code.emit(f"    memcpy({target}, {source}, {inner} * sizeof({y.c_type}));")


def one_hot(code: CodeBuilder, node: ir.Node) -> None:
    """`off`, but `on` where an index points; one beyond the depth points nowhere."""
    index, values, y = code.read(node, 0), code.read(node, 2), code.new_output(node)
    axis = node.attributes.get_int("axis", -1) % len(y.shape)
    outer, depth, inner = math.prod(y.shape[:axis]), y.shape[axis], math.prod(y.shape[axis + 1 :])
    with code.loops(["o", "d", "c"], [outer, depth, inner]):
        row = _from_end(f"(int64_t){index.address}[o * {inner} + c]", depth)
        target = f"{y.address}[(o * {depth} + d) * {inner} + c]"
        code.emit(f"{target} = {values.address}[{row} == d];")


def _copied(code: CodeBuilder, node: ir.Node) -> CTensor:
    """The output as a copy of the first input."""
    x, y = code.read(node, 0), code.new_output(node)
    code.emit(f"memcpy({y.address}, {x.address}, {x.size} * sizeof({x.c_type}));")
    return y


def _update(node: ir.Node, y: CTensor, there: str, value: str) -> str:
    formula = UPDATES[node.attributes.get_string("reduction", "none")]
    if y.c_type != "float":
        formula = formula.replace(" || {u} != {u}", "")
    return formula.format(u=value, y=there)


def _from_end(index: str, size: int) -> str:
    """An index that counts from the end where it is negative, as one from the start."""
    return f"({index} < 0 ? {index} + {size} : {index})"


def _emit_clamped(code: CodeBuilder, index: str, size: int, note: str) -> None:
    """Define `row`, an index within an axis."""
    _emit_row(code, index, size, note)
    code.emit(f"row = row < 0 ? 0 : row >= {size} ? {size - 1} : row;")


def _emit_row(code: CodeBuilder, index: str, size: int, note: str) -> None:
    """Define `row`, an index that may be beyond the axis: then with a `note`."""
    code.emit(f"int64_t row = {_from_end(index, size)};")
    if note:
        code.emit(f"if (row < 0 || row >= {size})")
        code.emit(f"    {note}")


def _note(code: CodeBuilder, node: ir.Node, size: int, column: int | None = None) -> str:
    """The C that notes an index beyond an axis of `size` values; empty if there is none.

    `column` is their place in the last axis of the indices. Raises ExportError if a constant one is beyond.
    """
    index = code.input(node, 1)
    low, high = range_of(node.inputs[1])
    if index.constant is not None and index.size:
        of_axis = index.constant if column is None else index.constant[..., column]
        low, high = int(of_axis.min()), int(of_axis.max())
    if -size <= low and high < size:
        return ""
    if index.constant is not None:
        raise refusal(node, f"its indices go from {low} to {high}, and the axis has {size}", id="c-indices-beyond-axis")
    of = f"{node.op_type} of {module_of(node)}"
    inside = f"an index must be within the inclusive range [{-size},{size - 1}]"
    return code.note(f"{input_name(node, 1)} ({of}) is out of its table, {inside}")
