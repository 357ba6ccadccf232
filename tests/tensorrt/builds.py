"""Every case as TensorRT-RTX takes it: the graph, a closed loop over it, the engines, and their cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from rnn_export.bundle import open_bundle
from rnn_export.contract.layout import canonical, graph_layout
from rnn_export.contract.spec import StreamSpec

from ..export.rewriting import decompose, typed  # noqa: TID252
from ..lifting import lift  # noqa: TID252
from ..parity.cases import CASES, Case, Inputs, whole  # noqa: TID252
from ..parity.fixtures import FIXTURES, Fixture  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .layers import Array
from .network import LOG, Executor, Parsed, Refused, parse

ROWS = 2
STEPS = 200
BATCH = (1, 2, 4)
Named = dict[str, Array]
Run = Callable[[Named], Mapping[str, Array]]


def _of_a_third_party(fixture: Fixture) -> Case:
    """On its own recording from the middle on, repeated; each row goes on where the one before ended."""

    def draw(rows: int, frames: int) -> Inputs:
        inputs = fixture.reference().inputs
        inputs = np.roll(inputs, -len(inputs) // 2, 0)
        return (torch.from_numpy(np.resize(inputs, (rows, frames, *inputs.shape[1:]))),)

    # In these two ONNX Runtime itself rounds by nearly 2e-6.
    tolerance = 1e-5 if fixture.name in ("silero", "nam") else 2e-6
    return Case(fixture.name, tolerance, lambda: (fixture.load(), fixture.example, fixture.options), whole, draw=draw)


ALL = (*CASES, *map(_of_a_third_party, FIXTURES))


@dataclass(frozen=True)
class Stream:
    """A case, where its states start, and its decomposed fp32 step graph."""

    case: Case
    spec: StreamSpec
    initial: Named
    graph: bytes

    def feeds(self, steps: int = STEPS, rows: int = ROWS) -> list[Named]:
        """The inputs of each step, in the layout of the graph."""
        torch.manual_seed(1)
        chunk = self.spec.chunk
        drawn = [value.numpy() for value in self.case.draw(rows, steps * chunk)]
        feeds = []
        for start in range(0, steps * chunk, chunk):
            feed = {}
            for tensor, value in zip(self.spec.inputs, drawn, strict=True):
                if not self.spec.has_time:
                    value = value[:, start]
                elif self.spec.timed(tensor):
                    value = value[:, start : start + chunk]
                feed[tensor.name] = graph_layout(value, tensor)
            feeds.append(feed)
        return feeds

    def closed_loop(self, run: Run, feeds: list[Named]) -> Named:
        """Every output and every state, (rows, steps, ...), of a graph that is fed its own states."""
        first = self.spec.inputs[0]
        rows = canonical(feeds[0][first.name], first).shape[0]
        states = {s.input: np.broadcast_to(self.initial[s.name], (rows, *s.row)).copy() for s in self.spec.states}
        found: dict[str, list[Array]] = {}
        for feed in feeds:
            results = run({**feed, **states})
            states = {s.input: np.asarray(results[s.output]) for s in self.spec.states}
            for tensor in self.spec.outputs:
                found.setdefault(tensor.name, []).append(canonical(results[tensor.name], tensor))
            for state in self.spec.states:
                found.setdefault(state.name, []).append(states[state.input])
        return {name: np.stack(values, 1) for name, values in found.items()}


@cache
def stream_of(case: Case) -> Stream:
    """Raises Refused for a model of whole sequences only."""
    bundle = open_bundle(store.bundle(case.name))
    if bundle.spec.sequence_only:
        raise Refused(f"{case.name} is a model of whole sequences only: it has no step.")
    return Stream(case, bundle.spec, bundle.initial_states(), decompose(bundle.read("step.onnx")))


def by_onnxruntime(graph: bytes) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options)
    names = [value.name for value in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def by_module(stream: Stream) -> Run:
    """The lifted module in float64."""
    model, example, options = stream.case.build()
    spec, module = stream.spec, lift(model, example, **options).module.double()
    takes = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
    gives = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]

    def run(feed: Named) -> Named:
        with torch.no_grad():
            results = module(*(torch.from_numpy(feed[name]).double() for name in takes))
        return {name: value.numpy() for name, value in zip(gives, results, strict=True)}

    return run


def by_tensorrt(graph: bytes, accumulate: str = "fp32") -> Run:
    return Executor(parse(graph), accumulate).run


def error_of(got: Array, want: Array) -> float:
    """The largest error relative to the largest magnitude; 0 or Inf where the values are no floats."""
    if got.shape != want.shape or got.dtype.kind != want.dtype.kind or not np.isfinite(got).all():
        return float("inf")
    if want.dtype.kind != "f":
        return 0.0 if np.array_equal(got, want) else float("inf")
    scale = float(np.abs(want).max(initial=0))
    error = float(np.abs(got.astype(np.float64) - want).max(initial=0))
    return error / scale if scale else float("inf") if error else 0.0


def build(parsed: Parsed) -> Any:
    """A portable engine for batches of `BATCH`; raises Refused with what the builder logged."""
    config, profile = parsed.builder.create_builder_config(), parsed.builder.create_optimization_profile()
    for tensor in parsed.inputs:
        profile.set_shape(tensor.name, *([n if d == -1 else d for d in tensor.shape] for n in BATCH))
    config.add_optimization_profile(profile)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is None or LOG.errors:
        raise Refused(f"no engine: {'; '.join(LOG.errors) or 'nothing was logged'}")
    return plan


@dataclass(frozen=True)
class Figures:
    """Seconds of a build with the parse before it, bytes of the engine, and the executor's largest relative error."""

    fp32_seconds: float
    fp32_bytes: int
    fp16_seconds: float
    fp16_bytes: int
    executor_error: float


def measured(case: Case) -> Figures:
    """Raises Refused where TensorRT-RTX cannot take the case, or it has no step."""
    stream = stream_of(case)
    feeds = stream.feeds()
    want = stream.closed_loop(by_onnxruntime(stream.graph), feeds)
    got = stream.closed_loop(by_tensorrt(stream.graph), feeds)
    built = [_timed_build(typed(stream.graph, precision)) for precision in ("fp32", "fp16")]
    return Figures(*built[0], *built[1], max(error_of(got[name], want[name]) for name in want))


def _timed_build(graph: bytes) -> tuple[float, int]:
    start = time.perf_counter()
    plan = build(parse(graph))
    return time.perf_counter() - start, plan.nbytes
