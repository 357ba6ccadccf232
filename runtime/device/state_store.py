"""The states of many streams in the memory of a device. Not run on hardware: tested on a device in host memory."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from rnn_export.contract.layout import canonical
from rnn_export.contract.spec import StreamSpec, sized
from rnn_export.errors import DeviceError, RoundBroken, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.device.cuda import CudaBuffer, CudaDevice, CudaGraph
from rnn_export.runtime.device.values import FLOATS, StagedTensor, as_stream_error, decode, encode, storage
from rnn_export.runtime.protocols import StateStore, rows_with_nan

# The most slots that are read or written at once.
TRANSFERRED = 256
# In the place of a flag that the device has not written yet.
UNKNOWN = 0xFF


class DeviceStateStore(StateStore):
    """A state is one buffer with a row for each slot, and a last row that no slot has; none passes the host in a step.

    A round is stepped in pieces of at most the highest batch. A piece runs as the `PaddedBatch` of the next power of
    two, filled up with its own first row, whose next state then goes to the last row. The device searches the next
    states for NaN, the host the outputs. Every refusal comes before the first piece is stepped; where the device fails
    later, the error says how many streams were stepped. Work on the device's queue cannot be called back, so an
    interrupted round is completed.

    `dtype_of` gives the dtype that a tensor of the graph has on the device, and `batches` its fewest and most rows. A
    subclass has the name of its `backend`, says whether a step can be `captured` as a graph, and binds it.
    """

    backend: str
    captured: bool

    def __init__(
        self, spec: StreamSpec, device: CudaDevice, dtype_of: Callable[[str], str], batches: tuple[int, int | None]
    ) -> None:
        self.spec, self.device, self.dtype_of = spec, device, dtype_of
        self.low, self.high = batches
        self.states = {s.name: (s, dtype_of(s.input)) for s in spec.states}
        self.width = {n: math.prod(s.row) * storage(k).itemsize for n, (s, k) in self.states.items()}
        self.count = 0
        self.pool = self.allocate(1)
        self.batches: dict[int, PaddedBatch] = {}
        self.transfers: dict[int, _Transfer] = {}
        self.under_way: _Round | None = None
        # Whether the queue may hold work that nobody has waited for.
        self.queued = False

    @abstractmethod
    def bind(self, batch: PaddedBatch) -> Callable[[], None]:
        """A function that queues or runs the step of `batch` on the device, at permanent addresses."""

    def allocate(self, rows: int) -> dict[str, CudaBuffer]:
        return {n: self.device.empty((rows, *s.row), storage(k)) for n, (s, k) in self.states.items()}

    @property
    def nbytes(self) -> int:
        return self.count * sum(self.width.values())

    def grow(self, count: int) -> None:
        with as_stream_error(f"{self.backend} cannot make room for {count} streams"):
            pool = self.allocate(count + 1)
            for name, buffer in self.pool.items():
                self.device.copy(pool[name], buffer)
            self.device.synchronize()
        for batch in self.batches.values():
            batch.graph = None  # It has the old addresses.
        self.pool, self.count = pool, count

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        n, tensors = len(slots), self.spec.inputs
        encoded = {t.name: canonical(encode(t.name, inputs[t.name], self.dtype_of(t.name)), t) for t in tensors}
        outputs = {t.name: np.empty(sized(t.shape, n, self.spec.chunk), t.dtype) for t in self.spec.outputs}
        results = {t.name: canonical(outputs[t.name], t) for t in self.spec.outputs}
        nan_rows = np.zeros(n, bool)
        pieces = [(rows, self._ready(slots[rows], _cut(encoded, rows))) for rows in _pieces(n, self.high)]
        self.under_way = _Round(slots, encoded, results, nan_rows, pieces)
        self.finish()
        in_outputs = rows_with_nan(self.spec, outputs, ())
        nan_rows = nan_rows if in_outputs is None else nan_rows | in_outputs
        return outputs, nan_rows if nan_rows.any() else None

    def finish(self) -> None:
        """Step the rest of the round that is under way."""
        round_ = self.under_way
        while round_ is not None and round_.done < len(round_.pieces):
            rows, batch = round_.pieces[round_.done]
            try:
                self._step_piece(round_, rows, batch)
            except DeviceError as error:
                self.under_way = None
                if not rows.start:
                    raise StreamError(
                        f"{self.backend} refused the round: {error}", id="device-round-refused"
                    ) from error
                done = f"after {rows.start} of its {len(round_.slots)} streams were stepped, the others not"
                raise RoundBroken(f"{self.backend} refused the round {done}: {error}", id="round-broken") from error
            batch.give(_cut(round_.results, rows), round_.nan_rows[rows])
            round_.filled = None
            round_.done += 1
        if round_ is not None:
            self.under_way = None
            self.rounds += 1

    def _step_piece(self, round_: _Round, rows: slice, batch: PaddedBatch) -> None:
        """Once, however often this is called for the same piece."""
        if round_.filled == round_.done:
            self.device.synchronize()
            if batch.found[0] != UNKNOWN:
                return
        if round_.filled == round_.done and batch.keeping:
            self._keep(batch)
        else:
            self._begin()
            batch.fill(round_.slots[rows], _cut(round_.encoded, rows), self.count)
            round_.filled = round_.done
            if batch.graph is None:
                self._queue(batch)
            else:
                batch.graph.launch()
        self._wait()

    def _ready(self, slots: Array, inputs: Mapping[str, Array]) -> PaddedBatch:
        """The batch of a piece, captured if it can be: after one step, for no graph can hold an engine's first."""
        size = _power(len(slots), self.low, self.high)
        with as_stream_error(f"{self.backend} cannot step {size} streams at once"):
            if size not in self.batches:
                self.batches[size] = PaddedBatch(self, size)
            batch = self.batches[size]
            if self.captured and batch.graph is None:
                self._begin()
                batch.fill(slots, inputs, self.count)
                batch.put[...] = self.count
                self._queue(batch)
                self._wait()
                batch.graph = self.device.capture(partial(self._queue, batch))
        return batch

    def _begin(self) -> None:
        """Wait before host memory is written: work left by an interrupt still reads it."""
        if self.queued:
            self.device.synchronize()
        self.queued = True

    def _wait(self) -> None:
        self.device.synchronize()
        self.queued = False

    def _queue(self, batch: PaddedBatch) -> None:
        device, size = self.device, batch.size
        for tensor in batch.inputs:
            device.upload(tensor.buffer, tensor.pinned)
        for buffer, host in batch.uploads:
            device.upload(buffer, host)
        for name, width in self.width.items():
            device.gather(batch.before[name], self.pool[name], batch.rows_before, size, width)
        batch.enqueue()
        batch.keeping = True
        self._keep(batch)

    def _keep(self, batch: PaddedBatch) -> None:
        device, size = self.device, batch.size
        for name, width in self.width.items():
            kind = self.states[name][1]
            if kind in FLOATS:
                device.flag_nan(batch.flags, batch.after[name], size, width, kind)
            device.scatter(self.pool[name], batch.after[name], batch.rows_after, size, width)
        for tensor in batch.outputs:
            device.download(tensor.pinned, tensor.buffer)
        device.download(batch.found, batch.flags)

    def read(self, slots: Array) -> dict[str, Array]:
        states = {n: np.empty((len(slots), *s.row), s.dtype) for n, (s, _) in self.states.items()}
        for rows in _pieces(len(slots), TRANSFERRED):
            transfer = self._transfer(slots[rows])
            with as_stream_error(f"{self.backend} cannot read the states"):
                self.device.upload(transfer.rows, transfer.slots)
                for name, buffer in transfer.buffers.items():
                    self.device.gather(buffer, self.pool[name], transfer.rows, len(slots[rows]), self.width[name])
                    self.device.download(transfer.pinned[name], buffer)
                self._wait()
            for name, (state, kind) in self.states.items():
                states[name][rows] = decode(transfer.pinned[name], kind, np.dtype(state.dtype))[: len(slots[rows])]
        return states

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        raw = {n: encode(n, states[n], kind) for n, (_, kind) in self.states.items()}
        for rows in _pieces(len(slots), TRANSFERRED):
            transfer = self._transfer(slots[rows])
            with as_stream_error(f"{self.backend} cannot set the states"):
                self.device.upload(transfer.rows, transfer.slots)
                for name, buffer in transfer.buffers.items():
                    transfer.pinned[name][: len(slots[rows])] = raw[name][rows]
                    self.device.upload(buffer, transfer.pinned[name])
                for name, buffer in transfer.buffers.items():
                    self.device.scatter(self.pool[name], buffer, transfer.rows, len(slots[rows]), self.width[name])
                self._wait()

    def _transfer(self, slots: Array) -> _Transfer:
        size = _power(len(slots), 1, TRANSFERRED)
        if size not in self.transfers:
            with as_stream_error(f"{self.backend} cannot move the states of {size} streams"):
                self.transfers[size] = _Transfer(self, size)
        with as_stream_error(f"{self.backend} cannot end what it was at"):
            self._begin()
        self.transfers[size].slots[: len(slots)] = slots
        return self.transfers[size]


@dataclass
class _Round:
    """A round that is under way: frames and results (n, ...), its pieces with their rows, how many of them are done.

    `filled` is the number of the piece whose frames lie in its buffers, and which may be on the device's queue.
    """

    slots: Array
    encoded: Mapping[str, Array]
    results: Mapping[str, Array]
    nan_rows: Array
    pieces: list[tuple[slice, PaddedBatch]]
    done: int = 0
    filled: int | None = None


class PaddedBatch:
    """Buffers for a step of `size` rows: it reads the rows `take` of the pool, writes `put`, and has `found` NaN."""

    def __init__(self, store: DeviceStateStore, size: int) -> None:
        spec, device, dtype_of = store.spec, store.device, store.dtype_of
        self.size = size
        self.inputs = [StagedTensor(device, t, dtype_of(t.name), size, spec.chunk) for t in spec.inputs]
        self.outputs = [StagedTensor(device, t, dtype_of(t.name), size, spec.chunk) for t in spec.outputs]
        self.frames = {i.name: canonical(i.pinned, t) for i, t in zip(self.inputs, spec.inputs, strict=True)}
        self.results = {o.name: canonical(o.pinned, t) for o, t in zip(self.outputs, spec.outputs, strict=True)}
        self.before, self.after = store.allocate(size), store.allocate(size)
        self.take, self.put = device.pinned((size,), np.int32), device.pinned((size,), np.int32)
        self.rows_before, self.rows_after = device.empty((size,), np.int32), device.empty((size,), np.int32)
        self.found, self.flags = device.pinned((size,), np.uint8), device.empty((size,), np.uint8)
        no_flags = device.pinned((size,), np.uint8)
        self.uploads = ((self.rows_before, self.take), (self.rows_after, self.put), (self.flags, no_flags))
        self.enqueue = store.bind(self)
        self.graph: CudaGraph | None = None
        # Whether the next states are on their way to the pool, so that the step cannot be queued again.
        self.keeping = False

    def fill(self, slots: Array, inputs: Mapping[str, Array], last: int) -> None:
        """Take `inputs` (n, ...) of `slots`, and the first of them for the rest, which is put into row `last`."""
        n = len(slots)
        for name, frames in self.frames.items():
            frames[:n], frames[n:] = inputs[name], inputs[name][:1]
        self.found[...], self.keeping = UNKNOWN, False
        self.take[:n], self.take[n:] = slots, slots[0]
        self.put[:n], self.put[n:] = slots, last

    def give(self, outputs: Mapping[str, Array], nan_rows: Array) -> None:
        """Write the first rows to `outputs` (n, ...), and to `nan_rows` whether their states have a NaN."""
        for name, rows in self.results.items():
            # Where it is not of the contract's dtype, it is int32 for int64.
            outputs[name][...] = rows[: len(nan_rows)]
        nan_rows[...] = self.found[: len(nan_rows)]


class _Transfer:
    """Buffers for the states of `size` slots on their way to or from the host."""

    def __init__(self, store: DeviceStateStore, size: int) -> None:
        device = store.device
        self.slots, self.rows = device.pinned((size,), np.int32), device.empty((size,), np.int32)
        self.buffers = store.allocate(size)
        self.pinned = {n: device.pinned((size, *s.row), storage(k)) for n, (s, k) in store.states.items()}


def _pieces(n: int, most: int | None) -> Iterator[slice]:
    size = most or max(n, 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _power(n: int, low: int, high: int | None) -> int:
    """The next power of two, or a bound."""
    size = max(low, 1 << (n - 1).bit_length())
    return size if high is None else min(size, high)


def _cut(arrays: Mapping[str, Array], rows: slice) -> dict[str, Array]:
    return {name: array[rows] for name, array in arrays.items()}
