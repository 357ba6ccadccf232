"""Models of one stream at a time: the cause is reported, and streams and pools step row by row."""

import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from rnn_export.cli.main import main
from rnn_export.export import export
from rnn_export.export.triton.repository import write_repository
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call


class Net(nn.Module):
    def __init__(self, batch_first=True):
        super().__init__()
        self.gru, self.out = nn.GRU(4, 8, batch_first=batch_first), nn.Linear(8, 3)


class Written(Net):
    """The batch is written out."""

    def forward(self, x):
        return self.out(self.gru(x, torch.zeros(1, 1, 8))[0])


class Counted(Net):
    """The rows are a number, by len."""

    def forward(self, x):
        return self.out(self.gru(x)[0]).reshape(len(x), -1, 3)


class Looped(Net):
    """One row after the other."""

    def forward(self, x):
        y, _ = self.gru(x)
        return torch.stack([self.out(y[row]) for row in range(x.shape[0])])


class Checked(nn.Module):
    """A loop over time of a cell, after a check."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        if x.shape[0] != 1:
            raise ValueError("one at a time")
        h, ys = x.new_zeros(1, 8), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            ys.append(self.out(h))
        return torch.stack(ys, 1)


class TimeFirst(Net):
    """(time, 1, features) to (time, features)."""

    def __init__(self):
        super().__init__(False)

    def forward(self, x):
        return self.out(self.gru(x, torch.zeros(1, 1, 8))[0]).view(-1, 3)


class Bare(nn.Module):
    """(time, features), as torch's layers take it."""

    def __init__(self):
        super().__init__()
        self.gru, self.conv = nn.GRU(4, 8), nn.Conv1d(8, 3, 3)

    def forward(self, x):
        return self.conv(nn.functional.pad(self.gru(x)[0].T, (2, 0))).T


class Valid(nn.Module):
    """(channels, time), with a context that has to fill."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3)
        self.gru = nn.GRU(8, 3)

    def forward(self, x):
        return self.gru(self.conv(x).T)[0]


class Step(nn.Module):
    """Like the step function of RWKV: vectors, and one state of several of them."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, state):
        state = torch.stack([state[0] * 0.9 + self.linear(x), torch.maximum(state[1], x)])
        return torch.tanh(state.sum(0)), state


class Cell(nn.Module):
    """A cell on a vector, which keeps its state itself."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(4, 8)
        self.hc = None

    def forward(self, x):
        self.hc = self.cell(x, self.hc)
        return self.hc[0]


class Cached(nn.Module):
    """A cached convolution of one stream."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.register_buffer("cache", torch.zeros(4, 2))

    def forward(self, x):
        window = torch.cat([self.cache, x[:, None]], 1)
        self.cache = window[:, 1:]
        return torch.tanh((window * self.weight).sum(1))


class Squeezed(Net):
    """A batch of one is taken away."""

    def forward(self, x):
        return self.out(self.gru(x)[0]).squeeze(0)


class Alone(Net):
    """A branch on a batch of one."""

    def forward(self, x):
        y = self.out(self.gru(x)[0])
        return 2 * y if x.shape[0] == 1 else y


class Resets(Net):
    """A state that another batch resets."""

    def __init__(self):
        super().__init__()
        self.h, self.rows = torch.zeros(1, 1, 8), 0

    def forward(self, x):
        if self.rows != x.shape[0]:
            self.h, self.rows = torch.zeros(1, x.shape[0], 8), x.shape[0]
        y, self.h = self.gru(x, self.h)
        return self.out(y)


class FiltersInPlace(nn.Module):
    """As torchaudio's filters: frames in another order of axes are written where they stand."""

    def __init__(self):
        super().__init__()
        self.taps = nn.Parameter(torch.tensor([[0.3], [-0.5], [0.0]]))

    def forward(self, x):
        waves = (2 * x).transpose(1, 2)
        y = torch.zeros(waves.shape[0], waves.shape[1], waves.shape[2] + 2)
        for i, frame in enumerate(waves.permute(2, 0, 1)):
            frame -= (y[:, :, i : i + 3].transpose(0, 1) @ self.taps)[..., 0].t()
            y[:, :, i + 2] = frame
        return y[:, :, 2:].transpose(1, 2)


ROW = torch.randn(1, 6, 4)
FAILS = r"a batch of 2 fails at test_one_row\.py:\d+"
COUNTS = r"the code makes a number of the size of the batch at test_one_row\.py:\d+;"
ALONE = "a batch of one gives something else than its row in a larger batch"
WHY = {
    "written": (
        Written(),
        (ROW,),
        {},
        r"a batch of 2 fails at test_one_row\.py:\d+: RuntimeError: Expected hidden size",
    ),
    "len": (
        Counted(),
        (ROW.repeat(3, 1, 1),),
        {},
        COUNTS,
    ),
    "loop over rows": (
        Looped(),
        (ROW,),
        {},
        COUNTS,
    ),
    "rows taken apart": (
        Call(lambda s, x: torch.stack([s.gru(row[None])[0][0] for row in x]), gru=nn.GRU(4, 5, batch_first=True)),
        (ROW,),
        {},
        COUNTS,
    ),
    "check": (Checked(), (ROW,), {}, rf"{FAILS}: ValueError: one at a time"),
    "time first": (TimeFirst(), (ROW.transpose(0, 1),), {}, "a batch of 2 fails"),
    "bare": (Bare(), (ROW[0],), {}, r"there is no batch axis in x \(6, 4\);"),
    "bare, with a delay": (Valid(), (ROW[0].T,), {}, r"there is no batch axis in x \(4, 6\);"),
    "step": (Step(), (torch.randn(4), torch.randn(2, 4)), {"states": {"state": 1}}, r"in x \(4,\), state \(2, 4\);"),
    "cell": (Cell(), (torch.randn(4),), {}, r"there is no batch axis in x \(4,\), hc\.0 \(8,\), hc\.1 \(8,\);"),
    "cached": (Cached(), (torch.randn(4),), {}, r"there is no batch axis in x \(4,\), cache \(4, 2\);"),
    "squeezed": (Squeezed(), (ROW,), {}, ALONE),
    "alone": (Alone(), (ROW,), {}, ALONE),
    "written in place": (FiltersInPlace(), (ROW,), {}, "the code makes a number of the size of the batch"),
    "resets": (Resets(), (ROW,), {"time_axis": 1}, "."),
}


@pytest.mark.parametrize("name", WHY)
def test_a_batch_of_one_is_lifted_and_said(name):
    model, example, options, why = WHY[name]
    lifted = lift(model.eval(), example, **options)
    assert lifted.spec.rows == 1
    (note,) = (note for note in lifted.notes if note.startswith("rows: 1"))
    assert note.startswith("rows: 1, one stream at a time, since ")
    assert note.endswith("rows of a batch or pool are stepped one by one")

    assert re.search(why, note)


@pytest.mark.parametrize("name", WHY)
def test_rows_of_streams_and_pools_are_those_of_streams_of_their_own(name, tmp_path):
    """On each backend: three rows in lockstep, three streams of a pool, and three streams apart; and the model."""
    model, example, options, _ = WHY[name]
    # A row is a row whatever fixed the batch: each backend is tried with one of each layout.
    everywhere = name in ("written", "bare, with a delay", "step")
    targets = {"onnx": "onnxruntime", **({"torchscript": "torchscript", "c": "native"} if everywhere else {})}
    export(model.eval(), example, tmp_path / "net.rnnx", targets=tuple(targets), **options)
    for backend in targets.values():
        engine = load(tmp_path / "net.rnnx", backend=backend)
        assert engine.batches == (1, None)
        x = np.random.default_rng(0).standard_normal((7, 3, *engine.spec.inputs[0].frame), np.float32)
        separate, lockstep, pool = [engine.stream() for _ in range(3)], engine.stream(batch=3), engine.pool(4)
        ids = [pool.open() for _ in range(3)]
        for frame in x:
            want = [stream.step(row) for stream, row in zip(separate, frame, strict=True)]
            given, pooled = lockstep.step(frame), pool.step(ids[::-1], frame[::-1])
            if want[0] is not None:
                np.testing.assert_array_equal(given, np.stack(want))
                np.testing.assert_array_equal(pooled[::-1], np.stack(want))
        for state, value in lockstep.states.items():
            for row, stream in enumerate(separate):
                np.testing.assert_array_equal(value[row], stream.states[state][0])
        snapshot = lockstep.snapshot()
        after = lockstep.step(x[0])
        lockstep.restore(snapshot)
        np.testing.assert_array_equal(lockstep.step(x[0]), after)


def test_a_whole_run_of_rows_is_the_model_on_each(tmp_path):
    model = Written().eval()
    export(model, (ROW,), tmp_path / "net.rnnx")
    engine = load(tmp_path / "net.rnnx", backend="onnxruntime")
    x = np.random.default_rng(0).standard_normal((3, 9, 4), np.float32)
    with torch.no_grad():
        want = np.concatenate([model(torch.from_numpy(row[None])).numpy() for row in x])
    stream = engine.stream(batch=3)
    np.testing.assert_allclose(np.concatenate([stream.run(x[:, :4]), stream.run(x[:, 4:])], 1), want, atol=1e-6)


def test_a_refused_row_leaves_all_as_they_were(tmp_path):
    export(Written().eval(), (ROW,), tmp_path / "net.rnnx")
    stream = load(tmp_path / "net.rnnx", backend="onnxruntime").stream(batch=2)
    stream.step(np.ones((2, 4), np.float32))
    before, one = stream.states, stream._buffers.one
    steps = iter([one.step, _fails])
    one.step = lambda: next(steps)()
    with pytest.raises(KeyboardInterrupt):
        stream.step(np.ones((2, 4), np.float32))
    for name, value in stream.states.items():
        np.testing.assert_array_equal(value, before[name])


def _fails():
    raise KeyboardInterrupt


MIXED = {
    "rows that mix": (lambda self, x: self.out(self.gru(x)[0]) - x.mean(), (ROW.repeat(3, 1, 1),), "no-batch-axis"),
    "rows that mix, an example of one": (
        lambda self, x: self.out(self.gru(x)[0] - self.gru(x)[0].mean(0)),
        (ROW,),
        "rows-depend",
    ),
}


@pytest.mark.parametrize(("forward", "example", "name"), MIXED.values(), ids=MIXED)
def test_rows_that_mix_are_no_batch_of_one(forward, example, name):
    net = Net()
    net.__class__ = type("Mixing", (Net,), {"forward": forward})
    with raises(name):
        lift(net.eval(), example)


def test_what_one_row_alone_gives_is_shown_by_an_example_of_one():
    x = torch.randn(1, 5, 4)
    for model in (Squeezed().eval(), Alone().eval()):
        lifted = lift(model, (ROW,))
        states = [lifted.initial[s.name].expand(1, *s.row) for s in lifted.spec.states]
        with torch.no_grad():
            torch.testing.assert_close(lifted.module(x, *states)[0], model(x).reshape(1, 5, 3))
    with raises("no-batch-axis", "give an example of one row", ALONE):
        lift(Alone().eval(), (ROW.repeat(3, 1, 1),))


@pytest.mark.parametrize("forward", ["squeeze()", "squeeze(0)", "squeeze((0, 2))"])
def test_axes_of_any_size_are_not_squeezed_in_a_step(forward, tmp_path):
    """torch takes axes away by their size, which is 1 in a step of one frame and one row."""
    net = Net()
    net.out = nn.Linear(8, 1)
    steps = {
        "squeeze()": lambda self, x: self.out(self.gru(x)[0]).squeeze(),
        "squeeze(0)": lambda self, x: self.out(self.gru(x)[0]).squeeze(0),
        "squeeze((0, 2))": lambda self, x: self.out(self.gru(x)[0]).squeeze((0, 2)),
    }
    net.__class__ = type("Squeezing", (Net,), {"forward": steps[forward]})
    export(net.eval(), (ROW.repeat(2, 1, 1),), tmp_path / "net.rnnx")
    engine = load(tmp_path / "net.rnnx", backend="onnxruntime")
    x = np.random.default_rng(0).standard_normal((2, 5, 4), np.float32)
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    for row in range(2):
        stream = engine.stream()
        given = np.stack([stream.step(frame) for frame in x[row]])
        np.testing.assert_allclose(given, want[row], atol=1e-6)


def test_an_engine_is_built_for_one_row(tmp_path):
    bundle = export(Written().eval(), (ROW,), tmp_path / "net.rnnx", targets=("jetson-orin-nano",))
    (row,) = (row for row in bundle.targets if row.target == "jetson-orin-nano")
    assert row.requires["batch"] == [1, 1, 1]
    with raises("batch-of-one-row", "(1, 4, 8)"):
        export(Written().eval(), (ROW,), tmp_path / "other.rnnx", targets=("jetson-orin-nano",), batch=(1, 4, 8))
    assert not (tmp_path / "other.rnnx").exists()


def test_a_graph_for_triton_takes_one_row_a_step(tmp_path):
    bundle = tmp_path / "net.rnnx"
    export(Written().eval(), (ROW,), bundle)
    made = write_repository(bundle, tmp_path / "graph", backend="onnxruntime")
    assert made.serving.batch == 1
    assert "max_batch_size: 1\n" in (tmp_path / "graph" / "models" / "net" / "config.pbtxt").read_text()
    with raises("triton-batch-one-row", "4"):
        write_repository(bundle, tmp_path / "more", backend="onnxruntime", batch=4)
    # Our runtime steps the rows of a batch one by one.
    assert write_repository(bundle, tmp_path / "python", backend="python", batch=4).serving.batch == 4


def test_inspect_shows_what_fixes_the_batch(tmp_path):
    export(Written().eval(), (ROW,), tmp_path / "net.rnnx")
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "net.rnnx")])
    text = " ".join((shown.stdout + shown.stderr).split())
    assert "rows 1 (one stream at a time)" in text
    assert re.search(r"note: rows: 1, one stream at a time, since a batch of 2 fails at test_one_row\.py:\d+", text)


class Cached(nn.Module):
    """Its state is for as many rows as come."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(1, 4))
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        y = self.out(x + self.last[: x.shape[0]])
        self.last[: x.shape[0]].copy_(x)
        return y


def test_an_example_of_one_row_says_that_one_is_meant_where_rows_are_counted():
    lifted = lift(Cached().eval(), (torch.randn(1, 4),), time_axis=None)
    assert lifted.spec.rows == 1
    assert any("the number of rows is used as a value at" in note for note in lifted.notes)


class Wrapping(nn.Module):
    """A function of its class in an attribute, which Python does not copy as it is."""

    def __init__(self):
        super().__init__()
        self.gru, self.scaled = nn.GRU(4, 8, batch_first=True), staticmethod(lambda x: 2 * x)

    def forward(self, x):
        return self.gru(self.scaled(x))[0]


def test_what_wraps_a_function_is_copied():
    assert lift(Wrapping().eval(), (torch.randn(2, 7, 4),)).spec.rows is None
