"""Latencies by bucket: every one is counted once, and a quantile is never further off than its bucket is wide."""

import math

import numpy as np
import pytest

from rnn_export.runtime.core.histogram import BOUNDS, Histogram, bucket, quantile_of


def test_any_latency_has_a_bucket_and_a_bound_belongs_to_its_own():
    assert (*(2.0**n for n in range(-16, -1)), math.inf) == BOUNDS
    for index, bound in enumerate(BOUNDS[:-1]):
        assert bucket(bound) == index
        assert bucket(np.nextafter(bound, 1)) == index + 1
    for seconds, index in ((0.0, 0), (1e-9, 0), (1e-3, 7), (0.3, 15), (1e9, 15), (math.inf, 15)):
        assert bucket(seconds) == index


def test_nothing_counted_has_no_quantile():
    histogram = Histogram()
    assert histogram.quantile(0.5) is None
    assert quantile_of(np.zeros(16, np.uint32), 0.99) is None
    assert histogram.as_dict() == {"count": 0, "p50_ms": None, "p99_ms": None, "mean_ms": None}


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.99])
def test_a_quantile_is_within_its_bucket(q):
    seconds = np.random.default_rng(0).lognormal(-7, 1, 10_000)
    histogram = Histogram()
    histogram.add_each(seconds)
    given, exact = histogram.quantile(q), float(np.quantile(seconds, q))
    assert bucket(given) == bucket(exact)
    assert given == pytest.approx(exact, rel=0.15)


def test_a_quantile_is_interpolated_on_a_scale_of_factors():
    counts = np.zeros(16, np.uint32)
    counts[6] = 4
    ends = [quantile_of(counts, q) for q in (0, 0.25, 0.5, 0.75, 1)]
    assert ends == pytest.approx([BOUNDS[5] * 2**share for share in (0, 0.25, 0.5, 0.75, 1)])
    counts[0] = 4
    assert quantile_of(counts, 0.25) == pytest.approx(BOUNDS[0] / math.sqrt(2))
    assert quantile_of(counts, 0.75) == pytest.approx(BOUNDS[6] / math.sqrt(2))
    # Counts of many streams do not overflow in the sum.
    assert quantile_of(np.full(16, 2**32 - 1, np.uint32), 0.5) == pytest.approx(BOUNDS[7])


def test_plain_data_is_in_milliseconds_and_what_is_above_the_last_bound_is_at_least_that():
    histogram = Histogram()
    histogram.add(1e-3, times=90)
    histogram.add(7.0, times=10)
    assert histogram.quantile(0.99) == 0.25
    given = histogram.as_dict()
    assert (given["count"], given["mean_ms"]) == (100, pytest.approx(700.9))
    assert 1e3 * 2**-11 < given["p50_ms"] <= 1e3 * 2**-9 < given["p99_ms"] == 250
    assert all(type(value) in (int, float) for value in given.values())


def test_one_by_one_times_and_all_at_once_count_the_same():
    seconds = [1e-5, 1e-3, 1e-3, 1e-3, 0.25, 3.0]
    singly, times, at_once = Histogram(), Histogram(), Histogram()
    for value in seconds:
        singly.add(value)
    for value in (1e-5, 0.25, 3.0):
        times.add(value)
    times.add(1e-3, times=3)
    at_once.add_each(np.array(seconds))
    for histogram in (singly, times, at_once):
        assert histogram.counts.dtype == np.int64
        assert {i: int(n) for i, n in enumerate(histogram.counts) if n} == {0: 1, 7: 3, 14: 1, 15: 1}
        assert histogram.total_s == pytest.approx(sum(seconds))
        assert histogram.as_dict()["count"] == 6
