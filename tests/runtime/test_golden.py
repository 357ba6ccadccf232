"""Golden vectors: a right bundle passes, a wrong one fails by the name of check, tensor and step."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.contract.parity_json import extent, verdict_of
from rnn_export.contract.precision import TOLERANCES, Tolerance
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ParityError
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


@pytest.mark.parametrize("length", [1, 2, 3])
def test_sequences_as_short_as_they_come(length):
    assert replay_golden(engine_of(SUM), golden_of(SUM, length=length)).ok


def test_a_delay_longer_than_half_the_frames():
    assert replay_golden(engine_of(DELAYED), golden_of(DELAYED, length=3)).ok
    assert replay_golden(engine_of(DELAYED_CHUNKED), golden_of(DELAYED_CHUNKED, length=6)).ok


def test_inputs_and_outputs_without_a_time_axis():
    x, z, gain = frames(2, 9, 3), frames(2, 9, 1, seed=1), frames(2, 3, seed=2)
    sums = (x + z).cumsum(1)
    golden = Golden(
        {"x": x, "z": z, "gain": gain},
        {"y": sums * gain[:, None], "total": sums[:, -1] * gain},
        {"h": sums[:, 2::3]},
        np.array([3, 6, 9]),
        EXACT,
    )
    assert replay_golden(engine_of(MIXED), golden).ok


def test_an_output_without_a_time_axis_is_held_after_each_of_the_first_steps(tmp_path):
    """At the end of all frames, it is right where one in between is not."""
    x, z, gain = frames(2, 9, 3), frames(2, 9, 1, seed=1), frames(2, 3, seed=2)
    sums = (x + z).cumsum(1)
    outputs, states = {"y": sums * gain[:, None], "total": sums[:, -1] * gain}, {"h": sums[:, 2::3]}
    inputs, ends = {"x": x, "z": z, "gain": gain}, {n: {"total": sums[:, n - 1] * gain} for n in (3, 6, 9)}
    golden = Golden(inputs, outputs, states, np.array([3, 6, 9]), EXACT, ends=ends)
    path = MIXED.write(tmp_path / "m.rnnx", **{"golden.npz": golden.to_npz()})
    golden = Golden.from_arrays(open_bundle(path).arrays("golden.npz"), MIXED.spec)
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


def test_what_is_kept_ends_at_a_checkpoint(monkeypatch):
    golden = golden_of(TIMED, length=100).thinned()
    monkeypatch.setattr("rnn_export.runtime.replay.golden.KEPT_BYTES", 1)
    first = golden.beginning(TIMED.spec)
    assert first.frames == int(golden.at[golden.at <= 16][-1]) == first.outputs["y"].shape[1]
    first._check(TIMED.spec)


def test_an_output_of_the_whole_alone_keeps_all(monkeypatch):
    x = frames(2, 9, 3)
    golden = Golden({"x": x}, {"total": x.sum(1)}, {}, np.array([3, 6, 9]), EXACT)
    monkeypatch.setattr("rnn_export.runtime.replay.golden.KEPT_BYTES", 1)
    assert golden.beginning(MIXED.spec) is golden


def test_every_step_is_held_beyond_what_is_kept(monkeypatch):
    """The last frame is wrong: what is kept does not have it, and the report says of how many steps it is."""
    golden = golden_of(TIMED)
    golden.outputs["y"][0, -1] += 1
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


def failure(engine: Engine, golden: Golden) -> str:
    report = replay_golden(engine, golden)
    assert not report.ok
    with pytest.raises(ParityError) as caught:
        report.raise_for_failure("Nothing was written.")
    assert str(caught.value).endswith("Nothing was written.")
    return str(caught.value)


def test_a_changed_weight_in_the_step_graph():
    message = failure(engine_of(TWINS, **{"step.onnx": _with_weight(2.001).files()["step.onnx"]}), twins_golden())
    assert "on onnxruntime the check 'step' diverges from the model: 'v' is first outside the tolerance at step 1" in (
        message
    )
    assert "Outside too: pool v, pool y, step y." in message


def test_a_changed_weight_in_the_sequence_graph_only():
    changed = _with_weight(2.001).files()["sequence.onnx"]
    message = failure(engine_of(TWINS, **{"sequence.onnx": changed}), twins_golden())
    assert "the check 'sequence' diverges from the model: 'y' is first outside the tolerance at step 1 of 8" in message
    assert (
        "Outside too: batch-invariance y, chunked v, chunked y, reset y, sequence v, snapshot v, snapshot y." in message
    )


def _with_weight(value: float) -> Model:
    return replace(TWINS, constants={**TWINS.constants, "two": np.float32(value)})


@pytest.mark.parametrize("graph", ["step.onnx", "sequence.onnx"])
def test_two_states_swapped(graph):
    crossed = replace(
        TWINS,
        step=swapped(TWINS.step, **{"u.next": "v.next", "v.next": "u.next"}),
        sequence=swapped(TWINS.sequence, **{"u.next": "v.next", "v.next": "u.next"}),
    )
    check = "step" if graph == "step.onnx" else "sequence"
    message = failure(engine_of(TWINS, **{graph: crossed.files()[graph]}), twins_golden())
    assert f"the check {check!r} diverges from the model: " in message
    assert "Outside too: " in message


def test_the_first_step_outside_is_named():
    golden = golden_of(TIMED)
    golden.outputs["y"][1, 6] += 0.5
    message = failure(engine_of(TIMED), golden)
    assert re.search(
        r"'y' is first outside the tolerance at step 7 of 12; the largest error is 0\.5 where 1e-06 \+", message
    )


def test_a_state_that_is_not_fed_back_shows_at_the_second_step():
    forgetful = replace(SUM, step=[("Identity", ["x"], ["y"], {}), ("Identity", ["x"], ["h.next"], {})])
    assert "'h' is first outside the tolerance at step 2 of 12" in failure(engine_of(forgetful), golden_of(SUM))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_golden_value_that_is_no_number_never_passes(value):
    golden = golden_of(TIMED)
    golden.outputs["y"][0, 3, 1] = value
    assert "'y' is first outside the tolerance at step 4" in failure(engine_of(TIMED), golden)


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
    assert given.step == 1
    assert (
        drift("step", "y", want[:, 1:] + np.float32(0.005), want[:, 1:], np.array([2, 3]), Tolerance(0, 1e-3)).step
        is None
    )
    assert given.scale == 100
    np.testing.assert_allclose(given.curve, [(1, 0.005), (2, 0.005), (3, 0.005)], rtol=1e-3)


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_blocks_do_not_show(monkeypatch, block):
    rng = np.random.default_rng(0)
    want = (rng.standard_normal((3, 40, 2, 3)) * np.geomspace(1, 1e3, 40)[:, None, None]).astype(np.float32)
    got = want + np.float32(1e-4) * rng.standard_normal(want.shape).astype(np.float32)
    got[1, 17, 1, 2] += 5
    got[1, 30, 0, 1] += 900
    expected = drift("step", "y", got, want, np.arange(1, 41), Tolerance(0, 1e-2), ("noise", "zeros", "steps"))
    monkeypatch.setattr("rnn_export.runtime.replay.drift.BLOCK", block)
    given = drift("step", "y", got, want, np.arange(1, 41), Tolerance(0, 1e-2), ("noise", "zeros", "steps"))
    assert given == expected
    assert (given.step, given.kind, len(given.curve)) == (18, "zeros", 32)
    assert given.error == pytest.approx(900, rel=1e-3)


def test_frames_of_one_step_have_its_number():
    golden = golden_of(CHUNKED)
    golden.outputs["y"][1, 7] += 1
    report = replay_golden(engine_of(CHUNKED), golden)
    (found,) = (d for d in report.drifts if (d.check, d.tensor) == ("step", "y"))
    chunk = CHUNKED.spec.chunk
    assert (found.step, found.curve[-1][0]) == (7 // chunk + 1, 12 // chunk)
    with raises("parity-diverges", "'y'", f"step {7 // chunk + 1} of {12 // chunk}"):
        report.raise_for_failure("")


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


def test_whole_numbers_must_be_equal():
    want = np.array([[1000, 1000]])
    assert drift("step", "y", want + 1, want, np.array([1, 2]), Tolerance(1, 1)).step == 1
    assert drift("step", "y", want, want, np.array([1, 2]), Tolerance(0, 0)).step is None


def test_another_shape_is_never_equal():
    given = drift("step", "y", np.zeros((1, 2, 3)), np.zeros((1, 2, 1)), np.array([1, 2]), EXACT)
    assert (given.step, given.error) == (1, np.inf)


# --- the file


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> dict[str, np.ndarray]:
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    path.write_bytes(golden_of(DELAYED, length=6).to_npz())
    with np.load(path) as file:
        return dict(file)


def test_golden_vectors_survive_the_bundle(tmp_path):
    path = CHUNKED.write(tmp_path / "m.rnnx", **{"golden.npz": golden_of(CHUNKED).to_npz()})
    golden = Golden.from_arrays(open_bundle(path).arrays("golden.npz"), CHUNKED.spec)
    assert golden.tolerance == EXACT
    assert replay_golden(load(path), golden).ok


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
def test_vectors_that_do_not_fit_the_contract(arrays, changes, message):
    changed = {name: a for name, a in {**arrays, **changes}.items() if a is not None}
    with raises("golden-does-not-fit", message):
        Golden.from_arrays(changed, DELAYED.spec)


def test_checkpoints_fall_on_chunks():
    arrays = {"input/x": frames(1, 4, 3), "output/y": frames(1, 4, 3), "state/h": frames(1, 1, 3)}
    with raises("golden-does-not-fit", "its checkpoints [4] do not fit a chunk of 3"):
        Golden.from_arrays(
            {**arrays, "at": np.array([4]), "tolerance": np.zeros(2), "precision": np.array("fp32")}, CHUNKED.spec
        )


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
    assert golden.trials is not None
    golden.trials.outputs["y"][2, 3, 1] += 0.5
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
    assert golden.trials is not None
    for row in range(3):
        wrong = replace(golden, trials=trials_of(TIMED))
        wrong.trials.outputs["y"][row, 3, 1] += 0.5
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


def test_an_entry_is_held_to_its_own_scale_or_to_that_of_its_terms():
    want = np.array([[[1e7, 1.0], [1e7, 1.0]]], np.float32)
    got = want + np.array([[[0, 0], [0, 0.5]]], np.float32)
    tolerance, steps = Tolerance(0, 1e-6), np.array([1, 2])
    assert drift("step", "y", got, want, steps, tolerance).step is None
    given = drift("step", "y", got, want, steps, tolerance, ("noise",), np.zeros_like(want), by_row=False)
    assert (given.step, given.error, given.scale) == (2, 0.5, 1)
    terms = np.array([[[0, 0], [0, 1e6]]], np.float32)
    assert drift("step", "y", got, want, steps, tolerance, ("noise",), terms, by_row=False).step is None


def test_a_whole_number_that_hangs_on_the_last_bits_may_be_another():
    want = np.array([[[3], [4]]])
    terms = np.array([[[0], [1]]], np.float32)
    assert drift("step", "y", want + terms.astype(int), want, range(1, 3), EXACT, ("noise",), terms).step is None
    assert drift("step", "y", want + 1, want, range(1, 3), EXACT, ("noise",), terms).step == 1


@pytest.mark.parametrize(("got", "step"), [(np.inf, None), (-np.inf, 2), (1e38, 2), (np.nan, 2)])
def test_an_infinite_value_must_be_the_same(got, step):
    want = np.array([[1.0, np.inf, 2.0]], np.float32)
    assert drift("step", "y", np.array([[1.0, got, 2.0]]), want, np.arange(1, 4), EXACT).step == step


def test_where_the_model_gives_nan_it_is_beyond_it_but_not_on_noise():
    want = np.array([[[1.0, 2.0], [np.nan, 2.0], [1.0, 2.0]]], np.float32)
    got = np.array([[[1.0, 2.0], [np.nan, 2.0], [5.0, np.inf]]])
    steps = np.arange(1, 4)
    assert drift("step", "y", got, want, steps, EXACT, ("zeros",)).step is None
    assert drift("step", "y", got + np.array([[[1], [0], [0]]]), want, steps, EXACT, ("zeros",)).step == 1
    assert [drift("step", "y", got, want, steps, EXACT, kinds).step for kinds in ((), ("noise",), ("recording",))] == [
        2
    ] * 3


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


def test_trials_survive_the_bundle(tmp_path):
    golden = tried(CHUNKED)
    path = CHUNKED.write(tmp_path / "m.rnnx", **{"golden.npz": golden.to_npz()})
    read = Golden.from_arrays(open_bundle(path).arrays("golden.npz"), CHUNKED.spec)
    assert read.trials is not None
    assert (read.kinds, read.trials.kinds, read.trials.frames) == (("noise", "noise"), KINDS, 6)
    np.testing.assert_array_equal(read.trials.outputs["y"], golden.trials.outputs["y"])
    report = replay_golden(load(path), read)
    assert report.ok
    assert {d.kind for d in report.drifts} & set(KINDS)


BAD_TRIALS = {
    "kinds": ({"kinds": KINDS[:2]}, ("golden-does-not-fit", "it names 2 kinds of input for 3 rows")),
    "scales": (
        {"scales": {"y": np.zeros((3, 5, 3), np.float32)}},
        ("golden-does-not-fit", "'scale/y' is float32 (3, 5, 3), not"),
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD_TRIALS.values(), ids=BAD_TRIALS)
def test_trials_that_do_not_fit_the_contract(tmp_path, changes, message):
    golden = replace(golden_of(TIMED), trials=trials_of(TIMED, **changes))
    path = TIMED.write(tmp_path / "m.rnnx", **{"golden.npz": golden.to_npz()})
    with raises(*message):
        Golden.from_arrays(open_bundle(path).arrays("golden.npz"), TIMED.spec)


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
