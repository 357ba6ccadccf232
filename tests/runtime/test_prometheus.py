"""Prometheus reads the counts of the pool and the batcher."""

import socket
import sys
import urllib.error
import urllib.request
from contextlib import closing

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from rnn_export.errors import Overloaded
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import load
from rnn_export.runtime.core.histogram import BOUNDS
from rnn_export.runtime.pool import Pool
from rnn_export.runtime.serve.batcher import Batcher
from rnn_export.runtime.serve.prometheus import collector, serve

from ..messages import raises  # noqa: TID252

ONE = np.ones(3, np.float32)


@pytest.fixture
def pool(bundle) -> Pool:
    return load(bundle("sum"), backend="onnxruntime").pool(capacity=100)


def parsed(text: str) -> dict[str, float]:
    """Every sample by name, with its bound where it is a bucket."""
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    names = [s.name + (f" {s.labels['le']}" if s.labels else "") for s in samples]
    assert len(set(names)) == len(names)
    return {name: s.value for name, s in zip(names, samples, strict=True)}


def read(*figures) -> dict[str, float]:
    registry = CollectorRegistry()
    for one in figures:
        registry.register(one)
    return parsed(generate_latest(registry).decode())


def figures(given: dict[str, float], part: str) -> dict[str, float]:
    """Those of the pool or the batcher, without the buckets."""
    start = f"rnn_export_{part}_"
    return {n.removeprefix(start): v for n, v in given.items() if n.startswith(start) and "_bucket " not in n}


def test_every_figure_of_a_pool(pool):
    ids = [pool.open() for _ in range(5)]
    for _ in range(3):
        pool.step(ids[:4], np.ones((4, 3), np.float32))
    pool.close(ids[4])
    pool.reset(ids[0])
    given, metrics = read(collector(pool)), pool.metrics()
    totals = {"streams_opened": 5, "streams_closed": 1, "streams_evicted": 0, "streams_reset": 1, "nans": 0}
    totals |= {"rounds": 3, "frames": 12, "rounds_refused": 0, "opens_refused": 0}
    assert figures(given, "pool") == {
        **{f"{name}_total": value for name, value in totals.items()},
        "capacity_streams": metrics["capacity"],
        "open_streams": 4,
        "slots": metrics["slots"],
        "bytes": metrics["nbytes"],
        "round_seconds_count": 3,
        "round_seconds_sum": pytest.approx(pool.latency.total_s),
    }
    # Nothing that the pool counts is left out.
    told = {"capacity", "open", "slots", "nbytes", "opened", "closed", "evicted", "reset", "nan", "rounds", "frames"}
    assert set(metrics) == told | {"refused", "full", "round"}


def test_every_figure_of_a_batcher(pool):
    stream = pool.open()
    with Batcher(pool, max_delay_ms=3_600_000, max_waiting=2) as batcher:
        assert batcher.submit(stream, ONE).result(60) is not None
        pool.open()
        waiting = [batcher.submit(stream, ONE) for _ in range(2)]
        with pytest.raises(Overloaded):
            batcher.submit(stream, ONE)
        assert waiting[1].cancel()
        counts = {"frames": 1, "frames_failed": 0, "frames_late": 0, "frames_cancelled": 1, "frames_refused": 1}
        assert figures(read(collector(pool, batcher)), "batcher") == {
            **{f"{name}_total": value for name, value in counts.items()},
            "waiting_frames": 1,
            "rounds_total": 1,
            "wait_seconds_count": 1,
            "latency_seconds_count": 1,
            "wait_seconds_sum": pytest.approx(batcher.wait.total_s),
            "latency_seconds_sum": pytest.approx(batcher.latency.total_s),
        }
        counted = {"waiting", "rounds", "frames", "failed", "late", "cancelled", "refused", "wait", "latency"}
        assert set(batcher.metrics()) == counted | {"mean_batch"}


def test_buckets_are_cumulative_up_to_their_bounds(pool):
    for seconds, times in ((1e-6, 2), (BOUNDS[3], 3), (0.2, 5), (9.0, 7)):
        pool.latency.add(seconds, times)
    given = read(collector(pool))
    buckets = {float(name.split()[1]): v for name, v in given.items() if "_round_seconds_bucket " in name}
    assert tuple(buckets) == BOUNDS
    assert list(buckets.values()) == [2, 2, 2, *[5] * 11, 10, 17]
    assert given["rnn_export_pool_round_seconds_count"] == 17


def test_two_pools_have_names_of_their_own(pool, bundle):
    other = load(bundle("pair"), backend="onnxruntime").pool()
    other.open()
    given = read(collector(pool, name="vad"), collector(other, name="asr:en"))
    assert given["vad_pool_open_streams"] == 0
    assert given["asr:en_pool_open_streams"] == 1


@pytest.mark.parametrize("name", ["rnn-export", "", "1st", "a b"])
def test_what_is_no_name_is_refused(pool, name):
    with raises("metric-name-malformed", f"'{name}'"):
        collector(pool, name=name)


def test_the_endpoint_tells_the_figures_as_of_now(pool):
    with Batcher(pool) as batcher, closing(serve(pool, batcher, port=0)) as endpoint:
        url = f"http://127.0.0.1:{endpoint.port}/metrics"
        for frames in range(3):
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain")
                given = parsed(answer.read().decode())
            assert given["rnn_export_pool_frames_total"] == given["rnn_export_batcher_frames_total"] == frames
            stream = pool.open()
            batcher.submit(stream, ONE).result(60)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=60)
    serve(pool, port=endpoint.port).close()


def test_what_cannot_be_served(pool):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port, address in ((taken.getsockname()[1], "127.0.0.1"), (70_000, "127.0.0.1"), (0, "192.0.2.1")):
            with raises("metrics-port-unusable", f"{port} of {address}"):
                serve(pool, port=port, address=address)


def test_without_prometheus_client(pool, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for call in (collector, serve):
        with raises("prometheus-client-missing", pip_install("metrics")):
            call(pool)
