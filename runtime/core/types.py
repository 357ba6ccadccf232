"""Types of the inputs and results of streams and pools.

A model has one output or several: `Engine.with_one_output()` and `Engine.with_named_outputs()` say which, once, and
everything opened from there is typed by it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from rnn_export.platform.arrays import Array

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # What a step gives: an array for one output, a dict by name for several.
    Y = TypeVar("Y", bound=Array | dict[str, Array], default=Array | dict[str, Array])
else:
    from typing import TypeVar

    Y = TypeVar("Y")

Frames: TypeAlias = "npt.ArrayLike | Mapping[str, npt.ArrayLike]"
"""One input's frames, or those of every input by name."""

Ids: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
"""Of streams of a pool, (n,), as `Pool.open` gave them."""


class Latencies(TypedDict):
    """Figures of a histogram in ms; None where nothing is counted."""

    count: int
    p50_ms: float | None
    p99_ms: float | None
    mean_ms: float | None


class StreamHealth(TypedDict):
    """One stream of a pool: `frames` fed to it, `idle_s` seconds since the last, its resets, and NaN it gave.

    `p50_ms` and `p99_ms` are of the rounds that it was in; None before its first.
    """

    frames: int
    idle_s: float
    resets: int
    nan: int
    p50_ms: float | None
    p99_ms: float | None


class PoolCounts(TypedDict):
    """Counts since a pool was opened: streams opened, closed, and evicted when idle; rounds, and frames in them.

    `nan` are steps of one stream that gave a NaN, `reset` resets by the caller or for a NaN, `refused` rounds that were
    refused, and `full` streams that were not opened, at capacity.
    """

    opened: int
    closed: int
    evicted: int
    rounds: int
    frames: int
    nan: int
    reset: int
    refused: int
    full: int


class PoolMetrics(PoolCounts):
    """A pool: streams that may be open, and that are; `slots`, those that there is memory for, and its bytes.

    `round` is the rounds' latency.
    """

    capacity: int
    open: int
    slots: int
    nbytes: int
    round: Latencies


class BatcherCounts(TypedDict):
    """Counts since a batcher was made: rounds that it ran, frames fed in them.

    `failed`, `late` and `cancelled` frames were submitted and not fed: for an error, a deadline, by the caller;
    `refused` ones were not taken, for too many waited.
    """

    rounds: int
    frames: int
    failed: int
    refused: int
    late: int
    cancelled: int


class BatcherMetrics(BatcherCounts):
    """A batcher: frames that wait for a round, and streams in one, None before the first.

    `wait` is from submit to the start of the round, `latency` to the output.
    """

    waiting: int
    mean_batch: float | None
    wait: Latencies
    latency: Latencies
