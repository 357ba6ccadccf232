"""Running sums keep what is small, counts are exact, and chunkwise functions take the form that the user declares."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from rnn_export.errors import LiftError, ParityError
from rnn_export.export import export
from rnn_export.export.lift.model.torch_driver import torch_driver

from ..lifting import lift  # noqa: TID252
from ..zoo.scans import X, periodic  # noqa: TID252
from .streams import Call, assert_lifted_streams


def driven(forward, start, frame, count):
    """The first outputs of so many steps of one frame from this start of the only state."""
    lifted = lift(Call(forward), (X,), time_axis=1)
    (state,) = lifted.spec.states
    driver = torch_driver(lifted.spec, lifted.module, {state.name: np.array(start, np.dtype(state.dtype))})
    frames = ({"x": np.full((1, 1, 4), frame, np.float32)} for _ in range(count))
    return [float(next(iter(driver.step(x).values()))[0, 0, 0]) for x in frames]


def test_sums_do_not_lose_what_is_small():
    """A float32 sum of 0.1 is 0.8 % off after 10^6 frames; this one is not."""
    start, count = 1e5, 2000
    last = driven(lambda s, x: x.cumsum(1), [[[start, 0.0]] * 4], 0.1, count)[-1]
    assert last == pytest.approx(start + count * float(np.float32(0.1)), rel=1e-7)


def test_numbers_are_exact_beyond_what_a_float_counts():
    start = 2**53 - 2
    kept = driven(periodic, [[start]], 1, 6)
    assert kept == [float(n % 3 == 0) for n in itertools.islice(itertools.count(start), 6)]


def in_fours(q, k, v):
    """Linear attention by four frames at once, which gives no state."""
    state, outputs = k.new_zeros(len(q), 4, 4), []
    for a, b, c in zip(*(x.split(4, 1) for x in (q, k, v)), strict=True):
        outputs.append(torch.tril(a @ b.mT) @ c + a @ state)
        state = state + b.mT @ c
    return torch.cat(outputs, 1)


def one_by_one(q, k, v):
    state, outputs = k.new_zeros(len(q), 4, 4), []
    for t in range(q.shape[1]):
        state = state + k[:, t, :, None] * v[:, t, None]
        outputs.append(q[:, t, None] @ state)
    return torch.cat(outputs, 1)


def twice_as_much(q, k, v):
    return 2 * one_by_one(q, k, v)


def of_fours():
    return Call(lambda s, x: in_fours(*s.parts(x).chunk(3, -1)), parts=nn.Linear(4, 12)).eval()


def test_a_stream_is_made_of_the_form_that_the_user_declares():
    model = of_fours()
    chunks = [lift(model, (X,), time_axis=1, recurrent_form=form).spec.chunk for form in (None, {in_fours: one_by_one})]
    assert chunks == [4, 1]
    assert_lifted_streams(lift(model, (X,), time_axis=1, recurrent_form={in_fours: one_by_one}), model, (X,), atol=1e-5)


def test_a_form_of_what_the_model_does_not_call_is_refused():
    with pytest.raises(LiftError, match=r"twice_as_much .* does not call") as caught:
        lift(of_fours(), (X,), time_axis=1, recurrent_form={twice_as_much: one_by_one})
    assert caught.value.id == "recurrent-form-never-called"
    with pytest.raises(LiftError, match="functions by functions"):
        lift(of_fours(), (X,), time_axis=1, recurrent_form={"in_fours": one_by_one})


def test_a_form_that_gives_something_else_is_no_bundle(tmp_path):
    path = tmp_path / "fours.rnnx"
    with pytest.raises(ParityError):
        export(of_fours(), (X,), path, time_axis=1, recurrent_form={in_fours: twice_as_much})
    assert not path.exists()
