"""The frames of a round: from the caller's rows to the layout of a graph, and back.

Model repositories written by earlier releases import `Rounds` from here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rnn_export.contract.layout import canonical, canonical_frames, frames_in, graph_inputs, graph_layout, late_rows
from rnn_export.contract.spec import BATCH, TIME, StreamSpec, TensorSpec, sized
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array, all_finite
from rnn_export.runtime.core.ending import Ending, as_given
from rnn_export.runtime.core.frame_io import as_array, check_out, check_values


class Rounds:
    """Checks and lays out the rows of rounds of any size."""

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec
        self._in = {t.name: _RowLayout(t, spec.chunk) for t in spec.inputs}
        self._out = {t.name: _RowLayout(t, spec.chunk) for t in spec.outputs}

    def frame(self, x: Any) -> dict[str, Array]:
        """The frame of one stream by name, each a copy (1, ...); raises StreamError where it cannot be fed."""
        rows = ((name, value, self._in[name]) for name, value in self._by_name(x).items())
        return {name: check_values(name, value, row.row, row.dtype)[None].copy() for name, value, row in rows}

    def inputs(self, ids: Any, x: Any, n: int) -> dict[str, Array]:
        """Every input in the layout of the graph with a batch of n; raises StreamError where a row cannot be fed."""
        inputs = {}
        for name, value in self._by_name(x).items():
            layout = self._in[name]
            shape = (n, *layout.row)
            if type(value) is not np.ndarray or value.dtype is not layout.dtype or value.shape != shape:
                value = _rows(name, value, shape, layout.dtype)
            if layout.is_float and not all_finite(value):
                raise _not_finite(name, value, ids)
            inputs[name] = layout.in_graph(value)
        return inputs

    def ending(self, x: Any, n: int) -> Ending:
        """The end of n sequences, `x` their last frames below a chunk and untimed inputs; None for neither."""
        spec = self.spec
        held = {t.name: t for t in spec.inputs if not spec.timed(t)}
        given = {} if x is None else dict(x if isinstance(x, Mapping) else dict.fromkeys(list(self._in)[:1], x))
        if unknown := [name for name in given if name not in self._in]:
            raise StreamError(
                f"the inputs are {list(self._in)}, but {sorted(map(str, unknown))} were given.",
                id="ending-inputs-unknown",
            )
        if missing := [name for name in held if name not in given]:
            raise StreamError(
                f"the inputs {missing} have no frames: give them to finish too, as they were fed.",
                id="ending-inputs-missing",
            )
        arrays = {name: as_array(name, value, self._in[name].dtype) for name, value in given.items()}
        counts = {name: a.shape[1] if a.ndim > 1 else 0 for name, a in arrays.items() if name not in held}
        if counts and (len(counts) != len(self._in) - len(held) or not 0 < self._frames_in(counts) < spec.chunk):
            raise StreamError(
                f"finish takes the last frames of every input below a chunk of {spec.chunk}, (streams, frames, ...), "
                "as many of each, or none.",
                id="ending-frames-unfit",
            )
        shapes = {name: (n, count, *self._in[name].tensor.frame) for name, count in counts.items()}
        shapes |= {name: (n, *tensor.frame) for name, tensor in held.items()}
        checked = {name: check_values(name, a, shapes[name], self._in[name].dtype) for name, a in arrays.items()}
        pending = {name: a for name, a in checked.items() if name not in held}
        return Ending(spec, n, pending, {name: checked[name] for name in held})

    def _frames_in(self, counts: Mapping[str, int]) -> int:
        """Sequence frames of inputs with these `counts`; 0 where they do not go together."""
        try:
            return frames_in(self.spec, counts)
        except ValueError:
            return 0

    def last_outputs(
        self, ending: Ending, steps: int, step: Callable[[dict[str, Array]], Mapping[str, Array]]
    ) -> dict[str, Array]:
        """`Ending.last_outputs`, of a `step` in the layout of the graph."""

        def canonically(inputs: dict[str, Array]) -> dict[str, Array]:
            given = step(graph_inputs(self.spec, inputs))
            return {t.name: canonical_frames(self.spec, t, given[t.name]) for t in self.spec.outputs}

        return ending.last_outputs(steps, canonically)

    def left(self, ending: Ending, frames: int, outputs: Mapping[str, Array], row: int) -> Any:
        """Result of `Stream.finish` for one row, which was fed `frames` in whole steps."""
        left = ending.left(frames, {name: a[row : row + 1] for name, a in outputs.items()})
        return as_given(ending.spec, {name: a[0].copy() for name, a in left.items()})

    def _by_name(self, x: Any) -> Mapping[str, Any]:
        if not isinstance(x, Mapping):
            if len(self._in) == 1:
                return dict.fromkeys(self._in, x)
            raise StreamError(
                f"a round has {len(self._in)} inputs: give a dict with {list(self._in)}.", id="round-without-names"
            )
        if set(x) != set(self._in):
            raise StreamError(
                f"the inputs are {list(self._in)}, but {sorted(map(str, x))} were given.", id="round-inputs-unknown"
            )
        return x

    def check_out(self, out: Any, n: int) -> None:
        """Raise StreamError where `out` cannot take n rows."""
        several = len(self._out) > 1
        if several and (not isinstance(out, Mapping) or set(out) != set(self._out)):
            raise StreamError(f"out must be a dict with {list(self._out)}.", id="round-out-not-dict")
        for name, layout in self._out.items():
            check_out(name, out[name] if several else out, layout.dtype, (n, *layout.row))

    def outputs(self, results: Mapping[str, Array] | None, out: Any, frames: Sequence[int] | Array) -> Any:
        """A graph's results, None for no row, in the caller's form; `frames` counts those fed to each row before."""
        several, outputs = len(self._out) > 1, {}
        for name, layout in self._out.items():
            if out is None:
                outputs[name] = np.empty((len(frames), *layout.row), layout.dtype)
            else:
                outputs[name] = out[name] if several else out
            if results is not None:
                outputs[name][...] = layout.in_rows(results[name])
            if self.spec.has_delay:
                self._blank(outputs[name], layout.tensor, frames)
        return outputs if several else next(iter(outputs.values()))

    def _blank(self, array: Array, tensor: TensorSpec, frames: Any) -> None:
        """NaN, or 0 in whole numbers, for the frames of a row that its delay leaves without output."""
        chunk, value = self.spec.chunk, math.nan if array.dtype.kind == "f" else 0
        silent = late_rows(self.spec, np.asarray(frames))
        if not self.spec.timed(tensor) or array.ndim == len(tensor.frame) + 1:
            array[silent == chunk] = value
            return
        for row in np.flatnonzero(silent):
            array[row, : tensor.frames_of(silent[row])] = value


class _RowLayout:
    """One tensor: the shape that one stream has in a round, with no axis for one frame, and the way to the graph's."""

    def __init__(self, tensor: TensorSpec, chunk: int) -> None:
        self.tensor, self.dtype = tensor, np.dtype(tensor.dtype)
        time, frames = tensor.axis(TIME), tensor.frames_of(chunk)
        self.is_float = self.dtype.kind == "f"
        self.row = tensor.frame if time is None or frames == 1 else (frames, *tensor.frame)
        self.canonical_row = tensor.frame if time is None else (frames, *tensor.frame)
        # Where only axes of one entry are in another order, the values lie as they do in rows.
        sizes = sized(tensor.shape, -1, chunk)
        wide = [axis for axis in tensor.canonical_axes if sizes[axis] != 1]
        self.in_graph_shape = sizes if wide == sorted(wide) and tensor.axis(BATCH) is not None else None

    def in_graph(self, rows: Array) -> Array:
        """Rows (n, *row) in the layout of the graph, contiguous."""
        if self.in_graph_shape is not None:
            return np.ascontiguousarray(rows.reshape(self.in_graph_shape))
        return graph_layout(rows.reshape(-1, *self.canonical_row), self.tensor)

    def in_rows(self, array: Array) -> Array:
        """The inverse of `in_graph`, a view where the values lie so."""
        if self.in_graph_shape is not None:
            return array.reshape(-1, *self.row)
        return canonical(array, self.tensor).reshape(-1, *self.row)


def _rows(name: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    array = as_array(name, value, dtype)
    if array.ndim == len(shape) and array.shape[0] != shape[0]:
        rows = f"{array.shape[0]} rows (shape {array.shape})"
        raise StreamError(f"{name!r} has {rows} for {shape[0]} streams: give one row to each.", id="round-rows-differ")
    return check_values(name, array, shape, dtype, finite=False)


def _not_finite(name: str, array: Array, ids: Any) -> StreamError:
    bad = ~np.isfinite(array).reshape(len(array), -1).all(1)
    row = int(np.flatnonzero(bad)[0])
    stream = int(np.asarray(ids)[row])
    more = f", and those of {int(bad.sum()) - 1} more streams" if bad.sum() > 1 else ""
    fix = "nothing was fed to any stream. Leave that stream out of the round"
    return StreamError(
        f"row {row} of {name!r}, the frame of stream {stream}, holds NaN or Inf{more}: {fix}.", id="round-not-finite"
    )
