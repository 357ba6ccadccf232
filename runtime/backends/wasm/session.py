"""A WebAssembly module as a session: instances of it, whose memory a step is copied into and out of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
import wasmtime

from rnn_export.contract.spec import BATCH, StreamSpec
from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.protocols import Session, StreamBuffers, UndoingStore, rows_with_nan
from rnn_export.runtime.protocols.c_step import (
    StatePlaces,
    WrongIndices,
    check_indices,
    contract_sha256,
    row_buffer,
    row_shape,
)

# Bytes that an address is a multiple of, and in a pool the start of a struct; those of a page, and of a pointer.
LINE, ALIGNED, PAGE, POINTER = 64, 16, 2**16, 4


class Instance:
    """One instance: functions, and a memory in which the host takes places that it never gives back."""

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, weights: bytes) -> None:
        self.store = wasmtime.Store(engine)
        self.exports: Mapping[str, Any] = dict(wasmtime.Instance(self.store, module, []).exports(self.store))
        self.memory: wasmtime.Memory = self.exports["memory"]
        self.call("_initialize")
        self.end, self.whole = int(self.exports["__heap_base"].value(self.store)), self._all_bytes()
        self.weights = self.take(len(weights)) if weights else 0
        if weights:
            self.bytes_at(self.weights, len(weights))[:] = np.frombuffer(weights, np.uint8)
        if self.call("rnn_weights_bytes") != len(weights) or self.call("rnn_check", self.weights, len(weights)):
            raise BackendUnavailable(
                "the weights are not those that the module was compiled for: build it again.", id="wasm-other-weights"
            )

    def call(self, name: str, *arguments: int) -> int:
        found: int = self.exports[name](self.store, *arguments)
        return found

    def take(self, count: int) -> int:
        """The address of `count` bytes of unused memory."""
        start = -(-self.end // LINE) * LINE
        self.end = start + count
        lacking = self.end - self.memory.data_len(self.store)
        if lacking > 0:
            self.memory.grow(self.store, -(-lacking // PAGE))
            self.whole = self._all_bytes()
        return start

    def bytes_at(self, address: int, count: int) -> Array:
        """A view (count,) of the memory, good until the next `take`."""
        return self.whole[address : address + count]

    def _all_bytes(self) -> Array:
        # Asking is slow, and a step takes no memory: the host alone makes it larger.
        return np.ctypeslib.as_array(self.memory.data_ptr(self.store), (self.memory.data_len(self.store),))

    def text(self, address: int) -> str:
        return bytes(self.bytes_at(address, PAGE)).partition(b"\0")[0].decode()


class Rows:
    """Places in an instance for a step of up to `rows` streams, and the step itself."""

    def __init__(self, session: WasmSession, rows: int) -> None:
        self.session, self.rows, spec = session, rows, session.spec
        self.instance = session.instance()
        take = self.instance.take
        rows_of = [(np.dtype(t.dtype), row_shape(t, spec.chunk)) for t in (*spec.inputs, *spec.outputs)]
        sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in rows_of]
        # Of each input and output: where its rows lie, the bytes of one, its type and its shape.
        self.ports = [(take(rows * n), n, *row) for n, row in zip(sizes, rows_of, strict=True)]
        self.structs = take(rows * session.stride)
        self.pointers = take(POINTER * len(self.ports))
        addresses = np.array([address for address, *_ in self.ports], "<u4")
        self.instance.bytes_at(self.pointers, addresses.nbytes)[:] = addresses.view(np.uint8)

    def step(self, inputs: list[Array], structs: Array) -> tuple[list[Array], Array]:
        """From inputs (rows, ...) and structs (rows, stride) to outputs and next structs; raises StreamError."""
        spec, instance, count = self.session.spec, self.instance, len(structs)
        into, out = self.ports[: len(spec.inputs)], self.ports[len(spec.inputs) :]
        for (address, nbytes, _, _), array in zip(into, inputs, strict=True):
            instance.bytes_at(address, count * nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        instance.bytes_at(self.structs, structs.nbytes)[:] = structs.reshape(-1)
        pointers = self.pointers, self.pointers + POINTER * len(into)
        try:
            instance.call("rnn_rows", self.structs, self.session.stride, *pointers, count, 1)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise StreamError(
                f"wasm refused the frame: {str(error).splitlines()[0]}", id="wasm-frame-refused"
            ) from error
        outputs = [instance.bytes_at(a, count * n).copy().view(d).reshape(count, *s) for a, n, d, s in out]
        after = instance.bytes_at(self.structs, structs.nbytes).copy().reshape(structs.shape)
        if self.session.wrong is not None:
            self.session.wrong.check("wasm", "frame", after)
        return outputs, after


class WasmSession(Session):
    """A compiled module; `stride` are the bytes from one stream's struct to the next."""

    device = "cpu"
    steps_rows_independently = True

    def __init__(self, spec: StreamSpec, code: bytes, weights: bytes, precision: str) -> None:
        self.spec, self.weights, self.precision = spec, weights, precision
        self.engine = wasmtime.Engine()
        self.module = wasmtime.Module(self.engine, code)
        first = self.instance()
        if first.text(first.call("rnn_contract")) != contract_sha256(spec):
            why = "was compiled for other names, types or sizes than the contract says"
            raise BackendUnavailable(
                f"model.wasm {why}: build it again, rnn-export build --target wasm --rebuild.", id="wasm-module-differs"
            )
        self.stride = max(1, -(-first.call("rnn_state_bytes") // ALIGNED)) * ALIGNED
        offset, front = partial(first.call, "rnn_state_offset"), partial(first.call, "rnn_state_front")
        # An rnn-export whose windows stayed in their place wrote no such function.
        self.places = StatePlaces(spec, offset, front if "rnn_state_front" in first.exports else lambda number: 0)
        rows = {t.name: first.call("rnn_input_rows", i) for i, t in enumerate(spec.inputs)}
        self.table_rows = {name: n for name, n in rows.items() if n}
        self.wrong = None
        if "rnn_wrong_indices" in first.exports and (count := first.call("rnn_wrong_indices")):
            texts = tuple(first.text(first.call("rnn_wrong_index", n)) for n in range(1, count + 1))
            self.wrong = WrongIndices(texts, first.call("rnn_wrong_offset"))

    def instance(self) -> Instance:
        return Instance(self.engine, self.module, self.weights)

    @cached_property
    def beginning(self) -> Array:
        """The struct of a stream at its start, (stride,)."""
        rows = Rows(self, 1)
        # A place of the weights is the same in every instance.
        rows.instance.call("rnn_init", rows.structs, rows.instance.weights)
        return rows.instance.bytes_at(rows.structs, self.stride).copy()

    def structs(self, count: int) -> Array:
        """`count` of them, (count, stride)."""
        return np.tile(self.beginning, (count, 1))

    def stream_buffers(self, batch: int) -> WasmBuffers:
        return WasmBuffers(self, batch)

    def state_store(self) -> WasmStateStore:
        return WasmStateStore(self)


class WasmBuffers(StreamBuffers):
    """One stream on an instance of its own."""

    def __init__(self, session: WasmSession, batch: int) -> None:
        self.session, self.chunk, spec = session, session.spec.chunk, session.spec
        self.inputs = {t.name: row_buffer(t, batch, spec.chunk) for t in spec.inputs}
        self.outputs = {t.name: row_buffer(t, batch, spec.chunk) for t in spec.outputs}
        self.rows, self.structs = Rows(session, batch), session.structs(batch)

    def step(self) -> None:
        check_indices("wasm", self.session.table_rows, "frame", self.inputs)
        spec = self.session.spec
        inputs = [np.moveaxis(self.inputs[t.name], t.axis(BATCH) or 0, 0) for t in spec.inputs]
        outputs, after = self.rows.step(inputs, self.structs)
        for tensor, array in zip(spec.outputs, outputs, strict=True):
            self.outputs[tensor.name][...] = np.moveaxis(array, 0, tensor.axis(BATCH) or 0)
        self.structs = after
        self.frames += self.chunk

    def read(self) -> dict[str, Array]:
        return self.session.places.read(self.structs)

    def write(self, states: Mapping[str, Array]) -> None:
        structs = self.structs.copy()
        self.session.places.write(structs, states)
        self.structs = structs


class WasmStateStore(UndoingStore):
    """The structs of a pool's streams here, and those of a round in an instance that is as large as the largest yet."""

    def __init__(self, session: WasmSession) -> None:
        self.session, self.spec = session, session.spec
        self.structs = session.structs(0)
        self.places: Rows | None = None

    @property
    def nbytes(self) -> int:
        return self.structs.nbytes

    def grow(self, count: int) -> None:
        grown = self.session.structs(count)
        grown[: len(self.structs)] = self.structs[:count]
        self.structs = grown

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        check_indices("wasm", self.session.table_rows, "frame", inputs)
        count, before = len(slots), self.structs[slots]
        if self.places is None or self.places.rows < count:
            self.places = Rows(self.session, count)
        rows = [np.moveaxis(inputs[t.name], t.axis(BATCH) or 0, 0) for t in self.spec.inputs]
        arrays, after = self.places.step(rows, before)
        named = zip(self.spec.outputs, arrays, strict=True)
        outputs = {t.name: np.moveaxis(a, 0, t.axis(BATCH) or 0) for t, a in named}
        nan_rows = rows_with_nan(self.spec, outputs, self.session.places.read(after).values())
        self.keep(slots, before, after)
        return outputs, nan_rows

    def put(self, rows: Array, states: Array) -> None:
        self.structs[rows] = states

    def read(self, slots: Array) -> dict[str, Array]:
        return self.session.places.read(self.structs[slots])

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        self.session.places.write(self.structs, states, slots)
