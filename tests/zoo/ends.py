"""Sequences that end: what pads or fills up the last frames, pools and windows that the end cuts, and edges by hand."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case, conv

X = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))  # (B, C, T)
IMAGE = torch.randn(2, 2, 16, 5, generator=torch.Generator().manual_seed(1))  # (B, C, T, F)
FRAMES = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))  # (B, T, C)
KERNEL = torch.tensor([0.1, -0.3, 0.6, 0.5, -0.2])
GRU = nn.GRU(4, 4, batch_first=True)


def up(size: int = 4, stride: int = 2, **options) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(4, 4, size, stride, **options)


def ends(function, delay, tail, chunk=1, axis="auto", **parts):
    model = Call(function, **{"c": conv(), **parts})
    return case(model, X, time_axis=axis, chunk=chunk).streams(delay=delay, tail=tail)


def pool(pool, tail, chunk=2, example=X, function=lambda s, x: s.pool(x)):
    lengths = range(3, 3 + 3 * chunk + 6)
    pooled = case(Call(function, pool=pool, c=conv(padding=1)), example, time_axis=2, chunk=chunk)
    return pooled.streams(tail=tail, lengths=lengths, atol=1e-5)


def late(s, x):
    """On frames that arrive in order, some frames late."""
    return s.pool(s.c(x))


def before_attention(s, x):
    """A mask from the length of a pooled value."""
    x = s.pool(x).mT
    later = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
    return F.scaled_dot_product_attention(x, x, x, attn_mask=(later >= 0) & (later <= 2)).mT


def smoothed(x):
    """(B, T, 3) by a kernel of five."""
    return F.conv1d(x.mT, KERNEL.expand(3, 1, -1), groups=3).mT


def by_hand(function, delay, tail, chunk=1):
    return case(Call(function), FRAMES, time_axis=1, chunk=chunk).streams(delay=delay, tail=tail)


def repeated(s, x):
    return smoothed(torch.cat([x[:, :1].expand(-1, 2, -1), x, x[:, -1:].repeat(1, 2, 1)], 1))


def rest_left_out(s, x):
    """Frames that fill no three are left out, if there are any."""
    rest = x.shape[1] % 3
    if rest:
        x = x[:, :-rest]
    return x.reshape(x.shape[0], -1, 9)


def stuffed(s, x):
    """A zero behind each frame."""
    y = torch.zeros(x.shape[0], 2 * x.shape[1], x.shape[2])
    y[:, ::2] = x
    return smoothed(F.pad(y, (0, 0, 4, 0)))


def spliced(s, x):
    """The frames around each, by their numbers."""
    around = torch.arange(x.shape[1])[:, None] + torch.arange(-2, 3)
    return x[:, around.clamp(0, x.shape[1] - 1)].flatten(2)


def gathered(s, x):
    """Windows of 6 frames every other, two apart, by their numbers."""
    count = (x.shape[1] - 6) // 2 + 1
    return x[:, torch.arange(count)[:, None] * 2 + torch.arange(0, 6, 2)].flatten(2)


def more_of_mirrored(s, x):
    """A mean over as many as four entries of what two were made of each mirrored frame."""
    y = torch.stack([x, -x], 2)
    y = F.pad(y.flatten(2).mT, (3, 3), "replicate").mT.unflatten(2, (2, 3)).flatten(1, 2)
    return F.avg_pool1d(y.mT, 4, 2).mT


def chosen(s, x):
    """Row masks, all true or all false at every call, choose the padding before the first frame."""
    first, ended = torch.ones(x.shape[0], dtype=torch.bool), torch.zeros(x.shape[0], dtype=torch.bool)
    front = torch.zeros(x.shape[0], 4, 3)
    front[:] = torch.where((first & ~ended).view(-1, 1, 1), x[:, :1], front)
    front = torch.where((ended | ended)[:, None, None], front + 1, front)
    return smoothed(torch.cat([front, x], 1))


def folded(s, x):
    """A first state folded into the first frame, before a running sum; the frames stand first."""
    gain, y = torch.sigmoid(x).transpose(0, 1), x.transpose(0, 1).clone()
    y[0] = y[0] + gain[0] * KERNEL[:3]
    z = x.clone()
    z[:, :1] *= 2
    return y.cumsum(0).transpose(0, 1) + z


def shared(function, delay, example=X, **parts):
    """One filter for every row of a batch, with the rows as channels of a grouped convolution."""
    return case(Call(function, **parts), example, time_axis=example.ndim - 1).streams(
        delay=delay, atol=5e-6, holds=lambda lifted: lifted.spec.rows is None
    )


def deltas(x, size=5):
    """torchaudio's compute_deltas, over the last axis."""
    shape, half = x.shape, size // 2
    rows = F.pad(x.reshape(1, -1, shape[-1]), (half, half), mode="replicate")
    kernel = torch.arange(-half, half + 1, 1, dtype=x.dtype).repeat(rows.shape[1], 1, 1)
    return (F.conv1d(rows, kernel, groups=rows.shape[1]) / (half * (half + 1) * (2 * half + 1) / 3)).reshape(shape)


def one_filter(s, x):
    rows = F.pad(x.reshape(1, -1, x.shape[-1]), (3, 0))
    return F.conv1d(rows, s.k.expand(rows.shape[1], 1, -1), groups=rows.shape[1]).reshape(x.shape)


def blurred(s, x):
    """A filter over bands and time, of each channel of each stream."""
    rows = F.pad(x.reshape(1, -1, *x.shape[2:]), (2, 0, 1, 1))
    return F.conv2d(rows, s.k.expand(rows.shape[1], 1, 3, 3), groups=rows.shape[1]).reshape(x.shape)


def steps(s, x):
    h = x.new_zeros(x.shape[0], 4)
    for t in range(x.shape[1]):
        h = s.cell(x[:, t], h)
        yield t, 2 * h


def into_rows(s, x):
    out = x.new_zeros(x.shape)
    for t, y in steps(s, x):
        out[:, t] = y
    return out


def into_first_axis(s, x):
    out = x.new_empty(x.shape[1], x.shape[0], 4)
    for t, y in steps(s, x):
        out[t] = y
    return out.transpose(0, 1)


def into_last_axis(s, x):
    out = torch.zeros(x.shape[0], 4, x.shape[1])
    for t, y in steps(s, x):
        out[..., t] = y
    return out.mT


def into_pieces(s, x):
    out = x.new_zeros(x.shape)
    for t, y in steps(s, x):
        out[:, t : t + 1, :] = y[:, None]
    return out


def written(loop, read):
    """A loop writes its frames into a tensor, and `read` gives some of them."""
    return case(Call(lambda s, x: read(loop(s, x)), cell=nn.GRUCell(4, 4)), X[..., :7].mT)


def with_last(y):
    return y, y[:, -1]


def with_last_piece(y):
    return y, y[:, -1:, :1].squeeze(1)


def and_the_next(y):
    return y[:, :-1] + y[:, 1:]


CODER = {"one": nn.Conv1d(1, 3, 8, 4), "two": nn.Conv1d(3, 3, 8, 4)}
CODER |= {"up_two": nn.ConvTranspose1d(3, 3, 8, 4), "up_one": nn.ConvTranspose1d(3, 1, 8, 4)}


def of_whole_windows(length):
    """As Demucs pads: to what its strides divide, and for a single window at least."""
    for _ in range(2):
        length = max(math.ceil((length - 8) / 4) + 1, 1)
    for _ in range(2):
        length = (length - 1) * 4 + 8
    return length


def floored(s, x):
    padded = F.pad(x, (0, of_whole_windows(x.shape[-1]) - x.shape[-1]))
    skip = s.one(padded)
    y = s.up_two(s.two(skip))
    return s.up_one(y + skip[..., : y.shape[-1]])[..., : x.shape[-1]]


def resampled(s, x):
    """As Demucs with its resampling: rounded where it is whole, halved, and written into reshapes beside a -1."""

    def twice(x):
        *other, time = x.shape
        between = F.conv1d(x.view(-1, 1, time), KERNEL[None, None, :4], padding=2)[..., 1:].view(*other, time)
        return torch.stack([x, between], -1).view(*other, -1)

    def half(x):
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        odd = x[..., 1::2]
        *other, time = odd.shape
        between = F.conv1d(odd.view(-1, 1, time), KERNEL[None, None, :4], padding=2)[..., :-1].view(*other, time)
        return (x[..., ::2] + between).view(*other, -1) / 2

    length = of_whole_windows(math.ceil(x.shape[-1] * 2))
    padded = twice(F.pad(x, (0, math.ceil(length / 2) - x.shape[-1])))
    return half(s.up_one(s.up_two(s.two(s.one(padded)))))[..., : x.shape[-1]]


def too_short_for_a_mirror(s, x):
    """As EnCodec pads."""
    extra = 7 - x.shape[-1] if x.shape[-1] <= 6 else 0
    padded = F.pad(F.pad(x, (0, extra)), (6, 0), "reflect")
    return s.c(padded[..., : padded.shape[-1] - extra])


def learned_behind(s, x):
    return s.c(torch.cat([x, s.end.expand(x.shape[0], -1, -1)], 2))


def last_cut(s, x):
    return s.c(x)[..., -1]


def last_of_gru(s, x):
    return s.g(s.c(x).mT)[1][0]


def with_every(last):
    return Call(lambda s, x: (s.c(x), last(s, x)), c=conv(padding=1), g=GRU)


def of_its_four(s, x):
    y = F.avg_pool1d(x.mT, 4, 4, ceil_mode=True).repeat_interleave(4, 2)
    return y[..., : x.shape[1]].mT


TABLE = {
    "what pads the end is in the stream": {
        "padding": ends(lambda s, x: s.c(x), 1, 1, c=conv(padding=1)),
        "a GRU between strides": ends(
            lambda s, x: s.u(s.g(s.c(x).mT)[0].mT), 1, 3, 2, c=conv(stride=2, padding=1), g=GRU, u=up(padding=1)
        ),
        "same": ends(lambda s, x: s.c(x), 2, 2, c=conv(5, padding="same")),
        "same, an even kernel": ends(lambda s, x: s.c(x), 2, 2, c=conv(4, padding="same")),
        "two paddings": ends(lambda s, x: s.c(s.d(x).relu()), 3, 3, c=conv(padding=1), d=conv(5, padding=2)),
        "a value beside": ends(lambda s, x: s.c(F.pad(x, (0, 2), value=1.5)), 2, 2),
        "joined behind": ends(lambda s, x: s.c(torch.cat([x, torch.zeros_like(x[..., :2])], 2)), 2, 2),
        "frames cut off": ends(lambda s, x: s.g(x.mT)[0].mT[..., :-2], 2, 0, g=GRU),
        "learned frames behind": ends(learned_behind, 2, 2, end=nn.Parameter(torch.full((4, 2), 0.5))),
        "a cut behind": ends(lambda s, x: s.c(x)[..., :-2], 0, 0, c=conv(padding=2)),
        "a stride": ends(lambda s, x: s.c(x), 0, 1, 2, c=conv(stride=2, padding=1)),
        "the last window filled up": ends(
            lambda s, x: s.c(F.pad(x, (2, -x.shape[-1] % 4))), 0, 1, 4, c=conv(6, stride=4)
        ),
        "an overlap of whole windows, cut": ends(
            lambda s, x: s.u(s.c(F.pad(x, (4, 0))).relu())[..., : x.shape[-1]], 0, 3, 4, c=conv(8, stride=4), u=up(8, 4)
        ),
        "frames repeated, smoothed and cut": ends(
            lambda s, x: s.d(F.pad(s.c(F.pad(x, (2, 1))).repeat_interleave(3, 2), (2, 2)))[..., : x.shape[-1]],
            2,
            4,
            3,
            c=conv(stride=3),
            d=conv(5),
        ),
        "two frames for one": ends(lambda s, x: s.u(x), 0, 2, u=up()),
        "a chunk of a causal model": ends(lambda s, x: s.g(x.mT)[0].mT, 0, 4, 5, g=GRU),
        "two axes": ends(
            lambda s, x: s.c(x[:, None]).flatten(1, 2), 2, 2, axis=2, c=nn.Conv2d(1, 2, (3, 5), padding=(1, 2))
        ),
        "rows and bands in one axis": ends(
            lambda s, x: s.c(x.reshape(-1, 1, x.shape[2])).reshape(x.shape), 1, 1, c=nn.Conv1d(1, 1, 3, padding=1)
        ),
    },
    "edges that are mirrored or repeated are in the stream": {
        "reflect far": ends(lambda s, x: s.c(F.pad(x, (4, 3), "reflect")), 4, 9),
        "as a layer pads": ends(lambda s, x: s.c(x), 2, 4, 3, c=conv(5, padding=2, padding_mode="reflect")),
        "replicate": ends(lambda s, x: s.c(F.pad(x, (2, 2), "replicate")), 2, 2, c=conv(5)),
        "reflect alone": ends(lambda s, x: F.pad(x, (2, 1), "reflect"), 2, 5),
        "reflect and a stride": ends(lambda s, x: s.c(F.pad(x, (3, 3), "reflect")), 2, 2, 2, c=conv(6, stride=2)),
        "reflect, changed frame by frame": ends(lambda s, x: s.c(F.pad(x, (2, 2), "reflect").relu()), 2, 2, c=conv(5)),
        "reflect late frames": ends(lambda s, x: s.c(F.pad(s.d(x), (2, 2), "reflect")), 4, 2, c=conv(5), d=conv()),
        "the last window filled up by its mirror": ends(
            lambda s, x: s.c(F.pad(x, (2, -x.shape[-1] % 4), "reflect")), 0, 1, 4, c=conv(6, stride=4)
        ),
        "mirrored before, and nothing cut": ends(
            lambda s, x: s.c(F.pad(x, (2, 0), "reflect")[..., : x.shape[-1] + 2]), 2, 2
        ),
        "mirrors turned into more": by_hand(
            lambda s, x: F.pad(x.mT, (2, 1), "reflect").mT.repeat_interleave(3, 1), 2, 15
        ),
        "more made of mirrors": by_hand(more_of_mirrored, 1, 6),
    },
    "edges written by hand are in the stream": {
        "ends repeated": by_hand(repeated, 2, 2),
        "a first frame of its own": by_hand(lambda s, x: torch.cat([x[:, :1], x[:, 1:] - 0.9 * x[:, :-1]], 1), 0, 0),
        "an end chosen by masks": by_hand(chosen, 0, 0),
        "ends reflected": by_hand(
            lambda s, x: smoothed(torch.cat([x[:, 1:3].flip(1), x, x[:, -3:-1].flip(1)], 1)), 2, 2
        ),
        "the frame before": by_hand(lambda s, x: torch.cat([x[:, :1], x[:, :-1]], 1), 0, 0),
        "a start in the first frame": by_hand(folded, 0, 0),
        "zeros by a product": by_hand(lambda s, x: torch.cat([0 * x[:, :2], x[:, :-2]], 1) + x, 0, 0),
        "the next frame": by_hand(lambda s, x: torch.cat([x[:, 1:], x[:, -1:]], 1) - x, 1, 1),
        "a difference": by_hand(lambda s, x: torch.diff(x, dim=1, prepend=torch.zeros_like(x[:, :1])), 0, 0),
        "a difference at the end": by_hand(lambda s, x: torch.diff(x, dim=1, append=x[:, -1:]), 1, 1),
        "slopes": by_hand(lambda s, x: torch.gradient(x, dim=1)[0], 1, 1),
        "slopes to the end": by_hand(lambda s, x: torch.gradient(x, spacing=0.5, dim=(1,), edge_order=2)[0], 3, 3),
        "a rest left out": by_hand(rest_left_out, 0, 0, 3),
        "zeros between": by_hand(stuffed, 0, 0),
        "frames around by number": by_hand(spliced, 2, 2),
        "windows by number": by_hand(gathered, 4, 0, 2),
        "the frame before by number": by_hand(lambda s, x: x[:, (torch.arange(x.shape[1]) - 1).clamp(min=0)], 0, 0),
    },
    "the last window of a pool is given at the end": {
        "max, padded": pool(nn.MaxPool1d(4, 3, 1, ceil_mode=True), 2, 3, function=late),
        "mean, padding counted": pool(nn.AvgPool1d(4, 3, 2, ceil_mode=True), 2, 3, function=late),
        "max": pool(nn.MaxPool1d(3, 2, ceil_mode=True), 1),
        "max of a convolution": ends(lambda s, x: F.max_pool1d(s.c(x), 3, 2, 1), 2, 1, 2),
        "max, dilated": pool(nn.MaxPool1d(3, 2, 1, dilation=2, ceil_mode=True), 1),
        "max, a stride over the window": pool(nn.MaxPool1d(2, 3, 1, ceil_mode=True), 1, 3),
        "max, dilated, without ceil_mode": pool(nn.MaxPool1d(3, 2, 1, dilation=2), 1),
        "mean": pool(nn.AvgPool1d(3, 2, ceil_mode=True), 1),
        "mean, a window a frame": pool(nn.AvgPool1d(3, 1, ceil_mode=True), 0, 1),
        "mean, padding not counted": pool(nn.AvgPool1d(4, 3, 2, ceil_mode=True, count_include_pad=False), 2, 3),
        "each frame has the mean of its four": case(Call(of_its_four), X.mT, time_axis=1, chunk=4).streams(),
        "mean around": ends(lambda s, x: F.avg_pool1d(x, 3, 1, 1), 1, 1),
        "mean around, padding not counted": ends(lambda s, x: F.avg_pool1d(x, 5, 1, 2, count_include_pad=False), 2, 2),
        "mean around over both axes": ends(
            lambda s, x: F.avg_pool2d(x[:, None], 3, 1, 1, count_include_pad=False).flatten(1, 2), 1, 1, axis=2
        ),
        "before attention": pool(nn.MaxPool1d(3, 2, 1, ceil_mode=True), 1, function=before_attention),
        "before attention, padding not counted": pool(
            nn.AvgPool1d(2, 2, 1, ceil_mode=True, count_include_pad=False), 1, function=before_attention
        ),
        "power": pool(nn.LPPool1d(2, 3, 2, ceil_mode=True), 1),
        "power, whole windows": pool(nn.LPPool1d(2, 3, 2), 1),
        "max over both axes": pool(nn.MaxPool2d((3, 4), (2, 3), (1, 2), ceil_mode=True), 1, example=IMAGE),
        "mean over both axes": pool(nn.AvgPool2d((3, 4), (2, 3), (1, 2), ceil_mode=True), 1, example=IMAGE),
        "mean over both axes, padding not counted": pool(
            nn.AvgPool2d((3, 4), (2, 3), 1, ceil_mode=True, count_include_pad=False), 1, example=IMAGE
        ),
        "sum over both axes": pool(nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True, divisor_override=1), 1, example=IMAGE),
        "sum over both axes, whole windows": pool(nn.AvgPool2d((3, 2), 2, 1, divisor_override=1), 1, example=IMAGE),
        "three axes": pool(None, 1, 2, IMAGE, lambda s, x: F.avg_pool3d(x[:, None], 2, 2, 1, ceil_mode=True)),
    },
    "rows with one filter are independent": {
        "deltas of deltas": shared(lambda s, x: torch.cat([x, deltas(x), deltas(deltas(x, 3))], 1), 3),
        "over images": shared(blurred, 0, torch.randn(2, 3, 4, 12), k=torch.randn(3, 3)),
        "deltas": shared(lambda s, x: s.g(torch.cat([x, deltas(x)], 1).mT)[0], 2, g=nn.GRU(8, 5, batch_first=True)),
        "a filter of its own": shared(one_filter, 0, k=torch.randn(4)),
    },
    # The last frame was taken for what stood there before any was written.
    "frames that a loop writes are read": {
        "the last one": written(into_rows, with_last).streams(end=False),
        "up to one before the end": written(into_first_axis, and_the_next).streams(),
        "the last of a first axis": written(into_first_axis, with_last).streams(end=False),
        "the last of a last axis": written(into_last_axis, with_last).streams(end=False),
        "the last of pieces": written(into_pieces, with_last).streams(end=False),
        "a part of the last": written(into_rows, with_last_piece).streams(end=False),
        "a part of the last of a last axis": written(into_last_axis, with_last_piece).streams(end=False),
        "up to one before the end of rows": written(into_rows, and_the_next).streams(),
        "up to one before the end of a last axis": written(into_last_axis, and_the_next).streams(),
        "up to one before the end of pieces": written(into_pieces, and_the_next).streams(),
    },
    "lengths that are rounded up to whole windows stream": {
        "with a floor": case(Call(floored, **CODER), torch.randn(1, 1, 400), chunk=16).streams(
            lengths=range(21, 60, 3),
            notes=["over fewer than 21 frames the code goes another way"],
            holds=lambda lifted: lifted.shortest == 21,
        ),
        "padded where it is too short to be mirrored": case(Call(too_short_for_a_mirror, c=conv(7)), X).streams(
            lengths=range(7, 16), holds=lambda lifted: lifted.shortest == 7
        ),
        "again and again": case(Call(resampled, **CODER), torch.randn(1, 1, 200), chunk=8).streams(
            lengths=range(21, 100, 19)
        ),
    },
    "frames behind that are unlike are refused": {
        "learned": case(
            Call(learned_behind, c=conv(), end=nn.Parameter(torch.arange(8.0).reshape(4, 2))), X, time_axis=2
        ).refused("uneven-frames-behind", "ends.py:"),
    },
    "the last frame is an output where it does not look ahead": {
        "a cut that looks ahead": case(with_every(last_cut), X, time_axis=2).refused("last-frame-looks-ahead"),
        "a cut": case(Call(last_cut, c=conv()), X, time_axis=2).streams(delay=2, end=False),
        "a GRU that looks ahead": case(with_every(last_of_gru), X, time_axis=2).refused("last-frame-looks-ahead"),
        "a GRU": case(Call(last_of_gru, c=conv(), g=GRU), X, time_axis=2).streams(delay=2, end=False),
    },
}
