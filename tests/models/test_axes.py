import numpy as np
import pytest
import torch
from torch import nn

from rnn_export.errors import LiftError
from rnn_export.export import export
from rnn_export.export.lift.axes.axis_probe import AxisProbe
from rnn_export.export.lift.axes.batch_search import batch_candidates
from rnn_export.export.lift.axes.time_search import ProbedRows, TimeCandidate, TimeSearch
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.runtime.replay.golden import Golden

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .nets import Explicit, Ids, LastFrame, Loop, Several, Tagger


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def axes_of(model: nn.Module, *example: object, **options: object) -> dict[str, tuple[object, ...]]:
    spec = lift(model.eval(), example, **options).spec
    return {t.name: t.shape for t in (*spec.inputs, *spec.outputs)}


class Elementwise(nn.Module):
    """Nothing in it tells one axis from another."""

    def forward(self, x):
        return 2 * x


class Call(nn.Module):
    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


SIZES = [(2, 7), (1, 1), (1, 7), (2, 1), (4, 4)]
every_size = pytest.mark.parametrize(("batch", "time"), SIZES, ids=str)


@every_size
def test_batch_first(batch, time):
    found = axes_of(Tagger(), torch.randn(batch, time, 4))
    assert found == {"x": ("batch", "time", 4), "output": ("batch", "time", 3)}


@every_size
def test_time_major(batch, time):
    found = axes_of(Tagger(batch_first=False), torch.randn(time, batch, 4))
    assert found == {"x": ("time", "batch", 4), "output": ("time", "batch", 3)}


@pytest.mark.parametrize("batch", [1, 2, 4, 5])
def test_one_frame(batch):
    found = axes_of(nn.GRUCell(4, 5), torch.randn(batch, 4))
    assert found == {"input": ("batch", 4), "output": ("batch", 5)}


def test_features_before_time():
    model = Call(lambda self, x: self.gru(x.permute(2, 0, 1))[0].permute(1, 2, 0), gru=nn.GRU(4, 5))
    assert axes_of(model, torch.randn(2, 4, 7)) == {"x": ("batch", 4, "time"), "output": ("batch", 5, "time")}


def test_all_sizes_of_the_example_equal():
    assert axes_of(Tagger(), torch.randn(4, 4, 4))["x"] == ("batch", "time", 4)
    assert axes_of(Tagger(batch_first=False), torch.randn(4, 4, 4))["x"] == ("time", "batch", 4)
    model, states = Explicit(), [torch.zeros(2, 2, 5)] * 2
    assert axes_of(model, torch.randn(2, 2, 4), *states, states={"h": 1, "c": 2})["x"] == ("batch", "time", 4)


def test_an_example_that_is_not_contiguous():
    assert axes_of(Tagger(), torch.randn(4, 7, 2).permute(2, 1, 0))["x"] == ("batch", "time", 4)


def test_ids_have_no_features():
    assert axes_of(Ids(), torch.zeros(2, 7, dtype=torch.long)) == {
        "ids": ("batch", "time"),
        "output": ("batch", "time", 11),
    }


def test_an_input_may_have_no_time():
    found = axes_of(Several(), torch.randn(2, 7, 4), torch.randn(2, 7, 3), torch.randn(2, 2))
    assert [found[name] for name in ("left", "right", "speaker")] == [
        ("batch", "time", 4),
        ("batch", "time", 3),
        ("batch", 2),
    ]


@pytest.mark.parametrize("axis", [1, -2, {"x": 1}, {"x": -2}, "auto"], ids=str)
def test_time_by_number_by_name_or_found(axis):
    assert axes_of(Tagger(), torch.randn(2, 7, 4), time_axis=axis)["x"] == ("batch", "time", 4)


@pytest.mark.parametrize("axis", [None, {"x": None}, {}], ids=str)
def test_no_time_makes_a_call_one_frame(axis):
    lifted = lift(Tagger().eval(), (torch.randn(2, 7, 4),), time_axis=axis)
    assert lifted.spec.inputs[0].shape == ("batch", 7, 4)
    assert not lifted.spec.states


def test_time_is_asked_for_by_name_where_two_axes_could_be_it():
    x = torch.randn(2, 7, 4)
    with raises("several-time-axes", "time_axis={'x': 1}", "time_axis={'x': 2}"):
        lift(Elementwise().eval(), (x,))
    assert axes_of(Elementwise(), x, time_axis={"x": 2})["x"] == ("batch", 7, "time")


def test_axes_in_an_unusual_order_are_asked_for():
    model = Call(lambda s, x: s.linear((x + x[:1]).transpose(1, 2).flatten(2)), linear=nn.Linear(10, 3))
    with raises("unusual-axis-order", "of 'x' time is axis 0 and the batch axis 2", "time_axis={'x': 0}"):
        lift(model, (torch.randn(2, 2, 9, 5),))
    shapes = axes_of(model, torch.randn(2, 2, 9, 5), time_axis={"x": 0})
    assert shapes["x"] == ("time", 2, "batch", 5)


NOTE = (
    "'output': the answer at each frame, as no output has a time axis; for one window per call say time_axis=None "
    "(--time-axis none)"
)


def recurrent(kind, head):
    return Call(
        lambda self, x: self.linear(head(self.rnn(x))), rnn=kind(4, 5, batch_first=True), linear=nn.Linear(5, 3)
    )


def causal(head, padding=4, past=2):
    def forward(self, x):
        y = torch.relu(self.conv(nn.functional.pad(x.transpose(1, 2), (padding, 0))))
        return head(self.linear(y.transpose(1, 2)), y)

    return Call(forward, conv=nn.Conv1d(4, 5, 3, dilation=past), linear=nn.Linear(5, 3))


def windowed(self, x):
    frames = torch.arange(x.shape[1])
    ago = frames[:, None] - frames
    q, k, v = self.linear(x).chunk(3, -1)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=(ago >= 0) & (ago < 3))[:, -1]


def deep(self, x):
    y = x.transpose(1, 2)
    for i, conv in enumerate(self.convs):
        y = torch.tanh(conv(nn.functional.pad(y, (2 * 2**i, 0))))
    return y[..., -1]


LAST = {
    "lstm": recurrent(nn.LSTM, lambda given: given[0][:, -1]),
    "lstm, a frame": recurrent(nn.LSTM, lambda given: given[0][:, -1:]),
    "lstm, its state": recurrent(nn.LSTM, lambda given: given[1][0][-1]),
    "gru": recurrent(nn.GRU, lambda given: given[0].select(1, -1)),
    "gru, its state": recurrent(nn.GRU, lambda given: given[1][-1]),
    "convolution": causal(lambda y, channels: y[:, -1]),
    "channels": causal(lambda y, channels: channels[..., -1]),
    "attention": Call(windowed, linear=nn.Linear(4, 12)),
    "far back": Call(deep, convs=nn.ModuleList(nn.Conv1d(4, 4, 3, dilation=2**i) for i in range(6))),
}


@pytest.mark.parametrize("model", LAST.values(), ids=LAST)
def test_an_output_as_of_the_last_frame_is_the_answer_at_each(model):
    x = torch.randn(1, 20, 4)
    lifted = lift(model.eval(), (x[:, :16],))
    assert lifted.spec.inputs[0].shape == ("batch", "time", 4)
    assert lifted.notes == (NOTE,)
    states = [lifted.initial[s.name][None] for s in lifted.spec.states]
    for t in range(20):
        with torch.no_grad():
            got, *states = lifted.step(x[:, t : t + 1], *states)
            torch.testing.assert_close(got, model(x[:, : t + 1]), rtol=1e-5, atol=2e-6)


def test_the_answer_at_each_frame_can_be_said_to_be_that_of_a_window():
    x = torch.randn(2, 7, 4)
    assert axes_of(LastFrame(), x) == {"x": ("batch", "time", 4), "output": ("batch", 3)}
    assert axes_of(LastFrame(), x, time_axis=None) == {"x": ("batch", 7, 4), "output": ("batch", 3)}
    assert NOTE not in lift(LastFrame().eval(), (x,), time_axis=1).notes


def test_the_answer_at_each_of_the_first_frames_is_verified(tmp_path):
    model = LAST["convolution"]
    bundle = export(model.eval(), (torch.randn(1, 16, 4),), tmp_path / "last.rnnx", steps=24)
    golden = Golden.from_arrays(bundle.arrays("golden.npz"), bundle.spec)
    assert list(golden.ends) == [*range(1, 17)]
    for frames, ended in golden.ends.items():
        with torch.no_grad():
            want = model(torch.from_numpy(golden.inputs["x"][:, :frames])).numpy()
        np.testing.assert_allclose(ended["output"], want, rtol=1e-5, atol=2e-6)


def test_a_convolution_without_padding_has_no_answer_at_first():
    lifted = lift(causal(lambda y, channels: y[:, -1], padding=0).eval(), (torch.randn(1, 16, 4),))
    assert (lifted.spec.delay, lifted.spec.tail) == (4, 0)
    assert lifted.notes[0] == NOTE


WINDOWS = {
    "flattened": (Call(lambda self, x: self.linear(x.flatten(1)), linear=nn.Linear(28, 3)), (2, 7, 4)),
    "a mean": (causal(lambda y, channels: y.mean(1)), (2, 7, 4)),
    "a maximum": (causal(lambda y, channels: y.amax(1)), (2, 7, 4)),
    "an image": (Call(lambda self, x: self.conv(x).mean((2, 3)), conv=nn.Conv2d(3, 4, 3)), (2, 3, 9, 9)),
    "a norm of features": (Call(lambda self, x: x.norm(dim=1, keepdim=True)), (2, 9)),
    "both ends of features": (Call(lambda self, x: x[:, :1] + x[:, -2:-1]), (2, 9)),
    "the last feature": (Call(lambda self, x: 2 * x[:, -1:]), (2, 9)),
}


@pytest.mark.parametrize(("model", "shape"), WINDOWS.values(), ids=WINDOWS)
def test_what_is_of_all_entries_is_of_one_call(model, shape):
    lifted = lift(model.eval(), (torch.randn(shape),))
    assert not lifted.spec.has_time
    assert lifted.spec.inputs[0].shape == ("batch", *shape[1:])


class Remembered(nn.Module):
    """A frame a call, of which the last features alone are read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = 0.5 * self.h + x[:, -2:].sum(1, keepdim=True)
        return self.h


def test_features_of_a_model_with_a_state_are_no_time():
    assert [s.name for s in lift(Remembered(), (torch.randn(1, 8),)).spec.states] == ["h"]


FOUND = ("time_axis={'x': 1}", "time_axis=None")
NO_STREAM = {
    "a mean of states": (
        recurrent(nn.LSTM, lambda given: given[0].mean(1)),
        ("not-frame-local", "statistics over time", "(mean)", *FOUND),
    ),
    "both directions": (
        Call(lambda self, x: self.rnn(x)[0][:, -1], rnn=nn.LSTM(4, 5, batch_first=True, bidirectional=True)),
        ("bidirectional-layer", "rnn: the LSTM", *FOUND),
    ),
    "a look ahead": (
        Call(lambda self, x: self.conv(x.transpose(1, 2))[..., -1], conv=nn.Conv1d(4, 5, 3, padding=1)),
        ("last-frame-looks-ahead", *FOUND),
    ),
}


@pytest.mark.parametrize(("model", "message"), NO_STREAM.values(), ids=NO_STREAM)
def test_a_last_frame_that_no_stream_has_is_refused_with_the_other_way(model, message):
    with raises(*message):
        lift(model.eval(), (torch.randn(1, 16, 4),))


def test_one_of_several_axes_is_asked_for_where_no_output_has_time():
    model = Call(lambda self, x: self.rnn(self.conv(x).mean(2).transpose(1, 2))[0][:, -1])
    model.conv, model.rnn = nn.Conv2d(1, 4, (3, 1), padding=(1, 0)), nn.GRU(4, 5, batch_first=True)
    with raises("answer-without-time-axis", "time_axis={'x': 3} (--time-axis x=3). If one call is one frame, say"):
        lift(model.eval(), (torch.randn(1, 1, 8, 16),))
    assert axes_of(model, torch.randn(1, 1, 8, 16), time_axis={"x": 3})["x"] == ("batch", 1, 8, "time")


BAD_TIME = {
    "range": (3, ("time-axis-beyond-rank", "time_axis=3 (--time-axis 3)", "'x'", 3, "(2, 7, 4)")),
    "below": (-4, ("time-axis-beyond-rank", "time_axis=-4 (--time-axis -4)", "'x'", 3)),
    "name": ({"y": 1}, ("time-axis-unknown-input", "['y']", "['x']")),
    "word": ("time", ("option-refused", "time_axis is 'time'")),
    "features": (2, ("time-axis-fixed-length", "time_axis={'x': 2} (--time-axis x=2)")),
    "batch": (0, ("no-batch-axis", "x (2, 7, 4)", "rows depend on each other")),
}


@pytest.mark.parametrize(("axis", "message"), BAD_TIME.values(), ids=BAD_TIME)
def test_a_wrong_time_axis_is_refused(axis, message):
    with raises(*message, kind=LiftError):
        lift(Tagger().eval(), (torch.randn(2, 7, 4),), time_axis=axis)


FUTURE = {
    "bidirectional": (
        Call(lambda self, x: self.gru(x)[0], gru=nn.GRU(4, 5, bidirectional=True, batch_first=True)),
        ("bidirectional-layer", "gru: the GRU", "sequence_only=True"),
    ),
    "mean": (
        Call(lambda self, x: self.linear(x - x.mean(1, keepdim=True)), linear=nn.Linear(4, 4)),
        ("not-frame-local", "the model (test_axes.py:", "statistics over time", "(mean)"),
    ),
    "flip": (
        Call(lambda self, x: self.gru(x.flip(1))[0], gru=nn.GRU(4, 5, batch_first=True)),
        ("not-frame-local", "the model (test_axes.py:", "it moves frames over time (flip)"),
    ),
}


@pytest.mark.parametrize("axis", ["auto", 1])
@pytest.mark.parametrize(("model", "message"), FUTURE.values(), ids=FUTURE)
def test_a_look_at_later_frames_is_refused(model, message, axis):
    with raises(*message):
        lift(model.eval(), (torch.randn(2, 7, 4),), time_axis=axis)


NO_BATCH = {
    "unbatched": (
        nn.GRU(4, 5),
        (torch.randn(7, 4),),
        ("no-batch-axis", "input (7, 4)", "rows depend on each other"),
    ),
    "mixed rows": (
        Call(lambda self, x: self.linear(x - x.mean(0)), linear=nn.Linear(4, 4)),
        (torch.randn(2, 4),),
        ("no-batch-axis", "x (2, 4)"),
    ),
}


@pytest.mark.parametrize(("model", "example", "message"), NO_BATCH.values(), ids=NO_BATCH)
def test_a_model_without_a_batch_axis_is_refused(model, example, message):
    with raises(*message):
        lift(model.eval(), example, time_axis=None)


@pytest.mark.parametrize("shape", [(8,), ()], ids=str)
def test_an_input_without_a_batch_axis_is_refused(shape):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 8, batch_first=True)

        def forward(self, x, scale):
            return self.gru(x)[0] * scale

    with raises("no-batch-axis", f"x (2, 7, 4), scale {shape}:"):
        lift(Scaled().eval(), (torch.randn(2, 7, 4), torch.randn(shape)))


def test_a_chunk_needs_time():
    with raises("chunk-without-time", "chunk=3 (--chunk 3)"):
        lift(nn.GRUCell(4, 5).eval(), (torch.randn(2, 4),), chunk=3)


def test_a_models_own_loop_has_dynamic_time():
    lifted = lift(Loop().eval(), (torch.randn(2, 7, 4), torch.zeros(2, 5)), states={"h": 1})
    assert lifted.spec.inputs[0].shape == ("batch", "time", 4)
    assert lifted.dynamic_time
    assert not lifted.notes


def test_time_is_the_axis_whose_frames_know_of_earlier_ones():
    """Then any axis that an output shares with an input; last, one that no output has."""
    inputs, outputs = (1,), (1,)
    best = TimeCandidate(inputs, outputs, remembers=True)
    middle = [
        TimeCandidate(inputs, outputs),
        TimeCandidate(inputs, outputs, causal=False),
        TimeCandidate(inputs, outputs, causal=False, remembers=True),
    ]
    last = TimeCandidate(inputs, (None,), has_output_time=False)
    assert [c.rank for c in (best, *middle, last)] == [0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("forward", "found"),
    [
        (lambda self, x: self.linear(x), (True, False)),
        (lambda self, x: torch.cumsum(x, 1), (True, True)),
        (lambda self, x: x - x.mean(1, keepdim=True), (False, True)),
        (lambda self, x: x.flip(1), (False, True)),
    ],
    ids=["frame by frame", "of the past", "of the mean", "of the future"],
)
def test_what_a_candidate_knows(forward, found):
    model = FlatModel(Call(forward, linear=nn.Linear(4, 4)), (torch.randn(2, 6, 4),), {}, None, None)
    batch = next(batch_candidates(probe := AxisProbe(model), (1,)))
    search = TimeSearch(probe, ProbedRows(batch.inputs, batch.states, 2))
    candidate = search.candidate((1,), False)
    assert (candidate.inputs, candidate.outputs, candidate.has_output_time) == ((1,), (1,), True)
    assert (candidate.causal, search._remembers(candidate)) == found


class Leveller(nn.Module):
    """Each frame relative to a maximum over its features that decays."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("most", torch.full((1, 1), 1e-3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.most = torch.maximum(0.99 * self.most, x.abs().amax(-1, keepdim=True))
        return x / self.most


def test_features_that_look_like_time_are_told_as_what_was_found():
    """It was said alone that statistics over time cannot stream."""
    x = torch.randn(1, 8)
    with raises("not-frame-local", "(amax)", "time_axis={'x': 1} (--time-axis x=1)", "time_axis=None"):
        lift(Leveller(), (x,))
    assert [s.name for s in lift(Leveller(), (x,), time_axis=None).spec.states] == ["most"]
