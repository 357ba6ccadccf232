"""Attention that a mask limits to a window of frames streams; attention to all frames is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.errors import LiftError
from rnn_export.export.lift.rewrite.attention.attention_windows import AttentionWindow

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def separate(frames: int) -> torch.Tensor:
    """(T, T): by how many frames a query is later than a key."""
    at = torch.arange(frames)
    return at[:, None] - at[None]


def band(frames: int, behind: int, ahead: int = 0) -> torch.Tensor:
    distance = separate(frames)
    return (distance >= -ahead) & (distance <= behind)


def fused(s, x, mask):
    q, k, v = s.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def by_hand(s, x):
    q, k, v = s.qkv(x).chunk(3, -1)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(8)).masked_fill(~band(x.shape[1], 3), -torch.inf)
    return torch.softmax(scores, -1) @ v


def by_triangles(s, x):
    q, k, v = s.qkv(x).chunk(3, -1)
    allowed = torch.ones(x.shape[1], x.shape[1]).tril().triu(-3)
    return torch.softmax(q @ k.mT * 0.3 + (1 - allowed) * -1e9, -1) @ v


def slopes(s, x):
    distance = separate(x.shape[1]).float()
    return fused(s, x, torch.where(band(x.shape[1], 4), -0.3 * distance, -torch.inf))


def blocks(s, x):
    """Frames of a block of 4 attend to it, and to the one before."""
    block = torch.arange(x.shape[1]) // 4
    distance = block[:, None] - block[None]
    return fused(s, x, (distance >= 0) & (distance <= 1))


def with_first(frames, behind, first, ahead=0):
    """(T, T): frames of a band, and of those before it the first ones."""
    distance = separate(frames)
    return (distance >= -ahead) & ((distance <= behind) | (torch.arange(frames)[None] < first))


def first_extra(s, x):
    """The first two frames count less, or more, than others once they are far."""
    distance = separate(x.shape[1])
    bias = torch.where(distance > 3, torch.where(torch.arange(x.shape[1])[None] < 1, 0.7, -0.3), -0.1 * distance)
    return fused(s, x, torch.where(with_first(x.shape[1], 3, 2), bias, -torch.inf))


def heads(s, x):
    mask = ~band(x.shape[1], 5)
    return s.attend(x, x, x, attn_mask=mask)[0]


QKV = nn.Linear(8, 24)
# By name: the model, its delay and tail, and the frames that it keeps.
NARROW = {
    "fused": (Call(lambda s, x: fused(s, x, band(x.shape[1], 4)), qkv=QKV), (0, 0), 4),
    "with frames ahead": (Call(lambda s, x: fused(s, x, band(x.shape[1], 3, 2)), qkv=QKV), (2, 2), 5),
    "by hand": (Call(by_hand, qkv=QKV), (0, 0), 3),
    "by triangles": (Call(by_triangles, qkv=QKV), (0, 0), 3),
    "slopes": (Call(slopes, qkv=QKV), (0, 0), 4),
    "blocks": (Call(blocks, qkv=QKV), (3, 3), 10),
    "and the first frames": (Call(first_extra, qkv=QKV), (0, 0), 3),
    "first frames, frames ahead": (Call(lambda s, x: fused(s, x, with_first(x.shape[1], 1, 4, 2)), qkv=QKV), (2, 2), 3),
    "a layer": (Call(heads, attend=nn.MultiheadAttention(8, 2, batch_first=True)), (0, 0), 5),
}


@pytest.mark.parametrize(("model", "ends", "kept"), NARROW.values(), ids=NARROW)
def test_attention_within_a_band_streams(model, ends, kept):
    spec = assert_whole(model, X, time_axis=1, lengths=range(1, 14)).spec
    assert (spec.delay, spec.tail) == ends
    assert next(s.row[-2] for s in spec.states if s.name.endswith("frames")) == kept


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


def test_what_differs_for_frames_far_from_the_first_is_refused():
    def forward(s, x):
        slopes = torch.where(with_first(x.shape[1], 3, 2), -0.1 * separate(x.shape[1]), -torch.inf)
        return fused(s, x, slopes)

    with pytest.raises(LiftError):
        lift(Call(forward, qkv=QKV), (X,), time_axis=1)


def three(s, x):
    """With three rows, the frame stride of a part of `qkv` equals the length of that part."""
    q, k, v = s.qkv(x).chunk(3, -1)
    return s.attend(q, k, v, attn_mask=~band(x.shape[1], 2))[0]


ATTEND = nn.MultiheadAttention(8, 2, batch_first=True)
# By name: the model, and for how many frames it has one.
OTHER_RATES = {
    "after a stride": (Call(lambda s, x: three(s, s.c(x.mT).mT), c=nn.Conv1d(8, 8, 2, 2), qkv=QKV, attend=ATTEND), 2),
    "before a pool": (Call(lambda s, x: F.max_pool1d(by_hand(s, x).mT, 2).mT, qkv=QKV), 2),
    "of fewer frames": (Call(lambda s, x: by_hand(s, s.c(x.mT).mT), c=nn.Conv1d(8, 8, 3), qkv=QKV), 1),
}


def test_a_limit_of_large_scores_stays():
    def forward(s, x):
        q, k, v = s.qkv(x).chunk(3, -1)
        scores = (q @ k.mT).clamp(-50, 50)
        return torch.softmax(scores.masked_fill(~band(x.shape[1], 3), -torch.inf), -1) @ v

    lifted = assert_whole(Call(forward, qkv=QKV), X, time_axis=1, lengths=range(5, 9))
    assert any("clamp" in str(n.target) for n in lifted.step.graph.nodes)


@pytest.mark.parametrize(("model", "every"), OTHER_RATES.values(), ids=OTHER_RATES)
def test_attention_at_another_rate_streams(model, every):
    spec = assert_whole(model, X, time_axis=1, chunk=every).spec
    assert spec.outputs[0].every == every


def test_a_layer_after_another():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = Call(lambda s, x: s.two(s.one(x, ~band(x.shape[1], 2)), ~band(x.shape[1], 2)), one=encoder, two=encoder)
    assert assert_whole(model, X, time_axis=1).spec.delay == 0


def test_attention_behind_a_stride_of_samples():
    """The frames that attend are fewer than those of the input."""

    def forward(s, x):
        y = s.frames(x.unsqueeze(1)).mT
        return fused(s, y, band(y.shape[1], 3)) + torch.arange(y.shape[1])[:, None] % 5

    model = Call(forward, frames=nn.Conv1d(1, 8, 20, 20), qkv=QKV)
    spec = assert_whole(model, torch.randn(2, 320), time_axis=1, chunk=20, lengths=range(19, 130, 13)).spec
    assert (spec.delay, spec.tail) == (0, 0)


ALL_FRAMES = {
    "causal": Call(lambda s, x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    "no mask": Call(lambda s, x: torch.softmax(x @ x.mT, -1) @ x),
}


@pytest.mark.parametrize("model", ALL_FRAMES.values(), ids=ALL_FRAMES)
def test_attention_to_all_frames_is_refused(model):
    with raises("not-frame-local", "attention, or another product over time, looks at all frames"):
        lift(model, (X,), time_axis=1)


def test_a_table_that_differs_along_the_band_is_refused():
    def forward(s, x):
        later = torch.arange(x.shape[1]) > 100
        return fused(s, x, band(x.shape[1], 3) & ~(later[:, None] & (separate(x.shape[1]) == 2)))

    with pytest.raises(LiftError):
        lift(Call(forward, qkv=QKV), (X,), time_axis=1)
