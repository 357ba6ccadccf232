"""Every case on every way of running it, against the untouched module called as its user calls it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from rnn_export.bundle import open_bundle
from rnn_export.contract.layout import canonical, graph_layout
from rnn_export.contract.spec import TensorSpec
from rnn_export.export import export
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.models import CustomGRUCell
from rnn_export.runtime.build.wasm.wasm_build import package_from_c
from rnn_export.runtime.engine import Engine, load
from rnn_export.runtime.stream import Stream

from ..export.rewriting import decompose  # noqa: TID252
from ..lifting import lift  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .cases import CASES, Case, Inputs

# Said once by torch where nn.LSTM has a proj_size.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

ROWS = 2
FRAMES = 204  # whole chunks of 2, 3 and 4
LONG = 1000
Array = npt.NDArray[Any]
Named = dict[str, Array]


class Exported:
    """The bundle of a case on every backend, the model it is of, and what is true of it."""

    def __init__(self, case: Case) -> None:
        self.case, self.path = case, store.bundle(case.name)
        self.model, self.example, self.options = case.build()
        self.spec = open_bundle(self.path).spec
        self.step_graph = open_bundle(self.path).read("step.onnx")
        self.engine = cache(lambda backend: load(self.path, backend=backend))

    @cached_property
    def lifted(self) -> StreamingModel:
        return lift(self.model, self.example, **self.options)

    def on_wasmtime(self) -> Engine:
        return Engine.of(package_from_c(open_bundle(self.path)), "wasm")

    def draw(self, frames: int) -> Inputs:
        torch.manual_seed(1)
        return self.case.draw(ROWS, frames)

    def truth(self, inputs: Inputs, drive: Callable[..., Any] | None = None) -> tuple[Named, Named]:
        with torch.no_grad():
            outputs, states = (drive or self.case.truth)(self.model, inputs)
        names = [t.name for t in self.spec.outputs]
        return (
            {name: value.numpy() for name, value in zip(names, outputs, strict=True)},
            {name: value.numpy() for name, value in states.items()},
        )

    def timed(self, tensor: TensorSpec) -> bool:
        return self.spec.timed(tensor)

    def by_time(self, given: Named) -> Named:
        """A step's outputs, with a time axis for any number of frames."""
        return {
            t.name: given[t.name].reshape(ROWS, -1, *t.frame) if self.timed(t) else given[t.name]
            for t in self.spec.outputs
        }

    def without_delay(self, outputs: Named) -> Named:
        """A bare graph's outputs, without the frames of the delay."""
        spec = self.spec
        return {
            t.name: outputs[t.name][:, t.frames_of(spec.delay) :] if self.timed(t) else outputs[t.name]
            for t in spec.outputs
        }

    def named(self, inputs: Inputs) -> Named:
        return {t.name: value.numpy() for t, value in zip(self.spec.inputs, inputs, strict=True)}

    def cut(self, inputs: Named, start: int, stop: int) -> Named:
        timed = {t.name for t in self.spec.inputs if self.timed(t)}
        return {name: a[:, start:stop] if name in timed else a for name, a in inputs.items()}

    def joined(self, pieces: list[Named]) -> Named:
        """Pieces along time; of an output without time the last."""
        return {
            t.name: np.concatenate([p[t.name] for p in pieces], 1) if self.timed(t) else pieces[-1][t.name]
            for t in self.spec.outputs
        }


@pytest.fixture(scope="module")
def exported() -> Callable[[Case], Exported]:
    """Export a case once for all tests of it."""
    done: dict[str, Exported] = {}

    def get(case: Case) -> Exported:
        if case.name not in done:
            done[case.name] = Exported(case)
        return done[case.name]

    return get


def assert_close(got: Mapping[str, Array], want: Mapping[str, Array], tolerance: float) -> None:
    for name, true in want.items():
        assert got[name].shape == true.shape, name
        scale = np.abs(true).max()
        assert scale > 0, name
        assert np.abs(got[name].astype(np.float64) - true).max() <= tolerance * scale, name


# --- the ways of running it: canonical inputs -> outputs and last states -------------------------------------------


def by_lifted(it: Exported, inputs: Named) -> tuple[Named, Named]:
    """The lifted eager module, a chunk at a time."""
    spec = it.spec
    states = [it.lifted.initial[s.name].expand(ROWS, *s.row) for s in spec.states]

    def step(feed: Named) -> list[Array]:
        nonlocal states
        with torch.no_grad():
            results = it.lifted.module(*(torch.from_numpy(a) for a in feed.values()), *states)
        states = list(results[len(spec.outputs) :])
        return [r.numpy() for r in results[: len(spec.outputs)]]

    outputs = by_graph(it, inputs, step)
    return outputs, {s.name: value.numpy() for s, value in zip(spec.states, states, strict=True)}


def by_reference(it: Exported, inputs: Named) -> tuple[Named, Named]:
    """onnx.reference on the decomposed step graph."""
    spec, evaluator = it.spec, ReferenceEvaluator(onnx.load_from_string(decompose(it.step_graph)))
    states = {s.input: it.lifted.initial[s.name].expand(ROWS, *s.row).numpy() for s in spec.states}

    def step(feed: Named) -> list[Array]:
        nonlocal states
        results = evaluator.run(None, {**feed, **states})
        assert isinstance(results, list)
        states = {s.input: value for s, value in zip(spec.states, results[len(spec.outputs) :], strict=True)}
        return results[: len(spec.outputs)]

    return by_graph(it, inputs, step), {s.name: states[s.input] for s in spec.states}


def by_graph(it: Exported, inputs: Named, step: Callable[[Named], list[Array]]) -> Named:
    """Drive something that takes the graph's own layout, a chunk at a time."""
    spec, pieces = it.spec, []
    frames = next(inputs[t.name].shape[1] for t in spec.inputs if it.timed(t))
    for start in range(0, frames, spec.chunk):
        piece = it.cut(inputs, start, start + spec.chunk)
        if not spec.has_time:
            piece = {name: a[:, 0] for name, a in piece.items()}
        outputs = step({t.name: graph_layout(piece[t.name], t) for t in spec.inputs})
        pieces.append(it.by_time({t.name: canonical(a, t) for t, a in zip(spec.outputs, outputs, strict=True)}))
    return it.without_delay(it.joined(pieces))


def bare(it: Exported, given: Any) -> Named:
    return given if isinstance(given, dict) else {it.spec.outputs[0].name: given}


def fed(inputs: Named) -> Any:
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def by_step(it: Exported, inputs: Named, backend: str = "onnxruntime") -> tuple[Named, Named]:
    """Stream.step, frame after frame or chunk after chunk."""
    stream = it.engine(backend).stream(batch=ROWS)
    return it.joined(stepped(it, stream, inputs)), stream.states


def stepped(it: Exported, stream: Stream, inputs: Named) -> list[Named]:
    spec, pieces = it.spec, []
    timed = {t.name for t in spec.inputs if it.timed(t)}
    frames = next(inputs[name].shape[1] for name in timed)
    for start in range(0, frames, spec.chunk):
        piece = it.cut(inputs, start, start + spec.chunk)
        if spec.chunk == 1:
            piece = {name: a[:, 0] if name in timed else a for name, a in piece.items()}
        given = stream.step(fed(piece))
        if start + spec.chunk <= spec.delay:
            assert given is None
        else:
            pieces.append(it.by_time(bare(it, given)))
    return pieces


def by_run(it: Exported, inputs: Named) -> tuple[Named, Named]:
    """Stream.run on the whole sequence."""
    stream = it.engine("onnxruntime").stream(batch=ROWS)
    return bare(it, stream.run(fed(inputs))), stream.states


def by_pieces(it: Exported, inputs: Named, backend: str = "onnxruntime") -> tuple[Named, Named]:
    """Stream.run on random pieces, some of them below a chunk."""
    stream, random, pieces, at = it.engine(backend).stream(batch=ROWS), np.random.default_rng(2), [], 0
    frames = next(inputs[t.name].shape[1] for t in it.spec.inputs if it.timed(t))
    while at < frames:
        stop = min(at + int(random.integers(1, 40)), frames)
        pieces.append(bare(it, stream.run(fed(it.cut(inputs, at, stop)))))
        at = stop
    return it.joined(pieces), stream.states


def by_steps_and_a_run(it: Exported, inputs: Named, stream: Stream) -> tuple[Named, Named]:
    """Steps at first, then a run of all the rest."""
    frames = next(inputs[t.name].shape[1] for t in it.spec.inputs if it.timed(t))
    pieces = stepped(it, stream, it.cut(inputs, 0, 24))
    return it.joined([*pieces, bare(it, stream.run(fed(it.cut(inputs, 24, frames))))]), stream.states


def by_torchscript(it: Exported, inputs: Named) -> tuple[Named, Named]:
    return by_steps_and_a_run(it, inputs, it.engine("torchscript").stream(batch=ROWS))


def by_native_step(it: Exported, inputs: Named) -> tuple[Named, Named]:
    return by_step(it, inputs, "native")


def by_native_pieces(it: Exported, inputs: Named) -> tuple[Named, Named]:
    return by_pieces(it, inputs, "native")


def by_wasmtime(it: Exported, inputs: Named) -> tuple[Named, Named]:
    return by_steps_and_a_run(it, inputs, it.on_wasmtime().stream(batch=ROWS))


CORE = [case for case in CASES if case.core]
# Those of a backend in one tuple. What is no backend is checked on the core alone.
WAYS = ((by_step, by_run, by_pieces), (by_native_step, by_native_pieces), (by_torchscript,))
OF_CORE = (by_lifted, by_reference)


def pairs() -> Iterator[Any]:
    """Each case of the core in every way; each other case on every backend once, its ways in turn."""
    for number, case in enumerate(CASES):
        every = [*itertools.chain(*WAYS), *OF_CORE]
        for way in every if case.core else [ways[number % len(ways)] for ways in WAYS]:
            yield pytest.param(case, way, id=f"{case.name}-{way.__name__}")


every_core = pytest.mark.parametrize("case", CORE, ids=lambda case: case.name)


def check(it: Exported, way: Callable[..., tuple[Named, Named]], frames: int, drive: Any = None) -> None:
    """Outputs of every frame, and the last states where the truth shows them."""
    inputs = it.draw(frames)
    outputs, states = it.truth(inputs, drive)
    spec = it.spec
    for tensor in spec.outputs:
        if it.timed(tensor):
            whole = tensor.length_of(frames) if tensor.lengths else spec.frames_out(tensor, frames)
            assert outputs[tensor.name].shape[1] == whole
            # What only the end of a sequence gives is held to the golden vectors.
            outputs[tensor.name] = outputs[tensor.name][:, : spec.frames_out(tensor, frames)]
    given, last = way(it, it.named(inputs))
    assert_close(given, outputs, it.case.tolerance)
    assert_close(last, states, it.case.tolerance)


# All of them take minutes: RNN_EXPORT_EVERY_CASE=1.
@pytest.mark.parametrize("case", CASES if os.environ.get("RNN_EXPORT_EVERY_CASE") else CORE, ids=lambda case: case.name)
def test_webassembly_equals_the_untouched_module(exported, case):
    pytest.importorskip("ziglang")
    pytest.importorskip("wasmtime")
    check(exported(case), by_wasmtime, FRAMES)


@pytest.mark.parametrize(("case", "way"), [*pairs()])
def test_equals_the_untouched_module(exported, case, way):
    check(exported(case), way, FRAMES)


@pytest.mark.slow
@every_core
@pytest.mark.parametrize("way", [by_step, by_run, by_native_step], ids=lambda way: way.__name__)
def test_equals_the_untouched_module_over_1000_steps(exported, case, way):
    check(exported(case), way, LONG)


@pytest.mark.parametrize("case", [case for case in CASES if case.equation], ids=lambda case: case.name)
def test_our_cells_equal_their_equations_in_float64(exported, case):
    check(exported(case), by_step, FRAMES, case.equation)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_true_states_are_those_of_the_contract(exported, case):
    it = exported(case)
    _, states = it.truth(it.draw(12))
    assert not states or states.keys() == {s.name for s in it.spec.states}
    assert {s.name: s.row for s in it.spec.states if s.name in states} == {n: a.shape[1:] for n, a in states.items()}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("hidden-lstm-projected-1", 3 + 6),
        ("called-twice", 4 + 4),
        ("dual-path", 3 * 4),
        ("loop-lstm-cell", 5 + 5),
        ("loop-two-cells", 5 + 5 + 3),
        ("loop-after-loop", 5 + 3),
        ("loop-relu-gru-by-hand", 5),
        ("loop-minimal-gated-unit", 5),
        ("loop-leaky-integrator", 5),
        ("loop-after-convolution", 2 * 4 + 5),
        ("causal-dilated-residual", (2 + 4 + 8) * 4),
        ("valid-residual", 2 * 4),
        ("token-shift", 4 + 5),
    ],
)
def test_a_stream_remembers_as_much_as_the_model_does(exported, name, cells):
    """Truths of hidden states have no names, so a state kept twice would not be seen above."""
    it = exported(next(case for case in CASES if case.name == name))
    assert sum(np.prod(s.row, dtype=int) for s in it.spec.states) == cells


# --- canaries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "flag"), [("CustomGRU-1-before", 0), ("CustomGRU-1-after", 1), ("nn.GRU-1", 1)])
def test_each_gru_is_written_in_its_own_form(exported, name, flag):
    graph = onnx.load_from_string(exported(next(c for c in CASES if c.name == name)).step_graph).graph
    (node,) = [n for n in graph.node if n.op_type == "GRU"]
    assert {a.name: a.i for a in node.attribute}.get("linear_before_reset", 0) == flag


@pytest.mark.parametrize(("reset_after", "expected"), [(False, 0.873618), (True, 0.885249)])
def test_one_step_computed_by_hand(tmp_path, reset_after, expected):
    """With all weights 1, bh = 0.5, bhh = 0.25, x = 1 and h = 0.5:

    r = z = σ(1.5) = 0.817574; the candidate is tanh(r h + x + bh) = tanh(1.908787) = 0.956983 before, or
    tanh(x + bh + r (h + bhh)) = tanh(2.113181) = 0.971210 after; h' = (1 - z) h + z candidate.
    """
    cell = CustomGRUCell(1, 1, reset_after)
    with torch.no_grad():
        for weight in cell.parameters():
            weight.fill_(1)
        cell.br.zero_()
        cell.bz.zero_()
        cell.bh.fill_(0.5)
        if reset_after:
            cell.bhh.fill_(0.25)
    export(cell.eval(), (torch.zeros(1, 1),), tmp_path / "one.rnnx", steps=2)
    stream = load(tmp_path / "one.rnnx").stream(states={"h": np.float32([0.5])})
    assert stream.step(np.float32([1]))[0] == pytest.approx(expected, abs=1e-5)


def test_the_table_names_each_case_once():
    assert len({case.name for case in CASES}) == len(CASES)
