"""Attention within chunks and to some frames before: steps of whole chunks have no delay."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .streams import Call
from .test_relative import by_key, joined, strided
from .whole_streams import assert_whole

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)
PIECE = 4


def chunks(frames, before, piece=PIECE):
    """(T, T): each chunk attends to itself, and to some `before`."""
    piece = torch.arange(frames) // piece
    separate = piece[:, None] - piece
    return (separate >= 0) & (separate <= before)


def some_of_them(frames):
    """Each frame attends to its chunk and, other than the chunk mask, to the 5 frames before itself."""
    separate = torch.arange(frames)[:, None] - torch.arange(frames)
    same = torch.arange(frames)[:, None] // PIECE == torch.arange(frames) // PIECE
    return same | ((separate >= 0) & (separate <= 5))


def heads(x):
    return x.unflatten(2, (2, 4)).transpose(1, 2)


def layer(mask, relative=None, fused=False, typed=False):
    """Attention behind a short convolution over time, added to what it takes."""

    def forward(s, x):
        q, k, v = map(heads, s.qkv(x).chunk(3, -1))
        taken = mask(x.shape[1])
        if fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=taken)
        else:
            scores = q @ k.mT / 2 if relative is None else q @ k.mT + relative(s, q + s.bias)
            weights_of_attention = scores.masked_fill(taken.eq(0), -torch.inf).float().softmax(-1)
            y = (weights_of_attention.type_as(v) if typed else weights_of_attention).masked_fill(~taken, 0.0) @ v
        x = x + y.transpose(1, 2).flatten(2)
        return x + s.conv(F.pad(x.mT, (2, 0))).mT

    parts = {"qkv": nn.Linear(8, 24), "p": nn.Linear(8, 8, bias=False), "conv": nn.Conv1d(8, 8, 3, groups=8)}
    return Call(forward, bias=nn.Parameter(torch.randn(2, 1, 4)), **parts)


LAYERS = {
    "chunks": lambda: layer(lambda frames: chunks(frames, 2)),
    "alone": lambda: layer(lambda frames: chunks(frames, 0), fused=True),
    "in the type of the values": lambda: layer(lambda frames: chunks(frames, 1), typed=True),
    "relative positions": lambda: layer(lambda frames: chunks(frames, 1), joined),
    "relative positions, strided": lambda: layer(lambda frames: chunks(frames, 2), strided),
    "positions of keys": lambda: layer(lambda frames: chunks(frames, 1), by_key),
    "chunks and a band": lambda: layer(some_of_them),
}


@pytest.mark.parametrize("made", LAYERS.values(), ids=LAYERS)
def test_layers_of_whole_chunks_are_not_late(made):
    torch.manual_seed(0)
    spec = assert_whole(nn.Sequential(made(), made()).eval(), X, time_axis=1, chunk=PIECE, lengths=range(1, 14)).spec
    assert (spec.delay, spec.tail) == (0, PIECE - 1)


@pytest.mark.parametrize(("chunk", "delay"), [(2 * PIECE, 0), (6, 12), (1, 6)])
def test_steps_of_other_frames(chunk, delay):
    """Two chunks a step, or parts of them, which every layer has to wait for."""
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS["chunks"](), LAYERS["chunks"]()).eval()
    assert assert_whole(model, X, time_axis=1, chunk=chunk, lengths=range(1, 20, 3)).spec.delay == delay


def test_long_chunks_behind_windows_with_a_stride():
    def forward(s, x):
        frames = s.pick(F.pad(x.mT, (2, 0))).mT
        return s.attend(frames)

    torch.manual_seed(0)
    attend = layer(lambda frames: chunks(frames, 1, 48))
    model = Call(forward, pick=nn.Conv1d(8, 8, 3, 2), attend=attend)
    spec = assert_whole(model, X, time_axis=1, chunk=96, lengths=range(90, 300, 41)).spec
    assert (spec.delay, spec.tail) == (0, 48)


def shared(s, x):
    """Chances that two products take, one of them those of the first head; keys turned by one permutation."""
    frames, rows = x.shape[1], x.shape[0]
    q, k, v = s.qkv(x).reshape(rows, frames, 3, 2, 4).unbind(2)
    scores = q.permute(2, 0, 1, 3) @ k.permute(2, 0, 3, 1)
    weights_of_attention = s.drop(scores.masked_fill(~chunks(frames, 1), -1000).softmax(-1))
    y = (weights_of_attention @ v.permute(2, 0, 1, 3)).permute(1, 2, 0, 3).flatten(2)
    z = (weights_of_attention[0:1] @ x[None, ..., :4]).squeeze(0)
    return x + y + F.pad(z, (0, 4))


def test_attention_weights_that_several_products_take():
    torch.manual_seed(0)
    model = Call(shared, qkv=nn.Linear(8, 24), drop=nn.Dropout(0.1))
    spec = assert_whole(model, X, time_axis=1, chunk=PIECE, lengths=range(1, 14)).spec
    assert (spec.delay, spec.tail) == (0, PIECE - 1)


class _Extended(nn.Module):
    """Positions of a table that is made anew for the longest sequence so far."""

    def __init__(self, frames):
        super().__init__()
        self.pe, self.attend = torch.zeros(0, 8), layer(lambda n: chunks(n, 1))
        self.extend(frames)

    def extend(self, frames):
        if self.pe.shape[0] < frames:
            self.pe = torch.outer(torch.arange(frames).float(), torch.arange(8) / 8).sin()

    def forward(self, x):
        self.extend(x.shape[1])
        return self.attend(x + self.pe[: x.shape[1]])


def test_a_table_for_the_longest_sequence_so_far_is_no_bound():
    torch.manual_seed(0)
    assert_whole(_Extended(500).eval(), X, time_axis=1, chunk=PIECE, lengths=range(1, 14))
