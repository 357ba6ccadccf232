"""Latencies by bucket: every one is counted once, and a quantile is never further off than its bucket is wide."""

import math

import numpy as np
import pytest

from rnn_export.runtime.core.histogram import BOUNDS, Histogram, bucket, quantile_of


def test_the_bounds_are_powers_of_two_and_the_last_is_open():
    assert len(BOUNDS) == 16
    assert BOUNDS[:3] == (2**-16, 2**-15, 2**-14)
    assert BOUNDS[-2:] == (0.25, math.inf)


@pytest.mark.parametrize("index", range(15))
def test_a_bound_belongs_to_its_own_bucket(index):
    assert bucket(BOUNDS[index]) == index
    assert bucket(np.nextafter(BOUNDS[index], 1)) == index + 1


@pytest.mark.parametrize(("seconds", "index"), [(0.0, 0), (1e-9, 0), (1e-3, 7), (0.3, 15), (1e9, 15), (math.inf, 15)])
def test_any_latency_has_a_bucket(seconds, index):
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


def test_what_is_above_the_last_bound_is_told_as_at_least_that():
    histogram = Histogram()
    histogram.add(1e-3, times=90)
    histogram.add(7.0, times=10)
    assert histogram.quantile(0.99) == 0.25
    assert histogram.as_dict()["mean_ms"] == pytest.approx(700.9)


def test_counts_of_many_streams_do_not_overflow_in_the_sum():
    counts = np.full(16, 2**32 - 1, np.uint32)
    assert quantile_of(counts, 0.5) == pytest.approx(BOUNDS[7])


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


def test_plain_data_is_in_milliseconds():
    histogram = Histogram()
    histogram.add(2**-10, times=100)
    given = histogram.as_dict()
    assert given["count"] == 100
    assert given["mean_ms"] == pytest.approx(1e3 * 2**-10)
    assert 1e3 * 2**-11 < given["p50_ms"] < given["p99_ms"] <= 1e3 * 2**-10
    assert all(type(value) in (int, float) for value in given.values())
