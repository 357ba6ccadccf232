"""Latencies counted in buckets: a few bytes however long a service runs, and histograms can be summed."""

import math
from bisect import bisect_left

import numpy as np

from rnn_export.platform.arrays import Array
from rnn_export.runtime.core.types import Latencies

# Upper bounds of the buckets in seconds, each twice the one before, from 15 us to 0.25 s; the last bucket is open.
BOUNDS = (*(2.0**exponent for exponent in range(-16, -1)), math.inf)


def bucket(seconds: float) -> int:
    """The first bucket whose bound is not below `seconds`."""
    return bisect_left(BOUNDS, seconds)


def quantile_of(counts: Array, q: float) -> float | None:
    """The latency in seconds that a share `q` (0 to 1) of `counts` (buckets,) stays below; None where none is counted.

    Interpolated within a bucket on a scale of factors. Of the open bucket it is the lower end: "at least".
    """
    reached = np.cumsum(counts, dtype=np.int64)
    if not reached[-1]:
        return None
    rank = q * float(reached[-1])
    index = int(np.searchsorted(reached, max(rank, 1e-9)))
    upper = BOUNDS[index]
    if math.isinf(upper):
        return BOUNDS[index - 1]
    inside = int(counts[index])
    share = (rank - int(reached[index]) + inside) / inside
    return upper / 2 * math.exp2(share)


class Histogram:
    """Counts of latencies by bucket, `counts` (buckets,), and their sum in seconds."""

    def __init__(self) -> None:
        self.counts: Array = np.zeros(len(BOUNDS), np.int64)
        self.total_s = 0.0

    def add(self, seconds: float, times: int = 1) -> int:
        """Count it `times` times, and give its bucket."""
        at = bucket(seconds)
        self.counts[at] += times
        self.total_s += seconds * times
        return at

    def add_each(self, seconds: Array) -> None:
        """Count every one of `seconds` (n,)."""
        self.counts += np.bincount(np.searchsorted(BOUNDS, seconds), minlength=len(BOUNDS))
        self.total_s += float(seconds.sum())

    def quantile(self, q: float) -> float | None:
        """The latency in seconds that a share `q` (0 to 1) of all stays below; None where none is counted."""
        return quantile_of(self.counts, q)

    def as_dict(self) -> Latencies:
        """Count, median, 99th percentile and mean, in milliseconds."""
        count = int(self.counts.sum())
        p50, p99 = self.quantile(0.5), self.quantile(0.99)
        mean = self.total_s / count if count else None
        return {"count": count, "p50_ms": milliseconds(p50), "p99_ms": milliseconds(p99), "mean_ms": milliseconds(mean)}


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
