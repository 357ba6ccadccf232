"""An axis with an end is not time: this is reported, and never silently one frame."""

from __future__ import annotations

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

X = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(0))


def gru() -> nn.GRU:
    torch.manual_seed(0)
    return nn.GRU(16, 8, batch_first=True)


def positions(frames: int) -> nn.Module:
    """A GRU behind a learned table of positions."""
    table = nn.Parameter(torch.zeros(1, frames, 16))
    return Call(lambda s, x: s.gru(x + s.table[:, : x.shape[1]])[0], gru=gru(), table=table)


def matrix(frames: int) -> nn.Module:
    """h = 0.9 h + x by a causal matrix of so many frames; its features may be of any number."""
    i = torch.arange(float(frames))
    return Call(lambda s, x: s.a[: x.shape[1], : x.shape[1]] @ x, a=torch.tril(0.9 ** (i[:, None] - i)))


@pytest.mark.parametrize("make", [positions, matrix])
@pytest.mark.parametrize("frames", [32, 33, 64, 95, 100, 500])
def test_a_table_of_positions_is_a_bound(make, frames):
    """Up to 95 the model fails on three times the example: that is no reason to take a call for a frame."""
    advice = f"max_frames={frames} " if make is positions else "time_axis=None "
    with raises("axis-with-end", "axis 1 of input 0", frames, advice):
        lift(make(frames), (X,))


@pytest.mark.parametrize("short", [7, 40])
def test_what_is_done_to_short_sequences_alone_is_no_bound(short):
    """Two, and then none, of the tried lengths are beyond it; the example is."""

    def forward(s, x):
        y = s.conv(x)
        return -y if y.shape[-1] < short else y

    model = Call(forward, conv=nn.Conv1d(1, 4, 400, stride=100))
    lifted = lift(model, (torch.randn(1, 1, 8000),), chunk=100)
    assert any(f"over fewer than {300 + 100 * short} frames the code goes another way" in n for n in lifted.notes)


def test_one_call_as_one_frame_may_be_said():
    lifted = lift(positions(64), (X,), time_axis=None)
    assert lifted.spec.inputs[0].shape == ("batch", 32, 16)
    assert lifted.notes == (
        "gru: starts anew at each call, since the model takes one frame per call and keeps no state",
    )


def test_a_layer_inside_one_call_is_asked_for():
    """The model takes no other length: the layer may be over time, or over the 32 parts of a frame."""
    model = Call(lambda s, x: s.out(s.gru(x)[0].flatten(1)), gru=gru(), out=nn.Linear(256, 4))
    with raises("recurrent-without-time", "gru", "say time_axis=None"):
        lift(model, (X,))
    assert lift(model, (X,), time_axis=None).spec.outputs[0].shape == ("batch", 4)


def test_a_table_over_another_axis_than_time_is_none_of_that():
    bands = nn.Parameter(torch.ones(16))
    model = Call(lambda s, x: s.gru(x * s.bands[: x.shape[2]])[0], gru=gru(), bands=bands)
    assert lift(model, (X,)).spec.inputs[0].shape == ("batch", "time", 16)


BANDS = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(1))


def test_bands_of_a_number_and_time():
    """Fewer of them pass, more do not: all the same the other axis is time, and the only one that can be."""
    bands = nn.Parameter(torch.ones(32))
    model = Call(
        lambda s, x: s.conv(F.pad((x * s.bands[: x.shape[2]]).unsqueeze(1), (0, 0, 2, 0)))[:, 0],
        bands=bands,
        conv=nn.Conv2d(1, 1, 3, padding=(0, 1)),
    )
    assert lift(model, (BANDS,)).spec.inputs[0].shape == ("batch", "time", 32)


def test_look_ahead_with_a_number_of_bands():
    """Either may be meant: both are said."""
    bands = nn.Parameter(torch.ones(32))
    model = Call(lambda s, x: (x - x.mean(1, keepdim=True)) * s.bands[: x.shape[2]], bands=bands)
    with raises("time-axis-undecided", "2", "0", "32", kind=LiftError):
        lift(model, (BANDS,))


def test_another_way_for_short_sequences_is_said():
    def forward(s, x):
        return s.gru(x)[0] if x.shape[1] > 50 else s.gru(2 * x)[0]

    lifted = lift(Call(forward, gru=gru()), (X,), time_axis=1)
    assert lifted.shortest == 51
    assert lifted.notes[0].startswith("over fewer than 51 frames the code goes another way (a branch on the length, or")


def test_another_way_for_all_lengths_that_are_tried_first_is_said():
    def forward(s, x):
        return s.gru(x if x.shape[1] >= 30 else x.flip(1))[0]

    assert lift(Call(forward, gru=gru()), (X,), time_axis=1).shortest == 30


def test_another_way_of_a_loop_over_few_frames_is_said():
    def forward(s, x):
        h, given = x.new_zeros(len(x), 16), []
        for frame in x.unbind(1):
            h = torch.tanh(frame + 0.5 * h)
            given.append(h)
        return torch.stack(given, 1) * (1 if len(given) > 3 else 2)

    lifted = lift(Call(forward), (X,), time_axis=1)
    assert lifted.shortest == 4
    assert lifted.notes[0].startswith("over fewer than 4 frames the code goes another way")


def test_another_way_at_some_lengths_is_refused():
    def forward(s, x):
        return s.gru(x)[0] if x.shape[1] % 3 else s.gru(2 * x)[0]

    with raises("code-changes-with-length", "axis 1 of input 0"):
        lift(Call(forward, gru=gru()), (X,), time_axis=1)


def test_padding_to_whole_windows_by_a_number():
    """As Demucs does it: rounded lengths stay symbols, so that the padding is that of any length."""

    def forward(s, x):
        frames = given = x.shape[-1]
        for _ in range(4):
            frames = max(math.ceil((frames - 8) / 4) + 1, 1)
        for _ in range(4):
            frames = (frames - 1) * 4 + 8
        x, skips = F.pad(x, (0, int(frames) - given)), []
        for down in s.down:
            x = down(x).relu()
            skips.append(x)
        for up in s.up:
            skip = skips.pop()
            x = up(x + skip[..., : x.shape[-1]]).relu()
        return x[..., :given]

    down, up = (nn.ModuleList(kind(1, 1, 8, 4) for _ in range(4)) for kind in (nn.Conv1d, nn.ConvTranspose1d))
    model = Call(forward, down=down, up=up)
    lifted = assert_whole(model, torch.randn(1, 1, 852), time_axis=2, chunk=256, lengths=range(700, 1000, 97))
    assert (lifted.spec.delay, lifted.spec.outputs[0].lengths) == (512, (0,))


def test_a_branch_that_changes_nothing_is_no_other_way():
    def forward(s, x):
        return s.gru(x)[0] if x.shape[1] > 64 else s.gru(x * 1)[0]

    assert lift(Call(forward, gru=gru()), (X,), time_axis=1).spec.inputs[0].shape == ("batch", "time", 16)


def test_a_table_of_positions_is_a_bound_where_fewer_frames_than_the_example_has_fail():
    def forward(s, x):
        y = x + s.table[:, : x.shape[1]]
        return s.mix(y + F.pad(y, (0, 0, 32, -32)))

    model = Call(forward, table=nn.Parameter(torch.zeros(1, 64, 16)), mix=nn.Linear(16, 4))
    with raises("axis-with-end", "1", "0", "64"):
        lift(model, (X,))


class Rows(nn.Module):
    """A loop that reads a table by its number, in several ways."""

    def __init__(self, read: str, by_frame: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pos, self.scale = nn.Parameter(torch.randn(60, 4)), nn.Parameter(torch.randn(60))
        self.linear, self.read, self.by_frame = nn.Linear(4, 4), read, by_frame

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        axis = 0 if self.by_frame else 1
        h, ys = torch.zeros(x.shape[1 - axis], 4), []
        rows = self.pos if self.read == "zip" else self.pos[: x.shape[axis]]
        for t, (frame, row) in enumerate(zip(x.unbind(axis), rows, strict=self.read != "zip")):
            taken = {"zip": row, "row": self.pos[t], "cut": rows[t]}[self.read]
            h = torch.tanh(self.linear(h) * self.scale[t] + frame + taken)
            ys.append(h)
        return torch.stack(ys, axis)


@pytest.mark.parametrize("read", ["zip", "row", "cut"])
@pytest.mark.parametrize("by_frame", [False, True])
def test_a_loop_reads_a_table_by_its_number(read, by_frame):
    x = torch.randn(12, 1, 4) if by_frame else torch.randn(1, 12, 4)
    lifted = assert_whole(Rows(read, by_frame), x, lengths=range(55, 61), max_frames=60)
    assert lifted.spec.max_frames == 60


def test_a_table_that_a_loop_leaves_is_a_bound():
    def forward(s, x):
        h, ys = torch.zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = torch.tanh(s.linear(h) + x[:, t] + s.pos[t])
            ys.append(h)
        return torch.stack(ys, 1)

    model = Call(forward, linear=nn.Linear(4, 4), pos=torch.randn(60, 4))
    with raises("axis-with-end", "60", "the loop fails at test_bounded.py:", "(index 60"):
        lift(model, (torch.randn(1, 12, 4),))


@pytest.mark.parametrize("last", [False, True])
def test_a_loop_written_out_over_a_fixed_axis_is_asked_about(last):
    def forward(s, x):
        h, ys = torch.zeros(x.shape[0], 4), []
        for t in range(8):
            h = torch.tanh(s.cell(h) + x[:, t])
            ys.append(h)
        return h if last else torch.stack(ys, 1)

    model, x = Call(forward, cell=nn.Linear(4, 4)), torch.randn(1, 8, 4)
    with raises("nothing-kept-in-loop", "cell (test_bounded.py"):
        lift(model, (x,))
    assert not lift(model, (x,), time_axis=None).spec.states


def test_weights_that_are_used_again_on_other_entries_are_no_loop():
    """Each entry of itself alone, or fewer times than there are entries."""
    each = Call(lambda s, x: torch.stack([s.w(x[:, t]) for t in range(8)], 1).flatten(1), w=nn.Linear(4, 4))
    assert not lift(each, (torch.randn(1, 8, 4),)).spec.has_time
    twice = Call(lambda s, x: s.w(s.w(x.flatten(1))), w=nn.Linear(32, 32))
    assert not lift(twice, (torch.randn(1, 8, 4),)).spec.has_time


def stacked(frames):
    """A loop over so many frames of the code's own."""

    def forward(s, x):
        h, ys = torch.zeros(x.shape[0], 4), []
        for t in range(frames):
            h = s.cell(x[:, t], h)
            ys.append(h)
        return torch.stack(ys, 1)

    return Call(forward, cell=nn.GRUCell(4, 4))


@pytest.mark.parametrize("example", [8, 12])
def test_a_loop_over_a_number_of_frames_of_its_own_is_told(example):
    x = torch.randn(1, example, 4)
    place = "axis 1 of input 'x'"
    with raises("first-frames-alone", 2 * example, place, 8, "range(8)", "x.shape[1]", "time_axis=None"):
        lift(stacked(8), (x,))
    with raises("output-of-first-frames"):
        lift(stacked(8), (x,), time_axis=1)
    assert not lift(stacked(8), (x,), time_axis=None).spec.states


def summed(s, x):
    """Weights are in no part of it."""
    h, ys = torch.zeros(x.shape[0], 4), []
    for t in range(12):
        h = 0.9 * h + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


FIXED = {
    "a loop": lambda: Call(summed),
    "a table of its length": lambda: Call(
        lambda s, x: s.conv(F.pad((x + s.table).transpose(1, 2), (2, 0))).transpose(1, 2),
        conv=nn.Conv1d(4, 4, 3),
        table=torch.randn(12, 4),
    ),
    "windows": lambda: Call(
        lambda s, x: s.conv((x + s.table).transpose(1, 2)).transpose(1, 2),
        conv=nn.Conv1d(4, 4, 3),
        table=torch.randn(12, 4),
    ),
    "a mask": lambda: Call(lambda s, x: s.mask @ x, mask=torch.tril(torch.ones(12, 12))),
    "a layer": lambda: Call(
        lambda s, x: s.gru(x + s.table)[0], gru=nn.GRU(4, 4, batch_first=True), table=torch.randn(12, 4)
    ),
}


@pytest.mark.parametrize("case", FIXED)
def test_what_goes_as_time_along_an_axis_of_fixed_size_is_asked_about(case):
    """All but the layer was taken for one call a frame without a word."""
    model, x = FIXED[case](), torch.randn(1, 12, 4)
    names = {"a layer": "recurrent-without-time", "a mask": "axis-of-fixed-length"}
    with raises(names.get(case, "nothing-kept-fixed-length"), "axis 1 of input 'x'", 12, "time_axis=None"):
        lift(model, (x,))
    assert not lift(model, (x,), time_axis=None).spec.states


@pytest.mark.parametrize(
    "make",
    [
        lambda: Call(lambda s, x: s.net(x.flatten(1)).unflatten(1, (12, 4)), net=nn.Linear(48, 48)),
        lambda: Call(lambda s, x: s.net(x + s.table), net=nn.Linear(4, 4), table=torch.randn(12, 4)),
    ],
)
def test_entries_that_are_separate_or_all_together_are_one_frame(make):
    assert not lift(make(), (torch.randn(1, 12, 4),)).spec.has_time
