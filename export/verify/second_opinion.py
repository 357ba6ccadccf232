"""Run a step on ONNX's own reference evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_conv_transpose

from rnn_export.contract.layout import row_by_row
from rnn_export.contract.spec import StreamSpec
from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.pipeline import rewrite
from rnn_export.export.verify.blame import blamed
from rnn_export.export.verify.frames import fewest_frames
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drift import Drift
from rnn_export.runtime.replay.drivers import StepDriver
from rnn_export.runtime.replay.golden import Golden


class GatherElements(OpRun):
    """In the place of onnx.reference's own (1.23), which is right for axes of up to 32 entries alone."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        return (np.take_along_axis(data, np.where(indices < 0, indices + data.shape[axis], indices), axis),)


class ConvTranspose(OpRun):
    """In the place of onnx.reference's own (1.23), which is right for one group alone, and adds entry by entry."""

    op_domain = ""

    def _run(self, X: Array, W: Array, B: Array | None = None, group: int = 1, **how: Any) -> tuple[Array]:
        groups = zip(np.split(X, group, 1), np.split(W, group), strict=True)
        is_plain = how.get("auto_pad") in (None, "NOTSET") and how.get("output_shape") is None
        own: Any = op_conv_transpose.ConvTranspose._run
        parts = [_transposed(x, w, **how) if is_plain else own(self, x, w, group=1, **how)[0] for x, w in groups]
        y = np.concatenate(parts, 1)
        return (y if B is None else y + B.reshape(-1, *[1] * (y.ndim - 2)),)


def _transposed(x: Array, w: Array, **how: Any) -> Array:
    """Each entry of `x` (B, C, *sizes) adds `w` (C, O, *kernel) times itself to the entries from its own on."""
    sizes, kernel = x.shape[2:], w.shape[2:]
    ones, zeros = [1] * len(sizes), [0] * len(sizes)
    strides, dilations = how.get("strides") or ones, how.get("dilations") or ones
    more, pads = how.get("output_padding") or zeros, how.get("pads") or [*zeros, *zeros]
    reach = [(n - 1) * s + 1 for n, s in zip(sizes, strides, strict=True)]
    whole = [r + (k - 1) * d + m for r, k, d, m in zip(reach, kernel, dilations, more, strict=True)]
    products = np.matmul(w.reshape(len(w), -1).T, x.reshape(*x.shape[:2], -1))
    products = products.reshape(len(x), w.shape[1], *kernel, *sizes)
    y = np.zeros((len(x), w.shape[1], *whole), x.dtype)
    for at in np.ndindex(*kernel):
        starts = [a * d for a, d in zip(at, dilations, strict=True)]
        places: Any = (..., *(slice(a, a + r, s) for a, r, s in zip(starts, reach, strides, strict=True)))
        weight: Any = (slice(None), slice(None), *at)
        y[places] += products[weight]
    ends = (n - after for n, after in zip(whole, pads[len(sizes) :], strict=True))
    kept: Any = (..., *(slice(before, end) for before, end in zip(pads, ends, strict=False)))
    return np.ascontiguousarray(y[kept])


INSTEAD = [GatherElements, ConvTranspose]
# onnx.reference is plain Python.
REFERENCE_FRAMES = 16


def second_opinion(spec: StreamSpec, states: Mapping[str, Array], step_graph: bytes, golden: Golden) -> list[Drift]:
    """The first frames on onnx.reference, which ignores `activations`: so on the decomposed graph.

    `states` are those at the start of `golden`.
    """
    evaluator = ReferenceEvaluator(onnx.load_from_string(rewrite(step_graph, DecomposeRecurrent())), new_ops=INSTEAD)
    names = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]

    @blamed("onnx.reference, the second opinion, cannot run the graph")
    def call(feed: dict[str, Array]) -> dict[str, Array]:
        # Its sigmoid computes both of two branches, and one overflows.
        with np.errstate(all="ignore"):
            results: list[Array] = evaluator.run(None, feed)  # type: ignore[assignment]
        return dict(zip(names, results, strict=True))

    steps = min(golden.frames, max(REFERENCE_FRAMES, fewest_frames(spec))) // spec.chunk
    edges = range(0, (steps + 1) * spec.chunk, spec.chunk)
    driver = StepDriver(spec, row_by_row(spec, call), states)
    trace = ClosedLoop(spec, golden.inputs).run(driver, edges)
    return [
        *golden.output_drifts("onnx.reference", spec, trace.outputs, stop=edges[-1]),
        *golden.state_drifts("onnx.reference", spec, trace.states, slice(steps)),
    ]
