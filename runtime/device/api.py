"""What an engine computes on: memory, one queue of work, and graphs of work captured once and launched often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rnn_export.arrays import Array

# TensorRT asks it of every address.
ALIGNMENT = 256


class Buffer(Protocol):
    """Memory of the device, freed with its last reference."""

    @property
    def pointer(self) -> int: ...
    @property
    def nbytes(self) -> int: ...


class CapturedGraph(Protocol):
    """Captured work, queued in one call; addresses are those of its capture."""

    def launch(self) -> None: ...


class Device(Protocol):
    """A device and one queue of its own: work runs in the order in which it was queued, and later than the call.

    What a call queues reads and writes host arrays until `synchronize`; they must be contiguous and have the size of
    the buffer. Every method raises DeviceError; after `synchronize` the work has run or its error was raised. A row has
    `nbytes`, and `rows` are int32.
    """

    name: str
    stream: Any  # what an engine's enqueue takes

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Buffer:
        """Memory for such an array, unset, at a multiple of `ALIGNMENT` bytes."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Zeros in host memory that the device reads and writes directly, so that a graph may hold the copy."""

    def upload(self, to: Buffer, from_: Array) -> None: ...
    def download(self, to: Array, from_: Buffer) -> None: ...
    def copy(self, to: Buffer, from_: Buffer) -> None:
        """Queue a copy that stays on the device, to the start of `to`, which may be larger."""

    def gather(self, to: Buffer, from_: Buffer, rows: Buffer, count: int, nbytes: int) -> None:
        """Queue copies of the rows of `from_` that the first `count` of `rows` name: to the first of `to`."""

    def scatter(self, to: Buffer, from_: Buffer, rows: Buffer, count: int, nbytes: int) -> None:
        """Queue copies of the first `count` rows of `from_` to those of `to` that `rows` name; if twice, of either."""

    def flag_nan(self, flags: Buffer, from_: Buffer, count: int, nbytes: int, kind: str) -> None:
        """Queue 1 into the bytes of `flags` whose row of `kind`, one of FLOATS, has a NaN; others stay."""

    def capture(self, work: Callable[[], None]) -> CapturedGraph:
        """Call `work` once and keep what it queues, which does not run, as a graph."""

    def synchronize(self) -> None: ...
