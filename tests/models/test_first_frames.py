"""Values made of the first frames and common to all: a state keeps them, and a layer may start from them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.export import export
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X, BANDS = torch.randn(2, 12, 4), torch.randn(2, 3, 12, 4)


def gru() -> nn.GRU:
    return nn.GRU(4, 4, batch_first=True)


def centred(x):
    return F.conv1d(x.mT, torch.linspace(-1, 1, 3).expand(4, 1, 3), padding=1, groups=4).mT


def of_rows(s, x):
    """Each band of each stream is a row that starts from its own first frame."""
    rows = x.flatten(0, 1)
    return s.g(rows, rows[:, 0].tanh()[None])[0].unflatten(0, (-1, 3))


def looped(s, x):
    h, frames = s.a(x[:, 0]).tanh(), []
    for t in range(x.shape[1]):
        h = s.c(x[:, t], h)
        frames.append(h)
    return torch.stack(frames, 1)


def both(s, x):
    """A state from frame 0, and one from frame 1."""
    return s.g(x, (s.a(x[:, 1])[None], s.a(x[:, 0])[None]))[0]


FROM_FIRST = {
    "difference": (Call(lambda s, x: s.g(x - x[:, :1])[0], g=gru()), X, 1, {}),
    "gain": (Call(lambda s, x: x * s.a(x[:, 0]).sigmoid()[:, None], a=nn.Linear(4, 4)), X, 1, {}),
    "extra": (Call(lambda s, x: torch.cat([x, x[:, 2:3].expand(-1, x.shape[1], -1)], -1)), X, 3, {}),
    "mean of some": (Call(lambda s, x: x - x[:, 1:4].mean(1, keepdim=True)), X, 4, {"chunk": 2}),
    "of a late value": (Call(lambda s, x: centred(x) - centred(x)[:, :1]), X, 1, {}),
    "ahead of time": (Call(lambda s, x: x * F.pad(x, (0, 0, 2, 0))[:, 1:4].sum(1, keepdim=True)), X, 2, {}),
    "every other": (Call(lambda s, x: (lambda y: y - y[:, :2].mean(1, keepdim=True))(x[:, ::2])), X, 3, {"chunk": 2}),
    "more frames": (Call(lambda s, x: (lambda y: y - y[:, 2:3])(x.repeat_interleave(2, 1))), X, 2, {}),
    "of itself": (Call(lambda s, x: (lambda y: y * y[:, 1:3].sum(1, keepdim=True))(x - x[:, :1])), X, 3, {}),
    "numbers": (
        Call(lambda s, x: s.e(x) * (x == x[:, :1])[..., None], e=nn.Embedding(9, 4)),
        torch.randint(9, (2, 12)),
        1,
        {},
    ),
    "product": (Call(lambda s, x: x @ x[:, :4]), X, 4, {}),
    "start": (Call(lambda s, x: s.g(x, x[:, 0].tanh()[None])[0], g=gru()), X, 1, {}),
    "late start": (Call(lambda s, x: s.g(centred(x), x[:, 2].tanh()[None])[0], g=gru()), X, 3, {"chunk": 4}),
    "start of rows": (Call(of_rows, g=gru()), BANDS, 1, {"time_axis": 2}),
    "two starts": (Call(both, a=nn.Linear(4, 4), g=nn.LSTM(4, 4, batch_first=True)), X, 2, {}),
    "loop": (Call(looped, a=nn.Linear(4, 4), c=nn.GRUCell(4, 4)), X, 1, {}),
}


@pytest.mark.parametrize(("model", "example", "least", "options"), FROM_FIRST.values(), ids=FROM_FIRST)
def test_the_first_frames_are_a_state(model, example, least, options):
    lifted = assert_whole(model.eval(), example, lengths=range(least, least + 7), **{"time_axis": 1, **options})
    assert "first" in " ".join(s.name for s in lifted.spec.states)
    # Where they are there in time nothing waits.
    assert lifted.spec.delay >= least - 1 or options


def test_streams_of_a_pool_begin_when_they_do(tmp_path):
    model = FROM_FIRST["late start"][0].eval()
    export(model, (X,), tmp_path / "it.rnnx", time_axis=1, steps=8)
    pool = load(tmp_path / "it.rnnx", backend="onnxruntime").pool(2)
    frames, given = X.numpy(), {0: [], 1: []}
    ids = [pool.open(), pool.open()]
    for step in range(16):
        open_rows = [row for row in (0, 1) if 0 <= step - 4 * row < 12]
        fed = np.stack([frames[row, step - 4 * row] for row in open_rows])
        for row, y in zip(open_rows, pool.step([ids[row] for row in open_rows], fed), strict=True):
            given[row].append(y)
    with torch.no_grad():
        whole = model(X).numpy()
    for row in (0, 1):
        np.testing.assert_allclose(np.stack(given[row][2:]), whole[row, :10], rtol=1e-5, atol=2e-6)


def test_a_sequence_of_fewer_frames_is_told():
    lifted = lift(FROM_FIRST["extra"][0], (X,), time_axis=1)
    assert lifted.shortest == 3
    assert "over fewer than 3 frames the code goes another way" in " ".join(lifted.notes)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda s, x: (x, x[:, 1]), ("output-of-first-frames",)),
        (lambda s, x: x[:, -1] - x[:, 1], ("last-meets-first-frames",)),
        (lambda s, x: torch.cat([x[:, 1:2] * 2, x], 1), ("not-frame-local", "it mixes frames over time")),
    ],
)
def test_what_would_come_before_them_is_refused(forward, message):
    with raises(*message):
        lift(Call(forward), (X,), time_axis=1)
