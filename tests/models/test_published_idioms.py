"""Idioms of state in published models, each as small as it gets, against the model itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.export.graph.passes.foreign import infer_shapes
from rnn_export.export.graph.step import sequence_graph, step_graph
from rnn_export.onnx.graph_inspection import inspect_graph

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call, assert_streams, stepped
from .whole_streams import assert_whole

X = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0))  # (B, T, C)
IMAGE = torch.randn(2, 4, 9, 5, generator=torch.Generator().manual_seed(1))  # (B, C, T, F)


def shifted(s: nn.Module, x: Tensor) -> Tensor:
    """A temporal shift of features, one part from the next frame, one from the last."""
    out = torch.zeros_like(x)
    out[:, :-1, :2] = x[:, 1:, :2]
    out[:, 1:, 2:4] = x[:, :-1, 2:4]
    out[:, :, 4:] = x[:, :, 4:]
    return torch.tanh(s.mix(out)) + x


def emphasised(s: nn.Module, x: Tensor) -> Tensor:
    """Frames written over a value that is another one at each frame, all but the first."""
    y = x.clone()
    y[:, 1:] = x[:, 1:] - 0.9 * x[:, :-1]
    return s.gru(y)[0]


def dual_path(s: nn.Module, x: Tensor) -> Tensor:
    """A GRU over features of (batch x time) rows, from zeros that are written out; another over time."""
    rows = x.flatten(0, 1).unsqueeze(-1)
    across, _ = s.across(rows, torch.zeros(2, rows.shape[0], 2))
    return s.along(across.flatten(1).unflatten(0, x.shape[:2]))[0]


def by_bands(s: nn.Module, x: Tensor) -> Tensor:
    """A running mean of bands that stand before the batch in one axis, counted by the number of frames."""
    bands = x.transpose(1, 2)
    rows = bands.transpose(0, 1).reshape(-1, x.shape[1])
    counts = torch.arange(1, x.shape[1] + 1, dtype=x.dtype).expand_as(rows)
    return (rows.cumsum(1) / counts).reshape(x.shape[2], x.shape[0], -1).permute(1, 2, 0)


def of_batch(s: nn.Module, x: Tensor) -> Tensor:
    """The same where the batch stands before the bands."""
    rows = x.transpose(1, 2).reshape(-1, x.shape[1])
    counts = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)
    return (rows.cumsum(1) / counts).reshape(x.shape[0], x.shape[2], -1).transpose(1, 2)


def neighbours(s: nn.Module, x: Tensor) -> Tensor:
    """Bands and their neighbours, by an unfold over all frames."""
    b, c, t, f = x.shape
    bands = F.unfold(F.pad(x.transpose(2, 3), (0, 0, 1, 1), mode="reflect").reshape(b * c, 1, f + 2, t), (3, t))
    return s.gru(bands.reshape(b, c * 3, t, f).permute(0, 2, 1, 3).flatten(2))[0]


def two_lags(s: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Padding on both sides whose frames are cut off again, beside a window of another size."""
    return s.narrow(x)[..., 1:-1], s.wide(x)


MODELS = {
    "features shifted over time": (Call(shifted, mix=nn.Linear(6, 6)), X, 1),
    "frames written over a sequence": (Call(emphasised, gru=nn.GRU(6, 3, batch_first=True)), X, 1),
    "zeros for rows of batch and time": (
        Call(dual_path, across=nn.GRU(1, 2, 1, True, True, 0.0, True), along=nn.GRU(24, 3, batch_first=True)),
        X, 1,
    ),
    "bands before the batch": (Call(by_bands), X, 1),
    "bands behind the batch": (Call(of_batch), X, 1),
    "the mean of bands": (Call(lambda s, x: F.adaptive_avg_pool2d(x, (None, 1)).cumsum(2)), IMAGE, 2),
    "bands in fewer": (Call(lambda s, x: F.adaptive_avg_pool2d(x, (x.shape[2], 3)).cumsum(2)), IMAGE, 2),
    "the largest of bands": (Call(lambda s, x: F.adaptive_max_pool2d(x, (None, 1)).cumsum(2)), IMAGE, 2),
    "windows of bands": (
        Call(lambda s, x: F.unfold(x, (1, 3), padding=(0, 1)).unflatten(2, x.shape[2:]).cumsum(2)), IMAGE, 2,
    ),
    "windows of bands and frames": (
        Call(lambda s, x: F.unfold(F.pad(x, (0, 0, 1, 0)), (2, 3)).unflatten(2, (x.shape[2], 3)).cumsum(2)), IMAGE, 2,
    ),
    "windows of bands over all frames": (Call(neighbours, gru=nn.GRU(60, 3, batch_first=True)), IMAGE, 2),
    "padding that is cut off, and a later window": (
        Call(two_lags, narrow=nn.Conv1d(8, 2, 3, padding=1), wide=nn.Conv1d(8, 2, 5)), X, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "example", "axis"), MODELS.values(), ids=MODELS)
def test_idioms_over_time_are_streamed_to_the_end(model, example, axis):
    assert_whole(model, example, time_axis=axis, atol=1e-5)


@pytest.mark.parametrize("model", [Call(by_bands), Call(of_batch)], ids=["before the batch", "behind the batch"])
def test_rows_of_a_stream_are_counted_with_it_wherever_they_stand(model):
    lifted = lift(model, (X,), time_axis=1)
    early, late = torch.randn(1, 12, 6), torch.randn(1, 7, 6)
    states = stepped(lifted, early[:, :5])[1][-1]
    fresh = [lifted.initial[s.name].expand(1, *s.row) for s in lifted.spec.states]
    joined = [torch.cat(pair) for pair in zip(states, fresh, strict=True)]
    for t in range(7):
        y, *joined = lifted.step(torch.cat([early[:, 5 + t], late[:, t]])[:, None], *joined)
        want = torch.cat([model(early[:, : 6 + t])[:, -1:], model(late[:, : t + 1])[:, -1:]])
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-6)


# --- states


@dataclass(frozen=True)
class Belief:
    mean: Tensor
    memory: Tensor


class World(nn.Module):
    """A step whose state is a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, before: Belief) -> tuple[Tensor, Belief]:
        memory = self.cell(torch.cat([x, before.mean], 1), before.memory)
        after = Belief(torch.tanh(self.head(memory)), memory)
        return after.mean + x[:, :2], after


def test_a_dataclass_is_a_state_by_its_fields():
    model, x = World().eval(), torch.randn(2, 3)
    belief = Belief(torch.zeros(2, 2), torch.zeros(2, 4))
    with raises("input-comes-back", "'before.mean' (2, 2)", "0 or 1"):
        lift(model, (x, belief))
    lifted = lift(model, (x, belief), states={"before": 1})
    assert [s.name for s in lifted.spec.states] == ["before.mean", "before.memory"]
    states = [torch.zeros(2, 2), torch.zeros(2, 4)]
    for x in torch.randn(6, 2, 3):
        got, *states = lifted.step(x, *states)
        want, belief = model(x, belief)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(states, [belief.mean, belief.memory])


def test_a_bare_cell_gives_its_states():
    cell = Call(lambda s, x, h, c: s.cell(x, (h, c)), cell=nn.LSTMCell(3, 4))
    lifted = lift(cell, (torch.randn(2, 3), torch.zeros(2, 4), torch.zeros(2, 4)), states={"h": 0, "c": 1})
    assert [t.name for t in lifted.spec.outputs] == ["output0", "output1"]
    h, c, next_h, next_c = lifted.step(torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4))
    assert torch.equal(h, next_h)
    assert torch.equal(c, next_c)


# --- what is asked or refused


class Counted(nn.Module):
    """A GRU over samples that stand for frames of another input; calls are counted, and nothing reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1, dtype=torch.long))
        self.gru = nn.GRU(2, 3, batch_first=True)

    def forward(self, x: Tensor, mels: Tensor) -> Tensor:
        self.calls += 1
        return self.gru(torch.stack([x, mels[..., 2:-2].repeat_interleave(6, -1)], 2))[0]


def test_a_count_of_calls_is_no_memory_of_a_layer():
    example = torch.randn(2, 36), torch.randn(2, 10)
    lifted = lift(Counted().eval(), example)
    assert "calls" not in [s.name for s in lifted.spec.states]
    assert_streams(Counted().eval(), *example, time_axis=None)


def last_of_loop(s: nn.Module, x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[1], 3)
    for frame in x:
        h = torch.tanh(s.into(frame) + s.back(h))
    return h


def test_a_loop_whose_last_frame_alone_is_given_answers_at_each_frame():
    model, x = Call(last_of_loop, into=nn.Linear(2, 3), back=nn.Linear(3, 3)), torch.randn(7, 2, 2)
    lifted = assert_streams(model, x)
    assert lifted.spec.inputs[0].shape == ("time", "batch", 2)
    assert lifted.notes[0].startswith("'output': the answer at each frame")


def test_a_transform_of_a_whole_sequence_is_named_as_such():
    kernel = Call(
        lambda s, x: torch.fft.irfft(torch.fft.rfft(x, 2 * x.shape[1]) * s.k, 2 * x.shape[1]), k=torch.ones(1)
    )
    with raises("transform-of-length", "fft_rfft"):
        lift(kernel, (torch.randn(2, 9),), time_axis=1)


# --- graphs of sequences


def padded_in_loop(s: nn.Module, x: Tensor) -> Tensor:
    """A loop each of whose frames pads by nothing, and widens a norm to the shape of the batch."""
    x, h, ys = (
        F.normalize(F.pad(x, (0, 0, 0, 0)).unflatten(2, (2, 3)), dim=-1).flatten(2),
        x.new_zeros(x.shape[0], 6),
        [],
    )
    for t in range(x.shape[1]):
        h = s.w(h) * 0.5 + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def padded_again(s: nn.Module, x: Tensor) -> Tensor:
    """A window without padding, and its frames put behind zeros: there at once, but computed of frames to come."""
    return F.pad(s.conv(x.transpose(1, 2)), (2, 0)).transpose(1, 2) + 1


SEQUENCES = {
    "sizes made of shapes in a body": Call(padded_in_loop, w=nn.Linear(6, 6)),
    "frames held still beyond the delay": Call(padded_again, conv=nn.Conv1d(6, 6, 3)),
}


@pytest.mark.parametrize("model", SEQUENCES.values(), ids=SEQUENCES)
def test_a_sequence_graph_can_be_loaded_and_gives_what_the_model_gives(model):
    lifted, x = lift(model, (X,), time_axis=1), torch.randn(3, 11, 6)
    raw = sequence_graph(lifted)
    assert raw is not None
    inspect_graph("sequence.onnx", raw, lifted.spec, infer_shapes)
    states = {s.input: lifted.initial[s.name].expand(3, *s.row).numpy() for s in lifted.spec.states}
    got = ort.InferenceSession(raw).run(None, {"x": x.numpy(), **states})[0]
    np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=1e-5, atol=1e-5)


FAR = torch.cat([torch.linspace(-300, 300, 61), torch.tensor([1e-3, -1e-3, torch.inf, -torch.inf])])[None]
LOGARITHMS = {
    "logsigmoid": lambda s, x: F.logsigmoid(x),
    "logaddexp": lambda s, x: torch.logaddexp(x, -0.5 * x),
    "logaddexp of the same": lambda s, x: torch.logaddexp(x, x),
    "logaddexp2": lambda s, x: torch.logaddexp2(x, -x),
    "hypot": lambda s, x: torch.hypot(x, x.flip(-1)),
}


@pytest.mark.parametrize("function", LOGARITHMS.values(), ids=LOGARITHMS)
def test_exponentials_that_overflow_are_not_taken(function):
    raw = step_graph(lift(Call(function), (torch.randn(FAR.shape),), time_axis=None))
    assert raw is not None
    got = ort.InferenceSession(raw).run(None, {"x": FAR.numpy()})[0]
    np.testing.assert_allclose(got, function(None, FAR).numpy(), rtol=1e-6, atol=1e-7)


def test_a_choice_that_few_states_change_is_of_a_memory_all_the_same():
    """As a policy with discrete actions, of which noise finds one: the next state follows from input and state."""

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 8), nn.Linear(8, 3)
            self.head.bias.data[1] = 100
            self.register_buffer("h", torch.zeros(1, 1, 8))
            self.register_buffer("c", torch.zeros(1, 1, 8))

        def forward(self, x):  # (B, 4)
            y, (self.h, self.c) = self.lstm(x[None], (self.h, self.c))
            return self.head(y[0]).argmax(-1)

    assert {s.name for s in lift(Policy().eval(), (torch.randn(1, 4),)).spec.states} == {"h", "c"}


def of_old(s: nn.Module, x: Tensor) -> Tensor:
    """The first state as code of old makes it: empty, then filled."""
    h, last, ys = x.data.new(x.shape[0], 4).zero_(), torch.empty_like(x[:, 0]).fill_(1.0), []
    for frame in x.unbind(1):
        h, last = torch.tanh(s.of_x(frame * last) + s.of_h(h)), frame
        ys.append(h)
    return torch.stack(ys, 1)


def test_what_is_made_empty_and_filled_is_the_same_for_all_rows():
    spec = assert_streams(Call(of_old, of_x=nn.Linear(6, 4), of_h=nn.Linear(4, 4)), X).spec
    assert (len(spec.states), spec.rows) == (2, None)


@pytest.mark.parametrize(
    "spread",
    [
        lambda v, frames: v.unsqueeze(1).expand(-1, frames, -1),
        lambda v, frames: v.repeat(frames, 1, 1).transpose(0, 1),
        lambda v, frames: torch.tile(v[:, None], (frames, 1)),
        lambda v, frames: v[:, None].repeat_interleave(frames, 1),
    ],
    ids=["expand", "repeat", "tile", "repeat_interleave"],
)
def test_a_vector_may_be_given_to_all_frames(spread):
    def forward(s, x, v):
        return s.gru(torch.cat([x, spread(v, x.shape[1])], -1))[0]

    spec = assert_streams(Call(forward, gru=nn.GRU(8, 4, batch_first=True)), X, torch.randn(2, 2)).spec
    assert [spec.timed(t) for t in spec.inputs] == [True, False]


@lru_cache(maxsize=4)
def phases(frames: int, width: int) -> Tensor:
    return torch.arange(frames, dtype=torch.float32)[:, None].expand(frames, width)


def test_what_is_kept_by_the_number_of_frames_is_made_for_any():
    model = Call(lambda s, x: s.gru(x + torch.sin(phases(x.shape[1], 6)))[0], gru=nn.GRU(6, 4, batch_first=True))
    assert_streams(model, X)
    assert type(phases(8, 6)) is Tensor  # none of those of the export


def dual_path(s: nn.Module, x: Tensor) -> Tensor:
    """Windows that overlap, a layer inside each and one along them, added up where they were cut."""
    batch, channels, frames = x.shape
    windows = {"kernel_size": (4, 1), "padding": (4, 0), "stride": (2, 1)}
    y = F.unfold(x[..., None], **windows).reshape(batch, channels, 4, -1)
    count = y.shape[-1]
    y = s.inside(y.transpose(1, -1).reshape(batch * count, 4, channels))[0].reshape(batch, count, 4, channels)
    y = s.along(y.transpose(1, 2).reshape(batch * 4, count, channels))[0].reshape(batch, 4, count, channels)
    y = y.permute(0, 3, 1, 2).reshape(batch, channels * 4, count)
    return F.fold(y, (frames, 1), **windows).squeeze(-1)


def test_windows_are_added_up_where_padding_was_cut_off():
    layers = {name: nn.GRU(6, 6, batch_first=True) for name in ("inside", "along")}
    assert_whole(Call(dual_path, **layers), torch.randn(2, 6, 24), chunk=2)


def test_a_kernel_as_long_as_the_sequence_is_refused():
    def forward(s, x):
        decay = torch.exp(-torch.arange(x.shape[1], dtype=x.dtype)).flip(0).expand(6, 1, -1)
        return F.conv1d(F.pad(x.mT, (x.shape[1] - 1, 0)), decay, groups=6).mT

    with raises("reaches-whole-sequence"):
        lift(Call(forward), (X,), time_axis=1)


def associative_scan(operator, elements):
    """A scan after jax's: of pairs of neighbours, and of what they give."""
    count = elements[0].shape[1]
    if count < 2:
        return elements
    odd = associative_scan(operator, operator([e[:, :-1:2] for e in elements], [e[:, 1::2] for e in elements]))
    even = operator([e[:, :-1] for e in odd] if count % 2 == 0 else odd, [e[:, 2::2] for e in elements])
    even = [torch.cat([e[:, :1], rest], 1) for e, rest in zip(elements, even, strict=True)]
    pairs = [
        torch.stack([F.pad(a, (0, 0, 0, 1)), F.pad(b, (0, 0, 0, 2))[:, : a.shape[1] + 1]], 2)
        for a, b in zip(even, odd, strict=True)
    ]
    return [pair.flatten(1, 2)[:, :count] for pair in pairs]


@pytest.mark.parametrize("operators", [("linear",), ("largest",), ("linear", "largest")])
def test_a_scan_after_that_of_jax_is_the_recurrence(operators):
    def linear(a, b):
        return [b[0] * a[0], b[0] * a[1] + b[1]]

    def largest(a, b):
        return [torch.maximum(a[0], b[0]), a[1] + b[1]]

    def forward(s, x):
        kinds = [{"linear": linear, "largest": largest}[name] for name in operators]
        return sum(associative_scan(operator, (s.gate(x).sigmoid(), x))[1] for operator in kinds)

    assert_streams(Call(forward, gate=nn.Linear(6, 6)), X)


def test_windows_are_counted_in_whole_numbers():
    """A size that comes of a float has no bound in a graph, and none is opened without."""

    def forward(s, x):
        count = math.ceil(x.shape[1] / 4)
        windows = F.pad(x, (0, 0, 0, 4 * count - x.shape[1])).reshape(x.shape[0], count, 4, 6)
        return s.gru(windows.mean(2) + torch.sin(torch.arange(count, dtype=x.dtype))[:, None])[0]

    lifted = assert_whole(Call(forward, gru=nn.GRU(6, 4, batch_first=True)), X, chunk=4)
    assert all(n.target is not math.ceil for n in lifted.module.graph.nodes)
