"""A model's own loop over time streams together with windows over time before and behind it."""

import torch
from torch import nn
from torch._higher_order_ops import associative_scan
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .attention import band
from .case import case

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def looped(s, x):
    h, given = torch.zeros(x.shape[0], 8), []
    for frame in x.unbind(1):
        h = s.cell(frame, h)
        given.append(h)
    return torch.stack(given, 1)


def by_number(s, x):
    h, given = torch.zeros(x.shape[0], 8), []
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        given.append(h)
    return torch.stack(given, 1)


def scanned(s, x):
    z = torch.sigmoid(x)
    return associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (1 - z, z * x), 1, combine_mode="generic")[
        1
    ]


def fused(s, x):
    q, k, v = s.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=band(x.shape[1], 3, 1)).transpose(1, 2).flatten(2)


def by_hand(s, x):
    q, k, v = s.qkv(x).chunk(3, -1)
    return torch.softmax((q @ k.mT / 3).masked_fill(~band(x.shape[1], 4), -torch.inf), -1) @ v


def by_layer(s, x):
    return s.attend(x, x, x, attn_mask=~band(x.shape[1], 1), need_weights=False)[0]


def interpolated(s, x):
    return F.interpolate(x.mT, scale_factor=1.5, mode="linear").mT


def put_together(s, x):
    return s.pair(x.reshape(x.shape[0], x.shape[1] // 2, 16))


def mirrored(s, x):
    return s.conv(torch.cat([x[:, 1:3].flip(1), x, x[:, -2:-1]], 1).mT).mT


def picked(s, x):
    numbers = 2 * torch.arange((x.shape[1] - 4) // 2 + 1)[:, None] + torch.arange(4)
    return s.windows(x[:, numbers].flatten(2))


def from_first(s, x):
    return x - x[:, :1]


def transformed(s, x):
    spectrum = torch.stft(x[..., 0], 8, 4, window=s.hann, return_complex=True)
    back = torch.istft(spectrum * 0.5, 8, 4, window=s.hann, length=x.shape[1])
    return x + back[..., None]


def halved(loop):
    """As many iterations as frames of another rate: over one more frame there may be as many."""
    return lambda s, x: x + s.up(loop(s, s.down(x.mT).mT).mT).mT[:, : x.shape[1]]


def one_behind_the_other(*functions):
    def forward(s, x):
        for function in functions:
            x = function(s, x)
        return x

    return forward


def around(function, chunk, **expected):
    parts = {
        "cell": nn.GRUCell(8, 8),
        "qkv": nn.Linear(8, 24),
        "attend": nn.MultiheadAttention(8, 2, batch_first=True),
        "pair": nn.Linear(16, 8),
        "conv": nn.Conv1d(8, 8, 4),
        "windows": nn.Linear(32, 8),
        "hann": torch.hann_window(8),
        "down": nn.Conv1d(8, 8, 3, 2, 1),
        "up": nn.ConvTranspose1d(8, 8, 2, 2),
    }
    return case(Call(function, **parts), X, chunk=chunk).streams(**expected)


# Frames of a step where a part stands on both sides of a loop.
PARTS = {
    put_together: 4, fused: 1, interpolated: 4, by_hand: 1, by_layer: 1, mirrored: 1, picked: 4, from_first: 1,
    transformed: 4,
}  # fmt: skip
TABLE = {
    "what is before a loop and behind it streams with it": {
        **{
            # Two frames mirrored are of three at least.
            part.__name__: around(one_behind_the_other(part, looped, part), chunk, lengths=range(3, 17))
            for part, chunk in PARTS.items()
        },
        "several loops": around(one_behind_the_other(fused, looped, interpolated, looped, by_hand), 2),
    },
    "a loop over half the frames, cut to those that there were": {
        loop.__name__: around(halved(loop), 2) for loop in (looped, by_number, scanned)
    },
}
