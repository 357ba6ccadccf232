"""Running sums, counts, positions and parallel scans as streams, against the model on the whole sequence."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.export.lift.model.torch_driver import torch_driver

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from . import scan_nets
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def conv() -> nn.Conv1d:
    return nn.Conv1d(4, 4, 3)


def numbers(x, axis: int = 1):
    return torch.arange(x.shape[axis])


def of_valid(s, x):
    y = s.c(x.mT)
    return (y.cumsum(2) / torch.arange(1, y.shape[2] + 1)).mT


def of_strided(s, x):
    y = nn.functional.conv1d(x.mT, s.c.weight[..., :2], stride=2)
    return (y.cumsum(2) / (numbers(y, 2) + 1)).mT


def of_valid_and_strided(s, x):
    y = nn.functional.conv1d(x.mT, s.c.weight, stride=2)
    return (y.cumsum(2) / torch.arange(1, y.shape[2] + 1)).mT


def periodic(s, x):
    return x * (numbers(x) % 3 == 0)[:, None]


# By name: the model, its options, and the states that it has, without their paths.
MODELS = {
    "sum": (lambda s, x: x.cumsum(1), {}, ["sum"]),
    "sum of wholes": (lambda s, x: (x > 0).cumsum(1), {}, ["sum"]),
    "product": (lambda s, x: torch.sigmoid(x + 3).cumprod(1), {"chunk": 2}, ["product"]),
    "maximum": (lambda s, x: x.cummax(1).values, {}, ["max"]),
    "minimum": (lambda s, x: torch.cummin(x, -2), {"chunk": 4}, ["min", "at", "frame"]),
    "log of a sum": (lambda s, x: (5 * x).logcumsumexp(1), {}, ["largest", "sum"]),
    "sum of a late value": (lambda s, x: s.c(x.mT).cumsum(2).mT, {}, ["frames", "sum", "warm_up"]),
    "sum in chunks of a late value": (
        lambda s, x: s.c(x.mT).cumsum(2).mT,
        {"chunk": 4},
        ["frames", "delay", "sum", "warm_up"],
    ),
    "sum of ones": (lambda s, x: x / torch.ones_like(x).cumsum(1), {}, ["frame"]),
    "mean": (lambda s, x: x.cumsum(1) / (numbers(x) + 1)[:, None], {"chunk": 3}, ["frame", "sum"]),
    "mean of a late value": (of_valid, {}, ["frames", "frame", "sum", "warm_up", "delay"]),
    "mean of a late value of half the frames": (
        of_valid_and_strided,
        {"chunk": 2},
        ["frames", "frame", "sum", "warm_up", "delay"],
    ),
    "every third frame": (periodic, {}, ["frame"]),
    "a table looked up periodically": (lambda s, x: x + s.e(numbers(x) % 7), {}, ["frame"]),
    "numbers of each row": (lambda s, x: x + s.e(numbers(x).expand(len(x), -1) % 7), {}, ["frame"]),
    "the first frames masked": (lambda s, x: x.masked_fill(numbers(x)[None, :, None] < 4, 0.5), {}, ["frame"]),
    "zeros filled": (lambda s, x: x + torch.zeros(x.shape[1], 4).add(numbers(x)[:, None]), {}, ["frame"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_stream_gives_what_the_model_gives(name):
    forward, options, states = MODELS[name]
    model = Call(forward, c=conv(), e=nn.Embedding(7, 4))
    lifted = assert_whole(model, X, time_axis=1, **options)
    assert sorted(s.name.rpartition(".")[2] for s in lifted.spec.states) == sorted(states)


def test_time_first():
    model = Call(lambda s, x: x.cumsum(0) / torch.arange(1, x.shape[0] + 1).view(-1, 1, 1))
    assert_whole(model, X.transpose(0, 1), time_axis=0)


SCANS = {
    "minGRU": (scan_nets.MinGRU(), {}),
    "minGRU from a state": (scan_nets.MinGRUFromState(), {}),
    "logarithms alone": (
        Call(lambda s, x: (a := (-x.exp()).cumsum(1)) + (x - a).logcumsumexp(1)),
        {"lengths": range(1, 6)},
    ),
    "products": (
        Call(lambda s, x: (p := torch.sigmoid(x + 2).cumprod(1)) * (x / p).cumsum(1)),
        {"lengths": range(1, 6), "atol": 1e-4},
    ),
    "a sum of logarithms and its exponential": (
        Call(lambda s, x: (a := F.logsigmoid(x + 2).cumsum(1)).exp() * (x * (-a).exp()).cumsum(1)),
        {"lengths": range(1, 6), "atol": 1e-4},
    ),
    "an inverse, written twice": (
        Call(lambda s, x: (x * (x + 2).sigmoid().cumprod(1).reciprocal()).cumsum(1) * (x + 2).sigmoid().cumprod(1)),
        {"lengths": range(1, 6), "atol": 1e-4},
    ),
    "doubling": (scan_nets.ParallelScan(), {}),
    "associative_scan": (scan_nets.AssociativeScan(), {}),
}


@pytest.mark.parametrize("name", SCANS)
def test_a_parallel_scan_is_the_recurrence(name):
    model, options = SCANS[name]
    lifted = assert_whole(model, X, time_axis=1, **options)
    carried = [s.name for s in lifted.spec.states if s.name not in ("iteration",)]
    assert len(carried) == 1, carried


@pytest.mark.parametrize("scan", [scan_nets.doubled, scan_nets.filled_up, scan_nets.halved], ids=lambda f: f.__name__)
def test_passes_over_the_sequence_are_the_recurrence_that_their_values_show(scan):
    lifted = assert_whole(scan_nets.Passes(scan), X, time_axis=1)
    assert [s.name for s in lifted.spec.states] == ["h", "call1.h"]


def test_passes_that_compute_no_recurrence_are_refused():
    def forward(s, x):
        y, reach = s.a(x), 1
        while reach < x.shape[1]:
            y = torch.cat([y[:, :reach], torch.maximum(y[:, reach:], y[:, :-reach] * 0.5)], 1)
            reach *= 2
        return y

    with raises("loop-in-passes", "recurrent, sequential"):
        lift(Call(forward, a=nn.Linear(4, 4)), (X,), time_axis=1)


CHUNKWISE = {"attention": scan_nets.Chunkwise, "two states, time last": scan_nets.ChunkwiseOfTwo}


@pytest.mark.parametrize("name", CHUNKWISE)
def test_a_chunkwise_function_goes_frame_by_frame(name):
    lifted = assert_whole(CHUNKWISE[name](), X, time_axis=1)
    assert lifted.has_loop


def test_a_chunkwise_function_that_is_no_recurrence_is_left_alone():
    def chunkwise(x, initial_state=None, output_final_state=False):
        return x - x.mean(1, keepdim=True), None

    vars(scan_nets)["chunkwise"] = chunkwise
    try:
        with raises("not-frame-local", "statistics over time look at all frames"):
            lift(Call(lambda s, x: s.a(scan_nets.chunkwise(x)[0]), a=nn.Linear(4, 4)), (X,), time_axis=1)
    finally:
        del scan_nets.chunkwise
    assert chunkwise.__code__.co_name == "chunkwise"


def test_a_loop_over_pieces_says_how_many_frames_they_have():
    def forward(s, x):
        state, ys = x.new_zeros(x.shape[0], 1, 4), []
        for piece in x.split(6, 1):
            ys.append(piece.flip(1) + state)
            state = torch.tanh(s.a(piece.amax(1, keepdim=True)) + state)
        return torch.cat(ys, 1)

    with raises("loop-over-segments", "6", "often called recurrent, sequential"):
        lift(Call(forward, a=nn.Linear(4, 4)), (X,), time_axis=1)


@pytest.mark.parametrize("by", ["rows", "numbers"])
def test_a_table_of_positions_asks_for_the_most_frames(by):
    model = scan_nets.LearnedPositions(by)
    name = "axis-with-end" if by == "rows" else "position-table-ends"
    with raises(name, "max_frames=90 (--max-frames 90)", "time_axis=None (--time-axis none)"):
        lift(model, (X,))
    assert assert_whole(model, X, max_frames=90).spec.max_frames == 90


def test_sums_do_not_lose_what_is_small():
    """A float32 sum of 0.1 is 0.8 % off after 10^6 frames; this one is not."""
    lifted = lift(Call(lambda s, x: x.cumsum(1)), (X,), time_axis=1)
    start, count = 1e5, 2000
    states = {"sum": np.array([[[start, 0.0]] * 4], np.float32)}
    driver = torch_driver(lifted.spec, lifted.module, states)
    frame = np.full((1, 1, 4), 0.1, np.float32)
    for _ in range(count):
        outputs = driver.step({"x": frame})
    given = float(next(iter(outputs.values()))[0, 0, 0])
    assert given == pytest.approx(start + count * float(np.float32(0.1)), rel=1e-7)


def test_numbers_are_exact_beyond_what_a_float_counts():
    lifted = lift(Call(periodic), (X,), time_axis=1)
    (state,) = (s for s in lifted.spec.states)
    assert state.dtype == "int64"
    start = 2**53 - 2
    driver = torch_driver(lifted.spec, lifted.module, {state.name: np.full((1, 1), start, np.int64)})
    kept = [float(next(iter(driver.step({"x": np.ones((1, 1, 4), np.float32)}).values()))[0, 0, 0]) for _ in range(6)]
    assert kept == [float(n % 3 == 0) for n in itertools.islice(itertools.count(start), 6)]
