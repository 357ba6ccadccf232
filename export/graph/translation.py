"""Translate torch to ONNX by `torch.onnx` with recurrent operators of ours."""

import re
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops.core import aten_convolution, aten_slice_scatter
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

import rnn_export.export.lift.layers.recurrent_ops  # noqa: F401  (registers torch.ops.rnn_export)
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError, first_line
from rnn_export.export.graph import division, logarithms, matrices, order, statistics
from rnn_export.export.graph.passes.decompose import lstm_cell
from rnn_export.export.graph.shortcuts import shortcuts
from rnn_export.export.lift.ir.fx_nodes import END
from rnn_export.export.lift.ir.source_location import place_of
from rnn_export.export.lift.trace.tracing import quiet

BASE_OPSET = 18
# Of a window, up to which it is written entry by entry.
ENTRIES = 16
# How torch.onnx says that it has no form of an operator.
UNWRITTEN = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
MATRICES = (
    matrices.linalg_inv, matrices.inverse, matrices.linalg_solve, matrices.linalg_solve_triangular,
    matrices.linalg_cholesky, matrices.cholesky, matrices.cholesky_solve, matrices.cholesky_inverse,
)  # fmt: skip


def translate(program: torch.export.ExportedProgram, spec: StreamSpec) -> ir.Model:
    """The graph of an exported step or sequence at `BASE_OPSET`, inputs and outputs named as in the contract."""
    ops, aten = torch.ops.rnn_export, torch.ops.aten
    packets: dict[Any, Any] = {ops.lstm: _lstm, ops.lstm_projected: _lstm_projected, ops.gru: _gru, ops.rnn: _rnn}
    packets |= {aten.slice_scatter: _slice_scatter, aten.select_scatter: _select_scatter}
    # Torch's own numbers the windows with a Range, whose length no reader can bound.
    packets[aten.unfold] = _unfold
    packets[aten.conv_transpose1d] = _conv_transposed
    packets[aten.scaled_dot_product_attention] = _attention
    packets |= {aten.log_sigmoid: logarithms.log_sigmoid, aten.hypot: _hypot}
    packets |= {aten.logaddexp: logarithms.logaddexp, aten.logaddexp2: logarithms.logaddexp2}
    packets |= {aten.logsumexp: logarithms.logsumexp}
    packets |= {aten.kthvalue: order.kthvalue, aten._cdist_forward: order.cdist}
    packets |= {getattr(aten, write.__name__): write for write in MATRICES}
    table = {packet.default: write for packet, write in packets.items()} | {
        aten.floor_divide.default: division.floor_divide,
        aten.remainder.Tensor: division.remainder,
        aten.remainder.Scalar: division.remainder,
        aten.remainder.Scalar_Tensor: division.remainder,
        aten.div.Tensor_mode: division.div_mode,
        aten.div.Scalar_mode: division.div_mode,
        **dict.fromkeys((aten.sort.default, aten.sort.stable), order.sort),
        aten.median.dim: order.median,
        aten.nanmedian.dim: order.median,
        aten.searchsorted.Tensor: order.searchsorted,
        aten.where.self: _where,
        aten.conv_transpose2d.input: _conv_transposed,
        aten.conv_transpose3d.input: _conv_transposed,
        aten.var.correction: statistics.var,
        aten.std.correction: statistics.std,
        aten.var_mean.correction: statistics.var_mean,
        aten.std_mean.correction: statistics.std_mean,
    }
    try:
        with quiet(), shortcuts():
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
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, ExportError):
            cause = cause.__cause__
        if isinstance(cause, ExportError):
            raise cause from error
        if (found := _unwritten(program, str(cause))) is not None:
            raise ExportError(found, id="operator-without-onnx") from error
        # What it says itself is how to report it.
        raise ExportError(
            f"torch.onnx cannot write the model: {type(cause).__name__}: {first_line(cause)}", id="torch-onnx-fails"
        ) from error
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


def _unwritten(program: torch.export.ExportedProgram, message: str) -> str | None:
    """The message on an operator without a form in torch.onnx, with its source location; else None."""
    if not (match := UNWRITTEN.search(message)):
        return None
    kind, _, name = match[1].partition(".")
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    # torch's primitive operators have underscores where those of users have none, and are none of `torch.special`.
    names = {name, name.replace("_", ""), f"special_{name}"} if kind == "prims" else {name}
    same = (n for g in graphs for n in g.nodes if str(n.target).split(".")[1:2] in [[name] for name in names])
    place = next((f"{place_of(n)}: " for n in same), "")
    return f"{place}torch.onnx has no form of {match[1]}, so there is no ONNX graph: compute this by other operators."


def _lstm(X: Any, W: Any, R: Any, B: Any, h: Any, c: Any, activations: str) -> Any:
    return op.LSTM(X, W, R, B, None, h, c, **_attributes(R, activations))


def _lstm_projected(X: Any, W: Any, R: Any, B: Any, P: Any, h: Any, c: Any, activations: str) -> Any:
    """Frame after frame, since ONNX has no such operator; X (T, B, I) has a fixed number of frames."""
    if W.shape[0] != 1 or not isinstance(X.shape[0], int):
        raise ExportError(
            "a projected LSTM (proj_size) that goes both ways, or over an axis of any size, has no ONNX operator: it "
            "is written frame after frame. Leave proj_size out, or bidirectional.",
            id="projected-lstm-unwritable",
        )
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


def _slice_scatter(x: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    """The segments around `src` joined with it, which every backend has; for wider steps, entries are scattered."""
    start, end = 0 if start is None else start, END if end is None else end
    if step != 1 or not (isinstance(start, int) and isinstance(end, int)):
        return aten_slice_scatter(x, src, dim, start, end, step)
    front = [] if start == 0 else [_slice(x, 0, start, dim)]
    size = x.shape[dim]
    is_end = end == END or (isinstance(size, int) and end >= size)
    back = [] if is_end else [_slice(x, end, END, dim)]
    pieces = [*front, src, *back]
    return op.Concat(*pieces, axis=dim) if len(pieces) > 1 else op.Identity(src)


def _select_scatter(x: Any, src: Any, dim: int, index: int) -> Any:
    return _slice_scatter(x, op.Unsqueeze(src, _ints([dim])), dim, index, END if index == -1 else index + 1)


def _conv_transposed(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1,
    dilation: Any = 1,
) -> Any:  # fmt: skip
    """Torch translates only its decomposition, by a trace of the whole program."""
    further = [output_padding] * (len(weight.shape) - 2) if isinstance(output_padding, int) else output_padding
    return aten_convolution(x, weight, bias, stride, padding, dilation, True, further, groups)


def _attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Torch has a translation for (B, H, T, E) alone: fewer axes get some in front."""
    more = [*range(4 - len(query.shape))]
    if more:
        query, key, value = (_of_more_axes(x, more) for x in (query, key, value))
    made = aten_scaled_dot_product_attention(query, key, value, attn_mask, *args, **kwargs)
    return op.Squeeze(made, _ints(more)) if more else made


def _where(condition: Any, self: Any, other: Any) -> Any:
    """ONNX Runtime has no Where of bools."""
    if self.dtype != ir.DataType.BOOL:
        return op.Where(condition, self, other)
    return op.Or(op.And(condition, self), op.And(op.Not(condition), other))


def _of_more_axes(x: Any, more: list[int]) -> Any:
    made = op.Unsqueeze(x, _ints(more))
    made.dtype, made.shape = x.dtype, ir.Shape([*[1] * len(more), *x.shape])
    return made


def _hypot(x: Any, other: Any) -> Any:
    return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(other, other)))


def _unfold(self: Any, dimension: int, size: int, step: int) -> Any:
    """Windows along an axis, their entries along a last one: whole windows if they are few, else entry by entry.

    Over an open number of frames, at a step of 1, wide windows are put together from narrower ones.
    """
    rank = len(self.shape)
    axis, length = dimension % max(rank, 1), self.shape[dimension] if rank else 1
    if not rank:
        return op.Unsqueeze(self, _ints([0]))
    windows = (length - size) // step + 1 if isinstance(length, int) else None
    if windows is not None and windows < size:
        order = [*(a for a in range(rank) if a != axis), axis]
        cut = [_slice(self, i * step, i * step + size, axis) for i in range(windows)]
        parts = [op.Unsqueeze(op.Transpose(part, perm=order), _ints([axis])) for part in cut]
        return parts[0] if windows == 1 else op.Concat(*parts, axis=axis)
    if windows is None and step == 1 and size > ENTRIES:
        return _doubled(op.Unsqueeze(self, _ints([-1])), axis, size)
    ends = [i - size + 1 or END for i in range(size)]
    parts = [op.Unsqueeze(_slice(self, i, end, axis, step), _ints([-1])) for i, end in enumerate(ends)]
    return parts[0] if size == 1 else op.Concat(*parts, axis=-1)


def _doubled(entries: Any, axis: int, size: int) -> Any:
    """The windows of `size` along an axis, of `entries` (..., 1): each of a window and the next one."""

    def joined(a: Any, of_a: int, b: Any, of_b: int) -> Any:
        return op.Concat(_slice(a, 0, -of_b, axis), _slice(b, of_a, END, axis), axis=-1)

    found, here, width, power = None, 0, entries, 1
    while True:
        if size & power:
            found = width if found is None else joined(found, here, width, power)
            here += power
        if here == size:
            return found
        width, power = joined(width, power, width, power), 2 * power


def _slice(x: Any, start: int, end: int, axis: int, step: int = 1) -> Any:
    return op.Slice(x, _ints([start]), _ints([end]), _ints([axis]), _ints([step]))


def _attributes(R: Any, activations: str) -> dict[str, Any]:
    directions, _, hidden = R.shape
    names = activations.split(",") * directions
    return {"hidden_size": hidden, "activations": names, "direction": "forward" if directions == 1 else "bidirectional"}
