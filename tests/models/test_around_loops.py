"""A model's own loop over time streams together with windows over time before and behind it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import associative_scan
from torch.nn import functional as F

from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)
# Two frames mirrored are of three at least.
LENGTHS = range(3, 12)
Part = Callable[[Call, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def looped(s, x):
    h, given = torch.zeros(x.shape[0], 8), []
    for frame in x.unbind(1):
        h = s.cell(frame, h)
        given.append(h)
    return torch.stack(given, 1)


def distance(frames: int) -> Tensor:
    at = torch.arange(frames)
    return at[:, None] - at


def fused(s, x):
    q, k, v = s.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
    mask = (distance(x.shape[1]) >= -1) & (distance(x.shape[1]) <= 3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def by_hand(s, x):
    q, k, v = s.qkv(x).chunk(3, -1)
    later = distance(x.shape[1])
    scores = (q @ k.mT / 3).masked_fill((later < 0) | (later > 4), -torch.inf)
    return torch.softmax(scores, -1) @ v


def by_layer(s, x):
    later = distance(x.shape[1])
    return s.attend(x, x, x, attn_mask=(later < 0) | (later > 1), need_weights=False)[0]


def interpolated(s, x):
    return F.interpolate(x.mT, scale_factor=1.5, mode="linear").mT


def put_together(s, x):
    pairs = x.reshape(x.shape[0], x.shape[1] // 2, 16)
    return s.pair(pairs)


def mirrored(s, x):
    longer = torch.cat([x[:, 1:3].flip(1), x, x[:, -2:-1]], 1)
    return s.conv(longer.mT).mT


def picked(s, x):
    numbers = 2 * torch.arange((x.shape[1] - 4) // 2 + 1)[:, None] + torch.arange(4)
    return s.windows(x[:, numbers].flatten(2))


def from_first(s, x):
    return x - x[:, :1]


def transformed(s, x):
    spectrum = torch.stft(x[..., 0], 8, 4, window=s.hann, return_complex=True)
    back = torch.istft(spectrum * 0.5, 8, 4, window=s.hann, length=x.shape[1])
    return x + back[..., None]


# Frames of a step.
PARTS = {
    fused: 1,
    by_hand: 1,
    by_layer: 1,
    interpolated: 2,
    put_together: 2,
    mirrored: 1,
    picked: 2,
    from_first: 1,
    transformed: 4,
}
PART = pytest.mark.parametrize(("part", "chunk"), PARTS.items())


def model(*parts: Part) -> Call:
    def forward(s, x):
        for part in parts:
            x = part(s, x)
        return x

    return Call(
        forward,
        cell=nn.GRUCell(8, 8),
        qkv=nn.Linear(8, 24),
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
        pair=nn.Linear(16, 8),
        conv=nn.Conv1d(8, 8, 4),
        windows=nn.Linear(32, 8),
        hann=torch.hann_window(8),
    )


@PART
def test_before_a_loop(part: Part, chunk: int) -> None:
    assert_whole(model(part, looped), X, lengths=LENGTHS, chunk=chunk)


@PART
def test_behind_a_loop(part: Part, chunk: int) -> None:
    assert_whole(model(looped, part), X, lengths=LENGTHS, chunk=chunk)


def test_on_both_sides() -> None:
    assert_whole(model(fused, looped, interpolated, looped, by_hand), X, chunk=2)


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


@pytest.mark.parametrize("loop", [looped, by_number, scanned])
def test_at_half_the_frames_cut_to_those_that_there_were(loop: Part) -> None:
    """As many iterations as frames of another rate: over one more frame there may be as many."""

    def forward(s, x):
        y = loop(s, s.down(x.mT).mT)
        return x + s.up(y.mT).mT[:, : x.shape[1]]

    parts = {"down": nn.Conv1d(8, 8, 3, 2, 1), "up": nn.ConvTranspose1d(8, 8, 2, 2), "cell": nn.GRUCell(8, 8)}
    assert_whole(Call(forward, **parts), X, chunk=2)
