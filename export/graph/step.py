"""The two graphs of a stream, step and sequence, as ONNX with the same names and the contract inside."""

from weakref import WeakKeyDictionary

import onnx_ir as ir
import torch
from torch import nn

from rnn_export.contract.spec import BATCH, TIME, StreamSpec, sized
from rnn_export.errors import ExportError, LiftError
from rnn_export.export.graph.passes.describing import Describe
from rnn_export.export.graph.passes.module_paths import INSIDE, KeepModulePaths
from rnn_export.export.graph.passes.naming import NameByModules
from rnn_export.export.graph.passes.opset import ConvertOpset
from rnn_export.export.graph.passes.pipeline import apply, parse, serialise
from rnn_export.export.graph.passes.simplify import Simplify
from rnn_export.export.graph.sequence import SequenceFromStep, shapes_of
from rnn_export.export.graph.translation import BASE_OPSET, translate
from rnn_export.export.lift.layers.bare_layers import bare_path
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.platform.arrays import Array

# Frames of a window, of which sequence.onnx does not hold one for each frame of the sequence.
WIDE = 512
# Those of weights that numpy has too.
NUMBERS = (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
# Every target of an export is made of the same step, which takes torch seconds to translate.
_steps: WeakKeyDictionary[StreamingModel, bytes] = WeakKeyDictionary()


def step_graph(model: StreamingModel, opset: int = BASE_OPSET) -> bytes | None:
    """`step.onnx`: exactly `spec.chunk` frames per call, dynamic batch; None for a model of whole sequences only."""
    if model.spec.sequence_only:
        return None
    if opset != BASE_OPSET:
        return _graph(model, model.spec.chunk, opset)
    if model not in _steps:
        _steps[model] = _graph(model, model.spec.chunk, opset)
    return _steps[model]


def required_step(model: StreamingModel) -> bytes:
    """The step that a target is written from; whole sequences are planned for no target that needs one."""
    step = step_graph(model)
    assert step is not None
    return step


def sequence_graph(model: StreamingModel, opset: int = BASE_OPSET) -> bytes | None:
    """`sequence.onnx`: any number of frames per call; None if a call is one frame.

    A model that steps itself frame after frame is a Scan over its step; so is one with a wide window for each frame,
    which would take as much memory as frames and window multiplied.
    """
    if not model.spec.has_time:
        return None
    one_by_one = model.has_loop or (_has_wide_windows(model) and not model.spec.sequence_only)
    if model.dynamic_time and not one_by_one:
        try:
            return _graph(model, None, opset)
        except LiftError:
            # An operator that torch cannot write for any length.
            if model.spec.sequence_only:
                raise
    step = step_graph(model, opset)
    if step is None:
        raise ExportError(
            "the model takes whole sequences through a projected LSTM (proj_size), for which ONNX has no operator, and "
            "which is written frame after frame where there is a step. Leave proj_size out, or sequence_only.",
            id="projected-lstm-sequences",
        )
    return _written(apply(parse(step), SequenceFromStep(model.spec)), model, None)


def _has_wide_windows(model: StreamingModel) -> bool:
    nodes = (node for node in model.module.graph.nodes if node.target is torch.ops.aten.unfold.default)
    return any(node.args[2] > WIDE and node.args[3] == 1 for node in nodes)


def _graph(model: StreamingModel, frames: int | None, opset: int) -> bytes:
    graph = translate(model.program(frames), model.spec)
    inside = ".".join(filter(None, (INSIDE, bare_path(model.original.model))))
    apply(graph, KeepModulePaths(inside), Simplify())
    _name_dimensions(graph, model.spec)
    apply(graph, ConvertOpset(opset), NameByModules(weights=_weights(model), inside=inside))
    return _written(graph, model, frames)


def _written(graph: ir.Model, model: StreamingModel, frames: int | None) -> bytes:
    reasons = {origin.name: origin.reason for origin in model.origins}
    apply(graph, Describe(model.spec, frames, reasons, type(_users(model)).__name__))
    serialised = serialise(graph, check=True)
    _refuse_frozen(graph.graph, model.spec, frames)
    return serialised


def _users(model: StreamingModel) -> nn.Module:
    """The module that the user gave."""
    own = model.original.model
    # get_submodule is refused by scripted modules.
    return getattr(own, path) if (path := bare_path(own)) else own


def _weights(model: StreamingModel) -> dict[str, Array]:
    """The parameters and buffers of the user's module, by name."""
    own = _users(model)
    tensors = (*own.named_parameters(remove_duplicate=False), *own.named_buffers(remove_duplicate=False))
    return {name: t.detach().numpy() for name, t in tensors if t.layout is torch.strided and t.dtype in NUMBERS}


def _name_dimensions(graph: ir.Model, spec: StreamSpec) -> None:
    """Call the two symbols by their names at every tensor they reach, and drop torch's notes there."""
    names: dict[str, str] = {}
    shapes = shapes_of(spec)
    for value in graph.graph.inputs:
        assert value.shape is not None
        for axis, dim in enumerate(shapes[str(value.name)]):
            symbol = value.shape[axis]
            if isinstance(dim, str) and isinstance(symbol, ir.SymbolicDim) and symbol.value is not None:
                names[symbol.value] = dim
    values = [*graph.graph.inputs, *graph.graph.outputs, *(v for node in graph.graph for v in node.outputs)]
    for value in values:
        value.metadata_props.clear()
        if value.shape is not None:
            value.shape = ir.Shape([n if isinstance(n, int) else names.get(str(n.value), n.value) for n in value.shape])
    # The size of a result that grows is an expression of torch's; the contract has its name.
    for value in graph.graph.outputs:
        shape = shapes[str(value.name)]
        if value.shape is not None and len(value.shape) == len(shape):
            sizes = zip(value.shape, shape, strict=True)
            value.shape = ir.Shape([d if isinstance(n, ir.SymbolicDim) and isinstance(d, str) else n for n, d in sizes])


def _refuse_frozen(graph: ir.Graph, spec: StreamSpec, frames: int | None) -> None:
    """Refuse an axis of an input or output that differs from the contract."""
    shapes = shapes_of(spec)
    for value in (*graph.inputs, *graph.outputs):
        contract = shapes[str(value.name)]
        sizes = contract if frames is None else sized(contract, 0, frames)
        expected = tuple(BATCH if dim == BATCH else size for dim, size in zip(contract, sizes, strict=True))
        found = tuple(dim if isinstance(dim, int) else dim.value or 0 for dim in value.shape or ())
        if found != expected:
            raise ExportError(
                f"{value.name!r} was exported with shape {found}, but the contract says {expected}: "
                f"an axis that must be dynamic ({BATCH}, {TIME}) was frozen or moved by the model's own code.",
                id="graph-axis-frozen",
            )
