"""A cell in the model's own loop over time, in any form, is rolled up; other loops are refused."""

import torch
from torch import nn
from torch._higher_order_ops import while_loop
from torch._higher_order_ops.scan import scan

from ..models.nets import ConvThenLoop, LoopAfterLoop, LSTMCellLoop, MinimalGatedLoop  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def zeros(x, size=5):
    return x.new_zeros(x.shape[0], size)


def looped(x, step, h):
    """The state behind each frame."""
    ys = []
    for frame in x.unbind(1):
        h = step(frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


def moved(s, frame, h):
    return torch.tanh(s.inner(frame) + 0.5 * h)


def by_range(s, x):
    h, ys = zeros(x), []
    for t in range(x.shape[1]):
        h = moved(s, x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def by_split(s, x):
    """Joined afterwards."""
    h, ys = zeros(x), []
    for frame in x.split(1, 1):
        h = moved(s, frame.squeeze(1), h)
        ys.append(h)
    return torch.cat([y.unsqueeze(1) for y in ys], 1)


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
        ys.append(s.head(h))
    return torch.stack(ys)


def by_while_with_two_outputs(s, x):
    h, ys, zs, t = zeros(x), [], [], 0
    while t < x.shape[1]:
        h = moved(s, x[:, t], h)
        ys.append(h)
        zs.append(s.head(h).sigmoid())
        t += 1
    return torch.stack(ys, 1), torch.stack(zs, 1)


def of_two_frames(s, x):
    a, b, ys = zeros(x), zeros(x), []
    for t in range(x.shape[1]):
        a, b = torch.tanh(s.inner(x[:, t]) + 0.5 * a - 0.3 * b), a
        ys.append(a)
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


def two_values(s, frame, h):
    new = moved(s, frame, h[0])
    return torch.stack([new, new / 2 + h[1] * 0.3])


def behind_its_start(s, x):
    """Two values at once, joined behind what they start from, which the cut leaves out."""
    states = [torch.zeros(2, x.shape[0], 5)]
    for frame in x.unbind(1):
        states.append(two_values(s, frame, states[-1]))
    return torch.stack(states)[1:, 0].transpose(0, 1)


def written_behind_its_start(s, x):
    """As an sLSTM keeps its states: all of them in one tensor, of which one is given."""
    states = torch.zeros(2, x.shape[1] + 1, x.shape[0], 5)
    h = states[:, 0]
    for t in range(x.shape[1]):
        h = two_values(s, x[:, t], h)
        states[:, t + 1] = h
    return states[0][1:].transpose(0, 1)


def read_from_what_is_written(s, x):
    h = torch.zeros(x.shape[0], x.shape[1] + 1, 5)
    for t in range(x.shape[1]):
        h[:, t + 1] = moved(s, x[:, t], h[:, t].clone())
    return h[:, 1:]


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


def crossed(s, x):
    """Operators whose results a start of zeros hides."""
    h, state, ys = zeros(x, 3), torch.zeros(x.shape[0], 3, 3), []
    for v in x.unbind(1):
        h = torch.tanh(torch.linalg.cross(h, v) + v)
        state = 0.5 * state + torch.einsum("bi,bj->bij", v, h - torch.einsum("bij,bi->bj", state, v))
        ys.append(torch.einsum("bij,bi->bj", state, v) * 0.1)
    return torch.stack(ys, 1)


def scanned(s, x):
    def step(carried, frame):
        h, total = carried
        h = moved(s, frame, h)
        return (h, total + h), (h + total, h.clone())

    ys, zs = scan(step, (zeros(x), zeros(x)), x, dim=1)[1]
    return ys.movedim(0, 1), zs.movedim(0, 1)


def solved(s, x, most):
    """A fixed point, some times closer to it."""

    def body(i, h):
        return i + 2, torch.tanh(s.l(h) + x)

    return s.g(while_loop(lambda i, h: i < most, body, (torch.tensor(0), torch.zeros_like(x)))[1])[0]


# --- refused


def backwards(s, x):
    h, ys = zeros(x), []
    for t in reversed(range(x.shape[1])):
        h = moved(s, x[:, t], h)
        ys.append(h)
    return torch.stack(ys[::-1], 1)


def third_alone(s, x):
    ys = by_range(s, x)
    return ys + ys.unbind(1)[2][:, None]


def without_the_first(s, x):
    h, ys = zeros(x), []
    for t in range(1, x.shape[1]):
        h = moved(s, x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def decides(s, x):
    h, ys = zeros(x), []
    for frame in x.unbind(1):
        if frame.abs().max() < 100:
            h = moved(s, frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


def by_while_loop(s, x):
    T = x.shape[1]

    def body(t, h, out):
        h = moved(s, torch.index_select(x, 1, t.reshape(1)).squeeze(1), h)
        return t + 1, h, out.index_copy(1, t.reshape(1), h[:, None])

    start = (torch.zeros((), dtype=torch.long), zeros(x), x.new_zeros(x.shape[0], T, 5))
    return while_loop(lambda t, h, out: t < T, body, start)[2]


def by_len(s, x):
    return looped(x, lambda frame, h: moved(s, frame, h), torch.zeros(len(x), 5))


def loop(function, example=X, **parts):
    return case(Call(function, inner=nn.Linear(4, 5), **parts), example)


def rolled(given, *states, **expected):
    """One loop of any length was lifted; with end=False, what is given of the last frame is looked at too."""
    return given.streams(
        states=states or None, holds=lambda lifted: lifted.has_loop and lifted.dynamic_time, **expected
    )


def refused(function, id, *values, **parts):
    return case(Call(function, inner=nn.Linear(4, 5), **parts), X, time_axis=1).refused(id, *values)


def cell():
    return nn.GRUCell(4, 5)


AT, HEAD, CELLS = "(loops.py:", nn.Linear(5, 4), nn.ModuleList(nn.GRUCell(4, 4) for _ in range(2))
LEARNED = {"r": nn.Linear(5, 5), "h0": nn.Parameter(torch.randn(1, 5))}
TAPS = nn.Parameter(torch.tensor([[0.3], [-0.5], [0.0]]))
COUNTED = {"l": nn.Linear(4, 4), "g": nn.GRU(4, 4, batch_first=True)}
TABLE = {
    "a loop is one body": {
        "by range": rolled(loop(by_range), "state"),
        "without the first frame": rolled(loop(without_the_first), lengths=range(3, 12)),
        "by enumerate, written into": rolled(loop(by_enumerate), "state"),
        "by split": rolled(loop(by_split), "state"),
        "by slice": rolled(loop(by_slice), "state"),
        "by iteration": rolled(loop(by_iteration, X.transpose(0, 1), head=HEAD), "state"),
        "by while, two outputs": rolled(loop(by_while_with_two_outputs, head=HEAD), "state"),
        "in chunks, behind a convolution": rolled(case(ConvThenLoop, X, chunk=4), "conv.frames", "cell.l0.h"),
        "two sequences": rolled(loop(two_sequences, linear=nn.Linear(4, 4)), "state"),
        "behind its start": rolled(loop(behind_its_start), "state", "call1.state"),
        "written behind its start": rolled(loop(written_behind_its_start), "state", "call1.state"),
        "read from what is written": rolled(loop(read_from_what_is_written), "state"),
        "an operator": rolled(loop(scanned), "state", "call1.state"),
    },
    "what a loop carries is a state": {
        "a learned start": case(
            Call(lambda s, x: looped(x, lambda f, h: torch.tanh(s.i(f) + s.r(h)), s.h0), i=nn.Linear(4, 5), **LEARNED),
            X,
        ).streams(
            # It may hold the body's value of the start alone.
            states=[("r.state", (5,), "stored")],
            holds=lambda lifted: [origin.kind for origin in lifted.origins] == ["loop"],
        ),
        "the last input, given back": rolled(loop(given_back), "state", "call1.state", end=False),
        "only the last": rolled(case(Call(last_only, cell=cell(), head=HEAD), X, time_axis=1), "cell.l0.h", end=False),
        "only the last, through what the body has too": rolled(
            case(Call(last_of_hand, inner=nn.Linear(4, 5), h=nn.Linear(5, 5), head=HEAD), X, time_axis=1),
            "h.state",
            end=False,
        ),
        "a filter of windows": rolled(loop(filter_of_windows, taps=TAPS), "state", "call1.state"),
        "a buffer": rolled(loop(buffered, X[:1], h=torch.full((1, 5), 0.5)), "h", end=False),
        "two frames": rolled(loop(of_two_frames), "state", "call1.state"),
        "with one gate": rolled(case(MinimalGatedLoop, X), "Uf.state"),
        "an LSTM cell": rolled(case(LSTMCellLoop, X), "cell.l0.h", "cell.l0.c"),
        "a cell from None": rolled(loop(lambda s, x: looped(x, s.cell, None), cell=cell()), "cell.l0.h"),
        "of layers": rolled(loop(of_layers, cells=CELLS), "cells.0.l0.h", "cells.1.l0.h"),
        "loop after loop": rolled(case(LoopAfterLoop, X), "first.l0.h", "second.l0.h"),
        "what was put out": rolled(loop(feedback, cell=cell(), head=HEAD), "state", "cell.l0.h"),
    },
    "rows of a loop": {
        "len of them": loop(by_len).streams(holds=lambda lifted: lifted.spec.rows is None),
        "zeros hide none": case(Call(crossed), X[..., :3], time_axis=1).streams(
            holds=lambda lifted: lifted.spec.rows is None
        ),
    },
    "what is no loop over all frames is refused": {
        "a single frame": refused(third_alone, "not-frame-local", "it takes the frames of the sequence apart"),
        "the whole at each frame": refused(
            lambda s, x: looped(x, lambda f, h: moved(s, f + x.mean(1), h), zeros(x)), "loop-takes-whole-sequence", AT
        ),
        "backwards": refused(backwards, "loop-looks-ahead", AT),
        "a start from the input": refused(
            lambda s, x: looped(x, lambda f, h: moved(s, f, h), s.start(x[:, -1])),
            "computed-initial-state",
            start=nn.Linear(4, 5),
        ),
        "a decision": refused(decides, "decided-by-value", "loops.py:"),
        "while_loop over the frames": refused(by_while_loop, "while-loop-by-value", f"the model {AT}", 256),
    },
    "a while_loop with constants is its iterations one after the other": {
        "three": case(Call(lambda s, x: solved(s, x, 5), **COUNTED), X, time_axis=1).streams(
            states=["g.l0.h"],
            holds=lambda lifted: sum("tanh" in str(n.target) for n in lifted.module.graph.nodes) == 3,
        ),
        "more than a graph can hold": case(Call(lambda s, x: solved(s, x, 516), **COUNTED), X, time_axis=1).refused(
            "while-loop-by-value", "loops.py"
        ),
    },
}
