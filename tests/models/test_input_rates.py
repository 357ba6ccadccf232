"""Inputs of several rates: a spectrum and the samples that a stream takes for each frame of it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.contract.layout import canonical
from rnn_export.export import export
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import streamed

SPECTRUM = torch.randn(2, 10, 4)


def gru(size: int) -> nn.GRU:
    return nn.GRU(size, 5, batch_first=True)


def repeated(s, wave, spectrum):
    return s.g(torch.cat([wave, spectrum.repeat_interleave(6, 1)], 2))[0]


def upsampled(s, wave, spectrum):
    """As torchaudio's WaveRNN: a convolution without padding over the spectrum, and as many samples as that leaves."""
    return s.g(torch.cat([wave, s.u(s.c(spectrum.mT))], 1).mT)[0]


def film(s, wave, spectrum):
    """Both look ahead, by other numbers of samples."""
    return torch.tanh(s.w(wave)) * F.interpolate(s.c(spectrum.mT), scale_factor=4.0)


def extra_windows(s, wave, spectrum):
    """Samples of a window more than the spectrum has."""
    return s.g(torch.cat([s.w(wave).mT, spectrum], 2))[0]


def spoken(s, pitch, codes, who):
    return s.g(torch.cat([s.e(codes), pitch.repeat_interleave(4, 1)], 2))[0] + s.a(who)[:, None]


def kept(s, wave, spectrum):
    y, s.h = s.g(torch.cat([wave, spectrum.repeat_interleave(6, 1)], 2), s.h)
    return y


def packed(s, wave, spectrum):
    return s.f(repeated(s, wave, spectrum))[0]


def of_video(s, wave, video):
    """Few frames come out."""
    return s.g(torch.cat([s.w(wave.mT).mT, video], 2))[0]


def two_for_three(s, a, b):
    return s.g(torch.cat([a.repeat_interleave(3, 1), b.repeat_interleave(2, 1)], 2))[0]


REPEATED, SIX = Call(repeated, g=gru(5)), [(6, 0), (1, 0)]
BOTH = torch.randn(2, 60, 1), SPECTRUM
# By name: a model, its inputs, for each how many frames it has of one and how many of the first the model lacks.
RATED = {
    "steps of several": (REPEATED, BOTH, {"chunk": 3}, SIX),
    "windows of the spectrum": (
        Call(upsampled, c=nn.Conv1d(4, 3, 5), u=nn.ConvTranspose1d(3, 3, 8, 8), g=gru(4)),
        (torch.randn(2, 1, 48), SPECTRUM), {}, [(8, 4), (1, 0)],
    ),
    "one stream": (REPEATED, (BOTH[0][:1], SPECTRUM[:1]), {}, SIX),
    "time is said": (REPEATED, BOTH, {"time_axis": {"wave": -2, "spectrum": 1}}, SIX),
    "windows of samples": (
        Call(extra_windows, w=nn.Conv1d(1, 3, 16, 8), g=gru(7)),
        (torch.randn(2, 1, 88), SPECTRUM), {}, [(8, 0), (1, 1)],
    ),
    "ahead": (
        Call(film, w=nn.Conv1d(1, 3, 3, padding=1), c=nn.Conv1d(4, 3, 3, padding=1)),
        (torch.randn(2, 1, 40), SPECTRUM), {"chunk": 2}, [(4, 0), (1, 0)],
    ),
    "two for three": (
        Call(two_for_three, g=gru(3)), (torch.randn(2, 8, 2), torch.randn(2, 12, 1)), {}, [(2, 0), (3, 0)],
    ),
    "three inputs": (
        Call(spoken, e=nn.Embedding(9, 3), a=nn.Linear(2, 5), g=gru(4)),
        (torch.randn(2, 10, 1), torch.randint(9, (2, 40)), torch.randn(2, 2)), {}, [(1, 0), (4, 0), (0, 0)],
    ),
    "few frames come out": (
        Call(of_video, w=nn.Conv1d(1, 3, 8, 8), g=gru(7)), (torch.randn(2, 80, 1), SPECTRUM), {}, [(8, 0), (1, 0)],
    ),
    "its own state": (Call(kept, g=gru(5), h=torch.zeros(1, 2, 5)), BOTH, {}, SIX),
    "packed": (Call(packed, g=gru(5), f=nn.GRU(5, 5, batch_first=True)), BOTH, {"pack_states": True}, SIX),
}  # fmt: skip


def drawn(example, axis, rate, frames):
    sizes = [frames * rate if a == axis else n for a, n in enumerate(example.shape)]
    return torch.randn(sizes) if example.is_floating_point() else torch.randint(9, sizes)


@pytest.mark.parametrize(("model", "example", "options", "rates"), RATED.values(), ids=RATED)
def test_a_stream_takes_frames_that_belong_together(model, example, options, rates):
    lifted = lift(model, example, **options)
    spec = lifted.spec
    times = [t.axis("time") for t in spec.inputs]
    assert [0 if time is None else t.rate for t, time in zip(spec.inputs, times, strict=True)] == [r for r, _ in rates]
    for frames in range(6, 6 + max(spec.chunk, 2)):
        fed = [drawn(x, t, r, frames) for x, t, (r, _) in zip(example, times, rates, strict=True)]
        taken = [
            x if t is None else x.narrow(t, late * r, x.shape[t] - late * r)
            for x, t, (r, late) in zip(fed, times, rates, strict=True)
        ]
        model.h = torch.zeros(1, 2, 5)
        with torch.no_grad():
            want = canonical(model(*taken).numpy(), spec.outputs[0])
        (got,) = streamed(lifted, *fed)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)
    late = [t.name for t, (_, late) in zip(spec.inputs, rates, strict=True) if late]
    assert all(any(f"of {name!r} are fed and not read" in note for note in lifted.notes) for name in late)


def test_what_stands_in_no_ratio_is_refused():
    """As many frames as both have, of whichever is longer the first ones."""

    def shortest(s, x, y):
        frames = min(x.shape[1], y.shape[1])
        return s.g(x[:, :frames])[0] + s.g(y[:, :frames])[0]

    with raises("unequal-frame-counts", "'x' has 9"):
        lift(Call(shortest, g=gru(4)), (torch.randn(2, 9, 4), torch.randn(2, 18, 4)))


def test_a_ratio_of_rows_is_none_of_time():
    """Several rows of the one for each of the other: no axis of time."""
    parts = {"g": gru(4), "a": nn.Linear(4, 5)}
    model = Call(lambda s, x, beams: s.g(beams)[0].unflatten(0, (-1, 3)).mean(1) + s.a(x)[:, None], **parts)
    spec = lift(model, (torch.randn(2, 4), torch.randn(6, 7, 4))).spec
    assert spec.rows == 1
    assert [t.rate for t in spec.inputs] == [1, 1]


@pytest.mark.export
def test_every_way_to_feed_it_counts_frames_of_the_sequence(tmp_path):
    torch.manual_seed(0)
    model, path = REPEATED, tmp_path / "vocoder.rnnx"
    export(model, BOTH, path, chunk=2)
    wave, spectrum = torch.randn(2, 42, 1), torch.randn(2, 7, 4)
    with torch.no_grad():
        want = model(wave, spectrum).numpy()
    engine, (wave, spectrum) = load(path), (wave.numpy(), spectrum.numpy())

    def piece(start, stop, row=0):
        return {"wave": wave[row, 6 * start : 6 * stop], "spectrum": spectrum[row, start:stop]}

    stream = engine.stream()
    given = [stream.run(piece(0, 3)), stream.run(piece(3, 4)), stream.step(piece(4, 6)), stream.run(piece(6, 7))]
    other = engine.stream()
    other.restore(stream.snapshot())
    given.append(other.finish())
    np.testing.assert_allclose(np.concatenate(given), want[0], rtol=1e-5, atol=2e-6)
    with raises(
        "run-frames-unfit",
        "the inputs have 11 of 'wave', 2 of 'spectrum', but of a sequence 6 of 'wave', 1 of 'spectrum' go together",
    ):
        engine.stream().run({"wave": wave[0, :11], "spectrum": spectrum[0, :2]})

    pool = engine.pool(2)
    ids = [pool.open(), pool.open()]
    rounds = [
        pool.step(ids, {n: np.stack([piece(t, t + 2, r)[n] for r in (0, 1)]) for n in ("wave", "spectrum")})
        for t in (0, 2, 4)
    ]
    left = pool.finish(ids, {"wave": wave[:, 36:], "spectrum": spectrum[:, 6:]})
    np.testing.assert_allclose(np.concatenate([*rounds, np.stack(left)], 1), want, rtol=1e-5, atol=2e-6)
    with raises("ending-frames-unfit", "2"):
        engine.pool(2).finish([], {"wave": wave[:, :6], "spectrum": spectrum[:, :2]})
