"""Models that lifting refuses with advice on lengths and strides, or did: `MODELS`, with the end that each should have.

Those of `advice_calls` are added to them: advice on states, on the axis of time and on decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .streams import Call

FRAMES = (2, 12, 4)
# The ends of an export: a stream of any length, a step of one frame, whole sequences alone, or a refusal.
STREAM, FRAME, WHOLE, REFUSED = "stream", "frame", "whole", "refused"


@dataclass(frozen=True)
class Case:
    """A model, the example and the options of its first lift, and the ends that it may have with one suggestion.

    `contract` has numbers of the contract, by name.
    """

    model: nn.Module
    example: tuple[Any, ...]
    options: dict[str, Any]
    ends: tuple[str, ...]
    contract: dict[str, int]


MODELS: dict[str, Callable[[], Case]] = {}


def model(
    name: str, *example: Any, ends: tuple[str, ...] = (STREAM,), contract: dict[str, int] | None = None, **options: Any
) -> Callable[[Any], Any]:
    """Record a factory, with the example and the options of a first lift; a shape in `example` is noise."""

    def record(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def case() -> Case:
            generator = torch.Generator().manual_seed(0)
            torch.manual_seed(0)
            given = tuple(torch.randn(*x, generator=generator) if _is_shape(x) else x for x in example)
            return Case(make().eval(), given, options, ends, contract or {})

        assert name not in MODELS
        MODELS[name] = case
        return make

    return record


def _is_shape(example: Any) -> bool:
    return isinstance(example, tuple) and all(isinstance(n, int) for n in example)


def rnn(inputs: int, size: int = 4, **options: Any) -> nn.RNN:
    return nn.RNN(inputs, size, batch_first=True, **options)


# --- max_frames: tables with a row for each frame --------------------------------------------------------------------


@model("a table of positions, and more frames said than it has", FRAMES, max_frames=100)
@model("a table of positions", FRAMES)
def positions():
    return Call(lambda s, x: s.rnn(x + s.table[: x.shape[1]])[0], rnn=rnn(4), table=nn.Parameter(torch.randn(64, 4)))


@model("a table of positions, and no batch axis", (12, 4))
def unbatched_positions():
    return Call(lambda s, x: s.rnn(x + s.table[: x.shape[0]])[0], rnn=nn.RNN(4, 4), table=torch.randn(20, 4))


@model("a table of positions for frames of four samples", (2, 1, 32), (2, 8, 5), ends=(STREAM, FRAME))
def positions_of_rates():
    def forward(s, audio, video):
        h = s.front(audio).transpose(1, 2)
        return s.rnn(torch.cat([h + s.table[: h.shape[1]], video], -1))[0]

    return Call(forward, front=nn.Conv1d(1, 8, 4, 4), rnn=rnn(13), table=torch.randn(10, 8))


@model("a table of positions, a mask and a text", (2, 12, 4), torch.ones(2, 12), (2, 3, 4), contract={"max_frames": 40})
def positions_and_text():
    def forward(s, mel, mask, text):
        h = s.rnn((mel + s.table[: mel.shape[1]]) * mask[..., None])[0]
        return h + torch.softmax(h @ text.transpose(1, 2), -1) @ text

    return Call(forward, rnn=rnn(4), table=torch.randn(40, 4))


@model("a table in a loop over frames", FRAMES)
def positions_in_a_loop():
    def forward(s, x):
        h, out = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = s.cell(x[:, t] + s.table[t], h)
            out.append(h)
        return torch.stack(out, 1)

    return Call(forward, cell=nn.RNNCell(4, 4), table=torch.randn(24, 4))


@model("a layer for twelve frames, no more and no fewer", FRAMES, ends=(FRAME, REFUSED))
def as_many_as_trained():
    return Call(lambda s, x: s.rnn(x + s.table)[0], rnn=rnn(4), table=torch.randn(12, 4))


@model("causal attention with a mask of 32 frames", FRAMES)
def kept_mask():
    def forward(s, x):
        n = x.shape[1]
        scores = s.q(x) @ x.transpose(1, 2)
        return scores.masked_fill(s.future[:n, :n], -math.inf).softmax(-1) @ x

    return Call(forward, future=torch.ones(32, 32).triu(1).bool(), q=nn.Linear(4, 4))


# --- max_context: attention to all earlier frames --------------------------------------------------------------------


@model("causal attention", FRAMES)
def causal_attention():
    def forward(s, x):
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return (s.q(x) @ x.transpose(1, 2)).masked_fill(future, -math.inf).softmax(-1) @ x

    return Call(forward, q=nn.Linear(4, 4))


@model("causal attention by one operator", FRAMES)
def causal_operator():
    def forward(s, x):
        return F.scaled_dot_product_attention(s.q(x)[:, None], x[:, None], x[:, None], is_causal=True)[:, 0]

    return Call(forward, q=nn.Linear(4, 4))


@model("attention without a mask", FRAMES, ends=(FRAME, REFUSED))
def attention():
    return Call(lambda s, x: (s.q(x) @ x.transpose(1, 2)).softmax(-1) @ x, q=nn.Linear(4, 4))


@model("attention among objects before a cell", (2, 5, 4), (2, 4), states={"h": 1}, ends=(FRAME,))
def objects_before_a_cell():
    def forward(s, x, h):
        seen = (s.q(x) @ x.transpose(1, 2)).softmax(-1) @ x
        h = s.cell(seen.mean(1), h)
        return seen + h[:, None], h

    return Call(forward, q=nn.Linear(4, 4), cell=nn.RNNCell(4, 4))


# --- sequence_only: what needs the end of a sequence -----------------------------------------------------------------


@model("a bidirectional layer in chunks", FRAMES, chunk=4, ends=(WHOLE, REFUSED))
@model("a bidirectional layer", FRAMES, ends=(WHOLE,))
def bidirectional():
    return Call(lambda s, x: s.rnn(x)[0], rnn=rnn(4, bidirectional=True))


@model("a cache before a bidirectional layer", FRAMES, (2, 2, 4), states={"cache": 1}, ends=(FRAME, REFUSED))
def cache_and_bidirectional():
    def forward(s, x, cache):
        z = torch.cat([cache, x], 1)
        return s.rnn(s.conv(z.transpose(1, 2)).transpose(1, 2))[0], z[:, -2:]

    return Call(forward, conv=nn.Conv1d(4, 4, 3), rnn=rnn(4, bidirectional=True))


@model("the mean of the frames of a bidirectional layer", FRAMES, ends=(WHOLE, FRAME))
def mean_of_bidirectional():
    return Call(lambda s, x: s.rnn(x)[0].mean(1), rnn=rnn(4, bidirectional=True))


@model("frames without the mean of all", FRAMES, ends=(REFUSED,))
def centred():
    return Call(lambda s, x: s.rnn(x - x.mean(1, keepdim=True))[0], rnn=rnn(4))


@model("samples beside a bidirectional layer of frames", (2, 8, 1), (2, 4, 1), ends=(WHOLE, REFUSED))
def audio_visual():
    def forward(s, audio, video):
        return torch.cat([s.a(audio)[0], s.b(video)[0].repeat_interleave(2, 1)], -1)

    return Call(forward, a=rnn(1, 2), b=rnn(1, 2, bidirectional=True))


# --- chunk: strides --------------------------------------------------------------------------------------------------


@model("a stride of four in steps of three", FRAMES, chunk=3)
def strided():
    return Call(
        lambda s, x: s.rnn(s.down(x.transpose(1, 2)).transpose(1, 2))[0], down=nn.Conv1d(4, 4, 4, 4), rnn=rnn(4)
    )


@model("a stride of four in steps of three, with a state", FRAMES, (1, 2, 4), states={"h": 1}, chunk=3)
def strided_with_state():
    def forward(s, x, h):
        return s.rnn(s.down(x.transpose(1, 2)).transpose(1, 2), h)

    return Call(forward, down=nn.Conv1d(4, 4, 4, 4), rnn=rnn(4))


@model("strides of two and three in steps of four", (2, 1, 36), chunk=4)
def strides_in_a_row():
    return nn.Sequential(nn.Conv1d(1, 4, 3, 3), nn.ReLU(), nn.Conv1d(4, 4, 2, 2))


@model(
    "a stride of two over mel frames, a mask and a text",
    (2, 8, 4),
    torch.ones(2, 8),
    (2, 4, 4),
    chunk=3,
    contract={"chunk": 6},
)
def strided_and_text():
    def forward(s, mel, mask, text):
        h = s.down((mel * mask[..., None]).transpose(1, 2)).transpose(1, 2)
        return s.rnn(h)[0] + torch.softmax(h @ text.transpose(1, 2), -1) @ text

    return Call(forward, down=nn.Conv1d(4, 4, 2, 2), rnn=rnn(4))


@model("a sum in blocks of 256, with a carry where there are two", FRAMES, ends=(STREAM, REFUSED))
def sum_in_blocks():
    def forward(s, x):
        b, t, c = x.shape
        whole = F.pad(x, (0, 0, 0, -t % 256)).reshape(b, -1, 256, c).cumsum(2)
        if whole.shape[1] > 1:
            ends = whole[:, :, -1].cumsum(1)
            whole = whole + F.pad(ends[:, :-1], (0, 0, 1, 0))[:, :, None]
        return whole.reshape(b, -1, c)[:, :t]

    return Call(forward)
