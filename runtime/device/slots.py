"""The states of many streams in the memory of a device. Not run on hardware: tested on a device in host memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import DeviceError, RoundBroken, StreamError
from rnn_export.layout import canonical
from rnn_export.runtime.backends.host_rows import turned_nan
from rnn_export.runtime.device.api import Buffer, Device, Graph
from rnn_export.runtime.device.ports import Port, saying
from rnn_export.runtime.device.values import FLOATS, decode, encode, storage
from rnn_export.spec import StreamSpec, sized

# The most slots that are read or written at once.
MOVED = 256


class DeviceSlots:
    """A state is one buffer with a row for each slot, and a last row that no slot has; none passes the host in a step.

    A round is stepped in pieces of at most the highest batch. A piece runs in the `Bucket` of the next power of two,
    filled up with its own first row, whose next state then goes to the last row. The device itself looks for NaN in
    the next states, the host in the outputs. What can be refused is refused before the first piece is stepped; where
    the device fails later, the error says how many streams were stepped.

    `kind` gives the dtype that a tensor of the graph has on the device, and `batches` its fewest and most rows. A
    subclass has the name of its `backend`, says whether a step can be `captured` as a graph, and binds it.
    """

    backend: str
    captured: bool

    def __init__(
        self, spec: StreamSpec, device: Device, kind: Callable[[str], str], batches: tuple[int, int | None]
    ) -> None:
        self.spec, self.device, self.kind = spec, device, kind
        self.low, self.high = batches
        self.states = {s.name: (s, kind(s.input)) for s in spec.states}
        self.width = {n: math.prod(s.row) * storage(k).itemsize for n, (s, k) in self.states.items()}
        self.count = 0
        self.pool = self.room(1)
        self.buckets: dict[int, Bucket] = {}
        self.moves: dict[int, _Move] = {}

    def bind(self, bucket: Bucket) -> Callable[[], None]:
        """What queues the step of `bucket` on the device, at the addresses it has for good, or runs it."""
        raise NotImplementedError

    def room(self, rows: int) -> dict[str, Buffer]:
        """Buffers for `rows` rows of every state, unset."""
        return {n: self.device.empty((rows, *s.row), storage(k)) for n, (s, k) in self.states.items()}

    @property
    def nbytes(self) -> int:
        return self.count * sum(self.width.values())

    def grow(self, count: int) -> None:
        with saying(f"{self.backend} cannot make room for {count} streams"):
            pool = self.room(count + 1)
            for name, buffer in self.pool.items():
                self.device.copy(pool[name], buffer)
            self.device.synchronize()
        self.pool, self.count = pool, count
        for bucket in self.buckets.values():
            # It has the old addresses.
            bucket.graph = None

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        n, tensors = len(slots), self.spec.inputs
        fed = {t.name: canonical(encode(t.name, inputs[t.name], self.kind(t.name)), t) for t in tensors}
        outputs = {t.name: np.empty(sized(t.shape, n, self.spec.chunk), t.dtype) for t in self.spec.outputs}
        given = {t.name: canonical(outputs[t.name], t) for t in self.spec.outputs}
        turned = np.zeros(n, bool)
        pieces = [(rows, self._ready(slots[rows], _cut(fed, rows))) for rows in _pieces(n, self.high)]
        for rows, bucket in pieces:
            bucket.fill(slots[rows], _cut(fed, rows), self.count)
            try:
                self._launch(bucket)
                self.device.synchronize()
            except DeviceError as error:
                if not rows.start:
                    raise StreamError(f"{self.backend} refused the round: {error}") from error
                done = f"after {rows.start} of its {n} streams were stepped, the others not"
                raise RoundBroken(f"{self.backend} refused the round {done}: {error}") from error
            bucket.give(_cut(given, rows), turned[rows])
        shown = turned_nan(self.spec, outputs, ())
        turned = turned if shown is None else turned | shown
        return outputs, turned if turned.any() else None

    def _ready(self, slots: Array, inputs: Mapping[str, Array]) -> Bucket:
        """The bucket of a piece, captured if it can be.

        An engine sets itself up in its first enqueue, which no graph can hold: so the piece is stepped once outside of
        a graph, and all its next states go to the last row.
        """
        size = _power(len(slots), self.low, self.high)
        with saying(f"{self.backend} cannot step {size} streams at once"):
            if size not in self.buckets:
                self.buckets[size] = Bucket(self, size)
            bucket = self.buckets[size]
            if self.captured and bucket.graph is None:
                bucket.fill(slots, inputs, self.count)
                bucket.put[...] = self.count
                self._queue(bucket)
                self.device.synchronize()
                bucket.graph = self.device.capture(partial(self._queue, bucket))
        return bucket

    def _launch(self, bucket: Bucket) -> None:
        if bucket.graph is None:
            self._queue(bucket)
        else:
            bucket.graph.launch()

    def _queue(self, bucket: Bucket) -> None:
        device, size = self.device, bucket.size
        for port in bucket.fed:
            device.upload(port.buffer, port.pinned)
        for buffer, host in bucket.uploads:
            device.upload(buffer, host)
        for name, width in self.width.items():
            device.gather(bucket.before[name], self.pool[name], bucket.rows_before, size, width)
        bucket.enqueue()
        for name, width in self.width.items():
            kind = self.states[name][1]
            if kind in FLOATS:
                device.flag_nan(bucket.flags, bucket.after[name], size, width, kind)
            device.scatter(self.pool[name], bucket.after[name], bucket.rows_after, size, width)
        for port in bucket.given:
            device.download(port.pinned, port.buffer)
        device.download(bucket.found, bucket.flags)

    def read(self, slots: Array) -> dict[str, Array]:
        states = {n: np.empty((len(slots), *s.row), s.dtype) for n, (s, _) in self.states.items()}
        for rows in _pieces(len(slots), MOVED):
            move = self._move(slots[rows])
            with saying(f"{self.backend} cannot read the states"):
                self.device.upload(move.rows, move.slots)
                for name, buffer in move.buffers.items():
                    self.device.gather(buffer, self.pool[name], move.rows, len(slots[rows]), self.width[name])
                    self.device.download(move.hosts[name], buffer)
                self.device.synchronize()
            for name, (state, kind) in self.states.items():
                states[name][rows] = decode(move.hosts[name], kind, np.dtype(state.dtype))[: len(slots[rows])]
        return states

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        raw = {n: encode(n, states[n], kind) for n, (_, kind) in self.states.items()}
        for rows in _pieces(len(slots), MOVED):
            move = self._move(slots[rows])
            with saying(f"{self.backend} cannot set the states"):
                self.device.upload(move.rows, move.slots)
                for name, buffer in move.buffers.items():
                    move.hosts[name][: len(slots[rows])] = raw[name][rows]
                    self.device.upload(buffer, move.hosts[name])
                for name, buffer in move.buffers.items():
                    self.device.scatter(self.pool[name], buffer, move.rows, len(slots[rows]), self.width[name])
                self.device.synchronize()

    def _move(self, slots: Array) -> _Move:
        size = _power(len(slots), 1, MOVED)
        if size not in self.moves:
            with saying(f"{self.backend} cannot move the states of {size} streams"):
                self.moves[size] = _Move(self, size)
        self.moves[size].slots[: len(slots)] = slots
        return self.moves[size]

    def release(self, slots: Array) -> None:
        pass


class Bucket:
    """Buffers for a step of `size` rows: the frames of its ports, the states before and after, and their rows.

    `take` are the rows that are read, `put` those that are written, and `found` tells in which states a NaN turned up.
    """

    def __init__(self, slots: DeviceSlots, size: int) -> None:
        spec, device, kind = slots.spec, slots.device, slots.kind
        self.size = size
        self.fed = [Port(device, t, kind(t.name), size, spec.chunk) for t in spec.inputs]
        self.given = [Port(device, t, kind(t.name), size, spec.chunk) for t in spec.outputs]
        self.frames = {p.name: canonical(p.pinned, t) for p, t in zip(self.fed, spec.inputs, strict=True)}
        self.results = {p.name: canonical(p.pinned, t) for p, t in zip(self.given, spec.outputs, strict=True)}
        self.before, self.after = slots.room(size), slots.room(size)
        self.take, self.put = device.pinned((size,), np.int32), device.pinned((size,), np.int32)
        self.rows_before, self.rows_after = device.empty((size,), np.int32), device.empty((size,), np.int32)
        self.found, self.flags = device.pinned((size,), np.uint8), device.empty((size,), np.uint8)
        none = device.pinned((size,), np.uint8)
        self.uploads = ((self.rows_before, self.take), (self.rows_after, self.put), (self.flags, none))
        self.enqueue = slots.bind(self)
        self.graph: Graph | None = None

    def fill(self, slots: Array, inputs: Mapping[str, Array], last: int) -> None:
        """Take `inputs` (n, ...) of `slots`, and the first of them for the rest, which is put into row `last`."""
        n = len(slots)
        for name, frames in self.frames.items():
            frames[:n], frames[n:] = inputs[name], inputs[name][:1]
        self.take[:n], self.take[n:] = slots, slots[0]
        self.put[:n], self.put[n:] = slots, last

    def give(self, outputs: Mapping[str, Array], turned: Array) -> None:
        """Write the first rows to `outputs` (n, ...), and to `turned` which of their states have a NaN."""
        for name, rows in self.results.items():
            # Where it is not of the contract's dtype, it is int32 for int64.
            outputs[name][...] = rows[: len(turned)]
        turned[...] = self.found[: len(turned)]


class _Move:
    """Buffers for the states of `size` slots on their way to or from the host."""

    def __init__(self, slots: DeviceSlots, size: int) -> None:
        device = slots.device
        self.slots, self.rows = device.pinned((size,), np.int32), device.empty((size,), np.int32)
        self.buffers = slots.room(size)
        self.hosts = {n: device.pinned((size, *s.row), storage(k)) for n, (s, k) in slots.states.items()}


def _pieces(n: int, most: int | None) -> Iterator[slice]:
    size = most or max(n, 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _power(n: int, low: int, high: int | None) -> int:
    """The next power of two, or a bound."""
    size = max(low, 1 << (n - 1).bit_length())
    return size if high is None else min(size, high)


def _cut(arrays: Mapping[str, Array], rows: slice) -> dict[str, Array]:
    return {name: array[rows] for name, array in arrays.items()}
