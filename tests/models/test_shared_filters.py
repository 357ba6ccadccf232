"""One filter for every row of a batch, with the rows as channels of a grouped convolution."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .streams import Call
from .whole_streams import assert_whole

X, IMAGE = torch.randn(2, 4, 12), torch.randn(2, 3, 4, 12)
GRU = nn.GRU(8, 5, batch_first=True)


def deltas(x, size=5):
    """torchaudio's compute_deltas, over the last axis."""
    shape, half = x.shape, size // 2
    rows = F.pad(x.reshape(1, -1, shape[-1]), (half, half), mode="replicate")
    kernel = torch.arange(-half, half + 1, 1, dtype=x.dtype).repeat(rows.shape[1], 1, 1)
    return (F.conv1d(rows, kernel, groups=rows.shape[1]) / (half * (half + 1) * (2 * half + 1) / 3)).reshape(shape)


def smoothed(s, x):
    rows = F.pad(x.reshape(1, -1, x.shape[-1]), (3, 0))
    return F.conv1d(rows, s.k.expand(rows.shape[1], 1, -1), groups=rows.shape[1]).reshape(x.shape)


def blurred(s, x):
    """A filter over bands and time, of each channel of each stream."""
    rows = F.pad(x.reshape(1, -1, *x.shape[2:]), (2, 0, 1, 1))
    return F.conv2d(rows, s.k.expand(rows.shape[1], 1, 3, 3), groups=rows.shape[1]).reshape(x.shape)


FILTERS = {
    "deltas": (Call(lambda s, x: s.g(torch.cat([x, deltas(x)], 1).mT)[0], g=GRU), X, 2, 2),
    "deltas of deltas": (Call(lambda s, x: torch.cat([x, deltas(x), deltas(deltas(x, 3))], 1)), X, 2, 3),
    "a filter of its own": (Call(smoothed, k=torch.randn(4)), X, 2, 0),
    "over images": (Call(blurred, k=torch.randn(3, 3)), IMAGE, 3, 0),
}


@pytest.mark.parametrize(("model", "example", "axis", "delay"), FILTERS.values(), ids=FILTERS)
def test_rows_with_one_filter_are_independent(model, example, axis, delay):
    spec = assert_whole(model, example, time_axis=axis, atol=5e-6).spec
    assert (spec.delay, spec.rows) == (delay, None)
