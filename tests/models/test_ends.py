"""Sequences that end: padding on the right, overlaps behind the last frame, and steps that the end cuts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))  # (B, C, T)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def conv(size: int = 3, **options) -> nn.Conv1d:
    return nn.Conv1d(4, 4, size, **options)


def up(size: int = 4, **options) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(4, 4, size, 2, **options)


def gru() -> nn.GRU:
    return nn.GRU(4, 4, batch_first=True)


def filled_up(s, x):
    rest = -x.shape[-1] % 4
    return s.c(F.pad(x, (2, rest)))


# By name: the model, its options, and the delay and tail that it has.
MODELS = {
    "padding": (Call(lambda s, x: s.c(x), c=conv(padding=1)), {}, (1, 1)),
    "same": (Call(lambda s, x: s.c(x), c=conv(5, padding="same")), {}, (2, 2)),
    "two paddings": (Call(lambda s, x: s.c(torch.relu(s.d(x))), c=conv(padding=1), d=conv(5, padding=2)), {}, (3, 3)),
    "a value beside": (Call(lambda s, x: s.c(F.pad(x, (0, 2), value=1.5)), c=conv()), {}, (2, 2)),
    "joined behind": (Call(lambda s, x: s.c(torch.cat([x, torch.zeros_like(x[..., :2])], 2)), c=conv()), {}, (2, 2)),
    "a residual": (Call(lambda s, x: x + s.c(x), c=conv(padding=1)), {}, (1, 1)),
    "a cut behind": (Call(lambda s, x: s.c(x)[..., :-2], c=conv(padding=2)), {}, (0, 0)),
    "before a GRU": (
        Call(lambda s, x: s.g(s.c(x).mT)[0].mT, c=conv(padding=1), g=gru()),
        {},
        (1, 1),
    ),
    "a stride": (Call(lambda s, x: s.c(x), c=conv(stride=2, padding=1)), {"chunk": 2}, (0, 1)),
    "a GRU between strides": (
        Call(lambda s, x: s.u(s.g(s.c(x).mT)[0].mT), c=conv(stride=2, padding=1), g=gru(), u=up(padding=1)),
        {"chunk": 2},
        (1, 3),
    ),
    "the last window filled up": (Call(filled_up, c=conv(6, stride=4)), {"chunk": 4}, (0, 1)),
    "two frames for one": (Call(lambda s, x: s.u(x), u=up()), {}, (0, 2)),
    "a chunk of a causal model": (Call(lambda s, x: s.g(x.mT)[0].mT, g=gru()), {"chunk": 5}, (0, 4)),
    "two axes": (
        Call(lambda s, x: s.c(x[:, None]).flatten(1, 2), c=nn.Conv2d(1, 2, (3, 5), padding=(1, 2))),
        {"time_axis": 2},
        (2, 2),
    ),
    "rows and bands in one axis": (
        Call(lambda s, x: s.c(x.reshape(-1, 1, x.shape[2])).reshape(x.shape), c=nn.Conv1d(1, 1, 3, padding=1)),
        {},
        (1, 1),
    ),
}


@pytest.mark.parametrize(("model", "options", "ends"), MODELS.values(), ids=MODELS)
def test_a_stream_and_its_end_are_the_whole(model, options, ends):
    spec = assert_whole(model, X, **options).spec
    assert (spec.delay, spec.tail) == ends
