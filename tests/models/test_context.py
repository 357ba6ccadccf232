"""The values that `max_context` may have; tests/zoo/context.py has what comes of it."""

import pytest

from rnn_export.errors import LiftError

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.context import FLAGGED, X  # noqa: TID252


@pytest.mark.parametrize(("frames", "limit"), [(0, 1), (10_000, 8192), (2.0, 1), (True, 1)])
def test_a_context_is_a_number_of_frames(frames, limit):
    with raises("option-refused", f"max_context is {frames!r}, but", limit, kind=LiftError):
        lift(FLAGGED, (X,), max_context=frames)
