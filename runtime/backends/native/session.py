"""A compiled step as a session: its functions, its streams and pools, whose states lie in structs of the step's own."""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from rnn_export.contract.spec import BATCH, TIME, StreamSpec, TensorSpec
from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.native.team import Team
from rnn_export.runtime.protocols import Session, StateStore, StreamBuffers
from rnn_export.runtime.protocols.c_step import StatePlaces, WrongIndices, check_indices, row_buffer, row_shape

# The most axes of a frame that the stepper takes.
AXES = 8
# One call gives Python's signals no chance, so it ends after about a tenth of a second.
MACS_OF_A_CALL = 10**9
# From so many of both on, a step of all rows, which reads the weights once, is faster than the steps of one row after
# those of another: no cache of a core has the weights from step to step.
SHARED_MACS, SHARED_ROWS = 1 << 20, 6
# Bytes that the address of a struct is a multiple of: of a stream, and in a pool.
LINE, ALIGNED = 64, 16
SIZE, ADDRESS = ctypes.c_size_t, ctypes.c_void_p
# The functions of a library: what each returns and takes.
FACE: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "rnn_contract": (ctypes.c_char_p, ()),
    "rnn_state_bytes": (SIZE, ()),
    "rnn_state_offset": (SIZE, (SIZE,)),
    "rnn_weights_bytes": (SIZE, ()),
    "rnn_macs": (SIZE, ()),
    "rnn_input_rows": (SIZE, (SIZE,)),
    "rnn_check": (ctypes.c_int, (ADDRESS, SIZE)),
    "rnn_init": (None, (ADDRESS, ADDRESS)),
    "rnn_rows": (None, (ADDRESS, SIZE, ADDRESS, ADDRESS, SIZE, SIZE)),
}


@dataclass(frozen=True, eq=False)
class CompiledStep:
    """The step of a contract in C, shared by all streams; `weights` is None where they are part of the code.

    `team` are the threads that compute it, None where the caller's does.
    """

    spec: StreamSpec
    call: Any
    weights: Array | None
    precision: str
    team: Team | None = None

    @cached_property
    def macs(self) -> int:
        """Multiplications of one step of one row, at least 1."""
        return max(1, int(self.call.rnn_macs()))

    @cached_property
    def table_rows(self) -> dict[str, int]:
        """Rows of tables, by the name of the input that indexes them."""
        rows = {t.name: int(self.call.rnn_input_rows(i)) for i, t in enumerate(self.spec.inputs)}
        return {name: n for name, n in rows.items() if n}

    def init(self, address: int) -> None:
        """Make the struct at `address` one of a stream at its start."""
        self.call.rnn_init(address, None if self.weights is None else self.weights.ctypes.data)

    def check_indices(self, what: str, inputs: Mapping[str, Array]) -> None:
        check_indices("native", self.table_rows, what, inputs)

    @cached_property
    def wrong(self) -> WrongIndices | None:
        """Errors in indices that it computes; None where none can be wrong, and of an earlier rnn-export."""
        try:
            count = int(self.call.rnn_wrong_indices())
        except AttributeError:
            return None
        if not count:
            return None
        self.call.rnn_wrong_index.restype, self.call.rnn_wrong_index.argtypes = ctypes.c_char_p, (SIZE,)
        self.call.rnn_wrong_offset.restype = SIZE
        texts = tuple(self.call.rnn_wrong_index(number).decode() for number in range(1, count + 1))
        return WrongIndices(texts, self.call.rnn_wrong_offset())

    @cached_property
    def places(self) -> StatePlaces:
        """Places of states in a struct."""
        try:
            front = self.call.rnn_state_front
        except AttributeError:  # compiled by an rnn-export whose windows stayed in their place
            return StatePlaces(self.spec, self.call.rnn_state_offset, lambda number: 0)
        front.restype, front.argtypes = SIZE, (SIZE,)
        return StatePlaces(self.spec, self.call.rnn_state_offset, front)


class NativeBuffers(StreamBuffers):
    """Buffers of one stream with the batch outermost, and the states of each row in a struct of the step's own."""

    def __init__(self, compiled: CompiledStep, batch: int) -> None:
        self.compiled, self.batch, spec, self.chunk = compiled, batch, compiled.spec, compiled.spec.chunk
        self.inputs = {t.name: row_buffer(t, batch, spec.chunk) for t in spec.inputs}
        self.outputs = {t.name: row_buffer(t, batch, spec.chunk) for t in spec.outputs}
        stride = max(1, -(-int(compiled.call.rnn_state_bytes()) // LINE)) * LINE
        self.structs = aligned(batch * stride).reshape(batch, stride)
        # The first struct, the bytes from row to row, and the rows.
        self.place = int(self.structs.ctypes.data), stride, batch
        for row in range(batch):
            compiled.init(self.place[0] + row * stride)
        self.compute = self.call_of(list(self.inputs.values()), list(self.outputs.values()), 1)

    def call_of(self, inputs: list[Array], outputs: list[Array], steps: int) -> Callable[[], None]:
        """A call of `steps` steps from and to arrays that lie row after row."""
        address, stride, rows = self.place
        structs, sizes = (ADDRESS(address), SIZE(stride)), (SIZE(rows), SIZE(steps))
        arguments = *structs, addresses(inputs), addresses(outputs), *sizes
        call, team = self.compiled.call, self.compiled.team
        if team is not None:
            return partial(call.rnn_team_rows, ADDRESS(team.address), *arguments)
        return partial(call.rnn_rows, *arguments)

    def step(self) -> None:
        if self.compiled.table_rows:
            self.check_indices()
        wrong = self.compiled.wrong
        before = None if wrong is None else self.structs.copy()
        # One call in C, before which no interrupt comes: `compute` is it, and no function of Python's.
        self.frames += self.chunk
        self.compute()
        if wrong is None or before is None:
            return
        try:
            wrong.check("native", "frame", self.structs)
        except StreamError:
            self.structs[...] = before
            self.frames -= self.chunk
            raise

    def check_indices(self) -> None:
        self.compiled.check_indices("frame", self.inputs)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        spec = self.compiled.spec
        self.compiled.check_indices("sequence", inputs)
        frames = max(inputs[t.name].shape[1] // t.rate.numerator for t in spec.inputs if spec.timed(t))
        steps = frames // spec.chunk
        by_step = [_by_step(inputs[t.name], t, spec, steps) for t in spec.inputs]
        results = [np.empty((self.batch, steps, *row_shape(t, spec.chunk)), t.dtype) for t in spec.outputs]
        shared = self.batch >= SHARED_ROWS and self.compiled.macs >= SHARED_MACS
        each = 1 if shared else max(1, MACS_OF_A_CALL // (self.compiled.macs * self.batch))
        for start in range(0, steps, each):
            piece = slice(start, start + each)
            ins = [np.ascontiguousarray(a[:, piece]) for a in by_step]
            outs = [np.empty_like(a[:, piece], order="C") for a in results]
            self.call_of(ins, outs, outs[0].shape[1])()
            for result, part in zip(results, outs, strict=True):
                result[:, piece] = part
        if self.compiled.wrong is not None:
            self.compiled.wrong.check("native", "sequence", self.structs)
        return {t.name: _by_time(a, t, spec) for t, a in zip(spec.outputs, results, strict=True)}

    def read(self) -> dict[str, Array]:
        return self.compiled.places.read(self.structs)

    def write(self, states: Mapping[str, Array]) -> None:
        self.compiled.places.write(self.structs, states)
        if self.compiled.wrong is not None:
            self.compiled.wrong.numbers(self.structs)[...] = 0


class NativeStateStore(StateStore):
    """The structs one after the other, in memory that `grow` replaces."""

    def __init__(self, compiled: CompiledStep) -> None:
        self.compiled, self.spec = compiled, compiled.spec
        try:
            self.call = compiled.call.rnn_pool
        except AttributeError as error:
            why = "native.so was compiled by an rnn-export that did not step many streams at once"
            fix = f"rnn-export build NAME.rnnx --target c --precision {compiled.precision} --rebuild"
            raise BackendUnavailable(f"{why}. Build it here: {fix}.", id="native-pool-missing") from error
        self.call.restype = SIZE
        self.call.argtypes = (ADDRESS, SIZE, ADDRESS, ADDRESS, ADDRESS, SIZE, ADDRESS)
        if compiled.team is not None:
            self.call = partial(compiled.call.rnn_team_pool, compiled.team.address)
        self.stride = max(1, -(-int(compiled.call.rnn_state_bytes()) // ALIGNED)) * ALIGNED
        # Slots of whose windows all is searched for NaN: what was written there, or found, may be in them for long.
        self.suspect, self.suspicious = np.zeros(0, np.bool_), False
        # The last struct is no slot's but a stream at the start.
        self.structs = self._allocate(1)
        compiled.init(self.structs.ctypes.data)
        # Of the long round that is under way: its slots, and their structs before.
        self.before: tuple[Array, Array] | None = None
        self.grow(0)

    @property
    def nbytes(self) -> int:
        return self.structs.nbytes

    def grow(self, count: int) -> None:
        before, structs = self.structs, self._allocate(count + 1)
        kept = min(len(before) - 1, count)
        structs[:kept] = before[:kept]
        structs[kept:] = before[-1]
        self.structs = structs
        self.suspect = np.append(self.suspect[:kept], np.zeros(count - kept, np.bool_))

    def _allocate(self, count: int) -> Array:
        return aligned(count * self.stride).reshape(count, self.stride)

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        self.compiled.check_indices("frame", inputs)
        count, spec = len(slots), self.spec
        rows = np.ascontiguousarray(slots, np.int64)
        ins = [np.ascontiguousarray(np.moveaxis(inputs[t.name], t.axis(BATCH) or 0, 0)) for t in spec.inputs]
        outs = [np.empty((count, *row_shape(t, spec.chunk)), t.dtype) for t in spec.outputs]
        nan_rows = self.suspect[rows] if self.suspicious else np.zeros(count, np.bool_)
        each = max(1, MACS_OF_A_CALL // self.compiled.macs)
        if count <= each and self.compiled.wrong is None:
            arguments = self._arguments(rows, ins, outs, nan_rows)
            # One call in C, before which no interrupt comes.
            self.rounds += 1
            found = self.call(*arguments)
        else:
            found = self._in_pieces(each, rows, ins, outs, nan_rows)
        if found or self.suspicious:
            self.suspect[rows] = nan_rows
            self.suspicious = bool(self.suspect.any())
        outputs = {t.name: np.moveaxis(a, 0, t.axis(BATCH) or 0) for t, a in zip(spec.outputs, outs, strict=True)}
        return outputs, nan_rows if found else None

    def _in_pieces(self, each: int, rows: Array, ins: list[Array], outs: list[Array], nan_rows: Array) -> int:
        """A round that an interrupt between its pieces or a wrong index undoes: then none was stepped."""
        found, saved = 0, self.structs[rows]
        self.before = rows, saved
        try:
            for start in range(0, len(rows), each):
                at = slice(start, start + each)
                piece = [a[at] for a in ins], [a[at] for a in outs]
                found += self.call(*self._arguments(rows[at], *piece, nan_rows[at]))
            if self.compiled.wrong is not None:
                self.compiled.wrong.check("native", "frame", self.structs[rows])
        except BaseException:
            self.finish()
            raise
        self.before = None
        self.rounds += 1
        return found

    def _arguments(self, rows: Array, ins: list[Array], outs: list[Array], nan_rows: Array) -> tuple[Any, ...]:
        start, found = self.structs.ctypes.data, nan_rows.ctypes.data
        return start, self.stride, rows.ctypes.data, addresses(ins), addresses(outs), len(rows), found

    def finish(self) -> None:
        # What an interrupted round found, nobody was told.
        self.suspect[:] = self.suspicious = True
        if self.before is not None:
            rows, saved = self.before
            self.structs[rows] = saved
            self.before = None

    def read(self, slots: Array) -> dict[str, Array]:
        return self.compiled.places.read(self.structs[slots])

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        self.compiled.places.write(self.structs, states, slots)
        if self.compiled.wrong is not None:
            self.compiled.wrong.numbers(self.structs)[slots] = 0
        self.suspect[slots] = self.suspicious = True


class NativeSession(Session):
    """The compiled step with its weights; `stepper` is None where it is called through ctypes."""

    device = "cpu"
    has_sequence = run_is_steps = survives_fork = steps_rows_independently = True

    def __init__(self, compiled: CompiledStep, stepper: type | None) -> None:
        self.compiled, self.spec, self.precision = compiled, compiled.spec, compiled.precision
        # The stepper looks at no index that a step computes.
        self.stepper = stepper if compiled.wrong is None else None

    def stream_buffers(self, batch: int) -> NativeBuffers:
        return NativeBuffers(self.compiled, batch)

    def state_store(self) -> NativeStateStore:
        return NativeStateStore(self.compiled)

    def bind(self, stream: Any, buffers: NativeBuffers, x: Array | None, y: Array | None) -> None:
        if x is None or y is None or not all(a.flags.c_contiguous and a.ndim <= AXES for a in (x, y)):
            x = y = None
        inputs, outputs = tuple(buffers.inputs.values()), tuple(buffers.outputs.values())
        table_rows = self.compiled.table_rows
        ids = table_rows.get(self.spec.inputs[0].name, 0)
        stream._bind(buffers, buffers.place, self.spec.chunk, inputs, outputs, x, y, ids)
        if self.compiled.team is not None:
            stream._share(self.compiled.team.address, self.compiled.team.rows_function)
        for tensor in stream._inputs:
            if tensor.name in table_rows:
                tensor.load = partial(_load_index, tensor.load, buffers.check_indices)


def _load_index(load: Callable[[Any], None], check: Callable[[], None], x: Any) -> None:
    load(x)
    check()


def _by_step(array: Array, tensor: TensorSpec, spec: StreamSpec, steps: int) -> Array:
    """(batch, time, ...) as (batch, steps, a step's input); without a time axis, repeated in every step."""
    if not spec.timed(tensor):
        return np.broadcast_to(array[:, None], (array.shape[0], steps, *array.shape[1:]))
    if not spec.has_time:
        return array
    cut = array.reshape(array.shape[0], steps, tensor.frames_of(spec.chunk), *array.shape[2:])
    return np.moveaxis(cut, 2, 2 + _time_axis(tensor))


def _by_time(array: Array, tensor: TensorSpec, spec: StreamSpec) -> Array:
    """(batch, steps, a step's output) as (batch, time, ...); without a time axis, as of the last step."""
    if not spec.timed(tensor):
        return array[:, -1]
    if not spec.has_time:
        return array
    moved = np.moveaxis(array, 2 + _time_axis(tensor), 2)
    return moved.reshape(array.shape[0], -1, *moved.shape[3:])


def _time_axis(tensor: TensorSpec) -> int:
    batch, time = tensor.axis(BATCH) or 0, tensor.axis(TIME) or 0
    return time - (batch < time)


def aligned(nbytes: int) -> Array:
    """Zeros, (nbytes,) uint8, at the start of a cache line."""
    block = np.zeros(nbytes + LINE, np.uint8)
    start = -block.ctypes.data % LINE
    return block[start : start + nbytes]


def addresses(arrays: list[Array]) -> Any:
    """A C array of the addresses of `arrays`."""
    return (ADDRESS * len(arrays))(*(a.ctypes.data for a in arrays))
