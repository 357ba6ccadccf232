"""The choice of axes, and the answer at each frame of models whose output is that of the last one."""

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
from ..zoo.axes import BTC, LAST, NOTE  # noqa: TID252
from .nets import Explicit, Loop, Tagger
from .streams import Call


def test_all_sizes_of_the_example_and_of_states_equal():
    states = torch.zeros(2, 2, 5), torch.zeros(2, 2, 5)
    lifted = lift(Explicit().eval(), (torch.randn(2, 2, 4), *states), states={"h": 1, "c": 2})
    assert lifted.spec.inputs[0].shape == BTC


@pytest.mark.parametrize("batch", [1, 4, 5])
def test_one_frame(batch):
    spec = lift(nn.GRUCell(4, 5), (torch.randn(batch, 4),)).spec
    assert (spec.inputs[0].shape, spec.outputs[0].shape) == (("batch", 4), ("batch", 5))


@pytest.mark.parametrize("model", LAST.values(), ids=LAST)
def test_an_output_as_of_the_last_frame_is_the_answer_at_each(model):
    x = torch.randn(1, 20, 4)
    lifted = lift(model, (x[:, :16],))
    assert lifted.spec.inputs[0].shape == BTC
    assert lifted.notes == (NOTE,)
    states = [lifted.initial[s.name][None] for s in lifted.spec.states]
    for t in range(20):
        with torch.no_grad():
            got, *states = lifted.step(x[:, t : t + 1], *states)
            torch.testing.assert_close(got, model(x[:, : t + 1]), rtol=1e-5, atol=2e-6)


def test_the_answer_at_each_of_the_first_frames_is_verified(tmp_path):
    bundle = export(LAST["convolution"], (torch.randn(1, 16, 4),), tmp_path / "last.rnnx", steps=24)
    golden = Golden.from_arrays(bundle.arrays("golden.npz"), bundle.spec)
    assert list(golden.ends) == [*range(1, 17)]
    for frames, ended in golden.ends.items():
        with torch.no_grad():
            want = LAST["convolution"](torch.from_numpy(golden.inputs["x"][:, :frames])).numpy()
        np.testing.assert_allclose(ended["output"], want, rtol=1e-5, atol=2e-6)


def test_a_word_for_an_axis_is_refused():
    with raises("option-refused", "time_axis is 'time'", kind=LiftError):
        lift(Tagger().eval(), (torch.randn(2, 7, 4),), time_axis="time")


def test_a_models_own_loop_has_dynamic_time():
    lifted = lift(Loop().eval(), (torch.randn(2, 7, 4), torch.zeros(2, 5)), states={"h": 1})
    assert lifted.spec.inputs[0].shape == BTC
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
        (lambda s, x: s.linear(x), (True, False)),
        (lambda s, x: torch.cumsum(x, 1), (True, True)),
        (lambda s, x: x - x.mean(1, keepdim=True), (False, True)),
        (lambda s, x: x.flip(1), (False, True)),
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
