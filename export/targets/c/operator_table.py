"""Write operators, and whole graphs, as statements of C."""

import re
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from rnn_export.errors import ExportError
from rnn_export.export.targets.c.code.code_builder import END, CodeBuilder
from rnn_export.export.targets.c.code.notation import shape_of
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.operators import (
    data_movement,
    elementwise,
    formulas,
    indexing,
    norms,
    ordering,
    pools,
    reductions,
)
from rnn_export.export.targets.c.operators.padding import pad
from rnn_export.export.targets.c.operators.resizing import resize
from rnn_export.export.targets.c.operators.sliding_states import slides
from rnn_export.export.targets.c.products import fourier, matrix, recurrent
from rnn_export.export.targets.c.products.convolution import conv
from rnn_export.export.targets.c.products.einsum import einsum
from rnn_export.export.targets.c.products.transposed_convolution import conv_transpose
from rnn_export.export.targets.c.window_concat import join_windows

OPERATORS: Mapping[str, Callable[[CodeBuilder, ir.Node], None]] = {
    **dict.fromkeys((*formulas.VECTOR, *formulas.SCALAR), elementwise.by_formula),
    **dict.fromkeys(formulas.LIBRARY, elementwise.library),
    "Mean": elementwise.mean,
    "Mod": elementwise.modulo,
    "Pow": elementwise.power,
    "Clip": elementwise.clip,
    **dict.fromkeys(("Cast", "CastLike"), elementwise.cast),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"), data_movement.reshape),
    "Transpose": data_movement.transpose,
    "Concat": data_movement.concat,
    "Split": data_movement.split,
    "Slice": data_movement.slice_,
    "Expand": data_movement.expand,
    "Tile": data_movement.tile,
    "DepthToSpace": data_movement.depth_to_space,
    "SpaceToDepth": data_movement.space_to_depth,
    "Trilu": data_movement.trilu,
    "ConstantOfShape": data_movement.constant_of_shape,
    "Pad": pad,
    "Resize": resize,
    "Gather": indexing.gather,
    "GatherElements": indexing.gather_elements,
    "GatherND": indexing.gather_nd,
    "ScatterElements": indexing.scatter_elements,
    "ScatterND": indexing.scatter_nd,
    "TensorScatter": indexing.tensor_scatter,
    "OneHot": indexing.one_hot,
    "ArgMax": ordering.arg,
    "ArgMin": ordering.arg,
    "Hardmax": ordering.hardmax,
    "TopK": ordering.top_k,
    "MatMul": matrix.matmul,
    "Gemm": matrix.gemm,
    "Einsum": einsum,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), pools.pool),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"), pools.pool),
    **dict.fromkeys(reductions.REDUCTIONS, reductions.reduce),
    **dict.fromkeys(reductions.SCANS, reductions.running),
    "Softmax": norms.softmax,
    "LogSoftmax": norms.softmax,
    "LayerNormalization": norms.layer_norm,
    "RMSNormalization": norms.layer_norm,
    "BatchNormalization": norms.batch_norm,
    "InstanceNormalization": norms.instance_norm,
    "LpNormalization": norms.lp_norm,
    "DFT": fourier.dft,
    "STFT": fourier.stft,
    **dict.fromkeys(recurrent.CELLS, recurrent.recurrent),
}


def write_step(model: ir.Model, code: CodeBuilder, addresses: Mapping[str, str]) -> list[CTensor]:
    """Write the nodes of `model`, and return its outputs; its inputs lie at `addresses`, by name.

    The outputs may be written in turn over the inputs, and then the states, `state->...`, over the old ones.
    Raises ExportError that names node and operator if one cannot be written.
    """
    join_windows(model)
    states = [address for address in addresses.values() if address.startswith("state->")]
    results = list(model.graph.outputs)[len(model.graph.outputs) - len(states) :]
    becomes = {a: value for a, value in zip(states, results, strict=True) if results.count(value) == 1}
    sliding = slides(model, becomes, addresses)
    pointers = {address: slide.pointer for address, slide in sliding.items()}
    code.slides = {slide.pointer: slide for slide in sliding.values()}
    code.next_states = {pointers.get(address, address): value for address, value in becomes.items()}
    for value in model.graph.inputs:
        address = addresses[str(value.name)]
        code.tensors[value] = CTensor(pointers.get(address, address), code.c_type(value), shape_of(value))
    return _copy_overwritten(code, write_nodes(model, code), [pointers.get(address, address) for address in states])


def write_nodes(model: ir.Model, code: CodeBuilder) -> list[CTensor]:
    """The same where `code` has the inputs, and no output is written over one of them."""
    for index, node in enumerate(model.graph):
        code.node_index = index
        if node not in code.fused:
            before = len(code.statements)
            OPERATORS[node.op_type](code, node)
            if len(code.statements) > before:
                code.written.append((node, len(code.statements)))
    code.node_index = END
    for shift in code.shifts.values():
        code.used(shift.entering)
    return [code.with_address(code.tensor_of(value)) for value in model.graph.outputs]


def _copy_overwritten(code: CodeBuilder, results: Sequence[CTensor], states: Sequence[str]) -> list[CTensor]:
    """The results, copied if one that is written before them would overwrite their memory."""
    outputs = len(results) - len(states)
    safe = []
    for i, result in enumerate(results):
        source = re.match(r"\(*(in\d+|state->\w+|s\d+\b)", result.address)
        # What has slid by now is not written any more.
        if source and source[1] not in states and source[1].startswith("state->"):
            source = None
        overwritten = outputs + states.index(source[1]) if source and source[1] in states else 0
        if source and (overwritten < i or (overwritten == i and result.address != source[1])):
            copied = code.alloc(result.c_type, result.shape)
            data_movement.copy_strided(code, copied, 0, result, 0, [(result.size, 1, 1)])
            result = copied
        safe.append(result)
    return safe


def refuse_unknown(nodes: Sequence[ir.Node] | ir.Graph) -> None:
    unknown = [n for n in nodes if n.op_type not in OPERATORS or n.domain not in ("", "ai.onnx")]
    if unknown:
        first = unknown[0]
        others = sorted({n.op_type for n in unknown} - {first.op_type})
        raise ExportError(
            f"node {first.name!r} ({first.op_type}) cannot be written in C: there is no code for that operator"
            + (f", nor for {', '.join(others)}" if others else "")
            + f". Known are {', '.join(sorted(OPERATORS))}. Say the same with those, or take the target onnx.",
            id="c-operator-unknown",
        )
