"""A typed step graph computed without a GPU, in real fp16 or bf16.

Each value is carried in fp32 and rounded where the graph says so. A product of two fp16 or bf16 numbers is exact in
fp32, and what is computed in fp32 and rounded once is what the narrow type gives (for + - * / and the root: Figueroa
1995, "When is double rounding innocuous?"). How products are added up is the hardware's affair: tensor cores add those
of fp16 in fp32 or in fp16, those of bf16 in fp32 alone (PTX ISA, the types of `mma`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from rnn_export.arrays import Array
from rnn_export.errors import BackendUnavailable, ExportError
from rnn_export.export.graph.passes.mixed_precision import FLOAT, MATRIX, MOVING, PRECISIONS
from rnn_export.runtime.backends.api import Session, StateStore, StreamBuffers, empty_state
from rnn_export.runtime.backends.host_states import HostStates, rows_with_nan
from rnn_export.spec import StreamSpec, sized

DEVICE = "numeric (not run on hardware)"
DOMAIN = "rnn_export"
# In what products are added up.
ACCUMULATIONS = ("fp32", "fp16")
# Operators of MATRIX that can be summed up in fp16.
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LOW = tuple(dtype for dtype in PRECISIONS.values() if dtype is not FLOAT)


def numeric_session(spec: StreamSpec, graph: bytes, accumulate: str) -> NumericSession:
    """A session of the typed step graph `graph`.

    `accumulate` is "fp32" where products are added up in fp32 and the sum is rounded to the type of the result, or
    "fp16" where each partial sum is rounded to fp16, one product after another. States are float32 on the outside,
    whatever they are in the graph.

    Raises ExportError where the graph has no such sum, and BackendUnavailable for a model of whole sequences only.
    """
    if accumulate not in ACCUMULATIONS:
        raise ExportError(f"accumulate is {accumulate!r}: sums are in {' or in '.join(ACCUMULATIONS)}.")
    if spec.sequence_only:
        raise BackendUnavailable("the numeric executor computes steps, and a model of whole sequences only has none.")
    return NumericSession(spec, graph, accumulate)


class NumericSession(Session):
    """The graph with its roundings written out, on onnx.reference."""

    device = DEVICE

    def __init__(self, spec: StreamSpec, graph: bytes, accumulate: str) -> None:
        self.spec = spec
        model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load_from_string(graph)))
        self.precision = _precision(model)
        self.narrow = {value.name: value.dtype.numpy() for value in model.graph.inputs if value.dtype in LOW}
        _write_out(model, accumulate)
        ours = [ToFLOAT16, ToBFLOAT16, Sigmoid, Conv, ConvTranspose, HalfMatMul, HalfGemm, HalfConv, HalfConvTranspose]
        self.evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=ours)

    def stream_buffers(self, batch: int) -> NumericMemory:
        return NumericMemory(self, batch)

    def state_store(self) -> StateStore:
        return NumericSlots(self)

    def held(self, name: str, state: Array) -> Array:
        """A state as the graph's own type holds it."""
        return _rounded(state, self.narrow[name]) if name in self.narrow else state.copy()


class NumericMemory(StreamBuffers):
    """The buffers and states of one stream."""

    def __init__(self, session: NumericSession, batch: int) -> None:
        self.session, spec = session, session.spec
        self.inputs = {t.name: np.zeros(sized(t.shape, batch, spec.chunk), t.dtype) for t in spec.inputs}
        self.outputs = {t.name: np.zeros(sized(t.shape, batch, spec.chunk), t.dtype) for t in spec.outputs}
        self.states = empty_state(spec, batch)

    def step(self) -> None:
        spec = self.session.spec
        feed = {**self.inputs, **{s.input: self.states[s.name] for s in spec.states}}
        names = [*self.outputs, *(s.output for s in spec.states)]
        # What overflows becomes Inf, as on the device.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
            results: Sequence[Array] = self.session.evaluator.run(names, feed)  # type: ignore[assignment]
        for buffer, result in zip(self.outputs.values(), results, strict=False):
            buffer[...] = result
        after = results[len(self.outputs) :]
        self.states = {s.name: np.array(a) for s, a in zip(spec.states, after, strict=True)}

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise BackendUnavailable("the numeric executor has no sequence graph: it computes steps.")

    def read(self) -> dict[str, Array]:
        return {name: value.copy() for name, value in self.states.items()}

    def write(self, states: Mapping[str, Array]) -> None:
        self.states = {s.name: self.session.held(s.input, states[s.name]) for s in self.session.spec.states}


class NumericSlots(HostStates, StateStore):
    """A pool's states in host memory; a round goes through the memory of a stream with as many rows."""

    def __init__(self, session: NumericSession) -> None:
        super().__init__(session.spec)
        self.session, self.spec = session, session.spec

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        memory = self.session.stream_buffers(len(slots))
        memory.write(self.read(slots))
        for name, buffer in memory.inputs.items():
            buffer[...] = inputs[name]
        memory.step()
        states = memory.read()
        self.write(slots, states)
        return dict(memory.outputs), rows_with_nan(self.spec, memory.outputs, states.values())


# --- the graph


def _precision(model: ir.Model) -> str:
    found = {value.dtype for node in model.graph for value in (*node.inputs, *node.outputs) if value is not None}
    return next((text for text, dtype in PRECISIONS.items() if dtype in LOW and dtype in found), "fp32")


def _write_out(model: ir.Model, accumulate: str) -> None:
    """Make every value fp32, and put a rounding behind each node that gives a narrower one."""
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype in LOW and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
    for node in list(graph):
        narrow = [value for value in node.outputs if value.dtype in LOW]
        if node.op_type == "Cast":
            _write_cast(node)
        elif node.op_type not in MOVING:
            if narrow and node.op_type in MATRIX and accumulate == "fp16":
                _sum_in_fp16(node, narrow[0])
            for value in narrow:
                _round_after(graph, node, value)
    for value in (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)):
        if value.dtype in LOW:
            value.dtype = FLOAT
    model.opset_imports[DOMAIN] = 1


def _write_cast(node: ir.Node) -> None:
    (source,), (result,) = node.inputs, node.outputs
    assert source is not None
    if result.dtype in LOW:
        node.domain, node.op_type = DOMAIN, f"To{result.dtype.name}"
        node.attributes.clear()
    elif source.dtype in LOW and result.dtype is FLOAT:
        node.op_type = "Identity"
        node.attributes.clear()


def _round_after(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    assert value.dtype is not None
    rounding = ir.node(f"To{value.dtype.name}", [value], domain=DOMAIN)
    (rounded,) = rounding.outputs
    rounded.name, value.name = value.name, f"{value.name}.exact"
    rounded.type, rounded.shape = value.type, value.shape
    value.replace_all_uses_with(rounded, replace_graph_outputs=True)
    rounding.replace_input_with(0, value)
    graph.insert_after(node, rounding)


def _sum_in_fp16(node: ir.Node, value: ir.Value) -> None:
    assert value.dtype is not None
    if value.dtype is not ir.DataType.FLOAT16:
        raise ExportError(
            f"node {node.name!r} ({node.op_type}) is in {value.dtype.name.lower()}, and sums in fp16 were asked for: "
            "tensor cores add up such products in fp32 alone. Take accumulate='fp32'."
        )
    if node.op_type not in PRODUCTS:
        raise ExportError(
            f"node {node.name!r} ({node.op_type}) cannot be summed up in fp16 here, only {', '.join(PRODUCTS)} can: "
            "take accumulate='fp32'."
        )
    node.domain, node.op_type = DOMAIN, f"Half{node.op_type}"


# --- the operators; the evaluator finds them by the names of the classes


def _rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    rounded: Array = x.astype(dtype).astype(np.float32)
    return rounded


class ToFLOAT16(OpRun):
    op_domain = DOMAIN

    def _run(self, x: Array) -> tuple[Array]:
        return (_rounded(x, ir.DataType.FLOAT16.numpy()),)


class ToBFLOAT16(OpRun):
    op_domain = DOMAIN

    def _run(self, x: Array) -> tuple[Array]:
        return (_rounded(x, ir.DataType.BFLOAT16.numpy()),)


class Sigmoid(OpRun):
    """The evaluator's own goes value by value."""

    def _run(self, x: Array) -> tuple[Array]:
        return (1 / (1 + np.exp(-x)),)


class HalfMatMul(OpRun):
    op_domain = DOMAIN

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return (in_fp16(a, b),)


class HalfGemm(OpRun):
    op_domain = DOMAIN

    def _run(
        self,
        a: Array,
        b: Array,
        c: Array | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        transA: int | None = None,
        transB: int | None = None,
    ) -> tuple[Array]:
        y = in_fp16(a.T if transA else a, b.T if transB else b)
        y = y if alpha is None else y * np.float32(alpha)
        return (y if c is None else y + (c if beta is None else c * np.float32(beta)),)


class Conv(OpRun):
    """Convolution over any number of axes as one product, (B, C, ...) -> (B, M, ...)."""

    def product(self, a: Array, b: Array) -> Array:
        y: Array = np.matmul(a, b)
        return y

    def _run(
        self,
        x: Array,
        w: Array,
        bias: Array | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        _refuse_auto(auto_pad)
        axes = w.ndim - 2
        y = self.convolved(x, w, group or 1, pads or [0] * 2 * axes, strides or [1] * axes, dilations or [1] * axes)
        return (y if bias is None else y + bias.reshape(-1, *[1] * axes),)

    def convolved(
        self, x: Array, w: Array, group: int, pads: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
    ) -> Array:
        """Windows of `x`, each laid out as a row, times the weights (M, C/group, ...)."""
        axes, kernel = w.ndim - 2, w.shape[2:]
        x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, x.ndim)))
        windows = windows[_every([1, 1, *strides, *dilations])]
        B, C, *places = windows.shape[: 2 + axes]
        rows = windows.reshape(B, group, C // group, math.prod(places), math.prod(kernel)).swapaxes(2, 3)
        columns = w.reshape(group, len(w) // group, -1).swapaxes(1, 2)
        y = self.product(rows.reshape(B, group, math.prod(places), -1), columns)
        return y.swapaxes(2, 3).reshape(B, len(w), *places)


class ConvTranspose(Conv):
    """As the convolution of a wider input, with zeros between its values, by the weights turned round."""

    def _run(  # type: ignore[override]
        self,
        x: Array,
        w: Array,
        bias: Array | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        _refuse_auto(auto_pad if output_shape is None else "output_shape")
        axes, kernel, group = w.ndim - 2, w.shape[2:], group or 1
        strides, dilations, pads = strides or [1] * axes, dilations or [1] * axes, pads or [0] * 2 * axes
        wide = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True))), x.dtype)
        wide[_every([1, 1, *strides])] = x
        reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        more = [r + o for r, o in zip(reach, output_padding or [0] * axes, strict=True)]
        # A pad of the output takes values away.
        around = [r - p for r, p in zip((*reach, *more), pads, strict=True)]
        if min(around) < 0:
            raise ExportError(
                f"a ConvTranspose with pads {list(pads)} and kernel {list(kernel)} cannot be computed here."
            )
        turned = np.flip(w, tuple(range(2, w.ndim))).reshape(group, len(w) // group, w.shape[1], *kernel).swapaxes(1, 2)
        turned = turned.reshape(group * w.shape[1], len(w) // group, *kernel)
        y = self.convolved(wide, turned, group, around, [1] * axes, dilations)
        return (y if bias is None else y + bias.reshape(-1, *[1] * axes),)


class _InHalf:
    op_domain = DOMAIN

    def product(self, a: Array, b: Array) -> Array:
        return in_fp16(a, b)


class HalfConv(_InHalf, Conv):
    pass


class HalfConvTranspose(_InHalf, ConvTranspose):
    pass


def _every(steps: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(None, None, step) for step in steps)


def _refuse_auto(way: str | None) -> None:
    if way not in (None, "NOTSET", "VALID"):
        raise ExportError(f"a convolution padded by {way} cannot be computed here: export it with pads.")


def in_fp16(a: Array, b: Array) -> Array:
    """The matrix product of (..., M, K) and (..., K, N) in which each partial sum is rounded to fp16.

    One fused multiply-add after another, as in a loop of HFMA: the product is exact, the sum with it rounded.
    """
    if b.ndim == 1:
        return in_fp16(a, b[:, None])[..., 0]
    if a.ndim == 1:
        return in_fp16(a[None], b)[..., 0, :]
    left = torch.from_numpy(np.ascontiguousarray(a.swapaxes(-1, -2), np.float16))[..., None]
    right = torch.from_numpy(np.ascontiguousarray(b, np.float16))[..., None, :]
    shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = torch.zeros((*shape, a.shape[-2], b.shape[-1]), dtype=torch.float16)
    for one, other in zip(left.unbind(-3), right.unbind(-3), strict=True):
        total.addcmul_(one, other)
    sums: Array = total.float().numpy()
    return sums
