"""Golden vectors: what the model itself gave, as a file, and how far from it outputs and states are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnn_export.arrays import Array, pack_arrays
from rnn_export.errors import BundleError, ExportError
from rnn_export.precision import TOLERANCES, Tolerance
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.drift import Drift, drift
from rnn_export.spec import StateSpec, StreamSpec, TensorSpec

FILE = "golden.npz"
CHECKPOINTS = 16


@dataclass(frozen=True)
class Golden:
    """Rows r, frames t, checkpoints k.

    `inputs` and `outputs` are (r, t, ...), without t where a sequence model has no time axis there (an output then as
    of the last frame); `states` are (r, k, ...), as of after `at[k]` frames. `tolerance` is that of an engine in
    `precision`.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    states: Mapping[str, Array]
    at: Array
    tolerance: Tolerance
    precision: str = "fp32"

    @property
    def rows(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])

    @property
    def frames(self) -> int:
        return int(self.at[-1])

    def thinned(self) -> Golden:
        """The same with at most `CHECKPOINTS` states, the last among them."""
        keep = np.unique(np.linspace(0, len(self.at) - 1, CHECKPOINTS).round().astype(int))
        return replace(self, states={n: a[:, keep] for n, a in self.states.items()}, at=self.at[keep])

    def fitted(self, engine: Engine) -> Golden:
        """The same with as many rows as a stream of `engine` may have, and the tolerance of its precision."""
        low, high = engine.batches
        rows = np.resize(np.arange(self.rows), max(low, min(self.rows, high or self.rows)))
        tolerance = self.tolerance if engine.precision == self.precision else TOLERANCES[engine.precision]
        return replace(self.of_rows(rows), tolerance=tolerance, precision=engine.precision)

    def of_rows(self, rows: slice | Array) -> Golden:
        """The same with these rows alone, in this order."""
        inputs, outputs, states = (
            {name: a[rows] for name, a in group.items()} for group in (self.inputs, self.outputs, self.states)
        )
        return replace(self, inputs=inputs, outputs=outputs, states=states)

    def output_drifts(
        self, check: str, spec: StreamSpec, outputs: Mapping[str, Array], start: int = 0, stop: int | None = None
    ) -> Iterator[Drift]:
        """How far `outputs` of the frames `start` to `stop` are from these; without a time axis, the last alone."""
        stop = self.frames if stop is None else stop
        for tensor in spec.outputs:
            want = self.outputs[tensor.name]
            if not spec.timed(tensor):
                if stop < self.frames:
                    continue
                got, want, steps = outputs[tensor.name][:, None], want[:, None], range(stop, stop + 1)
            elif spec.sequence_only:
                got, steps = outputs[tensor.name], range(1, want.shape[1] + 1)
            else:
                part = slice(spec.frames_out(tensor, start), spec.frames_out(tensor, stop))
                got, want, steps = outputs[tensor.name], want[:, part], spec.known_after(tensor, start, stop)
            yield drift(check, tensor.name, got, want, steps, self.tolerance)

    def state_drifts(self, check: str, states: Mapping[str, Array], at: slice = slice(None)) -> Iterator[Drift]:
        """How far `states` (r, k, ...), those of the checkpoints `at`, are from these."""
        for name, value in states.items():
            yield drift(check, name, value, self.states[name][:, at], self.at[at], self.tolerance)

    def to_npz(self) -> bytes:
        groups = {"input": self.inputs, "output": self.outputs, "state": self.states}
        arrays = {f"{group}/{name}": a for group, named in groups.items() for name, a in named.items()}
        tolerance = np.array([self.tolerance.atol, self.tolerance.rtol])
        return pack_arrays({**arrays, "at": self.at, "tolerance": tolerance, "precision": np.array(self.precision)})

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array], spec: StreamSpec) -> Golden:
        """From what the file holds; raises BundleError where it does not fit the contract."""

        def group(prefix: str, ports: Sequence[TensorSpec | StateSpec]) -> dict[str, Array]:
            return {port.name: arrays[f"{prefix}/{port.name}"] for port in ports}

        try:
            atol, rtol = (float(v) for v in arrays["tolerance"].reshape(-1))
            groups = group("input", spec.inputs), group("output", spec.outputs), group("state", spec.states)
            golden = Golden(*groups, arrays["at"], Tolerance(atol, rtol), str(arrays["precision"]))
            golden._check(spec)
        except (KeyError, ValueError, ExportError) as error:
            raise BundleError(f"{FILE} does not fit the contract: {error}. Export the bundle again.") from error
        return golden

    def _check(self, spec: StreamSpec) -> None:
        at = self.at
        if at.ndim != 1 or at.dtype.kind != "i" or not at.size or (np.diff(at, prepend=0) < 1).any():
            raise ValueError(f"its checkpoints are {at.dtype} {at.shape}, not rising numbers of frames")
        if (at % spec.chunk).any() or spec.without_output(0, self.frames):
            raise ValueError(f"its checkpoints {at.tolist()} do not fit a chunk of {spec.chunk} and delay {spec.delay}")
        if self.precision not in TOLERANCES:
            raise ValueError(f"its precision {self.precision!r} is none of {', '.join(TOLERANCES)}")
        rows = next(iter(self.inputs.values())).shape[:1]
        if rows in ((), (0,)):
            raise ValueError("its inputs have no rows")
        for tensor in spec.inputs:
            time = (self.frames,) if spec.timed(tensor) else ()
            _check_one(tensor.name, self.inputs[tensor.name], tensor.dtype, (*rows, *time, *tensor.frame))
        for tensor in spec.outputs:
            array = self.outputs[tensor.name]
            # How many frames a whole sequence gives is the model's affair.
            any_length = spec.sequence_only and array.ndim > 1
            frames = array.shape[1] if any_length else spec.frames_out(tensor, self.frames)
            time = (frames,) if spec.timed(tensor) else ()
            _check_one(tensor.name, array, tensor.dtype, (*rows, *time, *tensor.frame))
        for state in spec.states:
            _check_one(state.name, self.states[state.name], state.dtype, (*rows, len(at), *state.row))


def _check_one(name: str, array: Array, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name!r} is {array.dtype} {array.shape}, not {dtype} {shape}")
