"""Which operators can be written in C, and by what; and a whole graph as a program."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from rnn_export.errors import ExportError
from rnn_export.export.targets.c import elementwise, matrix, moving, recurrent, rows
from rnn_export.export.targets.c.program import END, Program, Tensor, shape_of

Emitter = Callable[[Program, ir.Node], None]

OPERATORS: Mapping[str, Emitter] = {
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    **dict.fromkeys(elementwise.SINGLE, elementwise.several),
    **dict.fromkeys(elementwise.BINARY, elementwise.several),
    **dict.fromkeys(elementwise.LIBRARY, elementwise.library),
    "Neg": elementwise.negated,
    "Abs": elementwise.negated,
    "Pow": elementwise.power,
    "Where": elementwise.where,
    "Clip": elementwise.clip,
    "Cast": elementwise.cast,
    "Sign": elementwise.sign,
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"), moving.reshaped),
    "Transpose": moving.transpose,
    "Concat": moving.concat,
    "Split": moving.split,
    "Slice": moving.slice_,
    "Gather": moving.gather,
    "Expand": moving.expand,
    "Tile": moving.tile,
    "Pad": moving.pad,
    "ConstantOfShape": moving.filled,
    "MatMul": matrix.matmul,
    "Gemm": matrix.gemm,
    "Conv": matrix.conv,
    **dict.fromkeys(rows.REDUCTIONS, rows.reduction),
    "Softmax": rows.softmax,
    "LogSoftmax": rows.softmax,
    "LayerNormalization": rows.layer_norm,
    "BatchNormalization": rows.channel_norm,
    "MaxPool": rows.pool,
    "AveragePool": rows.pool,
    **dict.fromkeys(recurrent.CELLS, recurrent.recurrent),
}


def translate(model: ir.Model, program: Program, given: Mapping[str, str]) -> list[Tensor]:
    """Fill `program` with the statements of `model`, and give its outputs; `given` are the addresses of its inputs.

    Raises ExportError that names node and operator where one cannot be written.
    """
    for value in model.graph.inputs:
        program.tensors[value] = Tensor(given[str(value.name)], program.kind(value), shape_of(value))
    results = statements(model, program)
    return settled(program, results, [text for text in given.values() if text.startswith("state->")])


def statements(model: ir.Model, program: Program) -> list[Tensor]:
    """The same where `program` has the inputs, and no output is written over one of them."""
    for number, node in enumerate(model.graph):
        program.now = number
        if node not in program.done:
            OPERATORS[node.op_type](program, node)
    program.now = END
    return [program.addressed(program.get(value)) for value in model.graph.outputs]


def settled(p: Program, results: Sequence[Tensor], states: Sequence[str]) -> list[Tensor]:
    """The results so that each can be written after those before it: outputs, which may lie where the inputs do, and
    then `states`. What one of them would overwrite, and a later one still reads, is copied first.
    """
    outputs = len(results) - len(states)
    kept = []
    for i, result in enumerate(results):
        source = re.match(r"\(*(in\d+|state->\w+)", result.text)
        overwritten = outputs + states.index(source[1]) if source and source[1] in states else 0
        if source and (overwritten < i or (overwritten == i and result.text != source[1])):
            copied = p.room(result.kind, result.shape)
            moving.copy(p, copied, 0, result, 0, [(result.size, 1, 1)])
            result = copied
        kept.append(result)
    return kept


def refuse_unknown(nodes: Sequence[ir.Node] | ir.Graph) -> None:
    """Raises ExportError where there is an operator that no code is for."""
    unknown = [n for n in nodes if n.op_type not in OPERATORS or n.domain not in ("", "ai.onnx")]
    if unknown:
        first = unknown[0]
        others = sorted({n.op_type for n in unknown} - {first.op_type})
        raise ExportError(
            f"node {first.name!r} ({first.op_type}) cannot be written in C: there is no code for that operator"
            + (f", nor for {', '.join(others)}" if others else "")
            + f". Known are {', '.join(sorted(OPERATORS))}. Say the same with those, or take the target onnx."
        )
