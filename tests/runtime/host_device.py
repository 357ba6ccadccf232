"""A device without hardware: numpy memory, and a queue that is as late as a GPU's and writes down every call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rnn_export.errors import DeviceError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.device.cuda import ALIGNMENT
from rnn_export.runtime.device.values import decode, storage

Call = tuple[Any, ...]
Work = tuple[Call, Callable[[], None]]


class HostBuffer:
    """Bytes at an aligned address; unset ones are 0xFF, which is NaN as a float."""

    def __init__(self, nbytes: int) -> None:
        buffer = np.full(nbytes + ALIGNMENT, 0xFF, np.uint8)
        start = -buffer.ctypes.data % ALIGNMENT
        self.bytes = buffer[start : start + nbytes]
        self.pointer, self.nbytes = int(self.bytes.ctypes.data), nbytes


class HostDevice:
    """Nothing that is queued runs before `synchronize`, and nothing that is captured before it is launched.

    `calls` holds every call in order: (verb, pointers...), where ("capture", n, calls) has those of graph n.
    """

    def __init__(self) -> None:
        self.name, self.stream = "host", self
        self.calls: list[Call] = []
        self._queue: list[Work] = []
        self._captured: list[Work] | None = None
        self._graphs = 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> HostBuffer:
        return HostBuffer(math.prod(shape) * np.dtype(dtype).itemsize)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def upload(self, to: HostBuffer, from_: Array) -> None:
        self._move(("upload", to.pointer), to.bytes, _bytes(from_))

    def download(self, to: Array, from_: HostBuffer) -> None:
        self._move(("download", from_.pointer), _bytes(to), from_.bytes)

    def copy(self, to: HostBuffer, from_: HostBuffer) -> None:
        self._move(("copy", to.pointer, from_.pointer), to.bytes[: from_.nbytes], from_.bytes)

    def _move(self, call: Call, to: Array, from_: Array) -> None:
        if to.nbytes != from_.nbytes:
            raise DeviceError(f"{call[0]} of {from_.nbytes} bytes into {to.nbytes}.")
        self.submit(call, lambda: np.copyto(to, from_))

    def gather(self, to: HostBuffer, from_: HostBuffer, rows: HostBuffer, count: int, nbytes: int) -> None:
        self._rows("gather", from_, to, rows, count, nbytes)

    def scatter(self, to: HostBuffer, from_: HostBuffer, rows: HostBuffer, count: int, nbytes: int) -> None:
        self._rows("scatter", to, from_, rows, count, nbytes)

    def _rows(self, verb: str, pool: HostBuffer, dense: HostBuffer, rows: HostBuffer, count: int, nbytes: int) -> None:
        few, many = _table(verb, dense, count, nbytes), pool.bytes.reshape(-1, nbytes)
        named = _table(verb, rows, count, 4).view(np.int32)[:, 0]

        def work() -> None:
            if ((named < 0) | (named >= len(many))).any():
                raise DeviceError(f"{verb} of rows {named.tolist()} where there are {len(many)}.")
            if verb == "gather":
                few[...] = many[named]
            else:
                many[named] = few

        to, from_ = (dense, pool) if verb == "gather" else (pool, dense)
        self.submit((verb, to.pointer, from_.pointer, rows.pointer), work)

    def flag_nan(self, flags: HostBuffer, from_: HostBuffer, count: int, nbytes: int, kind: str) -> None:
        rows, found = _table("flag_nan", from_, count, nbytes), _table("flag_nan", flags, count, 1)[:, 0]

        def work() -> None:
            # A cast of a NaN that signals is an invalid value of IEEE 754.
            with np.errstate(invalid="ignore"):
                values = decode(rows.view(storage(kind)), kind, np.dtype(np.float64))
            found[np.isnan(values).any(1)] = 1

        self.submit(("flag_nan", flags.pointer, from_.pointer), work)

    def submit(self, call: Call, work: Callable[[], None]) -> None:
        """Queue work, or add it to the graph that is being captured."""
        if self._captured is not None:
            self._captured.append((call, work))
        else:
            self.calls.append(call)
            self._queue.append((call, work))

    def capture(self, work: Callable[[], None]) -> HostGraph:
        captured: list[Work] = []
        self._captured = captured
        try:
            work()
        finally:
            self._captured = None
        number, self._graphs = self._graphs, self._graphs + 1
        self.calls.append(("capture", number, tuple(call for call, _ in captured)))
        return HostGraph(self, number, captured)

    def launch(self, number: int, captured: list[Work]) -> None:
        self.calls.append(("launch", number))
        self._queue += captured

    def synchronize(self) -> None:
        if self._captured is not None:
            raise DeviceError("synchronize inside a capture.")
        self.calls.append(("synchronize",))
        # As on a device, an interrupt of the host loses nothing of the queue.
        while self._queue:
            _, work = self._queue[0]
            try:
                work()
            except Exception:
                self._queue = []
                raise
            del self._queue[0]


class HostGraph:
    """A graph captured on a HostDevice."""

    def __init__(self, device: HostDevice, number: int, captured: list[Work]) -> None:
        self.device, self.number, self.captured = device, number, captured

    def launch(self) -> None:
        self.device.launch(self.number, self.captured)


def _bytes(array: Array) -> Array:
    if not array.flags.c_contiguous:
        raise DeviceError("a host array is not contiguous.")
    return array.reshape(-1).view(np.uint8)


def _table(verb: str, buffer: HostBuffer, count: int, nbytes: int) -> Array:
    """The first `count` rows."""
    if count * nbytes > buffer.nbytes:
        raise DeviceError(f"{verb} of {count} rows of {nbytes} bytes where there are {buffer.nbytes} bytes.")
    return buffer.bytes[: count * nbytes].reshape(count, nbytes)
