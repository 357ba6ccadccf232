"""A cell in the model's own loop over time, in any form, is rolled up; other loops are refused."""

import pytest
import torch
from torch import Tensor, nn

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .nets import (
    ConvThenLoop,
    LoopAfterLoop,
    LSTMCellLoop,
    MinimalGatedLoop,
)
from .streams import Call, assert_streams

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def cell() -> nn.GRUCell:
    return nn.GRUCell(4, 5)


def zeros(x: Tensor, size: int = 5) -> Tensor:
    return x.new_zeros(x.shape[0], size)


def moved(s, frame, h):
    return torch.tanh(s.inner(frame) + 0.5 * h)


def by_range(s, x):
    h, ys = zeros(x), []
    for t in range(x.shape[1]):
        h = moved(s, x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def by_split(s, x):
    h, ys = zeros(x), []
    for frame in x.split(1, 1):
        h = moved(s, frame.squeeze(1), h)
        ys.append(h.unsqueeze(1))
    return torch.cat(ys, 1)


def by_slice(s, x):
    h, ys = zeros(x), []
    for t in range(x.shape[1]):
        h = moved(s, x[:, t : t + 1, :].squeeze(1), h)
        ys.append(h[:, None])
    return torch.cat(ys, dim=1)


def by_enumerate(s, x):
    h, ys = zeros(x), x.new_zeros(x.shape[0], x.shape[1], 5)
    for t, frame in enumerate(x.unbind(1)):
        h = moved(s, frame, h)
        ys[:, t, :] = h
    return ys


def by_iteration(s, x):
    """Over axis 0, as Python iterates a tensor."""
    h, ys = x.new_zeros(x.shape[1], 5), []
    for frame in x:
        h = moved(s, frame, h)
        ys.append(h)
    return torch.stack(ys)


def range_of_axis_0(s, x):
    h, ys = x.new_zeros(x.shape[1], 5), []
    for t in range(x.shape[0]):
        h = moved(s, x[t], h)
        ys.append(s.head(h))
    return torch.stack(ys, 0)


def by_while(s, x):
    h, ys, t = zeros(x), [], 0
    while t < x.shape[1]:
        h = moved(s, x[:, t], h)
        ys.append(h)
        t += 1
    return torch.stack(ys, 1)


def of_two_frames(s, x):
    a, b, ys = zeros(x), zeros(x), []
    for t in range(x.shape[1]):
        new = torch.tanh(s.linear(x[:, t]) + 0.5 * a - 0.3 * b)
        a, b = new, a
        ys.append(new)
    return torch.stack(ys, 1)


def of_layers(s, x):
    h, ys = [zeros(x, 4) for _ in s.cells], []
    for t in range(x.shape[1]):
        y = x[:, t]
        for i, layer in enumerate(s.cells):
            h[i] = layer(y, h[i])
            y = h[i]
        ys.append(y)
    return torch.stack(ys, 1)


def from_none(s, x):
    h, ys = None, []
    for frame in x.unbind(1):
        h = s.cell(frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


def learned(s, x):
    h, ys = s.h0, []
    for t in range(x.shape[1]):
        h = torch.tanh(s.i(x[:, t]) + s.r(h))
        ys.append(h)
    return torch.stack(ys, 1)


def two_outputs(s, x):
    h, ys, zs = zeros(x), [], []
    for frame in x.unbind(1):
        h = moved(s, frame, h)
        ys.append(h)
        zs.append(s.head(h).sigmoid())
    return torch.stack(ys, 1), torch.stack(zs, 1)


def last_only(s, x):
    h = zeros(x)
    for frame in x.unbind(1):
        h = s.cell(frame, h)
    return s.head(h)


def last_of_hand(s, x):
    h = zeros(x)
    for frame in x.unbind(1):
        h = torch.tanh(s.inner(frame) + s.h(h))
    return s.head(h)


def given_back(s, x):
    """The input before is what is remembered, and given at the end for a call to come."""
    before, h, ys = zeros(x, 4), zeros(x), []
    for t in range(x.shape[1]):
        h = moved(s, x[:, t] + torch.relu(before), h)
        before = x[:, t]
        ys.append(h)
    return torch.stack(ys, 1), before


def joined_after(s, x):
    h, ys = zeros(x), []
    for frame in x.unbind(1):
        h = moved(s, frame, h)
        ys.append(h)
    return torch.cat([y.unsqueeze(1) for y in ys], 1)


def behind_its_start(s, x):
    """Two values at once, joined behind what they start from, which the cut leaves out."""
    h = torch.zeros(2, x.shape[0], 5)
    states = [h]
    for frame in x.unbind(1):
        new = moved(s, frame, h[0])
        h = torch.stack([new, new / 2 + h[1] * 0.3])
        states.append(h)
    return torch.stack(states)[1:, 0].transpose(0, 1)


def written_behind_its_start(s, x):
    """As an sLSTM keeps its states: all of them in one tensor, of which one is given."""
    states = torch.zeros(2, x.shape[1] + 1, x.shape[0], 5)
    h = states[:, 0]
    for t in range(x.shape[1]):
        new = moved(s, x[:, t], h[0])
        h = torch.stack([new, new / 2 + h[1] * 0.3])
        states[:, t + 1] = h
    return states[0][1:].transpose(0, 1)


def read_from_what_is_written(s, x):
    h = torch.zeros(x.shape[0], x.shape[1] + 1, 5)
    for t in range(x.shape[1]):
        h[:, t + 1] = moved(s, x[:, t], h[:, t].clone())
    return h[:, 1:]


TAPS = nn.Parameter(torch.tensor([[0.3], [-0.5], [0.0]]))


def filter_of_windows(s, x):
    """As torchaudio filters: a window of what was put out, of which the newest frame is not there yet."""
    y = torch.zeros(x.shape[0], x.shape[1] + 2, x.shape[2])
    for t in range(x.shape[1]):
        y[:, t + 2] = x[:, t] - (y[:, t : t + 3] * s.taps).sum(1)
    return y[:, 2:]


def two_sequences(s, x):
    """Over the input and what is computed of all of it, frame by frame."""
    y, h, out = torch.relu(s.linear(x)), zeros(x), []
    for a, b in zip(x.unbind(1), y.unbind(1), strict=True):
        h = moved(s, a, h) * b.mean(1, keepdim=True)
        out.append(h)
    return torch.stack(out, 1)


def buffered(s, x):
    ys = []
    for frame in x.unbind(1):
        s.h = moved(s, frame, s.h)
        ys.append(s.h)
    return torch.stack(ys, 1)


def feedback(s, x):
    """The output is fed back."""
    h, y, ys = zeros(x), zeros(x, 4), []
    for t in range(x.size(1)):
        h = s.cell(x[:, t] + y, h)
        y = torch.tanh(s.head(h))
        ys.append(y)
    return torch.stack(ys, dim=1)


def body(**parts) -> dict[str, nn.Module]:
    return {"inner": nn.Linear(4, 5), **parts}


HEAD = {"head": nn.Linear(5, 4)}
CELLS = {"cells": nn.ModuleList([nn.GRUCell(4, 4), nn.GRUCell(4, 4)])}
LEARNED = {"i": nn.Linear(4, 5), "r": nn.Linear(5, 5), "h0": nn.Parameter(torch.randn(1, 5))}
# By model, example, options, and the states.
LOOPS = {
    "by range": (Call(by_range, **body()), X, {}, ["state"]),
    "by split": (Call(by_split, **body()), X, {}, ["state"]),
    "by slice": (Call(by_slice, **body()), X, {}, ["state"]),
    "by enumerate, written into": (Call(by_enumerate, **body()), X, {}, ["state"]),
    "by iteration": (Call(by_iteration, **body()), X.transpose(0, 1), {}, ["state"]),
    "by range of axis 0": (Call(range_of_axis_0, **body(**HEAD)), X.transpose(0, 1), {}, ["state"]),
    "by while": (Call(by_while, **body()), X, {}, ["state"]),
    "in chunks": (Call(by_range, **body()), X, {"chunk": 3}, ["state"]),
    "two outputs": (Call(two_outputs, **body(**HEAD)), X, {}, ["state"]),
    "two sequences": (Call(two_sequences, **body(linear=nn.Linear(4, 4))), X, {}, ["state"]),
    "only the last": (Call(last_only, cell=cell(), **HEAD), X, {"time_axis": 1}, ["cell.l0.h"]),
    "only the last, through what the body has too": (
        Call(last_of_hand, **body(h=nn.Linear(5, 5), **HEAD)),
        X,
        {"time_axis": 1},
        ["h.state"],
    ),
    "the last input, given back": (Call(given_back, **body()), X, {}, ["state", "call1.state"]),
    "joined afterwards": (Call(joined_after, **body()), X, {}, ["state"]),
    "behind its start": (Call(behind_its_start, **body()), X, {}, ["state", "call1.state"]),
    "written behind its start": (Call(written_behind_its_start, **body()), X, {}, ["state", "call1.state"]),
    "read from what is written": (Call(read_from_what_is_written, **body()), X, {}, ["state"]),
    "a filter of windows": (Call(filter_of_windows, taps=TAPS), X, {}, ["state", "call1.state"]),
    "a buffer": (Call(buffered, **body(h=torch.full((1, 5), 0.5))), X[:1], {}, ["h"]),
    "a memory of two frames": (Call(of_two_frames, linear=nn.Linear(4, 5)), X, {}, ["state", "call1.state"]),
    "a learned start": (Call(learned, **LEARNED), X, {}, ["r.state"]),
    "with one gate": (MinimalGatedLoop(), X, {}, ["Uf.state"]),
    "an LSTM cell": (LSTMCellLoop(), X, {}, ["cell.l0.h", "cell.l0.c"]),
    "a cell from None": (Call(from_none, cell=cell()), X, {}, ["cell.l0.h"]),
    "of layers": (Call(of_layers, **CELLS), X, {}, ["cells.0.l0.h", "cells.1.l0.h"]),
    "loop after loop": (LoopAfterLoop(), X, {}, ["first.l0.h", "second.l0.h"]),
    "what was put out": (Call(feedback, cell=cell(), **HEAD), X, {}, ["state", "cell.l0.h"]),
    "in chunks, behind a convolution": (ConvThenLoop(), X, {"chunk": 4}, ["conv.frames", "cell.l0.h"]),
}


@pytest.mark.parametrize(("model", "example", "options", "states"), LOOPS.values(), ids=LOOPS)
def test_a_loop_is_one_body(model, example, options, states):
    lifted = assert_streams(model.eval(), example, **options)
    assert [s.name for s in lifted.spec.states] == states
    assert (lifted.has_loop, lifted.dynamic_time) == (True, True)


def test_where_a_loop_starts_is_stored():
    """The state may hold the body's value of the start alone."""
    lifted = lift(Call(learned, **LEARNED), (X,))
    assert [(s.initial, o.kind) for s, o in zip(lifted.spec.states, lifted.origins, strict=True)] == [
        ("stored", "loop")
    ]


# --- refusals -----------------------------------------------------------------------------------------------------


def backwards(s, x):
    h, ys = zeros(x), []
    for t in reversed(range(x.shape[1])):
        h = moved(s, x[:, t], h)
        ys.append(h)
    return torch.stack(ys[::-1], 1)


def every_other(s, x):
    h, ys = zeros(x), []
    for t in range(x.shape[1]):
        if t % 2 == 0:
            h = moved(s, x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def third_alone(s, x):
    h, ys = zeros(x), []
    for frame in x.unbind(1):
        h = moved(s, frame, h)
        ys.append(h)
    return torch.stack(ys, 1) + ys[2][:, None]


def without_the_first(s, x):
    h, ys = zeros(x), []
    for t in range(1, x.shape[1]):
        h = moved(s, x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def whole_at_each(s, x):
    h, ys = zeros(x), []
    for frame in x.unbind(1):
        h = moved(s, frame + x.mean(1), h)
        ys.append(h)
    return torch.stack(ys, 1)


def from_the_input(s, x):
    h, ys = s.start(x[:, -1]), []
    for frame in x.unbind(1):
        h = moved(s, frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


def decides(s, x):
    h, ys = zeros(x), []
    for frame in x.unbind(1):
        if frame.abs().max() < 100:
            h = moved(s, frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


AT = "(test_loops.py:"
REFUSED = {
    "backwards": (Call(backwards, **body()), ("loop-looks-ahead", AT)),
    "every other frame": (Call(every_other, **body()), ("loop-body-unlike", AT)),
    "a single frame": (Call(third_alone, **body()), ("not-frame-local", "it takes the frames of the sequence apart")),
    "part of the frames": (Call(without_the_first, **body()), ("loop-frames-unlike", AT)),
    "a start from the input": (Call(from_the_input, **body(), start=nn.Linear(4, 5)), ("computed-initial-state",)),
    "the whole at each frame": (Call(whole_at_each, **body()), ("loop-takes-whole-sequence", AT)),
    "a decision": (Call(decides, **body()), ("decided-by-value", "test_loops.py:")),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_loop_over_all_frames_is_refused(model, message):
    with raises(*message):
        lift(model, (X,), time_axis=1)


def test_a_loop_with_len_streams_row_by_row():
    def with_len(s, x):
        h, ys = torch.zeros(len(x), 5), []
        for t in range(x.shape[1]):
            h = moved(s, x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)

    assert lift(Call(with_len, **body()).eval(), (X,), time_axis=1).spec.rows == 1
