import pytest
import torch
from torch import nn

from rnn_export.errors import LiftError
from rnn_export.export.lift.api import lift
from rnn_export.export.lift.axis_probe import AxisProbe
from rnn_export.export.lift.batch_search import batch_candidates
from rnn_export.export.lift.program.signature import FlatModel
from rnn_export.export.lift.time_search import ProbedRows, TimeCandidate, TimeSearch

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
    with pytest.raises(
        LiftError,
        match=r"more than one axis could be time: time_axis=\{'x': 1\} \(--time-axis x=1\) or time_axis=\{'x': 2\}",
    ):
        lift(Elementwise().eval(), (x,))
    assert axes_of(Elementwise(), x, time_axis={"x": 2})["x"] == ("batch", 7, "time")


def test_axes_in_an_unusual_order_are_asked_for():
    model = Call(lambda s, x: s.linear((x + x[:1]).transpose(1, 2).flatten(2)), linear=nn.Linear(10, 3))
    with pytest.raises(LiftError, match=r"of 'x' time is axis 0 and the batch axis 2.*say it: time_axis=\{'x': 0\}"):
        lift(model, (torch.randn(2, 2, 9, 5),))
    shapes = axes_of(model, torch.randn(2, 2, 9, 5), time_axis={"x": 0})
    assert shapes["x"] == ("time", 2, "batch", 5)


def test_an_output_as_of_the_last_frame_needs_a_word_on_time():
    x = torch.randn(2, 7, 4)
    with pytest.raises(
        LiftError, match=r"no output has a time axis, .* time_axis=\{'x': 1\} \(--time-axis x=1\)\. .*None \(--time-"
    ):
        lift(LastFrame().eval(), (x,))
    assert axes_of(LastFrame(), x, time_axis=1) == {"x": ("batch", "time", 4), "output": ("batch", 3)}
    assert axes_of(LastFrame(), x, time_axis=None) == {"x": ("batch", 7, 4), "output": ("batch", 3)}


BAD_TIME = {
    "range": (3, r"time_axis=3 \(--time-axis 3\): input 'x' has only 3 axes, \(2, 7, 4\)"),
    "below": (-4, r"time_axis=-4 \(--time-axis -4\): input 'x' has only 3 axes"),
    "name": ({"y": 1}, r"time_axis \(--time-axis\) names \['y'\], but the inputs are \['x'\]"),
    "word": ("time", r"time_axis='time': it must be 'auto', None, an axis"),
    "features": (
        2,
        r"no batch axis found|time_axis=\{'x': 2\} \(--time-axis x=2\): the model cannot run at other lengths",
    ),
    "batch": (0, r"no batch axis found in x \(2, 7, 4\).*rows depend on each other"),
}


@pytest.mark.parametrize(("axis", "message"), BAD_TIME.values(), ids=BAD_TIME)
def test_a_wrong_time_axis_is_refused(axis, message):
    with pytest.raises(LiftError, match=f"(?s){message}"):
        lift(Tagger().eval(), (torch.randn(2, 7, 4),), time_axis=axis)


FUTURE = {
    "bidirectional": (
        Call(lambda self, x: self.gru(x)[0], gru=nn.GRU(4, 5, bidirectional=True, batch_first=True)),
        r"gru: the GRU is bidirectional: .* cannot stream\. .* sequence_only=True",
    ),
    "mean": (
        Call(lambda self, x: self.linear(x - x.mean(1, keepdim=True)), linear=nn.Linear(4, 4)),
        r"the model \(test_axes\.py:\d+\): statistics over time .*\(mean\), so it cannot stream",
    ),
    "flip": (
        Call(lambda self, x: self.gru(x.flip(1))[0], gru=nn.GRU(4, 5, batch_first=True)),
        r"the model \(test_axes\.py:\d+\): it moves frames over time \(flip\), so it cannot stream",
    ),
}


@pytest.mark.parametrize("axis", ["auto", 1])
@pytest.mark.parametrize(("model", "message"), FUTURE.values(), ids=FUTURE)
def test_a_look_at_later_frames_is_refused(model, message, axis):
    with pytest.raises(LiftError, match=message):
        lift(model.eval(), (torch.randn(2, 7, 4),), time_axis=axis)


NO_BATCH = {
    "unbatched": (
        nn.GRU(4, 5),
        (torch.randn(7, 4),),
        r"no batch axis found in input \(7, 4\).*rows depend on each other",
    ),
    "mixed rows": (
        Call(lambda self, x: self.linear(x - x.mean(0)), linear=nn.Linear(4, 4)),
        (torch.randn(2, 4),),
        r"no batch axis found in x \(2, 4\)",
    ),
}


@pytest.mark.parametrize(("model", "example", "message"), NO_BATCH.values(), ids=NO_BATCH)
def test_a_model_without_a_batch_axis_is_refused(model, example, message):
    with pytest.raises(LiftError, match=f"(?s){message}"):
        lift(model.eval(), example, time_axis=None)


@pytest.mark.parametrize("shape", [(8,), ()], ids=str)
def test_an_input_without_a_batch_axis_is_refused(shape):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(4, 8, batch_first=True)

        def forward(self, x, scale):
            return self.gru(x)[0] * scale

    message = rf"no batch axis found in x \(2, 7, 4\), scale {'.8,.' if shape else '..'}: every input"
    with pytest.raises(LiftError, match=message):
        lift(Scaled().eval(), (torch.randn(2, 7, 4), torch.randn(shape)))


def test_a_chunk_needs_time():
    with pytest.raises(LiftError, match=r"chunk=3: the model takes one frame per call \(no time axis was found\)"):
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
    with pytest.raises(
        LiftError, match=r"\(amax\).* along time_axis={'x': 1} \(--time-axis x=1\), which was found; .* time_axis=None"
    ):
        lift(Leveller(), (x,))
    assert [s.name for s in lift(Leveller(), (x,), time_axis=None).spec.states] == ["most"]
