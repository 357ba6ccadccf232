"""Windows of attention, as they are read off a mask."""

import pytest
import torch

from rnn_export.export.lift.rewrite.attention.attention_windows import AttentionWindow

from ..zoo.attention import band, separate, with_first  # noqa: TID252


@pytest.mark.parametrize(
    ("taken", "found"),
    [
        (band(40, 3, 1), AttentionWindow(3, 1)),
        (with_first(40, 3, 2), AttentionWindow(3, 0, 2)),
        (with_first(40, 3, 2, 1), AttentionWindow(3, 1, 2)),
        (with_first(40, 3, 2) | (torch.arange(40) < 2)[None], None),
        (with_first(40, 3, 2) & ~((separate(40) == 9) & (torch.arange(40) == 1)[None]), None),
        (separate(40) >= 0, AttentionWindow(39, 0)),
        (torch.zeros(40, 40, dtype=torch.bool), None),
    ],
    ids=["band", "first", "first and ahead", "first before they come", "a hole", "all before", "none"],
)
def test_what_a_mask_leaves(taken, found):
    assert AttentionWindow.of(taken) == found
