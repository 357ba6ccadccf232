"""Attention to all past frames is bounded on request: to the last frames, or by an end of the stream."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.errors import LiftError

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)
N = 5


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def causal(x, frames=math.inf):
    """(T, T): itself and the frames before, as many as `frames` in all."""
    separate = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])[None]
    return (separate >= 0) & (separate < frames)


def heads(s, x, kv=2):
    q, k, v = s.qkv(x).split([8, 4 * kv, 4 * kv], -1)
    return [t.unflatten(2, (-1, 4)).transpose(1, 2) for t in (q, k, v)]


def by_flag(s, x, mask=None):
    given = {"is_causal": True} if mask is None else {"attn_mask": mask}
    return F.scaled_dot_product_attention(*heads(s, x), **given).transpose(1, 2).flatten(2)


def grouped(s, x, mask=None):
    mask = causal(x) if mask is None else mask
    return F.scaled_dot_product_attention(*heads(s, x, 1), attn_mask=mask, enable_gqa=True).transpose(1, 2).flatten(2)


def by_hand(s, x, mask=None):
    q, k, v = heads(s, x)
    scores = (q @ k.mT / 2).masked_fill(~(causal(x) if mask is None else mask), -torch.inf)
    return (F.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)


def by_slopes(s, x, mask=None):
    at = torch.arange(x.shape[1])
    bias = torch.where(causal(x) if mask is None else mask, (at[None] - at[:, None]) * 0.1, -1e9)
    return F.scaled_dot_product_attention(*heads(s, x), attn_mask=bias).transpose(1, 2).flatten(2)


def by_layer(s, x, mask=None):
    return s.attend(x, x, x, attn_mask=~(causal(x) if mask is None else mask), need_weights=s.weights)[0]


def twice(s, x, mask=None):
    return s.head(by_flag(s, by_hand(s, x, mask), mask))


QKV = nn.Linear(8, 24)
LAYER = nn.MultiheadAttention(8, 2, batch_first=True)
MODELS = {
    "is_causal": (by_flag, {"qkv": QKV}),
    "groups of queries": (grouped, {"qkv": nn.Linear(8, 16)}),
    "by hand": (by_hand, {"qkv": QKV}),
    "slopes": (by_slopes, {"qkv": QKV}),
    "a layer": (by_layer, {"attend": LAYER, "weights": False}),
    "a layer with weights": (by_layer, {"attend": LAYER, "weights": True}),
    "two": (twice, {"qkv": QKV, "head": nn.Linear(8, 8)}),
}


@pytest.mark.parametrize(("function", "parts"), MODELS.values(), ids=MODELS)
def test_each_frame_attends_to_the_last_of_them(function, parts):
    """The reference is the model with an explicit mask."""
    model = Call(lambda s, x: function(s, x), **parts)
    banded = Call(lambda s, x: function(s, x, causal(x, N)), **parts)
    lifted = assert_whole(model, X, time_axis=1, lengths=range(1, 14), truth=banded, max_context=N)
    spec = lifted.spec
    assert (spec.max_context, spec.max_frames, spec.delay) == (N, None, 0)
    assert any("attention looks at 5 frames (max_context)" in note for note in lifted.notes)
    with torch.no_grad():
        assert not torch.allclose(model(X), banded(X))
        # What verification holds a stream to.
        torch.testing.assert_close(lifted.original(X)[0], banded(X))


class Tables(nn.Module):
    """As nanoGPT has it: tables for 24 frames, of positions and of a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.at = nn.Linear(8, 24), nn.Embedding(24, 8)
        self.register_buffer("mask", torch.ones(24, 24).tril()[None, None])

    def forward(self, x):
        frames = x.shape[1]
        q, k, v = heads(self, x + self.at(torch.arange(frames)))
        scores = (q @ k.mT / 2).masked_fill(self.mask[:, :, :frames, :frames] == 0, -torch.inf)
        return (F.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)


def test_a_stream_with_an_end_attends_to_all_of_it():
    with raises("time-axis-fixed-length", "index out of range", "say max_frames=", "(--max-frames"):
        lift(Tables().eval(), (X,), time_axis=1)
    spec = assert_whole(Tables().eval(), X, time_axis=1, lengths=range(1, 25), max_frames=24).spec
    assert (spec.max_frames, spec.max_context) == (24, None)
    flagged = Call(lambda s, x: by_flag(s, x), qkv=QKV)
    assert assert_whole(flagged, X, time_axis=1, lengths=range(1, 13), max_frames=12).spec.max_frames == 12


def test_both_may_be_said():
    spec = lift(Tables().eval(), (X,), time_axis=1, max_frames=24, max_context=4).spec
    assert (spec.max_frames, spec.max_context) == (24, 4)
    assert lift(Tables().eval(), (X,), time_axis=1, max_frames=24, max_context=400).spec.max_context is None


def test_attention_that_looks_ahead_is_not_bounded():
    model = Call(lambda s, x: F.scaled_dot_product_attention(*heads(s, x)).transpose(1, 2).flatten(2), qkv=QKV)
    with raises("not-frame-local", "looks at all frames"):
        lift(model, (X,), time_axis=1, max_context=4)


@pytest.mark.parametrize(("frames", "limit"), [(0, 1), (10_000, 8192), (2.0, 1), (True, 1)])
def test_a_context_is_a_number_of_frames(frames, limit):
    with raises("option-refused", f"max_context is {frames!r}, but", limit, kind=LiftError):
        lift(Call(lambda s, x: by_flag(s, x), qkv=QKV), (X,), max_context=frames)


def test_a_context_that_bounds_nothing_is_refused():
    with raises("max-context-without-attention", "max_context=4", "--max-context 4"):
        lift(Call(lambda s, x: s.gru(x)[0], gru=nn.GRU(8, 4, batch_first=True)), (X,), max_context=4)
