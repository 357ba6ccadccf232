"""The two orders of a tensor's axes: the graph's own, and the canonical one, batch and time first."""

from collections.abc import Callable, Mapping

import numpy as np

from rnn_export.contract.spec import BATCH, StreamSpec, TensorSpec
from rnn_export.platform.arrays import Array, Arrays

# What a graph computes: from inputs and states to outputs and next states, by name.
Call = Callable[[dict[str, Array]], Mapping[str, Array]]


def canonical(array: Array, spec: TensorSpec) -> Array:
    """A view with the batch on axis 0 and time, if there is any, on axis 1."""
    return array.transpose(spec.canonical_axes)


def graph_layout(array: Array, spec: TensorSpec) -> Array:
    """The inverse of `canonical`, contiguous."""
    return np.ascontiguousarray(array.transpose(spec.graph_axes))


def graph_inputs(spec: StreamSpec, inputs: Arrays) -> dict[str, Array]:
    """Inputs (rows, frames, ...) as one call of the graph takes them; one frame where the model has no time axis."""
    return {t.name: graph_layout(inputs[t.name] if spec.has_time else inputs[t.name][:, 0], t) for t in spec.inputs}


def canonical_frames(spec: StreamSpec, tensor: TensorSpec, array: Array) -> Array:
    """An input or output of one call of the graph as (rows, frames, ...), or (rows, ...) without a time axis."""
    return canonical(array, tensor) if spec.has_time else canonical(array, tensor)[:, None]


def frames_in(spec: StreamSpec, counts: Mapping[str, int]) -> int:
    """Number of frames of the sequence for inputs with `counts` of their own; raises ValueError where they differ."""
    rates = {t.name: t.rate.numerator for t in spec.inputs}
    found = {count // rates[name] if count % rates[name] == 0 else -1 for name, count in counts.items()}
    if len(found) == 1 and -1 not in found:
        return found.pop()
    if all(rates[name] == 1 for name in counts):
        raise ValueError(f"the inputs have {sorted(set(counts.values()))} frames: all must have the same number")
    have = ", ".join(f"{n} of {name!r}" for name, n in counts.items())
    go = ", ".join(f"{rates[name]} of {name!r}" for name in counts)
    raise ValueError(f"the inputs have {have}, but of a sequence {go} go together")


def cut(spec: StreamSpec, inputs: Arrays, start: int, stop: int) -> dict[str, Array]:
    """The part of inputs (rows, frames, ...) for the frames `start` to `stop` of a sequence; untimed ones whole."""
    pairs = ((t, inputs[t.name]) for t in spec.inputs if t.name in inputs)
    return {t.name: a[:, t.frames_of(start) : t.frames_of(stop)] if spec.timed(t) else a for t, a in pairs}


def row_by_row(spec: StreamSpec, call: Call) -> Call:
    """`call` for any number of rows: in sequence where the contract has one row."""
    if spec.rows is None:
        return call
    axes = {t.name: t.axis(BATCH) or 0 for t in (*spec.inputs, *spec.outputs)}

    def rows(feed: dict[str, Array]) -> dict[str, Array]:
        first = spec.inputs[0].name
        count = range(feed[first].shape[axes[first]])
        given = [call({name: a.take([row], axes.get(name, 0)) for name, a in feed.items()}) for row in count]
        return {name: np.concatenate([g[name] for g in given], axes.get(name, 0)) for name in given[0]}

    return rows


def unpacked(spec: StreamSpec, states: Arrays) -> dict[str, Array]:
    """States by name, (..., *row), with those that are packed into one by their own names."""
    found = dict[str, Array]()
    for state in (s for s in spec.states if s.name in states):
        array = states[state.name]
        if not state.parts:
            found[state.name] = array
        for part in state.parts:
            entries = array[..., part.offset : part.offset + part.size]
            found[part.name] = entries.reshape(*array.shape[:-1], *part.shape)
    return found


def late_rows(spec: StreamSpec, fed: Array) -> Array:
    """`spec.late` for many streams: by stream, the number of frames of its next step without output."""
    late: Array = np.clip(spec.delay - fed, 0, spec.chunk)
    return late
