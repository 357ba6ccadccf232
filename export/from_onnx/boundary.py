"""Convert the file to a step of the contract: constants put in, branches on them removed, tensors laid out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper, version_converter
from onnx_ir.passes import InPlacePass, PassResult, common

from rnn_export.contract.spec import BATCH, StreamSpec, sized
from rnn_export.errors import BundleError, ExportError, SourceError, first_line
from rnn_export.export.from_onnx.expansions import KeepSizes
from rnn_export.export.from_onnx.layout import Layout, Placed
from rnn_export.export.from_onnx.reading import Source, array_of, graphs_of, opset_of, tensors_of
from rnn_export.export.graph.passes.describing import Describe
from rnn_export.export.graph.passes.foreign import foreign_graph
from rnn_export.export.graph.passes.naming import NameByModules
from rnn_export.export.graph.passes.nodes import new_constant
from rnn_export.export.graph.passes.opset import ConvertOpset
from rnn_export.export.graph.passes.pipeline import apply, serialise
from rnn_export.export.graph.passes.simplify import Simplify
from rnn_export.platform.arrays import Array, Arrays

# Every target is written from a step of this opset, or of a later one where the file has what came later.
BASE_OPSET = 18
# Constants that folding may make.
FOLDED = 2**22
# Values of one that is made of a shape.
SMALL = 64
# Inputs of recurrent operators that are first states.
FIRST_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}


def step_of(source: Source, layout: Layout, spec: StreamSpec, fixed: Mapping[str, Array]) -> bytes:
    """`step.onnx`: the contract's inputs and states, at opset 18 or a later one where an operator needs it.

    Raises ExportError, with the message of the onnx package, if it cannot be converted, and SourceError if the result
    is nothing that a bundle may hold.
    """
    model = ModelProto()
    model.CopyFrom(source.model)
    _fix(model.graph, fixed)
    _bound(model, layout)
    graph = _converted(model, source)
    proto = ir.to_proto(graph)
    _lay_out(proto, layout, spec)
    graph = ir.from_proto(proto)
    graph = apply(_with_shapes(graph), common.ClearMetadataAndDocStringPass(), SayFirstStates(), Simplify(FOLDED))
    reasons = {pair.input: f"a state of the file ({pair.why})" for pair in layout.pairs}
    names = NameByModules(keep=_names(source.model.graph))
    graph = apply(_with_shapes(graph), names, Describe(spec, spec.chunk, reasons, source.path.stem))
    try:
        step = serialise(graph, check=True)
    except Exception as error:  # the checker raises several kinds
        raise ExportError(
            f"{source.path} as a step is no valid ONNX: {first_line(error)}.", id="invalid-onnx-step"
        ) from error
    try:
        with foreign_graph("step.onnx", step, spec):
            return step
    except BundleError as error:
        why = str(error).removeprefix("step.onnx cannot be used: ").removesuffix(" Export the bundle again.")
        raise SourceError(
            f"{source.path} as a step cannot be used: {why} In a step every size follows from shapes, and a loop has a "
            "constant number of trips: export the model for one step, its loops unrolled.",
            id="unusable-onnx-step",
        ) from error


def _names(graph: GraphProto) -> set[str]:
    """Names that the author of a file gave to nodes and values."""
    nodes = [node for body in graphs_of(graph) for node in body.node]
    stored = {tensor.name for body in graphs_of(graph) for tensor in body.initializer}
    return {name for node in nodes for name in (node.name, *node.output) if name} | stored


def digest_of(spec: StreamSpec, source: Source, fixed: Mapping[str, Array], initial: Arrays) -> str:
    """sha256 over the contract, the weights of the file, the fixed values and the initial states."""
    digest = hashlib.sha256(replace(spec, digest="").dumps().encode())
    weights = [(f"{tensor.name}", array_of(tensor)) for tensor in tensors_of(source.model)]
    for name, value in (*weights, *sorted(fixed.items()), *sorted(initial.items())):
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _fix(graph: GraphProto, fixed: Mapping[str, Array]) -> None:
    inputs = [value for value in graph.input if value.name not in fixed]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in fixed.items())


def _bound(model: ModelProto, layout: Layout) -> None:
    """Put the sizes of the contract in place of open ones."""
    placed = {t.name: t for t in (*layout.inputs, *layout.states)}
    for value in model.graph.input:
        _set_shape(value, _file_dims(placed[value.name], layout))
    outputs = {pair.output: state for pair, state in zip(layout.pairs, layout.states, strict=True)}
    outputs |= {t.name: t for t in layout.outputs}
    for value in model.graph.output:
        _set_shape(value, _file_dims(outputs[value.name], layout))
    for graph in graphs_of(model.graph):
        del graph.value_info[:]


def _file_dims(tensor: Placed, layout: Layout) -> list[int | str]:
    numbers = sized(tensor.dims, 1, layout.chunk)
    return [BATCH if d == BATCH and layout.rows is None else n for d, n in zip(tensor.dims, numbers, strict=True)]


def _set_shape(value: onnx.ValueInfoProto, dims: list[int | str]) -> None:
    tensor = value.type.tensor_type
    value.CopyFrom(helper.make_tensor_value_info(value.name, tensor.elem_type, dims))


def _converted(model: ModelProto, source: Source) -> ir.Model:
    """The model without branches on constants, at `BASE_OPSET` if possible."""
    graph = _simplified(ir.from_proto(model))
    try:
        if opset_of(model) < BASE_OPSET:
            lifted = version_converter.convert_version(ir.to_proto(graph), BASE_OPSET)
            return ir.from_proto(lifted)
    except Exception as error:  # the converter raises several kinds
        raise ExportError(
            f"{source.path} cannot be converted from opset {source.opset} to {BASE_OPSET}: {first_line(error)}. "
            "Export the model again at a later opset.",
            id="opset-not-converted",
        ) from error
    if opset_of(model) > BASE_OPSET:
        older = ir.from_proto(ir.to_proto(graph))
        try:
            return apply(older, ConvertOpset(BASE_OPSET))
        except ExportError:
            # It has what came later; each target says for itself whether it takes that.
            return graph
    return graph


class SayFirstStates(InPlacePass):
    """Give recurrent operators without an initial state one of zeros, which their decomposition requires."""

    def call(self, model: ir.Model) -> PassResult:
        done = False
        for node in [node for node in model.graph if node.op_type in FIRST_STATES]:
            x, r = node.inputs[0], node.inputs[2]
            batch = None if x is None or x.shape is None else x.shape[1]
            shape = None if r is None else r.shape
            missing = [i for i in FIRST_STATES[node.op_type] if len(node.inputs) <= i or node.inputs[i] is None]
            sizes = [] if shape is None else [shape[0], batch, shape[2]]
            numbers = [n for n in sizes if isinstance(n, int)]
            if not missing or len(numbers) < 3 or "layout" in node.attributes:
                continue
            zeros = np.zeros(numbers, np.float32)
            value = new_constant(f"{next(o.name for o in node.outputs if o.name)}/first", zeros)
            model.graph.register_initializer(value)
            node.resize_inputs(max(len(node.inputs), *(i + 1 for i in missing)))
            for i in missing:
                node.replace_input_with(i, value)
            done = True
        return PassResult(model, modified=done)


class FoldFills(InPlacePass):
    """Fold small ConstantOfShape nodes, which onnxscript leaves: sizes of a padding may be made of them."""

    def call(self, model: ir.Model) -> PassResult:
        done = False
        for graph in model.graphs():
            for node in [n for n in graph if n.op_type == "ConstantOfShape"]:
                sizes, fill = node.inputs[0], node.attributes.get("value")
                if sizes is None or sizes.const_value is None or sizes.const_value.numpy().prod() > SMALL:
                    continue
                value = np.zeros(1, np.float32) if fill is None else fill.as_tensor().numpy()
                filled = ir.tensor(np.full(sizes.const_value.numpy().tolist(), value.reshape(-1)[0], value.dtype))
                constant = ir.node("Constant", [], {"value": filled}, num_outputs=1)
                graph.insert_before(node, constant)
                ir.convenience.replace_all_uses_with(node.outputs[0], constant.outputs[0])
                graph.remove(node, safe=True)
                done = True
        return PassResult(model, modified=done)


def _simplified(graph: ir.Model) -> ir.Model:
    """Compute what constants and sizes determine; removing a branch shows the sizes behind it."""
    nodes = -1
    while nodes != (nodes := sum(1 for _ in graph.graph.all_nodes())):
        graph = apply(_with_shapes(graph), Simplify(FOLDED), FoldFills(), KeepSizes())
    return graph


def _with_shapes(graph: ir.Model) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph), data_prop=True))


def _lay_out(model: ModelProto, layout: Layout, spec: StreamSpec) -> None:
    """Connect each tensor of the contract to the one of the file, by layout nodes if the two differ."""
    graph = model.graph
    inputs = {t.name: t for t in (*layout.inputs, *layout.states)}
    outputs = {t.name: t for t in layout.outputs}
    outputs |= {pair.output: state for pair, state in zip(layout.pairs, layout.states, strict=True)}
    inner = {name: f"{name}/file" for name in (*inputs, *outputs)}
    for body in graphs_of(graph):
        _rename(body, inner)
    before = [node for name, t in inputs.items() for node in _nodes(t, name, inner[name], into=True)]
    after = [node for name, t in outputs.items() for node in _nodes(t, name, inner[name], into=False)]
    nodes = [*before, *graph.node, *after]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    kinds = {
        value.name.removesuffix("/file"): value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)
    }
    shapes = {t.name: t.shape for t in (*spec.inputs, *spec.outputs)}
    shapes |= {name: s.shape for s in spec.states for name in (s.input, s.output)}
    ours = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
    theirs = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
    for ends, names in ((graph.input, ours), (graph.output, theirs)):
        del ends[:]
        for name in names:
            numbers = sized(shapes[name], 1, spec.chunk)
            # Where the file has one row it may count on it.
            dims = [BATCH if d == BATCH and not spec.rows else n for d, n in zip(shapes[name], numbers, strict=True)]
            ends.append(helper.make_tensor_value_info(name, kinds[name], dims))


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _nodes(tensor: Placed, name: str, inner: str, into: bool) -> Iterator[NodeProto]:
    """Nodes from `name` of the contract to `inner` of the file, or back."""
    moves: list[tuple[str, dict[str, Any], list[int] | None]] = []
    batch = tensor.batch
    if tensor.dropped is not None:
        axis = tensor.dropped if batch is not None else tensor.dropped + 1
        moves.append(("Unsqueeze" if into else "Squeeze", {}, [axis]))
    if batch is None:
        moves.append(("Squeeze" if into else "Unsqueeze", {}, [0]))
    elif tensor.is_state and batch:
        rank = len(tensor.dims)
        rest = [axis for axis in range(rank) if axis != batch]
        perm = [rest.index(axis) + 1 if axis != batch else 0 for axis in range(rank)] if into else [batch, *rest]
        moves.append(("Transpose", {"perm": perm}, None))
    moves = (moves if into else moves[::-1]) or [("Identity", {}, None)]
    value = name if into else inner
    for number, (op, attributes, axes) in enumerate(moves):
        result = f"{name}/{number}" if number < len(moves) - 1 else inner if into else name
        feeds = [value]
        if axes is not None:
            constant = f"{name}/{'in' if into else 'out'}/axes{number}"
            value_of = numpy_helper.from_array(np.array(axes, np.int64), constant)
            yield helper.make_node("Constant", [], [constant], value=value_of)
            feeds.append(constant)
        yield helper.make_node(op, feeds, [result], **attributes)
        value = result
