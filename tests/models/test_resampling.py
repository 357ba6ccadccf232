"""Interpolation over time, and over time and other axes, by factors that a stream can have, and those it cannot."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))  # (B, C, T)
IMAGE = torch.randn(2, 2, 16, 5, generator=torch.Generator().manual_seed(1))  # (B, C, T, F)
VIDEO = torch.randn(2, 1, 16, 3, 4, generator=torch.Generator().manual_seed(2))  # (B, C, T, H, W)


def of(scale_factor, mode="nearest", **options):
    return Call(lambda s, x: F.interpolate(x, scale_factor=scale_factor, mode=mode, **options))


FILTERS = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(3))


def by_filters(s, x):
    """Three for two as torchaudio does it: one filter for each, and as many as the length, in a tensor, rounded up."""
    padded = F.pad(x.reshape(-1, 1, x.shape[2]), (3, 5))
    several = F.conv1d(padded, FILTERS, stride=2).mT.flatten(1)
    length = torch.ceil(torch.as_tensor(3 * x.shape[2] / 2)).long()
    return several[..., :length].view(x.shape[0], x.shape[1], -1)


# By name: the model, an example, its chunk, and the rate of its output.
RESAMPLED = {
    "nearest, over both axes": (of(2), IMAGE, 1, "time*2"),
    "nearest, over the other axis": (of((1, 2)), IMAGE, 1, "time"),
    "nearest, fewer over the other axis": (of((1.0, 0.5)), IMAGE, 1, "time"),
    "nearest, three for two": (of(1.5), X, 2, "time*3/2"),
    "nearest, three for two over both axes": (of(1.5), IMAGE, 2, "time*3/2"),
    "nearest, two for three": (of(2 / 3), X, 3, "time*2/3"),
    "nearest, one for two": (of(0.5), X, 2, "time/2"),
    "linear, one for two, behind a cut and before a pool": (
        Call(lambda s, x: F.avg_pool1d(F.interpolate(x[..., 2:] + x[..., :-2], scale_factor=0.5, mode="linear"), 2)),
        X, 4, "time/4",
    ),
    "nearest by centres": (of(1.5, "nearest-exact"), X, 2, "time*3/2"),
    "nearest by centres, over both axes": (of(2, "nearest-exact"), IMAGE, 1, "time*2"),
    "linear, three for two": (of(1.5, "linear"), X, 2, "time*3/2"),
    "linear, one for two": (of(0.5, "linear"), X, 2, "time/2"),
    "linear, over both axes": (of((2, 3), "bilinear"), IMAGE, 1, "time*2"),
    "linear, over the other axis": (of((1, 2), "bilinear"), IMAGE, 1, "time"),
    "linear to corners, over the other axis": (
        Call(lambda s, x: F.interpolate(x, (x.shape[2], 9), mode="bilinear", align_corners=True)), IMAGE, 1, "time",
    ),
    "linear, over both axes by other factors": (of((1.5, 0.5), "bilinear"), IMAGE, 2, "time*3/2"),
    "cubic": (of(2, "bicubic"), IMAGE, 1, "time*2"),
    "cubic, three for two": (of((1.5, 1), "bicubic"), IMAGE, 2, "time*3/2"),
    "linear, over three axes": (of((2, 1, 2), "trilinear"), VIDEO, 1, "time*2"),
    "nearest, over three axes": (of((2, 1, 2)), VIDEO, 1, "time*2"),
    "by filters": (Call(by_filters), X, 2, "time*3/2"),
    "fewer of fewer": (
        Call(lambda s, x: F.interpolate(F.interpolate(x, scale_factor=2 / 3, mode="linear"), scale_factor=0.5)),
        X, 3, "time/3",
    ),
    "behind a window that looks ahead": (
        Call(lambda s, x: F.interpolate(s.c(x), scale_factor=1.5, mode="linear"), c=nn.Conv1d(4, 4, 3, padding=1)),
        X, 2, "time*3/2",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "example", "chunk", "rate"), RESAMPLED.values(), ids=RESAMPLED)
def test_other_sizes_over_time_are_streamed_to_the_end(model, example, chunk, rate):
    torch.manual_seed(0)
    lengths = range(2, 2 + 2 * chunk + 6)
    spec = assert_whole(model, example, time_axis=2, chunk=chunk, lengths=lengths, atol=1e-5).spec
    assert spec.outputs[0].shape[2] == rate


PLACES = ("not-frame-local", "where each frame is taken from")
REFUSED = {
    "to corners": (of(2, "linear", align_corners=True), PLACES),
    "to a fixed size": (Call(lambda s, x: F.adaptive_avg_pool1d(x, 8) + x[..., -1:]), PLACES),
    "to a size that no factor gives": (
        Call(lambda s, x: F.interpolate(x, size=x.shape[2] * 2 - 1)),
        ("length-used-as-value",),
    ),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_places_that_follow_from_the_length_are_refused(model, message):
    with raises(*message):
        lift(model, (X,), time_axis=2)
