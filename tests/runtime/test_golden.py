"""Golden vectors: a right bundle passes, a wrong one fails by the name of check, tensor and step."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.contract.parity_json import extent, verdict_of
from rnn_export.contract.precision import TOLERANCES, Tolerance
from rnn_export.contract.spec import StreamSpec
from rnn_export.runtime import Engine, load
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.drift import ParityReport, drift
from rnn_export.runtime.replay.ends import is_compared, lengths_tried
from rnn_export.runtime.replay.golden import CHECKPOINTS, Golden

from ..messages import raises  # noqa: TID252
from .graphs import (
    CHUNKED,
    DELAYED,
    DELAYED_CHUNKED,
    MIXED,
    SUM,
    TABLE,
    TIMED,
    TOKENS,
    TWINS,
    H,
    Model,
    X,
    Y,
    fewer,
    frames,
    spec,
    state,
)

EXACT = Tolerance(1e-6, 1e-6)
CHECKS = ["step", "sequence", "chunked", "reset", "snapshot", "batch-invariance", "pool"]


class Draft:
    """An engine's view of a bundle that is not written yet."""

    def __init__(self, model: Model, files: Mapping[str, bytes]) -> None:
        self.spec: StreamSpec = model.spec
        self.targets = (TargetRow("onnx", "fp32", 18, tuple(files), {}),)
        self.read = dict(files).__getitem__
        self.initial_states = lambda: {s.name: np.zeros(s.row, s.dtype) for s in model.spec.states}


def engine_of(model: Model, **changes: bytes) -> Engine:
    return Engine.of(Draft(model, {**model.files(), **changes}))


def golden_of(model: Model, rows: int = 2, length: int = 12) -> Golden:
    """Vectors by numpy of the models whose output is a running sum."""
    spec = model.spec
    x = frames(rows, length, 3)
    sums = x.cumsum(1)
    at = np.arange(spec.chunk, length + 1, spec.chunk)
    return Golden({"x": x}, {"y": sums[:, spec.delay :]}, {"h": sums[:, at - 1]}, at, EXACT)


def twins_golden() -> Golden:
    x = frames(2, 8, 3)
    u = x.cumsum(1)
    return Golden({"x": x}, {"y": -u}, {"u": u, "v": 2 * u}, np.arange(1, 9), EXACT)


def mixed_golden() -> Golden:
    """Inputs and outputs with and without a time axis, the latter after each step too."""
    x, z, gain = frames(2, 9, 3), frames(2, 9, 1, seed=1), frames(2, 3, seed=2)
    sums = (x + z).cumsum(1)
    outputs, states = {"y": sums * gain[:, None], "total": sums[:, -1] * gain}, {"h": sums[:, 2::3]}
    inputs, ends = {"x": x, "z": z, "gain": gain}, {n: {"total": sums[:, n - 1] * gain} for n in (3, 6, 9)}
    return Golden(inputs, outputs, states, np.array([3, 6, 9]), EXACT, ends=ends)


def through_a_bundle(golden: Golden, model: Model, folder: Path) -> Golden:
    path = model.write(folder / "m.rnnx", **{"golden.npz": golden.to_npz()})
    return Golden.from_arrays(open_bundle(path).arrays("golden.npz"), model.spec)


def swapped(nodes: list[tuple], **names: str) -> list[tuple]:
    return [(op, [names.get(i, i) for i in ins], [names.get(o, o) for o in outs], a) for op, ins, outs, a in nodes]


# --- what is right


@pytest.mark.parametrize(
    "model", [SUM, TIMED, CHUNKED, DELAYED, DELAYED_CHUNKED], ids=lambda m: m.spec.digest[:6] + str(m.spec.chunk)
)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_right_bundle_passes_every_check(model, rows):
    stages = []
    report = replay_golden(engine_of(model), golden_of(model, rows), stages.append)
    assert report.ok
    assert stages == CHECKS
    assert [name for name, _ in report.checks()] == [c for c in CHECKS if rows > 1 or c != "batch-invariance"]
    assert (report.backend, report.device, report.frames, report.rows) == ("onnxruntime", "cpu", 12, rows)
    assert report.steps == 12 // model.spec.chunk
    report.raise_for_failure("Nothing follows.")


@pytest.mark.parametrize(("model", "length"), [(SUM, 1), (SUM, 2), (SUM, 3), (DELAYED, 3), (DELAYED_CHUNKED, 6)])
def test_sequences_as_short_as_they_come(model, length):
    assert replay_golden(engine_of(model), golden_of(model, length=length)).ok


def test_an_output_without_a_time_axis_is_held_after_each_of_the_first_steps(tmp_path):
    """At the end of all frames, it is right where one in between is not."""
    golden = through_a_bundle(mixed_golden(), MIXED, tmp_path)
    report = replay_golden(engine_of(MIXED), golden)
    assert report.ok
    assert [name for name, _ in report.checks()] == [*CHECKS, "end", "pool end"]
    golden.ends[6]["total"][1] += 1
    wrong = [(d.check, d.tensor, d.step) for d in replay_golden(engine_of(MIXED), golden).drifts if d.step is not None]
    assert wrong == [("end", "total", 2), ("pool end", "total", 2)]


def test_the_steps_after_which_an_output_without_a_time_axis_is_held():
    alone = replace(MIXED.spec, outputs=MIXED.spec.outputs[1:])
    assert [n for n in lengths_tried(alone, 60) if is_compared(alone, alone.outputs[0], n)] == [*range(3, 49, 3)]
    assert [n for n in lengths_tried(alone, 20, shortest=7) if n % 3 == 0] == [9, 12, 15, 18]
    late = fewer(4, 2).spec
    assert [n for n in lengths_tried(late, 12) if is_compared(late, late.outputs[1], n)] == [6, 8, 10, 12]


def test_checkpoints_are_thinned():
    golden = golden_of(TIMED, length=100).thinned()
    assert golden.frames == 100
    assert golden.states["h"].shape == (2, CHECKPOINTS, 3)
    assert replay_golden(engine_of(TIMED), golden).ok


@pytest.mark.parametrize(("model", "frames", "kept"), [(TIMED, 12, 7), (CHUNKED, 12, 6), (DELAYED_CHUNKED, 12, 9)])
def test_a_bundle_keeps_the_first_steps_that_fit(monkeypatch, model, frames, kept):
    golden = golden_of(model, length=frames)
    size = sum(a.nbytes for a in (*golden.inputs.values(), *golden.outputs.values()))
    monkeypatch.setattr("rnn_export.runtime.replay.golden.KEPT_STEPS", 1)
    assert golden.beginning(model.spec) is golden
    monkeypatch.setattr("rnn_export.runtime.replay.golden.KEPT_BYTES", size * 7 // frames)
    first = golden.beginning(model.spec)
    assert first.frames == kept
    assert first.steps(model.spec) == kept // model.spec.chunk
    first._check(model.spec)
    for group in ("inputs", "outputs", "states"):
        for name, array in getattr(first, group).items():
            assert array.shape[1] < getattr(golden, group)[name].shape[1]
            np.testing.assert_array_equal(array, getattr(golden, group)[name][:, : array.shape[1]])
    assert replay_golden(engine_of(model), first).ok
    monkeypatch.setattr("rnn_export.runtime.replay.golden.KEPT_STEPS", 10**6)
    assert golden.beginning(model.spec).frames == frames


def test_what_is_kept_ends_at_a_checkpoint_and_is_all_of_an_output_of_the_whole(monkeypatch):
    golden = golden_of(TIMED, length=100).thinned()
    monkeypatch.setattr("rnn_export.runtime.replay.golden.KEPT_BYTES", 1)
    first = golden.beginning(TIMED.spec)
    assert first.frames == int(golden.at[golden.at <= 16][-1]) == first.outputs["y"].shape[1]
    first._check(TIMED.spec)
    whole = replace(mixed_golden(), outputs={"total": mixed_golden().outputs["total"]}, ends={})
    assert whole.beginning(MIXED.spec) is whole


def test_every_step_is_held_beyond_what_is_kept(monkeypatch):
    """The last frame is wrong: what is kept does not have it, and the report says of how many steps it is."""
    golden = off(golden_of(TIMED), (0, -1))
    monkeypatch.setattr("rnn_export.runtime.replay.golden.KEPT_STEPS", 4)
    monkeypatch.setattr("rnn_export.runtime.replay.golden.KEPT_BYTES", 1)
    report = replay_golden(engine_of(TIMED), golden)
    assert report.steps == 12
    assert {d.check for d in report.drifts if d.step is not None} == {"step", "sequence"}


@pytest.mark.parametrize(
    ("batches", "rows"),
    [((1, None), [0, 1, 2]), ((1, 8), [0, 1, 2]), ((1, 2), [0, 1]), ((1, 1), [0]), ((5, 8), [0, 1, 2, 0, 1])],
)
def test_the_vectors_fit_the_batch_of_an_engine(batches, rows):
    golden, engine = golden_of(SUM, rows=3), engine_of(SUM)
    engine.batches = batches
    fitted = golden.fitted(engine)
    assert (fitted.rows, fitted.tolerance, fitted.precision) == (len(rows), EXACT, "fp32")
    for group in ("inputs", "outputs", "states"):
        for name, array in getattr(fitted, group).items():
            np.testing.assert_array_equal(array, getattr(golden, group)[name][rows])
    report = replay_golden(engine, golden)
    assert (report.ok, report.rows) == (True, len(rows))
    assert ("batch-invariance" in dict(report.checks())) == (len(rows) > 1 and batches[0] == 1)


def test_an_engine_of_another_precision_has_its_own_tolerance():
    golden, engine = golden_of(TIMED), engine_of(TIMED)
    engine.precision = "fp16"
    assert (golden.fitted(engine).precision, golden.fitted(engine).tolerance) == ("fp16", TOLERANCES["fp16"])
    own = replace(golden, precision="fp16")
    assert own.fitted(engine).tolerance == EXACT
    golden.outputs["y"][0, 3] += 0.02
    assert replay_golden(engine, golden).ok
    assert not replay_golden(engine, own).ok


# --- what is wrong


def off(golden: Golden, at: tuple, by: float = 1) -> Golden:
    golden.outputs["y"][at] += by
    return golden


def with_weight(value: float) -> dict[str, bytes]:
    return replace(TWINS, constants={**TWINS.constants, "two": np.float32(value)}).files()


CROSSED = {"u.next": "v.next", "v.next": "u.next"}
SWAPPED = replace(TWINS, step=swapped(TWINS.step, **CROSSED), sequence=swapped(TWINS.sequence, **CROSSED)).files()
FORGETFUL = replace(SUM, step=[("Identity", ["x"], ["y"], {}), ("Identity", ["x"], ["h.next"], {})]).files()
STEP, SEQUENCE = "step.onnx", "sequence.onnx"
WRONG = {
    "a weight of the step graph": (
        engine_of(TWINS, **{STEP: with_weight(2.001)[STEP]}),
        twins_golden(),
        ("onnxruntime", "'step'", "'v'", "step 1", "Outside too: pool v, pool y, step y."),
    ),
    "a weight of the sequence graph": (
        engine_of(TWINS, **{SEQUENCE: with_weight(2.001)[SEQUENCE]}),
        twins_golden(),
        (
            *("'sequence'", "'y'", "step 1 of 8", "Outside too: batch-invariance y, chunked v, chunked y, reset y,"),
            "sequence v, snapshot v, snapshot y.",
        ),
    ),
    "states swapped in a step": (
        engine_of(TWINS, **{STEP: SWAPPED[STEP]}),
        twins_golden(),
        ("the check 'step' diverges from the model: ", "Outside too: "),
    ),
    "states swapped in a sequence": (
        engine_of(TWINS, **{SEQUENCE: SWAPPED[SEQUENCE]}),
        twins_golden(),
        ("the check 'sequence' diverges from the model: ", "Outside too: "),
    ),
    "one frame": (
        engine_of(TIMED),
        off(golden_of(TIMED), (1, 6), 0.5),
        ("'y'", "step 7 of 12; the largest error is 0.5 where 1e-06 +"),
    ),
    "frames of one step": (engine_of(CHUNKED), off(golden_of(CHUNKED), (1, 7)), ("'y'", "step 3 of 4")),
    "a state that is not fed back": (engine_of(SUM, **FORGETFUL), golden_of(SUM), ("'h'", "step 2 of 12")),
    "golden nan": (engine_of(TIMED), off(golden_of(TIMED), (0, 3, 1), np.nan), ("'y'", "step 4")),
    "golden inf": (engine_of(TIMED), off(golden_of(TIMED), (0, 3, 1), np.inf), ("'y'", "step 4")),
}


@pytest.mark.parametrize(("engine", "golden", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_with_its_first_step(engine, golden, said):
    report = replay_golden(engine, golden)
    assert not report.ok
    with raises("parity-diverges", *said, "Nothing was written."):
        report.raise_for_failure("Nothing was written.")


# --- the report


def strict(report: ParityReport) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(json.dumps(report.to_json()), parse_constant=refuse)


def test_a_report_is_strict_json():
    data = strict(replay_golden(engine_of(TIMED), golden_of(TIMED)))
    assert data["ok"] is True
    assert data["tolerance"] == {"atol": 1e-6, "rtol": 1e-6}
    assert {d["check"] for d in data["drifts"]} == set(CHECKS)
    assert all(d["curve"][-1][0] == 12 for d in data["drifts"] if d["check"] == "sequence")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_error_that_is_no_number_is_null(value):
    got = np.full((1, 2, 3), value, np.float32)
    want = np.ones((1, 2, 3), np.float32)
    given = drift("step", "y", got, want, np.array([1, 2]), EXACT)
    data = strict(ParityReport("onnxruntime", "cpu", 2, 1, EXACT, (given,)))
    assert data["ok"] is False
    assert data["drifts"][0]["error"] is None
    assert data["drifts"][0]["step"] == 1


# --- drift


@pytest.mark.parametrize(
    ("off", "step", "closest", "said"),
    [
        ((0.0025, 0.125), None, (0.0025, 0.01), ", worst 2.5e-03 of 1.0e-02 allowed"),
        ((0.0, 0.5), None, (0.5, 1.0), ", worst 5.0e-01 of 1.0e+00 allowed"),
        ((0.02, 0.5), 1, (0.02, 0.01), ", worst 2.0e-02 of 1.0e-02 allowed"),
        ((0.0, 0.0), None, (0.0, 0.01), ", every value equal"),
        ((np.nan, 0.0), 1, (np.inf, 0.01), ""),
    ],
)
def test_the_value_that_comes_closest_to_what_is_allowed_is_told(off, step, closest, said):
    """The largest error may be far from it, where the tensor is larger."""
    want = np.array([[[1.0, 0.5], [100.0, 50.0]]])
    got = want + np.array(off)[None, :, None] * [1, 0]
    given = drift("step", "y", got, want, np.array([1, 2]), Tolerance(0, 1e-2))
    assert given.step == step
    assert given.closest == pytest.approx(closest)
    report = ParityReport("onnxruntime", "cpu", 2, 1, EXACT, (given,), steps=2)
    assert verdict_of(report.to_json()) == f"verified: 1 check over 2 steps{said}"


def test_the_tolerance_follows_the_running_scale():
    want = np.array([[[1.0], [100.0], [1.0]]], np.float32)
    given = drift("step", "y", want + np.float32(0.005), want, np.array([1, 2, 3]), Tolerance(0, 1e-3))
    assert (given.step, given.scale) == (1, 100)
    np.testing.assert_allclose(given.curve, [(1, 0.005), (2, 0.005), (3, 0.005)], rtol=1e-3)


def f32(*rows: object) -> np.ndarray:
    return np.array([rows], np.float32)


LARGE, IDS = f32([1e7, 1.0], [1e7, 1.0]), np.array([[[3], [4]]])
HALF_OFF, TERMS = LARGE + f32([0, 0], [0, 0.5]), f32([0, 0], [0, 1e6])
PPM, BIT = Tolerance(0, 1e-6), f32([0], [1])
# The model gives NaN at the second frame; a stream that goes on from there may give anything.
NAN, BEYOND = f32([1.0, 2.0], [np.nan, 2.0], [1.0, 2.0]), f32([1.0, 2.0], [np.nan, 2.0], [5.0, np.inf])
DRIFTS = {
    "below the scale of a frame before": (f32([100.005], [1.005]), f32([100.0], [1.0]), (Tolerance(0, 1e-3),), None),
    "whole numbers are never close": (np.array([[1001, 1001]]), np.array([[1000, 1000]]), (Tolerance(1, 1),), 1),
    "equal whole numbers": (np.array([[1000, 1000]]), np.array([[1000, 1000]]), (Tolerance(0, 0),), None),
    "another shape": (np.zeros((1, 2, 3)), np.zeros((1, 2, 1)), (EXACT,), 1),
    "the scale of the row": (HALF_OFF, LARGE, (PPM,), None),
    "the scale of the entry": (HALF_OFF, LARGE, (PPM, ("noise",), np.zeros_like(LARGE), False), 2),
    "the scale of its terms": (HALF_OFF, LARGE, (PPM, ("noise",), TERMS, False), None),
    "a whole number of the last bits": (IDS + BIT.astype(int), IDS, (EXACT, ("noise",), BIT), None),
    "another whole number": (IDS + 1, IDS, (EXACT, ("noise",), BIT), 1),
    "the same infinity": (f32(1, np.inf, 2), f32(1, np.inf, 2), (EXACT,), None),
    "the other infinity": (f32(1, -np.inf, 2), f32(1, np.inf, 2), (EXACT,), 2),
    "large for infinite": (f32(1, 1e38, 2), f32(1, np.inf, 2), (EXACT,), 2),
    "NaN for infinite": (f32(1, np.nan, 2), f32(1, np.inf, 2), (EXACT,), 2),
    "behind a NaN of zeros": (BEYOND, NAN, (EXACT, ("zeros",)), None),
    "before a NaN of zeros": (BEYOND + f32([1], [0], [0]), NAN, (EXACT, ("zeros",)), 1),
    "behind a nan of noise": (BEYOND, NAN, (EXACT, ("noise",)), 2),
    "behind a nan of a recording": (BEYOND, NAN, (EXACT, ("recording",)), 2),
    "behind a nan of what has no kind": (BEYOND, NAN, (EXACT,), 2),
}


@pytest.mark.parametrize(("got", "want", "held", "step"), DRIFTS.values(), ids=DRIFTS)
def test_the_first_step_that_is_outside(got, want, held, step):
    by_row = {"by_row": held[3]} if len(held) > 3 else {}
    given = drift("step", "y", got, want, np.arange(1, want.shape[1] + 1), *held[:3], **by_row)
    assert given.step == step
    if got.shape != want.shape:
        assert given.error == np.inf


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_blocks_do_not_show(monkeypatch, block):
    rng = np.random.default_rng(0)
    want = (rng.standard_normal((3, 40, 2, 3)) * np.geomspace(1, 1e3, 40)[:, None, None]).astype(np.float32)
    got = want + np.float32(1e-4) * rng.standard_normal(want.shape).astype(np.float32)
    got[1, 17, 1, 2] += 5
    got[1, 30, 0, 1] += 900
    given = []
    for each in (10**6, block):
        monkeypatch.setattr("rnn_export.runtime.replay.drift.BLOCK", each)
        given.append(drift("step", "y", got, want, np.arange(1, 41), Tolerance(0, 1e-2), ("noise", "zeros", "steps")))
    assert given[0] == given[1]
    assert (given[1].step, given[1].kind, len(given[1].curve)) == (18, "zeros", 32)
    assert given[1].error == pytest.approx(900, rel=1e-3)


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ({"steps": 256, "frames": 256}, "256 steps"),
        ({"steps": 256, "frames": 40960}, "256 steps of 160 frames"),
        ({"steps": None, "frames": 40}, "40 frames"),
        ({"frames": 40}, "40 frames"),
    ],
)
def test_how_much_a_report_is_of(report, text):
    assert extent(report) == text


# --- the file


def arrays_of(golden: Golden) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(golden.to_npz())) as file:
        return dict(file)


def test_the_same_vectors_are_the_same_bytes():
    assert golden_of(TIMED).to_npz() == golden_of(TIMED).to_npz()


BAD = {
    "nothing": ({"input/x": None}, "'input/x'"),
    "no checkpoints": ({"at": None}, "'at'"),
    "empty checkpoints": ({"at": np.zeros(0, int)}, "not rising numbers of frames"),
    "falling checkpoints": ({"at": np.array([3, 2, 6])}, "not rising numbers of frames"),
    "float checkpoints": ({"at": np.array([3.0, 6.0])}, "its checkpoints are float64 (2,)"),
    "only the delay": ({"at": np.array([2])}, "do not fit a chunk of 1 and delay 2"),
    "tolerance": ({"tolerance": np.zeros(3)}, "its tolerance is float64 (3,), not atol and rtol"),
    "nan tolerance": ({"tolerance": np.array([0, np.nan])}, "both must be finite and at least 0"),
    "precision": ({"precision": np.array("fp8")}, "its precision 'fp8' is none of fp32, fp16, bf16"),
    "no precision": ({"precision": None}, "'precision'"),
    "no rows": ({"input/x": np.zeros((0, 6, 3), np.float32)}, "its inputs have no rows"),
    "rows": ({"output/y": np.zeros((1, 4, 3), np.float32)}, "'y' is float32 (1, 4, 3), not float32 (2, 4, 3)"),
    "frames": ({"output/y": np.zeros((2, 6, 3), np.float32)}, "'y' is float32 (2, 6, 3), not float32 (2, 4, 3)"),
    "dtype": ({"input/x": np.zeros((2, 6, 3))}, "'x' is float64 (2, 6, 3), not float32 (2, 6, 3)"),
    "states": ({"state/h": np.zeros((2, 5, 3), np.float32)}, "'h' is float32 (2, 5, 3), not float32 (2, 6, 3)"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_vectors_that_do_not_fit_the_contract(changes, message):
    given = arrays_of(golden_of(DELAYED, length=6)) | changes
    with raises("golden-does-not-fit", message):
        Golden.from_arrays({name: a for name, a in given.items() if a is not None}, DELAYED.spec)


def test_checkpoints_fall_on_chunks():
    with raises("golden-does-not-fit", "its checkpoints [4] do not fit a chunk of 3"):
        Golden.from_arrays(arrays_of(golden_of(CHUNKED)) | {"at": np.array([4])}, CHUNKED.spec)


def test_token_ids_are_replayed():
    ids = np.array([[0, 1, 2, 4], [4, 3, 2, 1]])
    sums = TABLE[ids].cumsum(1)
    assert replay_golden(engine_of(TOKENS), Golden({"id": ids}, {"y": sums}, {"h": sums}, np.arange(1, 5), EXACT)).ok


# --- other kinds of input


KINDS = ("noise", "zeros", "loud frames")


def trials_of(model: Model, **changes) -> Golden:
    """Three rows, of which the last is loud at one frame."""
    golden = golden_of(model, 3, 6)
    scales = {"y": np.zeros_like(golden.outputs["y"])}
    changed = {"states": {}, "by_entry": True, "at": np.array([6]), "kinds": KINDS, "scales": scales, **changes}
    return replace(golden, **changed)


def tried(model: Model, rows: int = 2) -> Golden:
    return replace(golden_of(model, rows), kinds=("noise",) * rows, trials=trials_of(model))


def test_each_kind_is_named_where_it_is_the_worst():
    golden = tried(TIMED)
    off(golden.trials, (2, 3, 1), 0.5)
    report = replay_golden(engine_of(TIMED), golden)
    assert {d.kind for d in report.drifts if d.step is not None} == {"loud frames"}
    assert dict(report.checks())["step"].kind == "loud frames"
    with raises("parity-diverges", "'y'", "step 4 of 6 on loud frames"):
        report.raise_for_failure("Nothing follows.")


@pytest.mark.parametrize(("batches", "groups"), [((1, None), 1), ((1, 2), 2), ((1, 1), 3), ((5, 8), 1)])
def test_every_kind_is_replayed_whatever_batch_an_engine_takes(batches, groups):
    engine, golden = engine_of(TIMED), tried(TIMED)
    engine.batches = batches
    assert replay_golden(engine, golden).ok
    _, *parts = golden.parts(engine)
    assert len(parts) == groups
    assert {kind for part in parts for kind in part.kinds} == set(KINDS)
    for row in range(3):
        wrong = replace(golden, trials=off(trials_of(TIMED), (row, 3, 1), 0.5))
        assert not replay_golden(engine, wrong).ok


def test_a_precision_that_does_not_hold_what_is_loud_is_not_judged_on_it():
    golden, engine = tried(TIMED), engine_of(TIMED)
    golden.trials.inputs["x"][2] *= 100
    engine.precision = "fp16"
    report = replay_golden(engine, golden)
    assert (report.ok, report.not_judged) == (True, {"loud frames": "louder than what fp16 is held to"})
    engine.precision = "fp32"
    assert not replay_golden(engine, golden).ok


def test_a_kind_without_a_scale_is_said_to_be_held_to_nothing():
    golden = tried(TIMED)
    scales = np.zeros((3, *golden.trials.outputs["y"].shape[1:]), np.float32)
    scales[1] = scales[2, 1:] = np.inf
    golden = replace(golden, trials=replace(golden.trials, scales={"y": scales}))
    report = replay_golden(engine_of(TIMED), golden)
    why = "where what the model computes with is changed in its last bits, it gives no number"
    assert report.not_judged == {golden.trials.kinds[1]: why}


def test_a_second_half_is_held_to_what_was_loud_in_the_first():
    """A state that has decayed has the rounding of what it was."""
    golden = golden_of(TIMED)
    half = golden.outputs["y"][:, 6:] + np.float32(1e-5)
    golden.outputs["y"][:, 2] = 100
    (given,) = golden.output_drifts("snapshot", TIMED.spec, {"y": half}, start=6)
    assert given.step is None
    half[:, 1] += 1
    (given,) = golden.output_drifts("snapshot", TIMED.spec, {"y": half}, start=6)
    assert given.step == 8


def test_a_part_of_fewer_frames_is_held_to_its_own():
    """One frame for every two: the third of the input begins the second of the output."""
    model = fewer(0, 2)
    x = frames(2, 8, 3)
    sums = x.cumsum(1)
    golden = Golden(
        {"x": x}, {"y": sums[:, 1::2], "total": sums[:, -1]}, {"h": sums[:, 1::2]}, np.arange(2, 9, 2), EXACT
    )
    part = {"y": sums[:, 3:6:2].copy(), "total": sums[:, 5]}
    assert [d.step for d in golden.output_drifts("chunked", model.spec, part, 2, 6)] == [None]
    part["y"][:, 1] += 1
    assert [d.step for d in golden.output_drifts("chunked", model.spec, part, 2, 6)] == [3]


def test_trials_survive_the_bundle(tmp_path):
    golden = tried(CHUNKED)
    read = through_a_bundle(golden, CHUNKED, tmp_path)
    assert read.tolerance == EXACT
    assert (read.kinds, read.trials.kinds, read.trials.frames) == (("noise", "noise"), KINDS, 6)
    np.testing.assert_array_equal(read.trials.outputs["y"], golden.trials.outputs["y"])
    report = replay_golden(load(tmp_path / "m.rnnx"), read)
    assert report.ok
    assert {d.kind for d in report.drifts} & set(KINDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": KINDS[:2]}, "it names 2 kinds of input for 3 rows"),
        ({"scales": {"y": np.zeros((3, 5, 3), np.float32)}}, "'scale/y' is float32 (3, 5, 3), not"),
    ],
)
def test_trials_that_do_not_fit_the_contract(tmp_path, changes, message):
    with raises("golden-does-not-fit", message):
        through_a_bundle(replace(golden_of(TIMED), trials=trials_of(TIMED, **changes)), TIMED, tmp_path)


def test_streams_of_a_pool_are_not_all_at_the_same_frame():
    """A step that takes the count of one stream for that of all is right as long as they go side by side."""
    counted = [
        ("Gather", ["n", "[0]"], ["of the first"], {"axis": 0}),
        ("Mul", ["x", "of the first"], ["weighed"], {}),
        ("Add", ["h", "weighed"], ["y"], {}),
        ("Identity", ["y"], ["h.next"], {}),
        ("Add", ["n", "one"], ["n.next"], {}),
    ]
    model = Model(spec("counted", [X], [Y], [H, state("n", 1)]), counted, constants={"one": np.float32(1)})
    x, at = frames(2, 8, 3), np.arange(1, 9)
    sums = (x * np.arange(8, dtype=np.float32)[:, None]).cumsum(1)
    count = np.broadcast_to(at.astype(np.float32)[:, None], (2, 8, 1))
    report = replay_golden(engine_of(model), Golden({"x": x}, {"y": sums}, {"h": sums, "n": count}, at, EXACT))
    assert {d.check for d in report.drifts if d.step is not None} == {"pool"}
