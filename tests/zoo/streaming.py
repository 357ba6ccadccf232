"""Operators that move frames stream, with their past in states and their delay reported; others are refused."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models import nets  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from .case import case, conv

X = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)
SOUND, LONG = X.mT, X.repeat(1, 2, 1)  # (B, C, T), and twice the frames
BANDS = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))  # (B, T, F, C)
IMAGE = torch.randn(2, 1, 6, 8, generator=torch.Generator().manual_seed(0))  # (B, 1, T, F)


def gru(size=4, out=5):
    return nn.GRU(size, out, batch_first=True)


def up():
    return nn.ConvTranspose1d(4, 4, 4, 2)


def left(x, frames):
    return F.pad(x, (frames, 0))


def joined_front(s, x):
    return s.c(torch.cat([s.front.expand(x.shape[0], -1, -1), x], -1))


def two_branches(s, x):
    a, b = s.a(x), s.b(x)
    return torch.cat([a[..., 4:], b], 1) + x[..., 6:].repeat(1, 2, 1)


def norm_of_windows(s, x):
    return left(x, 3).unfold(-1, 4, 1).pow(2).sum(-1)


def own_cache(s, x):
    whole = torch.cat([s.past, x], -1)
    s.past = whole[..., -2:]
    return s.c(whole)


def mixed_bands_first(s, x):
    """A GRU over time on F*B rows, the band first."""
    b, t, f, c = x.shape
    rows = x.permute(2, 0, 1, 3).reshape(f * b, t, c)
    return s.g(rows)[0].reshape(f, b, t, 5).permute(1, 2, 0, 3)


def bands_conv(s, x):
    """A convolution over time on B*F rows."""
    b, t, f, c = x.shape
    y = s.c(left(x.permute(0, 2, 3, 1).reshape(b * f, c, t), 2))
    return y.reshape(b, f, 4, t).permute(0, 3, 1, 2)


class TwoInputs(nn.Module):
    """Other lags, and one that is held."""

    def __init__(self):
        super().__init__()
        self.c, self.g = conv(), gru(3, 4)

    def forward(self, a, b, scale):
        return self.c(a.mT).mT + self.g(b)[0][:, 2:] * scale[:, None]


def attention(s, x):
    return torch.softmax(s.q(x) @ x.mT, -1) @ x


def behind_itself(s, x):
    """Two names for one sequence, one behind the other."""
    return torch.cat([x, 2 * x], 1)[:, : x.shape[1]] * x


def within(function, **parts):
    """`function` of (self, x) in a part of a model, behind a GRU."""
    return Call(lambda s, x: s.part(s.g(x)[0]), g=gru(4, 4), part=Call(function, **parts))


def steps(model, x, delay=0, **options):
    return case(model, x, **options).streams(delay=delay, end=False, holds=lambda lifted: lifted.dynamic_time)


def refused(function, *message, **parts):
    return case(within(function, **parts), X, time_axis=1).refused(message[0], AT, *message[1:])


NORMS = {
    "GroupNorm": (gru(4, 4), nn.GroupNorm(2, 4), "it normalises over time"),
    "InstanceNorm": (gru(), nn.InstanceNorm1d(5), "time"),
}
AT, PAST, MASK = "part (streaming.py:", "Use past frames only", "Mask all but the last frames"


def two_starts(s, x):
    zeros = x.new_zeros(1, x.shape[0], 4)
    return s.gru(x, zeros)[0] * s.gru(x, zeros + 1)[0]


def two_constants(s, x):
    up, down = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    return s.conv(left((x * up).mT, 2)).mT - s.conv(left((x * down).mT, 2)).mT


TABLE = {
    "a window over time keeps its past": {
        "dilated, chunk": steps(nets.TCN, SOUND, chunk=4),
        "valid, then padded": steps(
            Call(lambda s, x: s.d(F.pad(s.c(x), (2, 0), value=0.3)), c=conv(), d=conv()), SOUND, 2
        ),
        "padded, chunk": steps(nets.CausalPad, SOUND, chunk=3),
        "chomp by the length": steps(
            Call(lambda s, x: torch.relu(s.c(x))[..., : x.shape[-1]], c=conv(padding=2)), SOUND
        ),
        "chomp": steps(nets.CausalChomp, SOUND),
        "constant": steps(nets.CausalConstant, SOUND),
        "frames joined in front": steps(Call(joined_front, c=conv(), front=nn.Parameter(torch.randn(1, 4, 2))), SOUND),
        "time first": steps(
            Call(lambda s, x: s.c(left(x.permute(1, 2, 0), 2)).permute(2, 0, 1), c=conv()), X.permute(1, 0, 2)
        ),
        "in two axes": steps(nets.Conv2dGRU, IMAGE),
        "a running maximum": steps(Call(lambda s, x: F.max_pool1d(F.pad(x, (2, 0), value=-9.0), 3, 1)), SOUND),
        "unfold": steps(Call(norm_of_windows), SOUND),
        "token shift": steps(nets.TokenShift, X),
        "its own cache": steps(Call(own_cache, c=conv(), past=torch.zeros(1, 4, 2)), SOUND[:1]),
        "its own cache, chunk": steps(Call(own_cache, c=conv(), past=torch.zeros(1, 4, 2)), SOUND[:1], chunk=3),
    },
    "what waits for later frames is late": {
        "valid, then a GRU, chunk": steps(nets.ValidGRU, X, 6, chunk=3),
        "valid": case(nets.Valid, SOUND).streams(
            delay=2, notes=["the first 2 frames give no output: every output comes so much later than its frame"]
        ),
        "valid, residual": steps(nets.ValidResidual, SOUND, 2),
        "valid, then a GRU": steps(nets.ValidGRU, X, 4),
        "branches of other lags": steps(Call(two_branches, a=conv(3), b=conv(7)), SOUND, 6),
        "outputs of other lags": steps(Call(lambda s, x: (s.g(x)[0], s.c(x.mT).mT), g=gru(), c=conv()), X, 2),
        "inputs of other lags": case(TwoInputs, X, torch.randn(2, 8, 3), torch.randn(2, 4)).streams(
            delay=2, end=False, holds=lambda lifted: lifted.axes.input_time == (1, 1, None)
        ),
    },
    "states that differ in one thing are two": {
        "in their start": case(Call(two_starts, gru=gru(4, 4)), X).streams(),
        "in a constant": case(Call(two_constants, conv=conv()), X).streams(),
    },
    "a stride gives fewer frames": {
        "then a GRU": case(nets.StridedValidGRU, LONG, chunk=4).streams(delay=4, output=("batch", "time/4", 5)),
        "down and up": steps(
            Call(lambda s, x: s.u(s.d(left(x, 2)))[..., :-2], u=up(), d=conv(4, stride=2)), SOUND, chunk=2
        ),
        "causal": case(nets.StridedCausal, SOUND, chunk=2).streams(delay=0, output=("batch", 5, "time/2")),
        "two strides a chunk": steps(nets.StridedCausal, SOUND, chunk=4),
        "then a GRU, long chunk": steps(nets.StridedValidGRU, LONG, 8, chunk=8),
        "up and down": steps(Call(lambda s, x: s.d(left(s.u(x)[..., :-2], 2)), u=up(), d=conv(4, stride=2)), SOUND),
        "max pool": steps(Call(lambda s, x: F.max_pool1d(x, 2)), SOUND, chunk=2, time_axis=2),
        "average pool": steps(Call(lambda s, x: s.g(F.avg_pool1d(x, 2).mT)[0], g=gru()), SOUND, chunk=2),
        "every other frame": steps(Call(lambda s, x: s.g(x[:, ::2])[0], g=gru()), X, chunk=2),
    },
    "rows of other axes go through time": {
        "bands first": steps(Call(mixed_bands_first, g=gru()), BANDS),
        "frames as a batch": steps(nets.Waves, torch.randn(2, 5, 32)),
        "dual path": steps(nets.DualPath, BANDS),
        "bands through a convolution": steps(Call(bands_conv, c=conv()), BANDS, time_axis=1),
        "LayerNorm of each frame": steps(Call(lambda s, x: s.n(s.c(left(x.mT, 2)).mT), n=nn.LayerNorm(4), c=conv()), X),
        "BatchNorm of the training": steps(
            Call(lambda s, x: s.n(s.c(left(x, 2))), n=nn.BatchNorm1d(4), c=conv()), SOUND
        ),
    },
    "what looks at all frames is refused": {
        "attention": refused(attention, "not-frame-local", "attention", "(matmul)", MASK, q=nn.Linear(4, 4)),
        "softmax": refused(
            lambda s, x: torch.softmax(x, 1) * x, "not-frame-local", "a softmax over time looks at all", PAST
        ),
        "scaled attention": refused(
            lambda s, x: F.scaled_dot_product_attention(x, x, x), "not-frame-local", "attention", MASK
        ),
        "mean": refused(lambda s, x: x - x.mean(1, True), "not-frame-local", "statistics over time", "(mean)", PAST),
        "BatchNorm": case(
            Call(lambda s, x: s.n(s.g(x)[0].mT).mT, g=gru(), n=nn.BatchNorm1d(5, track_running_stats=False)),
            *(X,),
            time_axis=1,
        ).refused("no-batch-axis"),
        **{
            name: case(Call(lambda s, x: s.n(s.g(x)[0].mT).mT, g=g, n=norm), X, time_axis=1).refused(
                "not-frame-local", "n (streaming.py:", why, PAST
            )
            for name, (g, norm, why) in NORMS.items()
        },
        "flip": refused(lambda s, x: x + x.flip(1), "not-frame-local", "(flip)", PAST),
        "bidirectional": case(
            Call(lambda s, x: s.net[0](x)[0], net=nn.ModuleList([nn.LSTM(4, 5, batch_first=True, bidirectional=True)])),
            *(X,),
            time_axis=1,
        ).refused("bidirectional-layer", "net.0: the LSTM", "sequence_only"),
        "bidirectional, two layers, from a start": case(
            lambda: Call(
                lambda s, x: s.gru(x, s.start.expand(-1, x.shape[0], -1).contiguous())[0],
                gru=nn.GRU(4, 3, 2, batch_first=True, bidirectional=True),
                start=torch.linspace(-1, 1, 12).reshape(4, 1, 3),
            ),
            X,
            time_axis=1,
        ).refused("bidirectional-layer", "gru: the GRU", "sequence_only"),
    },
    "what hangs on the length or the end is refused": {
        "LayerNorm": refused(lambda s, x: F.layer_norm(x, x.shape[1:]), "length-used-as-value", "(layer_norm)"),
        "the length": refused(lambda s, x: x / x.shape[1], "length-used-as-value"),
        "positions from the end": refused(
            lambda s, x: x + torch.arange(x.shape[1] - 1, -1, -1)[None, :, None], "positions-over-time"
        ),
        "a part": refused(lambda s, x: x - x[:, :3:2].sum(1, True), "fixed-part-of-sequence"),
        "the last but one": refused(lambda s, x: x - x[:, -2, None], "one-frame-taken", "frame -2"),
        "the last frame for all": refused(lambda s, x: x - x[:, -1:], "last-frame-for-all"),
        "the last frames": refused(lambda s, x: x[:, -3:].sum(1), "last-frames-not-kept", 3),
        "a circle": refused(lambda s, x: F.pad(x.mT, (2, 0), "circular").mT, "circular-padding", "circular"),
        "behind itself": case(within(behind_itself), X, time_axis=1).refused("sequences-joined"),
        "but the last frame is an output": case(within(lambda s, x: x[:, -1]), X, time_axis=1).streams(end=False),
    },
}
