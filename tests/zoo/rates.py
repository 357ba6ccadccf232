"""Outputs of another rate than the input: frames repeated, stretched, resampled or split, and several inputs' rates."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case, conv

X = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))  # (B, C, T)
IMAGE = torch.randn(2, 2, 16, 5, generator=torch.Generator().manual_seed(1))  # (B, C, T, F)
VIDEO = torch.randn(2, 1, 16, 3, 4, generator=torch.Generator().manual_seed(2))  # (B, C, T, H, W)
FILTERS = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(3))


def up(size: int = 2, **options) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(4, 4, size, 2, **options)


def rated(function, chunk, *rates, **parts):
    def has_rates(lifted):
        return [t.shape[t.axis("time")] for t in lifted.spec.outputs] == [*rates]

    return case(Call(function, **{"c": conv(), **parts}), X, chunk=chunk).streams(holds=has_rates)


def resampled(function, chunk, rate, example=X, **parts):
    return case(Call(function, **parts), example, time_axis=2, chunk=chunk).streams(
        lengths=range(2, 2 + 2 * chunk + 6), atol=1e-5, holds=lambda lifted: lifted.spec.outputs[0].shape[2] == rate
    )


def of(scale_factor, mode, chunk, rate, example=X):
    return resampled(lambda s, x: F.interpolate(x, scale_factor=scale_factor, mode=mode), chunk, rate, example)


def by_filters(s, x):
    """Three for two as torchaudio does it: one filter for each, and as many as the length, in a tensor, rounded up."""
    padded = F.pad(x.reshape(-1, 1, x.shape[2]), (3, 5))
    several = F.conv1d(padded, FILTERS, stride=2).mT.flatten(1)
    length = torch.ceil(torch.as_tensor(3 * x.shape[2] / 2)).long()
    return several[..., :length].view(x.shape[0], x.shape[1], -1)


def halved_between(s, x):
    return F.avg_pool1d(F.interpolate(x[..., 2:] + x[..., :-2], scale_factor=0.5, mode="linear"), 2)


def overlapped(s, x):
    """Cut, and in windows that overlap."""
    windows = (x + s.u(s.c(x))[..., : x.shape[2]]).unfold(2, 4, 2).sin()
    columns, size = windows.transpose(2, 3).flatten(1, 2), 2 * windows.shape[2] + 2
    return F.fold(columns, (1, size), (1, 4), stride=(1, 2))[:, :, 0]


PLACES = ("not-frame-local", "where each frame is taken from")
TABLE = {
    "more or fewer frames than the input has stream": {
        "linear by three": rated(
            lambda s, x: F.interpolate(s.c(x), scale_factor=3, mode="linear"), 2, "time*3/2", c=conv(stride=2)
        ),
        "two rates": rated(lambda s, x: (s.u(x), s.c(x)), 2, "time*2", "time/2", c=conv(stride=2, padding=1), u=up()),
        "every frame twice": rated(lambda s, x: s.c(x).repeat_interleave(2, 2), 1, "time*2"),
        "nearest": rated(lambda s, x: F.interpolate(s.c(x), scale_factor=3), 1, "time*3"),
        "linear": rated(lambda s, x: F.interpolate(s.c(x), scale_factor=2, mode="linear"), 1, "time*2"),
        "shuffled": rated(
            lambda s, x: s.c(x).reshape(x.shape[0], 2, 2, -1).permute(0, 1, 3, 2).flatten(2), 1, "time*2"
        ),
        "two thirds": rated(lambda s, x: s.c(s.u(x)), 3, "time*2/3", c=conv(stride=3), u=up()),
        "down, up and cut": rated(
            lambda s, x: F.interpolate(s.c(x), scale_factor=2)[..., : x.shape[2]],
            2,
            "time",
            c=conv(stride=2, padding=1),
        ),
        "cut, and in windows that overlap": rated(
            overlapped, 2, "time", c=conv(stride=2, padding=1), u=up(4, padding=1)
        ),
        "twice as many, of fewer than there were": rated(
            lambda s, x: s.c(x + F.pad(x, (-2, 2))).repeat_interleave(2, 2), 1, "time*2"
        ),
    },
    "other sizes over time stream": {
        "linear, one for two, behind a cut and before a pool": resampled(halved_between, 4, "time/4"),
        "nearest, three for two over both axes": of(1.5, "nearest", 2, "time*3/2", IMAGE),
        "nearest, over both axes": of(2, "nearest", 1, "time*2", IMAGE),
        "nearest, over the other axis": of((1, 2), "nearest", 1, "time", IMAGE),
        "nearest, fewer over the other axis": of((1.0, 0.5), "nearest", 1, "time", IMAGE),
        "nearest, three for two": of(1.5, "nearest", 2, "time*3/2"),
        "nearest, two for three": of(2 / 3, "nearest", 3, "time*2/3"),
        "nearest, one for two": of(0.5, "nearest", 2, "time/2"),
        "nearest by centres": of(1.5, "nearest-exact", 2, "time*3/2"),
        "nearest by centres, over both axes": of(2, "nearest-exact", 1, "time*2", IMAGE),
        "linear, three for two": of(1.5, "linear", 2, "time*3/2"),
        "linear, one for two": of(0.5, "linear", 2, "time/2"),
        "linear, over both axes": of((2, 3), "bilinear", 1, "time*2", IMAGE),
        "linear, over the other axis": of((1, 2), "bilinear", 1, "time", IMAGE),
        "linear to corners, over the other axis": resampled(
            lambda s, x: F.interpolate(x, (x.shape[2], 9), mode="bilinear", align_corners=True), 1, "time", IMAGE
        ),
        "linear, over both axes by other factors": of((1.5, 0.5), "bilinear", 2, "time*3/2", IMAGE),
        "cubic": of(2, "bicubic", 1, "time*2", IMAGE),
        "cubic, three for two": of((1.5, 1), "bicubic", 2, "time*3/2", IMAGE),
        "linear, over three axes": of((2, 1, 2), "trilinear", 1, "time*2", VIDEO),
        "nearest, over three axes": of((2, 1, 2), "nearest", 1, "time*2", VIDEO),
        "by filters": resampled(by_filters, 2, "time*3/2"),
        "fewer of fewer": resampled(
            lambda s, x: F.interpolate(F.interpolate(x, scale_factor=2 / 3, mode="linear"), scale_factor=0.5),
            3,
            "time/3",
        ),
        "behind a window that looks ahead": resampled(
            lambda s, x: F.interpolate(s.c(x), scale_factor=1.5, mode="linear"), 2, "time*3/2", c=conv(padding=1)
        ),
    },
    "places that follow from the length are refused": {
        "to corners": case(
            Call(lambda s, x: F.interpolate(x, scale_factor=2, mode="linear", align_corners=True)), X, time_axis=2
        ).refused(*PLACES),
        "to a fixed size": case(Call(lambda s, x: F.adaptive_avg_pool1d(x, 8) + x[..., -1:]), X, time_axis=2).refused(
            *PLACES
        ),
        "to a size that no factor gives": case(
            Call(lambda s, x: F.interpolate(x, size=x.shape[2] * 2 - 1)), X, time_axis=2
        ).refused("length-used-as-value"),
    },
}
