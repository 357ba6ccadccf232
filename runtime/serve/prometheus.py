"""The figures of a pool and of its batcher for Prometheus: counters, gauges and histograms, read when asked for."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from rnn_export.errors import SourceError
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.core.histogram import BOUNDS, Histogram
from rnn_export.runtime.pool import Pool
from rnn_export.runtime.serve.batcher import Batcher

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import Metric

# What `metrics()` has under each key: (name, help).
Names = Mapping[str, tuple[str, str]]
POOL_GAUGES = {
    "capacity": ("pool_capacity_streams", "The most streams that the pool may have."),
    "open": ("pool_open_streams", "Streams that are open."),
    "slots": ("pool_slots", "Streams that there is memory for."),
    "nbytes": ("pool_bytes", "Memory of the streams in bytes."),
}
POOL_COUNTERS = {
    "opened": ("pool_streams_opened", "Streams that were opened."),
    "closed": ("pool_streams_closed", "Streams that were closed, by the caller or for a NaN."),
    "evicted": ("pool_streams_evicted", "Streams that were closed for being idle."),
    "reset": ("pool_streams_reset", "Resets of streams, by the caller or for a NaN."),
    "nan": ("pool_nans", "Steps of one stream that gave a NaN."),
    "rounds": ("pool_rounds", "Rounds, each a batched step."),
    "frames": ("pool_frames", "Frames that were fed."),
    "refused": ("pool_rounds_refused", "Rounds that were refused; nothing was fed."),
    "full": ("pool_opens_refused", "Streams that were not opened, at capacity."),
}
BATCHER_GAUGES = {"waiting": ("batcher_waiting_frames", "Frames that wait for a round.")}
BATCHER_COUNTERS = {
    "rounds": ("batcher_rounds", "Rounds that the batcher ran."),
    "frames": ("batcher_frames", "Submitted frames that were fed."),
    "failed": ("batcher_frames_failed", "Submitted frames that failed with an error; not fed."),
    "late": ("batcher_frames_late", "Submitted frames that no round took by their deadline; not fed."),
    "cancelled": ("batcher_frames_cancelled", "Submitted frames that were cancelled before their round; not fed."),
    "refused": ("batcher_frames_refused", "Frames that were not taken, for too many waited."),
}


class Figures:
    """A collector for `prometheus_client`: `REGISTRY.register(collector(pool))`."""

    def __init__(self, pool: Pool, batcher: Batcher | None, name: str) -> None:
        self.pool, self.batcher, self.name = pool, batcher, name

    def collect(self) -> Iterator[Metric]:
        yield from self._plain(self.pool.metrics(), POOL_GAUGES, POOL_COUNTERS)
        yield self._histogram("pool_round_seconds", "How long a round took.", self.pool.latency)
        if self.batcher is not None:
            yield from self._plain(self.batcher.metrics(), BATCHER_GAUGES, BATCHER_COUNTERS)
            yield self._histogram("batcher_wait_seconds", "From submit to the start of the round.", self.batcher.wait)
            yield self._histogram("batcher_latency_seconds", "From submit to the output.", self.batcher.latency)

    def _plain(self, values: Mapping[str, Any], gauges: Names, counters: Names) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for family, table in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for key, (name, text) in table.items():
                yield family(f"{self.name}_{name}", text, value=values[key])

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        reached = np.cumsum(histogram.counts).tolist()
        bounds = ["+Inf" if math.isinf(bound) else repr(bound) for bound in BOUNDS]
        buckets = list(zip(bounds, reached, strict=True))
        return HistogramMetricFamily(f"{self.name}_{name}", text, buckets=buckets, sum_value=histogram.total_s)


class Endpoint:
    """The figures over HTTP until `close()`; `port` is where."""

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self.port: int = server.server_port
        self._server, self._thread = server, thread

    def close(self) -> None:
        """Stop the server and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def collector(pool: Pool, batcher: Batcher | None = None, name: str = "rnn_export") -> Figures:
    """The figures of `pool`, and of `batcher` if there is one, under names that start with `name`.

    Raises SourceError where prometheus-client is missing or `name` is no name of a metric.
    """
    if find_spec("prometheus_client") is None:
        raise SourceError(f"prometheus-client is not here: {pip_install('metrics')}.", id="prometheus-client-missing")
    if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name):
        raise SourceError(
            f"name={name!r} is no name of a metric: use letters, digits and _, and no digit first.",
            id="metric-name-malformed",
        )
    return Figures(pool, batcher, name)


def serve(pool: Pool, batcher: Batcher | None = None, port: int = 9464, address: str = "127.0.0.1") -> Endpoint:
    """Serve http://`address`:`port`/metrics from a thread; port 0 takes a free one. Close it when done.

    `address` "0.0.0.0" serves every network of the machine, to anybody. Raises SourceError where prometheus-client is
    missing, or `port` is taken or cannot be served.
    """
    figures = collector(pool, batcher)
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(figures)
    try:
        server, thread = start_http_server(port, address, registry)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            why = "is taken. Choose another with port=, or 0 for a free one."
        else:
            why = f"cannot serve ({error}). Give an address= of this machine, and a port= up to 65535."
        raise SourceError(f"port {port} of {address} {why}", id="metrics-port-unusable") from error
    return Endpoint(server, thread)
