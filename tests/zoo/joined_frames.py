"""Frames that are joined, split, upsampled or filled up, and layers that run over them, stream to their end."""

import torch
from torch import nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case, gru

X = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))  # (B, T, C)
SAMPLES = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))  # (B, C, T)


def smoothed(x):
    """By a loop of the model's own: (B, C, T)."""
    h, frames = torch.zeros_like(x[..., 0]), []
    for frame in x.unbind(-1):
        h = 0.5 * h + torch.tanh(frame)
        frames.append(h)
    return torch.stack(frames, -1)


# --- frames that are made of others


def to_size(s, x):
    return smoothed(F.interpolate(s.mix(x).mT, size=3 * x.shape[1])).mT


def mirrored(s, x):
    """Mirrors of frames that are several of one."""
    return s.conv(F.pad(x.mT.repeat_interleave(2, -1), (2, 2), mode="reflect")).mT


def overlapped(s, x):
    """A loop behind windows that are added up, whose number is a step of the length."""
    windows = F.pad(s.mix(x).mT, (2, 1), mode="reflect").unfold(2, 4, 2)
    whole = F.fold(windows.mT.flatten(1, 2), (1, 2 * windows.shape[2] + 2), (1, 4), stride=(1, 2))
    return smoothed(whole[:, :, 0]).mT


def completed(s, x):
    """A loop behind windows of which the last one is filled up, by as many frames as the length says."""
    return smoothed(s.strided(F.pad(x.mT, (1, -x.shape[1] % 3)))).mT


def of_frames(forward, **options):
    def make():
        layers = {
            "conv": nn.Conv1d(3, 4, 3),
            "strided": nn.Conv1d(3, 4, 4, stride=3),
            "gru": nn.GRU(12, 4, batch_first=True),
        }
        return Call(forward, mix=nn.Linear(3, 3), **layers)

    return case(make, X, time_axis=1, **options)


# --- several frames as one


def of_one_signal(s, x):
    """Samples (B, 1, T) as frames of four."""
    signal = s.mix(x)[..., :1].mT
    return s.small(signal.reshape(signal.shape[0], -1, 4))[0]


def of_one_signal_separately(s, x):
    """Samples (B, T) as frames (B, 1, T / 4, 4)."""
    signal = s.mix(x)[..., 0]
    return s.small(signal.view(signal.shape[0], 1, -1, 4)[:, 0])[0]


def filled(s, x):
    """Every four frames as one; the last ones are filled up."""
    return s.gru(F.pad(x, (0, 0, 0, -x.shape[1] % 4)).reshape(x.shape[0], -1, 12))[0]


def blocks(s, x):
    """Attention within blocks of four frames."""
    q, k, v = s.wide(x).unflatten(1, (-1, 4)).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v).flatten(1, 2)


def pyramid(s, x):
    """Every two frames as one, then every three of those; those that fill no six are left out."""
    y = s.first(x[:, : x.shape[1] // 6 * 6])[0]
    for layer, several in ((s.second, 2), (s.third, 3)):
        b, t, c = y.shape
        y = layer(y.contiguous().view(b, t // several, several * c))[0]
    return y


def by_samples(s, x):
    return s.out(s.gru(s.front(x.view(x.shape[0], -1, 16)))[0]).flatten(1)


def fours(forward):
    return case(
        lambda: Call(forward, mix=nn.Linear(3, 1), small=gru(4, 3), wide=nn.Linear(3, 9)), X, time_axis=1, chunk=4
    ).streams(delay=0, tail=0, lengths=range(4, 17, 4))


# --- a last window that is filled up only if it is partial: one stream for all lengths


def coded(s, x):
    return s.decoder(torch.relu(s.encoder(x)))


def padded(s, x):
    frames = x.shape[-1]
    if frames % 8:
        x = F.pad(x, (0, 8 - frames % 8))
    return coded(s, x)[..., :frames]


def joined(s, x):
    """As torchaudio's Conv-TasNet does."""
    frames = x.shape[-1]
    left = frames - frames // 8 * 8
    if left == 0:
        return coded(s, x)
    more = 8 - left
    return coded(s, torch.cat([x, torch.zeros(x.shape[0], x.shape[1], more)], 2))[..., :-more]


def with_odd_frame(s, x):
    """Windows of 8 behind one frame."""
    rest = (x.shape[-1] - 1) % 8
    if rest > 0:
        x = F.pad(x, (0, 8 - rest))
    return s.odd(x)


def put_together(s, x):
    missing = 4 - x.shape[-1] % 4
    if missing < 4:
        x = F.pad(x, (0, missing))
    return s.gru(x.reshape(x.shape[0], -1, 4))[0]


def put_together_by_number(s, x):
    missing = 4 - x.shape[-1] % 4
    if missing < 4:
        x = F.pad(x, (0, missing))
    windows = x.shape[-1] // 4
    return s.gru(x.reshape(x.shape[0], windows, 4))[0] + torch.full((windows, 1), 0.25)


def dilated(s, x):
    """Every second, then every fourth frame by itself, as rows: what fills the last of them up is cut off again."""
    x = x.permute(2, 0, 1)  # (T, B, C)
    for rnn, rate in ((s.first, 2), (s.second, 4)):
        frames = len(x)
        if frames % rate != 0:
            x = torch.cat([x, torch.zeros((frames // rate + 1) * rate - x.size(0), x.size(1), x.size(2))])
        y, _ = rnn(torch.cat([x[i::rate, :, :] for i in range(rate)], 1))
        rows = y.size(1) // rate
        y = torch.stack([y[:, i * rows : (i + 1) * rows, :] for i in range(rate)]).transpose(1, 0)
        x = y.reshape(y.size(0) * rate, rows, 4)[:frames]
    return x.transpose(0, 1)


def partial(forward):
    def make():
        code = {"encoder": nn.Conv1d(1, 4, 16, 8), "decoder": nn.ConvTranspose1d(4, 1, 16, 8)}
        return Call(forward, odd=nn.Conv1d(1, 4, 9, 8), gru=gru(4, 3), **code)

    return case(make, SAMPLES, time_axis=2, chunk=8).streams(chunk=8, lengths=range(16, 60, 3))


TABLE = {
    "a layer over frames that are made of others streams": {
        "a loop over windows": of_frames(overlapped, chunk=2).streams(delay=2, tail=6),
        "a loop over windows that are filled up": of_frames(completed, chunk=3).streams(delay=0, tail=1),
        "a loop between frames": of_frames(
            lambda s, x: smoothed(F.interpolate(s.mix(x).mT, scale_factor=2, mode="linear")).mT
        ).streams(delay=1, tail=2),
        "a loop over frames of a size": of_frames(to_size).streams(delay=0, tail=0),
        "a mirror of repeated frames": of_frames(mirrored).streams(delay=1, tail=4),
    },
    "several frames are taken as one": {
        "a pyramid": case(
            lambda: Call(pyramid, first=gru(4, 6), second=gru(12, 5), third=gru(15, 5)), torch.randn(1, 24, 4), chunk=6
        ).streams(delay=0, lengths=range(6, 22)),
        "filled up": of_frames(filled, chunk=4).streams(delay=0, tail=1),
        "attention in blocks": fours(blocks),
        "of one signal": fours(of_one_signal),
        "of one signal, apart": fours(of_one_signal_separately),
        "samples": case(
            lambda: Call(by_samples, gru=gru(8, 5), front=nn.Linear(16, 8), out=nn.Linear(5, 16)),
            torch.randn(1, 64),
            chunk=16,
        ).streams(end=False),
        "columns": case(
            lambda: Call(lambda s, x: s.gru(x.unflatten(-1, (-1, 4)).mean(-1).mT)[0], gru=gru(3, 5)),
            torch.randn(1, 3, 32),
            chunk=4,
        ).streams(end=False),
        "of a length that nobody tries": case(
            lambda: Call(
                lambda s, x: s.gru(s.front(x.unflatten(1, (-1, 441))))[0], gru=gru(8, 5), front=nn.Linear(441, 8)
            ),
            torch.randn(1, 1764),
            chunk=441,
        ).streams(end=False),
        "but not rows that are unpacked": case(
            lambda: Call(
                lambda s, x: s.gru(s.over(x.flatten(0, 1))[0].reshape(*x.shape[:2], -1))[0],
                over=gru(3, 5),
                gru=gru(35, 5),
            ),
            torch.randn(1, 9, 7, 3),
        ).streams(states=[(5,)], chunk=1),
    },
    "windows that are filled up only if partial": {
        "cut off again behind a decoder": partial(padded),
        "joined with zeros": partial(joined),
        "behind one frame": partial(with_odd_frame),
        "put together": partial(put_together),
        "put together, counted": partial(put_together_by_number),
        "dilated": case(
            lambda: Call(dilated, first=nn.GRU(1, 4), second=nn.GRU(4, 4)), SAMPLES, time_axis=2, chunk=4
        ).streams(lengths=range(24, 44, 3), holds=lambda lifted: lifted.spec.outputs[0].lengths == (0,)),
    },
}
