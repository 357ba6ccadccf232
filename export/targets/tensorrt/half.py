"""A typed step graph computed without a GPU, in real fp16 or bf16, on ONNX Runtime."""

from __future__ import annotations

import onnx_ir as ir

from rnn_export.errors import BackendUnavailable
from rnn_export.export.graph.passes.mixed_precision import FLOAT_TYPES
from rnn_export.export.graph.passes.pipeline import apply, parse, serialise, with_shapes
from rnn_export.export.graph.passes.rounding import NARROW, WriteOutRoundings
from rnn_export.runtime.backends.api import Artefacts
from rnn_export.runtime.backends.onnxruntime.backend import OrtSession, graph_session
from rnn_export.runtime.engine import Engine
from rnn_export.spec import StreamSpec

DEVICE = "numeric (not run on hardware)"


def emulated_engine(artefacts: Artefacts, backend: str, graph: bytes, accumulate: str) -> Engine:
    """An engine called `backend` on `emulated_session`; its device says that no GPU ran."""
    engine = Engine(artefacts, backend, emulated_session(artefacts.spec, graph, accumulate))
    engine.device = DEVICE
    return engine


def emulated_session(spec: StreamSpec, graph: bytes, accumulate: str) -> OrtSession:
    """A session of the typed step graph `graph`: each value is fp32, rounded where the graph says fp16 or bf16.

    `accumulate` is "fp32" or "fp16", see `WriteOutRoundings`. States are float32 on the outside; those that the graph
    has in a narrower type are rounded at the start of each step.

    Raises ExportError where the graph has no such sum, and BackendUnavailable for a model of whole sequences only.
    """
    rounding = WriteOutRoundings(accumulate)
    if spec.sequence_only:
        raise BackendUnavailable("the numeric executor computes steps, and a model of whole sequences only has none.")
    model = parse(graph)
    precision = _precision(model)
    session = graph_session(spec, {"step.onnx": serialise(apply(model, rounding))}, optimise=False)
    session.precision = precision
    return session


def _precision(model: ir.Model) -> str:
    found = {value.dtype for node in with_shapes(model).graph for value in (*node.inputs, *node.outputs) if value}
    return next((name for name, dtype in FLOAT_TYPES.items() if dtype in NARROW and dtype in found), "fp32")
