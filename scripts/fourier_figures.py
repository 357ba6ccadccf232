"""Transforms of real frames in C beside the equivalent product with a basis, numpy's, and their limit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from rnn_export.platform.arrays import Array
from rnn_export.runtime.bench.limit import Limit, Reader
from tests.export.c_sheet import Case, Sheet, case, compiled, const

# Frames of 4 to 64 ms at 16 kHz, of 20 ms at 48 kHz, and a prime.
LENGTHS = (64, 128, 256, 320, 400, 512, 960, 1024, 509)
ROWS, ROUNDS, CALLS = 256, 11, 200


def fourier() -> Iterator[tuple[str, float]]:
    """Each without what a call from Python costs; numpy's, which has more to do at each call, over many rows too.

    No transform is faster than its values go in and out, each once: that is the limit.
    """
    random, reader = np.random.default_rng(0), Reader()
    call = _seconds(_step(case("Relu", np.zeros(1, np.float32))))
    for n in LENGTHS:
        x = random.standard_normal((1, n, 1)).astype(np.float32)
        rows = random.standard_normal((ROWS, n)).astype(np.float32)
        angles = -2 * np.pi * np.outer(np.arange(n), np.arange(n // 2 + 1)) / n
        basis = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
        transform = case("DFT", x, None, const(1), onesided=1)
        yield f"{n}: transform, µs", 1e6 * (_seconds(_step(transform)) - call)
        limit = Limit(reader, x.nbytes + 8 * (n // 2 + 1))
        limit.block()
        yield f"{n}: limit, its values in and out once, µs", limit.us
        yield (
            f"{n}: product with the basis, µs",
            1e6 * (_seconds(_step(case("MatMul", x[..., 0], const(basis)))) - call),
        )
        yield f"{n}: numpy.fft.rfft, a call, µs", 1e6 * _seconds(lambda row=rows[0]: np.fft.rfft(row))
        yield (
            f"{n}: numpy.fft.rfft, of {ROWS} rows a call, µs a row",
            1e6 * _seconds(lambda rows=rows: np.fft.rfft(rows), 4) / ROWS,
        )
        yield f"{n}: worst error of the transform, relative to scale", _error(transform, x)


def _step(of: Case) -> Callable[[], object]:
    sheet = Sheet([of], 20)
    step = compiled(sheet.written(), "sheet", sheet.spec)
    given = [np.ascontiguousarray(sheet.feed[t.name]) for t in sheet.spec.inputs]
    made: list[Array] = [np.empty((1, *t.shape[1:]), t.dtype) for t in sheet.spec.outputs]
    return step.prepared(given, made)


def _error(of: Case, x: Array) -> float:
    (got,) = Sheet([of], 20).computed().values()
    want = np.fft.rfft(x[0, :, 0].astype(np.float64))
    pairs = np.stack([want.real, want.imag], -1).reshape(1, -1)
    return float(np.abs(got - pairs).max() / np.abs(pairs).max())


def _seconds(call: Callable[[], object], calls: int = CALLS) -> float:
    """A call, the median of several rounds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - begin) / calls)
    return statistics.median(times)
