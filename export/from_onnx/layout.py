"""Find batch and time axes of each tensor of a file, and the contract that follows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnn_export.contract.spec import BATCH, TIME, Dim, StateSpec, StreamSpec, TensorSpec
from rnn_export.errors import SourceError
from rnn_export.export.from_onnx.original import Original
from rnn_export.export.from_onnx.pairing import Pair
from rnn_export.export.from_onnx.ports import Port
from rnn_export.platform.arrays import Array

# What a file calls an axis of streams.
BATCHES = re.compile(r"(n_?|num_?)?(batch|batches|bs|b|n)(_?(size|dim|axis))?(_?\d+)?", re.IGNORECASE)
# By which an axis shows itself: sizes that are tried.
FEW, MORE = 2, 3


@dataclass(frozen=True)
class Placed:
    """One tensor of the file: `dims` are numbers, "batch" and "time".

    `batch` is the index of the batch axis in the file, None if it has none; `dropped` that of a time axis of one
    frame, which a step does not have.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    is_state: bool
    dropped: int | None = None

    @property
    def batch(self) -> int | None:
        return self.dims.index(BATCH) if BATCH in self.dims else None

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The contract's shape: with a batch axis, in front for a state."""
        kept = [d for axis, d in enumerate(self.dims) if axis != self.dropped]
        if BATCH not in kept:
            return (BATCH, *kept)
        return (BATCH, *(d for d in kept if d != BATCH)) if self.is_state else tuple(kept)

    def to_file(self, array: Array) -> Array:
        """A tensor of the contract in the file's layout."""
        if self.dropped is not None:
            array = np.expand_dims(array, self.dropped if self.batch is not None else self.dropped + 1)
        if self.batch is None:
            first: Array = array[0]
            return first
        return np.ascontiguousarray(np.moveaxis(array, 0, self.batch)) if self.is_state else array

    def from_file(self, array: Array) -> Array:
        """The inverse."""
        if self.batch is None:
            array = array[None]
        elif self.is_state:
            array = np.ascontiguousarray(np.moveaxis(array, self.batch, 0))
        if self.dropped is not None:
            return array.squeeze(self.dropped if self.batch is not None else self.dropped + 1)
        return array


@dataclass(frozen=True)
class Layout:
    """All tensors of a file, the states among them in the order of their pairs; `rows` as in the contract."""

    inputs: tuple[Placed, ...]
    outputs: tuple[Placed, ...]
    pairs: tuple[Pair, ...]
    states: tuple[Placed, ...]
    rows: int | None
    chunk: int

    def spec(self, sample_rate: int | None, stored: Iterable[str]) -> StreamSpec:
        """The contract, without its digest; the states keep the names of the file. `stored` are those not of zeros."""
        started = set(stored)
        states = tuple(
            StateSpec(p.input, p.input, p.output, s.dtype, s.shape, "stored" if p.input in started else "zeros")
            for p, s in zip(self.pairs, self.states, strict=True)
        )
        inputs, outputs = (
            tuple(TensorSpec(t.name, t.dtype, t.shape) for t in tensors) for tensors in (self.inputs, self.outputs)
        )
        return StreamSpec(inputs, outputs, states, self.chunk, 0, sample_rate, rows=1 if self.rows else None)


def find_layout(
    taken: Mapping[str, Port],
    given: Mapping[str, Port],
    pairs: Sequence[Pair],
    declared: Mapping[str, tuple[Dim, ...]],
    original: Original,
    chunk: int,
) -> Layout:
    """The layout of a file with these inputs and outputs; raises SourceError if an axis is ambiguous.

    The file runs on batches of several sizes, with its own shapes and those `declared`: the output axes that follow are
    batch axes.
    """
    states = {pair.input for pair in pairs}
    dims = _all_dims(taken, declared, states)
    rows = None if all(_any_batch(port, dims[name]) for name, port in taken.items()) else 1
    if rows == 1:
        dims = {name: _with_row(d, name in states) for name, d in dims.items()}
    frames = chunk if any(TIME in d for d in dims.values()) else 1
    inputs = [Placed(n, p.dtype, dims[n], False) for n, p in taken.items() if n not in states]
    fed = [Placed(pair.input, taken[pair.input].dtype, dims[pair.input], True) for pair in pairs]
    if not inputs:
        names = ", ".join(f"--state {pair.input}=none" for pair in pairs)
        raise SourceError(
            f"every input would be a state, and none is left for the frames: say which is none, {names}.",
            id="every-input-a-state",
        )
    outputs = _outputs(original, [*inputs, *fed], given, {p.output for p in pairs}, rows, frames, declared)
    if chunk == 1:
        inputs, outputs = ([_without_time(t) for t in tensors] for tensors in (inputs, outputs))
    elif not any(TIME in t.dims for t in inputs):
        raise SourceError(
            f"chunk is {chunk}, but no input has a time axis: say where it is, --shape NAME=batch,time,... "
            "(shapes={NAME: ('batch', 'time', ...)}).",
            id="chunk-without-time-axis",
        )
    return Layout(tuple(inputs), tuple(outputs), tuple(pairs), tuple(fed), rows, chunk)


def _all_dims(
    taken: Mapping[str, Port], declared: Mapping[str, tuple[Dim, ...]], states: set[str]
) -> dict[str, tuple[Dim, ...]]:
    """By input, its dims as numbers, "batch" and "time", all known."""
    words = {d for name in states for d in taken[name].shape or () if isinstance(d, str) and BATCHES.fullmatch(d)}
    found: dict[str, tuple[Dim, ...]] = {}
    for name, port in taken.items():
        dims = [BATCH if d in words else d for d in declared.get(name) or _dims(port, name in states)]
        known = [d for d in dims if isinstance(d, int) or d in (BATCH, TIME)]
        if len(known) < len(dims):
            raise SourceError(_question(port, [d for d in dims if d not in known]), id="onnx-axes-unclear")
        found[name] = tuple(d for d in known if d is not None)
    return found


def _dims(port: Port, is_state: bool) -> tuple[int | str | None, ...]:
    """The axes, with the batch axis if its name tells it or it is the only one of its kind."""
    if port.shape is None:
        raise SourceError(_question(port, []), id="onnx-axes-unclear")
    unknown = [axis for axis, d in enumerate(port.shape) if not isinstance(d, int)]
    named = [axis for axis in unknown if isinstance(d := port.shape[axis], str) and BATCHES.fullmatch(d)]
    alone = len(unknown) == 1 and (is_state or (unknown[0] == 0 and port.shape[0] is None))
    batch = named[0] if len(named) == 1 else unknown[0] if alone else None
    return tuple(BATCH if axis == batch else d for axis, d in enumerate(port.shape))


def _any_batch(port: Port, dims: tuple[Dim, ...]) -> bool:
    """True if the file takes any number of rows in an input: it has a batch axis of open size."""
    return BATCH in dims and (port.shape is None or not isinstance(port.shape[dims.index(BATCH)], int))


def _with_row(dims: tuple[Dim, ...], is_state: bool) -> tuple[Dim, ...]:
    """The axes with the batch axis of one stream, if any: of size 1, in front, or behind the layers of a state."""
    if BATCH in dims:
        return dims
    axis = next((a for a in ((0, 1) if is_state else (0,)) if a < len(dims) and dims[a] == 1), None)
    return tuple(BATCH if a == axis else d for a, d in enumerate(dims))


def _without_time(tensor: Placed) -> Placed:
    if TIME not in tensor.dims:
        return tensor
    axis = tensor.dims.index(TIME)
    return replace(tensor, dims=tuple(1 if d == TIME else d for d in tensor.dims), dropped=axis)


def _outputs(
    original: Original,
    taken: Sequence[Placed],
    given: Mapping[str, Port],
    states: set[str],
    rows: int | None,
    frames: int,
    declared: Mapping[str, tuple[Dim, ...]],
) -> list[Placed]:
    """The outputs that are no states, with axes found by running the file on several sizes."""
    first = _run(original, taken, 1 if rows else FEW, frames)
    more = first if rows else _run(original, taken, MORE, frames)
    timed = any(TIME in t.dims for t in taken) and not all(_time_is_fixed(original, t) for t in taken)
    longer = _run(original, taken, 1 if rows else FEW, 2 * frames) if timed else first
    placed = []
    for name, port in given.items():
        if name in states:
            continue
        found, wider, long = first[name].shape, more[name].shape, longer[name].shape
        if name in declared:
            dims: tuple[Dim, ...] = declared[name]
        elif not len(found) == len(wider) == len(long):
            raise SourceError(
                f"the output {name!r} has {found} values at one size and {wider} at another.", id="output-size-varies"
            )
        else:
            dims = tuple(_dim(*sizes, frames) for sizes in zip(found, wider, long, strict=True))
        if rows and BATCH not in dims:
            dims = tuple(BATCH if a == 0 and d == 1 else d for a, d in enumerate(dims))
        if not rows and dims.count(BATCH) != 1:
            raise SourceError(
                f"the output {port} has no axis of the batch: it is {found} for {FEW} streams and {wider} for {MORE}. "
                "Streams that share a value cannot be told apart: say 1 for it, --shape NAME=1,... for each input.",
                id="output-without-batch",
            )
        placed.append(Placed(name, str(first[name].dtype), dims, False))
    if not placed:
        raise SourceError(
            f"every output of the file is a state ({', '.join(sorted(states))}): a stream needs a result.",
            id="every-output-a-state",
        )
    return placed


def _dim(size: int, wider: int, longer: int, frames: int) -> Dim:
    if wider != size:
        return BATCH
    if longer == size:
        return size
    every = 2 * frames // max(longer, 1) if longer else 0
    return TIME if every == 1 else f"{TIME}/{every}"


def _time_is_fixed(original: Original, tensor: Placed) -> bool:
    shape = original.shapes[tensor.name]
    return TIME not in tensor.dims or isinstance(shape[tensor.dims.index(TIME)], int)


def _run(original: Original, taken: Sequence[Placed], rows: int, frames: int) -> dict[str, Array]:
    sizes = {BATCH: rows, TIME: frames}
    feed = {t.name: np.zeros([sizes[d] if isinstance(d, str) else d for d in t.dims], t.dtype) for t in taken}
    return original(feed)


def _question(port: Port, unknown: Sequence[object]) -> str:
    axes = " and ".join("?" if d is None else repr(d) for d in unknown)
    what = f"nothing says how large {axes} is in a step" if axes else "nothing says what shape it has"
    dims = ",".join(str(d) if isinstance(d, int) else "DIM" for d in port.shape or ("DIM",))
    return (
        f"the input is {port}, and {what}. Say it: --shape {port.name}={dims} (shapes={{{port.name!r}: (...)}}), "
        "where DIM is a number, 'batch' for any number of streams, or 'time' for an axis of frames."
    )
