"""Models that lifting refuses with advice on states, on the axis of time and on decisions; adds them to `MODELS`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .advice_nets import FRAME, FRAMES, REFUSED, STREAM, WHOLE, model, rnn
from .streams import Call

ONE, CARRIED = (2, 4), (2, 5)


# --- states: what comes back -----------------------------------------------------------------------------------------


@model("a cell that returns its state alone", ONE, CARRIED, ends=(FRAME,))
def cell():
    return Call(lambda s, x, h: s.cell(x, h), cell=nn.GRUCell(4, 5))


@model("two states of one shape", ONE, CARRIED, CARRIED, ends=(FRAME,))
def two_states():
    def forward(s, x, h, c):
        h, c = s.cell(x, (h, c))
        return s.out(h), h, c

    return Call(forward, cell=nn.LSTMCell(4, 5), out=nn.Linear(5, 2))


@model("two states of two shapes", ONE, CARRIED, (2, 3), ends=(FRAME,))
def states_of_two_layers():
    def forward(s, x, first, second):
        first = s.first(x, first)
        second = s.second(first, second)
        return {"y": s.out(second), "first": first, "second": second}

    return Call(forward, first=nn.GRUCell(4, 5), second=nn.GRUCell(5, 3), out=nn.Linear(3, 2))


@model("two states in a tuple", FRAMES, (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)))
def states_in_a_tuple():
    return Call(lambda s, x, hc: s.rnn(x, hc), rnn=nn.LSTM(4, 5, batch_first=True))


@model("two states in a dict", ONE, {"h": torch.zeros(2, 5), "n": torch.zeros(2, 1)}, ends=(FRAME,))
def states_in_a_dict():
    def forward(s, x, state):
        h = s.cell(x * torch.cos(state["n"]), state["h"])
        return {"y": s.out(h), "state": {"h": h, "n": state["n"] + 1}}

    return Call(forward, cell=nn.GRUCell(4, 5), out=nn.Linear(5, 2))


@model("a cache that is written to", ONE, torch.zeros(2, 3, 4), ends=(FRAME,))
def written_cache():
    def forward(s, x, cache):
        cache.copy_(torch.cat([cache[:, 1:], x[:, None]], 1))
        return s.out(cache.flatten(1))

    return Call(forward, out=nn.Linear(12, 2))


@model("a state that the caller leaves out", ONE, ends=(FRAME,))
def state_left_out():
    def forward(s, x: Tensor, h: Tensor | None = None):
        h = s.cell(x, x.new_zeros(x.shape[0], 5) if h is None else h)
        return s.out(h), h

    return Call(forward, cell=nn.GRUCell(4, 5), out=nn.Linear(5, 2))


class Past:
    """The last frame, as an object that calls hand on."""

    def __init__(self, last: Tensor | None = None) -> None:
        self.last = last


@model("a state in an object that the caller leaves out", ONE, ends=(FRAME,))
def object_left_out():
    def forward(s, x: Tensor, past: Any = None):
        last = torch.zeros_like(x) if past is None else past.last
        return {"y": s.out(x - last), "past": Past(x)}

    return Call(forward, out=nn.Linear(4, 2))


@model("a condition in the shape of the output, for a frame", ONE, ONE, ends=(FRAME,))
def condition_of_a_frame():
    return Call(lambda s, x, cond: torch.tanh(s.a(x) * cond), a=nn.Linear(4, 4))


@model("a condition of twelve positions in the shape of the output", FRAMES, FRAMES, ends=(FRAME, REFUSED))
def condition_of_fixed_length():
    def forward(s, x, cond):
        h = x + cond + s.table
        return (s.q(h) @ h.transpose(1, 2)).softmax(-1) @ h

    return Call(forward, table=torch.randn(12, 4), q=nn.Linear(4, 4))


@model("two microphones, speech and noise", (2, 24), (2, 24), ends=(STREAM, FRAME))
def microphones():
    def forward(s, mic, ref):
        y = s.out(s.rnn(torch.stack([mic, ref], -1))[0])
        return y[..., 0], y[..., 1]

    return Call(forward, rnn=rnn(2), out=nn.Linear(4, 2))


# --- time_axis: where time is, and where it is not -------------------------------------------------------------------


@model("a picture of bins and frames", (2, 1, 8, 12))
def picture():
    return Call(lambda s, x: s.conv(F.pad(x, (2, 0, 1, 1))), conv=nn.Conv2d(1, 2, 3))


@model("a picture and no batch axis", (8, 12), ends=(STREAM, REFUSED))
def unbatched_picture():
    return Call(lambda s, x: s.conv(x[None, None])[0, 0], conv=nn.Conv2d(1, 1, 3, padding=1))


@model("a reference of another length", FRAMES, (2, 6, 4), ends=(WHOLE, REFUSED))
def reference():
    def forward(s, x, ref):
        return s.rnn(x + s.ref(ref)[1][0][:, None])[0]

    return Call(forward, ref=rnn(4), rnn=rnn(4, bidirectional=True))


@model("samples and centred mel frames", (2, 8, 1), (2, 3, 4), ends=(REFUSED,))
def vocoder():
    def forward(s, x, mel):
        mel = mel - mel.mean(-1, keepdim=True)
        return s.rnn(torch.cat([x, s.up(mel).transpose(1, 2)], -1))[0]

    return Call(forward, up=nn.ConvTranspose1d(3, 3, 2, 2), rnn=rnn(4))


@model("a smoothing behind the mean of the batch", (3, 12, 6), ends=(STREAM, REFUSED))
def odd_order():
    def forward(s, x):
        x = x - x.mean(0, keepdim=True)
        h, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = 0.9 * h + 0.1 * x[:, t]
            out.append(h)
        return torch.stack(out, 1)

    return Call(forward)


@model("a counter of calls", (1, 12, 4), ends=(FRAME,))
def counter():
    def forward(s, x):
        s.calls = s.calls + 1
        return s.rnn(x)[0] * torch.cos(s.calls)

    return Call(forward, calls=torch.zeros(1), rnn=rnn(4))


@model("a memory that each call sums up", FRAMES, torch.zeros(2, 1, 4), states={"memory": 1}, ends=(FRAME,))
def memory_of_calls():
    def forward(s, x, memory):
        known = torch.cat([memory, x], 1)
        y = (s.q(x) @ known.transpose(1, 2)).softmax(-1) @ known
        return y, y.mean(1, keepdim=True)

    return Call(forward, q=nn.Linear(4, 4))


@model("a loop over four frames", FRAMES, ends=(FRAME, REFUSED))
def loop_over_four():
    def forward(s, x):
        h = x.new_zeros(x.shape[0], 5)
        for t in range(4):
            h = s.cell(x[:, t], h)
        return h

    return Call(forward, cell=nn.GRUCell(4, 5))


@model("windows of four frames as rows", FRAMES, ends=(REFUSED,))
def windows_as_rows():
    return Call(lambda s, x: s.rnn(x.reshape(-1, 4, 4))[0], rnn=rnn(4))


@model("the last frame behind a wrapped convolution", FRAMES, ends=(FRAME,))
def last_of_wrapped():
    def forward(s, x):
        return s.rnn(s.conv(x.transpose(1, 2)).transpose(1, 2))[0][:, -1]

    return Call(forward, conv=nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), rnn=rnn(4))


@model("lengths that a stride halves, and a mask in a loop", (1, 2, 16), torch.tensor([16]))
def mask_by_lengths():
    def forward(s, x, lengths):
        y = s.conv(x)
        gone = torch.zeros(y.shape, dtype=torch.bool)
        for i, length in enumerate((lengths - 1) // 2 + 1):
            left = y.shape[2] - length.item()
            if left > 0:
                gone[i].narrow(1, y.shape[2] - left, left).fill_(True)
        return s.rnn(y.masked_fill(gone, 0).transpose(1, 2))[0]

    return Call(forward, conv=nn.Conv1d(2, 3, 3, 2, 1), rnn=rnn(3))


# --- assume: decisions by value --------------------------------------------------------------------------------------


@model("half of what is loud", (2, 4, 2))
def louder():
    def forward(s, x):
        y = s.rnn(x)[0]
        if y.abs().max() > 2:
            y = y / 2
        return y

    return Call(forward, rnn=rnn(2))


@model("silence is answered before a bidirectional layer", (2, 4, 2), ends=(REFUSED, WHOLE, STREAM))
def silence_before_bidirectional():
    def forward(s, x):
        if x.abs().max() < 1e-3:
            return torch.zeros(x.shape[0], x.shape[1], 8)
        return s.rnn(x)[0]

    return Call(forward, rnn=rnn(2, bidirectional=True))


@model(
    "a state that starts anew where a flag says so",
    ONE,
    (2, 4),
    torch.zeros(2, 1),
    states={"h": 1},
    ends=(FRAME, REFUSED),
)
def reset():
    def forward(s, x, h, done):
        if done.any():
            h = torch.zeros_like(h)
        h = torch.tanh(s.w(x) + h)
        return 2 * h, h

    return Call(forward, w=nn.Linear(4, 4))
