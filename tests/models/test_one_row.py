"""Models of one stream at a time: the cause is reported, and streams and pools step row by row."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rnn_export.cli.main import main
from rnn_export.export import export
from rnn_export.export.triton.repository import write_repository
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.case import case  # noqa: TID252
from ..zoo.one_row import NETS, ROW, with_gru  # noqa: TID252

# Nets that are stepped by every backend, one of each layout; and those that ONNX Runtime steps.
EVERYWHERE, ONNX = ("step", "time first", "bare, with a delay"), ("written", "cell", "resets")
FRAMES = np.random.default_rng(0).standard_normal((7, 3, 4), np.float32)


@pytest.mark.parametrize("name", NETS)
def test_a_batch_of_one_is_lifted_and_said(name):
    model, example, options, why = NETS[name]
    model = case(model).built()
    lifted = lift(model, example, **options)
    assert lifted.spec.rows == 1
    (note,) = (note for note in lifted.notes if note.startswith("rows: 1"))
    assert note.startswith("rows: 1, one stream at a time, since ")
    assert note.endswith("rows of a batch or pool are stepped one by one")
    assert all(part in note for part in why), note
    if name in ("squeezed", "alone"):
        states = [lifted.initial[s.name].expand(1, *s.row) for s in lifted.spec.states]
        with torch.no_grad():
            torch.testing.assert_close(lifted.module(ROW, *states)[0], model(ROW).reshape(1, 6, 3))


@pytest.mark.parametrize("name", EVERYWHERE + ONNX)
def test_rows_of_streams_and_pools_are_those_of_streams_of_their_own(name, tmp_path):
    """On each backend: three rows in lockstep, three streams of a pool, and three streams apart."""
    model, example, options, _ = NETS[name]
    # A row is a row whatever fixed the batch: each backend is tried with one of each layout.
    others = {"torchscript": "torchscript", "c": "native"} if name in EVERYWHERE else {}
    targets = {"onnx": "onnxruntime", **others}
    export(case(model).built(), example, tmp_path / "net.rnnx", targets=tuple(targets), **options)
    for backend in targets.values():
        engine = load(tmp_path / "net.rnnx", backend=backend)
        assert engine.batches == (1, None)
        separate, lockstep, pool = [engine.stream() for _ in range(3)], engine.stream(batch=3), engine.pool(4)
        ids = [pool.open() for _ in range(3)]
        for frame in FRAMES:
            want = [stream.step(row) for stream, row in zip(separate, frame, strict=True)]
            given, pooled = lockstep.step(frame), pool.step(ids[::-1], frame[::-1])
            if want[0] is not None:
                np.testing.assert_array_equal(given, np.stack(want))
                np.testing.assert_array_equal(pooled[::-1], np.stack(want))
        for state, value in lockstep.states.items():
            for row, stream in enumerate(separate):
                np.testing.assert_array_equal(value[row], stream.states[state][0])
        snapshot = lockstep.snapshot()
        after = lockstep.step(FRAMES[0])
        lockstep.restore(snapshot)
        np.testing.assert_array_equal(lockstep.step(FRAMES[0]), after)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model that is written for one row."""
    path = tmp_path_factory.mktemp("written") / "net.rnnx"
    model = case(NETS["written"][0]).built()
    return model, path, export(model, (ROW,), path, targets=("onnx", "jetson-orin-nano"))


def test_a_whole_run_of_rows_is_the_model_on_each(written):
    model, path, _ = written
    x = FRAMES.transpose(1, 0, 2)
    with torch.no_grad():
        want = np.concatenate([model(torch.from_numpy(row[None])).numpy() for row in x])
    stream = load(path, backend="onnxruntime").stream(batch=3)
    np.testing.assert_allclose(np.concatenate([stream.run(x[:, :4]), stream.run(x[:, 4:])], 1), want, atol=1e-6)


def test_a_refused_row_leaves_all_as_they_were(written):
    def fails():
        raise KeyboardInterrupt

    stream = load(written[1], backend="onnxruntime").stream(batch=2)
    stream.step(FRAMES[0, :2])
    before, one = stream.states, stream._buffers.one
    steps = iter([one.step, fails])
    one.step = lambda: next(steps)()
    with pytest.raises(KeyboardInterrupt):
        stream.step(FRAMES[0, :2])
    for name, value in stream.states.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("axes", [(), (0,), ((0, 2),)], ids=str)
def test_axes_of_any_size_are_not_squeezed_in_a_step(axes, tmp_path):
    """torch takes axes away by their size, which is 1 in a step of one frame and one row."""

    net = with_gru(lambda s, x: s.out(s.gru(x)[0])[..., :1].squeeze(*axes))
    export(net, (ROW.repeat(2, 1, 1),), tmp_path / "net.rnnx")
    engine = load(tmp_path / "net.rnnx", backend="onnxruntime")
    x = FRAMES.transpose(1, 0, 2)[:2]
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    for row in range(2):
        stream = engine.stream()
        np.testing.assert_allclose(np.stack([stream.step(frame) for frame in x[row]]), want[row], atol=1e-6)


def test_an_engine_is_built_for_one_row(written, tmp_path):
    model, _, made = written
    (row,) = (row for row in made.targets if row.target == "jetson-orin-nano")
    assert row.requires["batch"] == [1, 1, 1]
    with raises("batch-of-one-row", "(1, 4, 8)"):
        export(model, (ROW,), tmp_path / "other.rnnx", targets=("jetson-orin-nano",), batch=(1, 4, 8))
    assert not (tmp_path / "other.rnnx").exists()


def test_a_graph_for_triton_takes_one_row_a_step(written, tmp_path):
    made = write_repository(written[1], tmp_path / "graph", backend="onnxruntime")
    assert made.serving.batch == 1
    assert "max_batch_size: 1\n" in (tmp_path / "graph" / "models" / "net" / "config.pbtxt").read_text()
    with raises("triton-batch-one-row", "4"):
        write_repository(written[1], tmp_path / "more", backend="onnxruntime", batch=4)
    # Our runtime steps the rows of a batch one by one.
    assert write_repository(written[1], tmp_path / "python", backend="python", batch=4).serving.batch == 4


def test_inspect_shows_what_fixes_the_batch(written):
    shown = CliRunner().invoke(main, ["inspect", str(written[1])])
    text = " ".join((shown.stdout + shown.stderr).split())
    assert "rows 1 (one stream at a time)" in text
    assert "note: rows: 1, one stream at a time, since a batch of 2 fails at one_row.py:" in text
