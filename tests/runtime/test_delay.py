"""Streams that are late, streams with fewer frames out than in, and bundles that take whole sequences only."""

import numpy as np
import pytest
import torch

from rnn_export.bundle import TargetRow
from rnn_export.bundle.draft import Draft
from rnn_export.export.graph.step import sequence_graph, step_graph
from rnn_export.runtime import load
from rnn_export.runtime.engine import Engine

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..models.nets import StridedValidGRU, ValidGRU  # noqa: TID252
from .graphs import WHOLE, frames

# By name: delay, chunk, and for how many frames there is an output.
LATE = {
    "delayed": (2, 1, 1),
    "delayed_chunked": (4, 3, 1),
    "fewer": (0, 4, 2),
    "fewer_delayed": (6, 4, 2),
    "fewer_delayed_less": (2, 4, 2),
    "fewer_by_step": (8, 4, 2),
}
every_late = pytest.mark.parametrize("name", LATE)


def wanted(xs: np.ndarray, name: str) -> np.ndarray:
    """The outputs of (batch, time, 3): running sums, as of the last of `every` frames, without those that are late."""
    delay, _, every = LATE[name]
    return xs.cumsum(1)[:, every - 1 :: every][:, delay // every :]


def y_of(given):
    return given["y"] if isinstance(given, dict) else given


@pytest.mark.contract
@every_late
@pytest.mark.parametrize("batch", [1, 3])
def test_each_step_gives_what_is_there(engine, name, batch):
    delay, chunk, every = LATE[name]
    stream, xs = engine(name).stream(batch=batch), frames(batch, 4 * chunk + 2 * delay, 3)
    pieces = []
    for start in range(0, xs.shape[1] - chunk + 1, chunk):
        x = xs[:, start : start + chunk] if chunk > 1 else xs[:, start]
        given = stream.step(x if batch > 1 else x[0])
        late = max(0, min(chunk, delay - start))
        assert (given is None) == (late == chunk)
        if given is not None:
            y = y_of(given) if batch > 1 else y_of(given)[None]
            pieces.append(y if chunk > 1 else y[:, None])
            assert pieces[-1].shape[1] == (chunk - late) // every
            if isinstance(given, dict):
                total = given["total"] if batch > 1 else given["total"][None]
                np.testing.assert_array_equal(total, xs[:, : start + chunk].sum(1))
    got = np.concatenate(pieces, 1)
    np.testing.assert_array_equal(got, wanted(xs, name)[:, : got.shape[1]])
    assert got.shape[1] == (xs.shape[1] // chunk * chunk - delay) // every


@pytest.mark.contract
@every_late
@pytest.mark.parametrize("sizes", [[24], [4, 20], [1, 2, 3, 18], [7] * 3 + [3], [1] * 24], ids=str)
def test_any_pieces_of_a_run_give_the_whole(engine, name, sizes):
    stream, xs = engine(name).stream(batch=2), frames(2, 24, 3)
    given = [stream.run(piece) for piece in np.split(xs, np.cumsum(sizes)[:-1], 1)]
    np.testing.assert_array_equal(np.concatenate([y_of(g) for g in given], 1), wanted(xs, name))
    if isinstance(given[-1], dict):
        totals = [g["total"] for g in given if g["total"] is not None]
        np.testing.assert_array_equal(totals[-1], xs.sum(1))
        assert (given[0]["total"] is None) == (sizes[0] // 4 * 4 <= LATE[name][0])


@pytest.mark.contract
@every_late
@pytest.mark.parametrize("at", [0, 3, 5, 8, 13])
def test_a_snapshot_keeps_how_late_it_is(engine, name, at):
    stream, other, xs = engine(name).stream(batch=2), engine(name).stream(batch=2), frames(2, 24, 3)
    first = stream.run(xs[:, :at])
    other.run(xs[:, :11])
    other.restore(stream.snapshot())
    rest = [s.run(xs[:, at:]) for s in (stream, other)]
    for given in rest:
        np.testing.assert_array_equal(np.concatenate([y_of(first), y_of(given)], 1), wanted(xs, name))


@pytest.mark.contract
@every_late
@pytest.mark.parametrize("after", [1, 8, 17])
def test_a_reset_is_late_again(engine, name, after):
    stream, xs = engine(name).stream(), frames(24, 3)
    stream.run(frames(after, 3, seed=1))
    stream.reset()
    np.testing.assert_array_equal(y_of(stream.run(xs)), wanted(xs[None], name)[0])


def test_out_has_the_fewer_frames(engine):
    stream, xs = engine("fewer").stream(), frames(4, 3)
    out = {"y": np.empty((2, 3), np.float32), "total": np.empty(3, np.float32)}
    assert stream.step(xs, out=out) is out
    np.testing.assert_array_equal(out["y"], xs.cumsum(0)[1::2])
    with raises("out-does-not-fit", "'y' is float32 (4, 3)", "float32"):
        stream.step(xs, out={**out, "y": np.empty((4, 3), np.float32)})
    with raises("out-with-delay", "the first 6 frames give no output"):
        engine("fewer_delayed").stream().step(xs, out=out)


# --- lifted models -------------------------------------------------------------------------------------------------

LIFTED = {"delay of two chunks": (ValidGRU, 3), "one output for four frames": (StridedValidGRU, 4)}


def engine_of(model: torch.nn.Module, **options: int) -> Engine:
    lifted = lift(model, (torch.zeros(2, 16, 4),), **options)
    files = {"step.onnx": step_graph(lifted), "sequence.onnx": sequence_graph(lifted)}
    initial = {key: value.numpy() for key, value in lifted.initial.items()}
    return Engine.of(
        Draft(lifted.spec, files, (TargetRow("onnx", "fp32", 18, tuple(files), {}),), initial), "onnxruntime"
    )


@pytest.mark.parametrize("name", LIFTED)
def test_a_lifted_model_in_any_pieces(name):
    torch.manual_seed(0)
    kind, chunk = LIFTED[name]
    model = kind().eval()
    engine = engine_of(model, chunk=chunk)
    spec, xs = engine.spec, np.random.default_rng(0).standard_normal((2, 48, 4)).astype(np.float32)
    with torch.no_grad():
        want = model(torch.from_numpy(xs)).numpy()
    want = want[:, : (48 - spec.delay) // spec.outputs[0].every]
    for sizes in ([48], [5, 11, 32], [1] * 10 + [38]):
        stream = engine.stream(batch=2)
        got = np.concatenate([stream.run(piece) for piece in np.split(xs, np.cumsum(sizes)[:-1], 1)], 1)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    stream, pieces = engine.stream(batch=2), []
    for start in range(0, 48, spec.chunk):
        y = stream.step(xs[:, start : start + spec.chunk] if spec.chunk > 1 else xs[:, start])
        # A single frame has no axis of time.
        pieces += [] if y is None else [y if spec.chunk > spec.outputs[0].every else y[:, None]]
    np.testing.assert_allclose(np.concatenate(pieces, 1), want, rtol=1e-5, atol=1e-5)


class ShareOfEarlier(torch.nn.Module):
    """0 / 0 before there are two frames."""

    def forward(self, x):
        return x[:, 2:] * (x[:, :-2] / x[:, :-2])


def test_nan_before_the_first_output_is_none_of_a_stream():
    engine = engine_of(ShareOfEarlier().eval(), time_axis=1)
    pool, xs, delay = engine.pool(2), np.random.default_rng(0).standard_normal((6, 1, 4), np.float32), engine.spec.delay
    stream = pool.open()
    given = np.concatenate([pool.step([stream], x) for x in xs])
    assert np.isnan(given[:delay]).all()
    np.testing.assert_allclose(given[delay:], xs[2:, 0], rtol=1e-6)
    assert (pool.metrics()["nan"], pool.health(stream)["resets"]) == (0, 0)


# --- whole sequences only -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return load(WHOLE.write(tmp_path_factory.mktemp("whole") / "whole.rnnx"))


def test_each_run_is_a_whole_sequence(whole):
    stream = whole.stream(batch=2)
    for time in (5, 1, 9):
        xs = frames(2, time, 3, seed=time)
        np.testing.assert_array_equal(stream.run(xs), xs[:, ::-1].cumsum(1)[:, ::-1])
    np.testing.assert_array_equal(whole.stream().run(np.ones((3, 3), np.float32))[:, 0], [3, 2, 1])
    assert stream.states == {}
    stream.reset()


def test_steps_and_snapshots_of_whole_sequences_are_refused(whole):
    stream, x = whole.stream(), np.ones(3, np.float32)
    for call in (lambda: stream.step(x), lambda: stream.step(x, out=x), stream.snapshot):
        with raises("sequence-only-bundle"):
            call()
