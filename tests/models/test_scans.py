"""Running sums keep what is small, and counts are exact."""

import itertools

import numpy as np
import pytest

from rnn_export.export.lift.model.torch_driver import torch_driver

from ..lifting import lift  # noqa: TID252
from ..zoo.scans import X, periodic  # noqa: TID252
from .streams import Call


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
