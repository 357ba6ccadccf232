"""From torch to ONNX: `torch.onnx` with the recurrent operators of this package."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import opset18 as op

import rnn_export.export.lift.layers.ops  # noqa: F401  (registers torch.ops.rnn_export)
from rnn_export.errors import ExportError, first_line
from rnn_export.export.graph import statistics
from rnn_export.export.graph.passes.decompose import lstm_cell
from rnn_export.export.lift.program.tracing import quiet
from rnn_export.spec import StreamSpec

BASE_OPSET = 18


def translate(program: torch.export.ExportedProgram, spec: StreamSpec) -> ir.Model:
    """The graph of an exported step or sequence at `BASE_OPSET`, inputs and outputs named as in the contract."""
    ops, aten = torch.ops.rnn_export, torch.ops.aten
    packets: dict[Any, Any] = {ops.lstm: _lstm, ops.lstm_projected: _lstm_projected, ops.gru: _gru, ops.rnn: _rnn}
    table = {packet.default: write for packet, write in packets.items()} | {
        aten.var.correction: statistics.var,
        aten.std.correction: statistics.std,
        aten.var_mean.correction: statistics.var_mean,
        aten.std_mean.correction: statistics.std_mean,
    }
    try:
        with quiet(), _torchlib_read_once():
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=BASE_OPSET,
                # Torch's own takes an epsilon away: see passes/simplify.py.
                optimize=False,
                custom_translation_table=table,
            )
    except Exception as error:  # torch.onnx raises many kinds
        raise ExportError(f"torch.onnx cannot write the model: {type(error).__name__}: {first_line(error)}") from error
    assert exported is not None
    model = exported.model
    # What comes out as it went in is one value, which cannot have two names.
    common.OutputFixPass()(model)
    inputs = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
    outputs = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
    for values, names in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    return model


@contextmanager
def _torchlib_read_once() -> Iterator[None]:
    """Torch reads the sources of its 500 translations anew at each export, 0.3 s; in here it is given those it had.

    What gives them is private to torch: where it is not so any more, an export takes longer.
    """
    try:
        from torch.onnx._internal.exporter import _registration

        apis: Any = vars(_registration)["onnxscript_apis"]
        original = apis.get_torchlib_ops
    except (ImportError, KeyError, AttributeError):
        yield
        return
    try:
        apis.get_torchlib_ops = lambda: _torchlib(original)
        yield
    finally:
        apis.get_torchlib_ops = original


@cache
def _torchlib(read: Callable[[], Any]) -> Any:
    return read()


def _lstm(X: Any, W: Any, R: Any, B: Any, h: Any, c: Any, activations: str) -> Any:
    return op.LSTM(X, W, R, B, None, h, c, **_attributes(R, activations))


def _lstm_projected(X: Any, W: Any, R: Any, B: Any, P: Any, h: Any, c: Any, activations: str) -> Any:
    """Frame after frame, since ONNX has no such operator; X (T, B, I) has a fixed number of frames."""
    if W.shape[0] != 1 or not isinstance(X.shape[0], int):
        raise ExportError("a projected LSTM can be written frame after frame only, forwards and in a step.")
    zero = _ints([0])
    W, R, P = (op.Transpose(op.Squeeze(w, zero), perm=[1, 0]) for w in (W, R, P))
    Wb, Rb = op.Split(op.Squeeze(B, zero), axis=0, num_outputs=2)
    h, c = op.Squeeze(h, zero), op.Squeeze(c, zero)
    frames = []
    for t in range(X.shape[0]):
        x = op.Squeeze(op.Slice(X, _ints([t]), _ints([t + 1]), zero), zero)
        gates = op.Add(op.Add(op.MatMul(x, W), Wb), op.Add(op.MatMul(h, R), Rb))
        h, c = lstm_cell(op, op.Split(gates, axis=1, num_outputs=4), c, activations.split(","))
        h = op.MatMul(h, P)
        frames.append(op.Unsqueeze(h, _ints([0, 1])))
    y = frames[0] if len(frames) == 1 else op.Concat(*frames, axis=0)
    return y, op.Unsqueeze(h, zero), op.Unsqueeze(c, zero)


def _ints(values: list[int]) -> Any:
    return op.Constant(value_ints=values)


def _gru(X: Any, W: Any, R: Any, B: Any, h: Any, activations: str, linear_before_reset: int) -> Any:
    return op.GRU(X, W, R, B, None, h, linear_before_reset=linear_before_reset, **_attributes(R, activations))


def _rnn(X: Any, W: Any, R: Any, B: Any, h: Any, activations: str) -> Any:
    return op.RNN(X, W, R, B, None, h, **_attributes(R, activations))


def _attributes(R: Any, activations: str) -> dict[str, Any]:
    directions, _, hidden = R.shape
    names = activations.split(",") * directions
    return {"hidden_size": hidden, "activations": names, "direction": "forward" if directions == 1 else "bidirectional"}
