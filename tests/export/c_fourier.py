"""Cases of Fourier transforms: all kinds of lengths, every axis, real and complex, forward and inverse."""

import numpy as np

from .c_sheet import Case, Constant, case, const
from .c_values import floats

# Powers of two and not, small primes, the largest radix, primes beyond it, odd and even numbers that have one.
LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 30, 49, 60, 61, 64, 67, 100, 128, 134, 201, 240, 320, 512)


def transforms() -> list[Case]:
    """Opset 20, with the axis as an input."""
    cases = []
    for n in LENGTHS:
        cases += [
            case("DFT", floats(1, n, 1), None, const(1), onesided=1),
            case("DFT", floats(1, n, 2), None, const(1)),
            case("DFT", floats(1, n, 2), None, const(1), inverse=1),
        ]
        if n > 1:
            cases += [case("DFT", spectrum(n, 1), const(n), const(1), inverse=1, onesided=1)]
    for n in (8, 15, 67):
        cases += [
            case("DFT", floats(2, n, 1), onesided=0),
            case("DFT", floats(2, n, 1), inverse=1),
            case("DFT", floats(n, 3, 1), None, const(0), onesided=1),
            case("DFT", floats(2, n, 5, 2), None, const(-3)),
            case("DFT", floats(2, n, 5, 2), None, const(1), inverse=1),
            case("DFT", floats(2, n, 1), const(n - 3), const(-2), onesided=1),
            case("DFT", floats(2, n, 1), const(n + 5), const(-2), onesided=1),
            case("DFT", floats(2, n, 2), const(n + 4), const(-2)),
            case("DFT", floats(2, n, 2), const(n - 2), const(-2), inverse=1),
            case("DFT", floats(2, n, 5, 1), const(n - 1), const(1), onesided=1),
        ]
    return [*cases, case("DFT", spectrum(16, 2), None, const(1), inverse=1, onesided=1)]


def spectrum(n: int, rows: int) -> np.ndarray:
    """The spectrum of a real signal, (rows, n / 2 + 1, 2): the first and for an even n the last value are real."""
    values = np.fft.rfft(floats(rows, n).astype(np.float64), axis=1)
    return np.stack([values.real, values.imag], -1).astype(np.float32)


def transforms_of_old() -> list[Case]:
    """Opset 17, with the axis as an attribute, and STFT."""
    window = const(np.hanning(16).astype(np.float32))
    return [
        case("DFT", floats(2, 12, 1)),
        case("DFT", floats(2, 12, 1), onesided=1, axis=-2),
        case("DFT", floats(2, 12, 3, 2), axis=2),
        case("DFT", floats(2, 12, 3, 2), axis=1, inverse=1),
        case("DFT", floats(2, 12, 1), 10, axis=1),
        case("STFT", floats(1, 64, 1), 4, window, 16, onesided=1),
        case("STFT", floats(2, 64, 1), 8, window, onesided=0),
        case("STFT", floats(2, 64, 1), 8, None, 16, onesided=1),
        case("STFT", floats(1, 40, 1), 5, const(floats(15)), 15, onesided=1),
        case("STFT", floats(1, 64, 2), 8, window, 16, onesided=0),
        case("STFT", floats(1, 512, 1), 128, const(floats(512)), 512, onesided=1),
    ]


def fourier(found: Case) -> np.ndarray:
    """numpy's result of a case, in float64, as pairs or as real values."""
    x, length, axis = (*found.inputs, None, None)[:3]
    assert isinstance(x, np.ndarray)
    along = int(axis.value) if isinstance(axis, Constant) else found.attributes.get("axis", 1)
    along %= x.ndim
    n = int(length.value) if isinstance(length, Constant) else None
    values = x[..., 0] + (1j * x[..., 1].astype(np.float64) if x.shape[-1] == 2 else 0)
    values = values.astype(np.complex128 if x.shape[-1] == 2 else np.float64)
    inverse, onesided = (bool(found.attributes.get(name)) for name in ("inverse", "onesided"))
    if inverse and onesided:
        return np.fft.irfft(values, n, along)
    transform = np.fft.ifft if inverse else np.fft.rfft if onesided else np.fft.fft
    result = transform(values, n, along)
    return np.stack([result.real, result.imag], -1)
