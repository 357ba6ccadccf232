"""The two graphs of a stream, step and sequence, as ONNX with the same names and the contract inside."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import opset18 as op
from onnxscript import optimizer

import rnn_export.models.recurrent  # noqa: F401  (registers torch.ops.rnn_export)
from rnn_export.errors import ExportError
from rnn_export.export.opset import at_opset
from rnn_export.models.lift import StreamingModel
from rnn_export.spec import BATCH, TIME, StreamSpec

BASE_OPSET = 18
METADATA_KEY = "rnn_export.spec"


def step_graph(model: StreamingModel, opset: int = BASE_OPSET) -> bytes:
    """`step.onnx`: exactly `spec.chunk` frames per call, no loop, dynamic batch."""
    return _graph(model, model.spec.chunk, opset)


def sequence_graph(model: StreamingModel, opset: int = BASE_OPSET) -> bytes | None:
    """`sequence.onnx`: any number of frames per call; None where the model has no dynamic time."""
    return _graph(model, None, opset) if model.dynamic_time else None


def _graph(model: StreamingModel, frames: int | None, opset: int) -> bytes:
    graph = _translated(model.program(frames), model.spec)
    common.ClearMetadataAndDocStringPass()(graph)
    optimizer.optimize(graph, input_size_limit=2**31, output_size_limit=2**31)
    _name_dimensions(graph, model.spec, frames)
    proto = at_opset(ir.to_proto(graph), opset)
    proto.producer_name = "rnn-export"
    onnx.helper.set_model_props(proto, {METADATA_KEY: model.spec.dumps()})
    onnx.checker.check_model(proto, full_check=True)
    _refuse_frozen(proto, model.spec, frames)
    return bytes(proto.SerializeToString())


def _translated(program: torch.export.ExportedProgram, spec: StreamSpec) -> ir.Model:
    ops = torch.ops.rnn_export
    with _quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=BASE_OPSET,
            input_names=[*(t.name for t in spec.inputs), *(s.input for s in spec.states)],
            output_names=[*(t.name for t in spec.outputs), *(s.output for s in spec.states)],
            custom_translation_table={ops.lstm.default: _lstm, ops.gru.default: _gru, ops.rnn.default: _rnn},
        )
    assert exported is not None
    return exported.model


def _lstm(X: Any, W: Any, R: Any, B: Any, h: Any, c: Any, activations: str) -> Any:
    return op.LSTM(X, W, R, B, None, h, c, **_attributes(R, activations))


def _gru(X: Any, W: Any, R: Any, B: Any, h: Any, activations: str, linear_before_reset: int) -> Any:
    return op.GRU(X, W, R, B, None, h, linear_before_reset=linear_before_reset, **_attributes(R, activations))


def _rnn(X: Any, W: Any, R: Any, B: Any, h: Any, activations: str) -> Any:
    return op.RNN(X, W, R, B, None, h, **_attributes(R, activations))


def _attributes(R: Any, activations: str) -> dict[str, Any]:
    directions, _, hidden = R.shape
    names = activations.split(",") * directions
    return {
        "hidden_size": hidden,
        "activations": names,
        "direction": "forward" if directions == 1 else "bidirectional",
    }


def _name_dimensions(graph: ir.Model, spec: StreamSpec, frames: int | None) -> None:
    """Call the two symbols by their names at every tensor they reach, and drop what torch noted there."""
    names: dict[str, str] = {}
    shapes = [t.shape for t in spec.inputs] + [s.shape for s in spec.states]
    for value, shape in zip(graph.graph.inputs, shapes, strict=True):
        assert value.shape is not None
        for axis, dim in enumerate(shape):
            symbol = value.shape[axis]
            if isinstance(dim, str) and isinstance(symbol, ir.SymbolicDim) and symbol.value is not None:
                names[symbol.value] = dim
    values = [*graph.graph.inputs, *graph.graph.outputs, *(v for node in graph.graph for v in node.outputs)]
    for value in values:
        value.metadata_props.clear()
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, names: dict[str, str]) -> int | str | None:
    return dim if isinstance(dim, int) else names.get(dim.value or "", dim.value)


def _refuse_frozen(proto: onnx.ModelProto, spec: StreamSpec, frames: int | None) -> None:
    """No axis of an input or output may be anything but what the contract says."""
    wanted = {
        **{t.name: t.shape for t in (*spec.inputs, *spec.outputs)},
        **{s.input: s.shape for s in spec.states},
        **{s.output: s.shape for s in spec.states},
    }
    for value in (*proto.graph.input, *proto.graph.output):
        shape = tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
        expected = tuple(frames if d == TIME and frames is not None else d for d in wanted[value.name])
        if shape != expected:
            raise ExportError(
                f"{value.name!r} was exported with shape {shape}, but the contract says {expected}: "
                f"an axis that must be dynamic ({BATCH}, {TIME}) was frozen or moved by the model's own code."
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from logging and warning about itself; what matters of it ends in an exception."""
    loggers: Sequence[logging.Logger] = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
