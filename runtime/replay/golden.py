"""Golden vectors: the model's own outputs and states, as a file, and the drift of others from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rnn_export.contract.layout import unpacked
from rnn_export.contract.precision import TOLERANCES, Tolerance
from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec
from rnn_export.errors import BundleError, ExportError
from rnn_export.platform.arrays import Array, pack_arrays
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drift import Drift, beyond, drift

FILE = "golden.npz"
# Before the names of the arrays of trials.
TRIALS = "trials/"
CHECKPOINTS = 16
# Before the names of the arrays of sequences that end, and after it how many frames they have.
ENDS = "ends/"
# Of inputs and outputs that are kept, beyond the fewest steps.
KEPT_BYTES, KEPT_STEPS = 2**23, 16


@dataclass(frozen=True)
class Golden:
    """Rows r, frames t, checkpoints k.

    `inputs` and `outputs` are (r, t, ...), without t where a sequence model has no time axis there (an output then as
    of the last frame); `states` are (r, k, ...), as of after `at[k]` frames. `tolerance` is that of an engine in
    `precision`. `kinds` are the kinds of input of the rows.

    `ends` are the model's outputs of the first frames alone, by their number, (r, t, ...): whole sequences, or (r, ...)
    where an output has no time axis.

    Each row of a tensor is held to its own running magnitude, or each entry of a frame to its own, `by_entry`; or where
    that is larger to `scales` (r, t, ...) by output and (r, k, ...) by state, the scale of the operands.

    `trials` are shorter vectors of other kinds of input, of which the outputs alone are compared, by entry.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    states: Mapping[str, Array]
    at: Array
    tolerance: Tolerance
    precision: str = "fp32"
    kinds: tuple[str, ...] = ()
    scales: Mapping[str, Array] = field(default_factory=dict)
    ends: Mapping[int, Mapping[str, Array]] = field(default_factory=dict)
    trials: Golden | None = None
    by_entry: bool = False

    @property
    def rows(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])

    @property
    def frames(self) -> int:
        return int(self.at[-1])

    def steps(self, spec: StreamSpec) -> int | None:
        """The number of steps; None for whole sequences."""
        return None if spec.sequence_only else self.frames // spec.chunk

    def beginning(self, spec: StreamSpec) -> Golden:
        """The first steps, as many as fit into `KEPT_BYTES`; all of them where an output is of the whole alone."""
        size = sum(a.nbytes for a in (*self.inputs.values(), *self.outputs.values()))
        if spec.sequence_only or size <= KEPT_BYTES or not all(map(spec.timed, spec.outputs)):
            return self
        fewest = (KEPT_STEPS + spec.settling_steps) * spec.chunk
        fitting = np.searchsorted(self.at, max(KEPT_BYTES * self.frames // size, fewest), "right")
        at = self.at[: max(int(fitting), 1)]
        most = {t.name: spec.frames_out(t, int(at[-1])) for t in spec.outputs} | dict.fromkeys(self.states, len(at))
        outputs, states, scales = (
            {name: a[:, : most[name]] for name, a in group.items()}
            for group in (self.outputs, self.states, self.scales)
        )
        inputs = ClosedLoop(spec, self.inputs).cut(0, int(at[-1]))
        return replace(self, inputs=inputs, outputs=outputs, states=states, scales=scales, at=at)

    def thinned(self) -> Golden:
        """The same with at most `CHECKPOINTS` states, the last among them."""
        keep = np.unique(np.linspace(0, len(self.at) - 1, CHECKPOINTS).round().astype(int))
        scales = {n: a[:, keep] if n in self.states else a for n, a in self.scales.items()}
        return replace(self, states={n: a[:, keep] for n, a in self.states.items()}, scales=scales, at=self.at[keep])

    def parts(self, engine: Engine) -> Iterator[Golden]:
        """Vectors to replay on `engine`: these, and the trials that can be judged there, in rows that it takes."""
        yield self.fitted(engine)
        if self.trials is None:
            return
        trials = replace(self.trials, tolerance=self.tolerance, precision=self.precision)
        unfit = self._unfit(engine.precision)
        rows = np.array([row for row, kind in enumerate(trials.kinds) if kind not in unfit])
        most = engine.batches[1] or trials.rows
        for start in range(0, len(rows), most):
            yield trials.of_rows(rows[start : start + most]).fitted(engine)

    def not_judged(self, precision: str) -> dict[str, str]:
        """By kind, why it says nothing of an engine in `precision`."""
        trials = self.trials
        if trials is None:
            return {}
        nan = {
            kind: f"the model itself gives NaN in {name!r}"
            for name, value in trials.outputs.items()
            for kind, ended in zip(trials.kinds, beyond(value[:, None], trials.kinds)[:, 0], strict=True)
            if ended
        }
        return self._without_scale(precision) | nan | self._unfit(precision)

    def _without_scale(self, precision: str) -> dict[str, str]:
        """Kinds in which no value has a scale: any error would be within it."""
        trials = self.trials
        if trials is None or precision != "fp32" or not trials.scales:
            return {}
        why = "where what the model computes with is changed in its last bits, it gives no number"
        lost = [
            all(np.isinf(a[row]).all() for a in trials.scales.values() if a[row].size) for row in range(trials.rows)
        ]
        return {kind: why for kind, is_lost in zip(trials.kinds, lost, strict=True) if is_lost}

    def _unfit(self, precision: str) -> dict[str, str]:
        """Kinds of trials left out: louder ones are for fp32 alone; int8 may be calibrated for a recording."""
        trials = self.trials
        if trials is None or precision == "fp32":
            return {}
        if precision == "int8" and "recording" in self.kinds:
            return dict.fromkeys(trials.kinds, "int8 is held to the recording alone")
        why = f"louder than what {precision} is held to"
        floats = [(a, trials.inputs[name]) for name, a in self.inputs.items() if a.dtype.kind == "f"]
        loud = [any(_loudness(b[row]) > 2 * _loudness(a) for a, b in floats) for row in range(trials.rows)]
        return {kind: why for kind, yes in zip(trials.kinds, loud, strict=True) if yes}

    def fitted(self, engine: Engine) -> Golden:
        """The same with as many rows as a stream of `engine` may have, and the tolerance of its precision."""
        low, high = engine.batches
        rows = np.resize(np.arange(self.rows), max(low, min(self.rows, high or self.rows)))
        tolerance = self.tolerance if engine.precision == self.precision else TOLERANCES[engine.precision]
        return replace(self.of_rows(rows), tolerance=tolerance, precision=engine.precision)

    def of_rows(self, rows: slice | Array) -> Golden:
        """The same with these rows alone, in this order, without trials."""
        inputs, outputs, states, scales = (
            {name: a[rows] for name, a in group.items()}
            for group in (self.inputs, self.outputs, self.states, self.scales)
        )
        kinds = tuple(np.array(self.kinds)[rows].tolist()) if self.kinds else ()
        ends = {frames: {name: a[rows] for name, a in outs.items()} for frames, outs in self.ends.items()}
        golden = replace(self, inputs=inputs, outputs=outputs, states=states, scales=scales, kinds=kinds)
        return replace(golden, ends=ends, trials=None)

    def output_drifts(
        self, check: str, spec: StreamSpec, outputs: Mapping[str, Array], start: int = 0, stop: int | None = None
    ) -> Iterator[Drift]:
        """Drift of `outputs` of the frames `start` to `stop` from these; without a time axis, the last alone."""
        stop = self.frames if stop is None else stop
        # In less than fp32 the error of a small entry is on the scale of the large ones beside it.
        scales = self.scales if self.precision == "fp32" else {}
        for tensor in spec.outputs:
            known: Sequence[int]
            got, want, scale = outputs[tensor.name], self.outputs[tensor.name], scales.get(tensor.name)
            if not spec.timed(tensor):
                if stop < self.frames:
                    continue
                got, want, known = got[:, None], want[:, None], range(stop, stop + 1)
                scale = None if scale is None else scale[:, None]
            elif spec.sequence_only:
                known = range(1, want.shape[1] + 1)
            else:
                first, last = spec.frames_out(tensor, start), spec.frames_out(tensor, stop)
                known, before = spec.known_after(tensor, 0, stop), want[:, :first]
                want, scale = want[:, :last], None if scale is None else scale[:, :last]
                # What is held to the loudest so far is held to that of the frames before too.
                got = np.concatenate([before, got], 1) if got.shape[2:] == want.shape[2:] else got
            steps = -(-np.array(known) // spec.chunk)
            by_row = scale is None or not self.by_entry
            yield drift(check, tensor.name, got, want, steps, self.tolerance, self.kinds, scale, by_row)

    def state_drifts(
        self, check: str, spec: StreamSpec, states: Mapping[str, Array], at: slice = slice(None)
    ) -> Iterator[Drift]:
        """Drift of `states` (r, k, ...), those of the checkpoints `at`, from these; packed states one by one."""
        given, scales = unpacked(spec, states), unpacked(spec, self.scales) if self.precision == "fp32" else {}
        for name, want in unpacked(spec, self.states).items():
            scale = scales[name][:, at] if name in scales else None
            steps = self.at[at] // spec.chunk
            yield drift(check, name, given[name], want[:, at], steps, self.tolerance, self.kinds, scale)

    def to_npz(self) -> bytes:
        trials = {} if self.trials is None else {f"{TRIALS}{name}": a for name, a in self.trials._arrays().items()}
        tolerance = np.array([self.tolerance.atol, self.tolerance.rtol])
        return pack_arrays({**self._arrays(), **trials, "tolerance": tolerance, "precision": np.array(self.precision)})

    def _arrays(self) -> dict[str, Array]:
        groups = {"input": self.inputs, "output": self.outputs, "state": self.states, "scale": self.scales}
        arrays = {f"{group}/{name}": a for group, named in groups.items() for name, a in named.items()}
        arrays |= {f"{ENDS}{n}/{name}": a for n, named in self.ends.items() for name, a in named.items()}
        return {**arrays, "at": self.at, **({"kinds": np.array(self.kinds)} if self.kinds else {})}

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array], spec: StreamSpec) -> Golden:
        """From the file's arrays; raises BundleError where it does not fit the contract."""
        try:
            atol, rtol = _tolerance(arrays["tolerance"])
            golden = _read(arrays, spec, spec.states, Tolerance(atol, rtol), str(arrays["precision"]))
            golden._check(spec)
            tried = {name.removeprefix(TRIALS): a for name, a in arrays.items() if name.startswith(TRIALS)}
            if tried:
                trials = replace(_read(tried, spec, (), golden.tolerance, golden.precision), by_entry=True)
                trials._check(spec)
                golden = replace(golden, trials=trials)
        except (KeyError, ValueError, ExportError) as error:
            raise BundleError(
                f"{FILE} does not fit the contract: {error}. Export the bundle again.", id="golden-does-not-fit"
            ) from error
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
            time = (tensor.frames_of(self.frames),) if spec.timed(tensor) else ()
            _check_one(tensor.name, self.inputs[tensor.name], tensor.dtype, (*rows, *time, *tensor.frame))
        for tensor in spec.outputs:
            array = self.outputs[tensor.name]
            # How many frames a whole sequence gives is the model's affair.
            any_length = spec.sequence_only and array.ndim > 1
            frames = array.shape[1] if any_length else spec.frames_out(tensor, self.frames)
            time = (frames,) if spec.timed(tensor) else ()
            _check_one(tensor.name, array, tensor.dtype, (*rows, *time, *tensor.frame))
        for frames, ended in self.ends.items():
            if not 0 < frames <= self.frames:
                raise ValueError(f"it has an end after {frames} of {self.frames} frames")
            for tensor in (t for t in spec.outputs if t.name in ended):
                time = (max(tensor.length_of(frames), 0) if tensor.lengths else 0,) if spec.timed(tensor) else ()
                shape = (*rows, *time, *tensor.frame)
                _check_one(f"{ENDS}{frames}/{tensor.name}", ended[tensor.name], tensor.dtype, shape)
        for name, scale in self.scales.items():
            _check_one(f"scale/{name}", scale, "float32", {**self.outputs, **self.states}[name].shape)
        for state in spec.states:
            if state.name in self.states:
                _check_one(state.name, self.states[state.name], state.dtype, (*rows, len(at), *state.row))
        if len(self.kinds) not in (0, *rows):
            raise ValueError(f"it names {len(self.kinds)} kinds of input for {rows[0]} rows")


def _tolerance(array: Array) -> tuple[float, float]:
    if array.dtype.kind not in "iuf" or array.shape != (2,):
        raise ValueError(f"its tolerance is {array.dtype} {array.shape}, not atol and rtol")
    return float(array[0]), float(array[1])


def _loudness(values: Array) -> float:
    return float(np.abs(values).max(initial=0))


def _read(
    arrays: Mapping[str, Array],
    spec: StreamSpec,
    states: Sequence[StateSpec],
    tolerance: Tolerance,
    precision: str,
) -> Golden:
    def group(prefix: str, ports: Sequence[TensorSpec | StateSpec]) -> dict[str, Array]:
        return {port.name: arrays[f"{prefix}/{port.name}"] for port in ports}

    ports: list[TensorSpec | StateSpec] = [*spec.outputs, *states]
    scaled = [port for port in ports if f"scale/{port.name}" in arrays]
    return Golden(
        group("input", spec.inputs),
        group("output", spec.outputs),
        group("state", states),
        arrays["at"],
        tolerance,
        precision,
        tuple(map(str, arrays.get("kinds", np.array([], str)))),
        group("scale", scaled),
        _ends(arrays, spec),
    )


def _ends(arrays: Mapping[str, Array], spec: StreamSpec) -> dict[int, dict[str, Array]]:
    ends: dict[int, dict[str, Array]] = {}
    names = {t.name for t in spec.outputs}
    for name in arrays:
        if name.startswith(ENDS):
            frames, _, tensor = name.removeprefix(ENDS).partition("/")
            if not frames.isdecimal() or len(frames) > 9 or tensor not in names:
                raise ValueError(f"{name!r} is the end of no output")
            ends.setdefault(int(frames), {})[tensor] = arrays[name]
    return dict(sorted(ends.items()))


def _check_one(name: str, array: Array, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name!r} is {array.dtype} {array.shape}, not {dtype} {shape}")
