"""Golden vectors: what the model itself gave, and the closed loop that holds a backend to it, here or on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rnn_export.arrays import Array, pack_arrays
from rnn_export.errors import BundleError, ExportError
from rnn_export.precision import TOLERANCES, Tolerance
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.drift import Drift, ParityReport, drift
from rnn_export.runtime.stream import Stream
from rnn_export.spec import StreamSpec

FILE = "golden.npz"
CHECKPOINTS = 16
# Streams of a pool that is checked, at least: more than C steps at once.
POOLED = 9


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
        inputs, outputs, states = (
            {name: a[rows] for name, a in group.items()} for group in (self.inputs, self.outputs, self.states)
        )
        return Golden(inputs, outputs, states, self.at, tolerance, engine.precision)

    def to_npz(self) -> bytes:
        """As the file `golden.npz`."""
        groups = {"input": self.inputs, "output": self.outputs, "state": self.states}
        arrays = {f"{group}/{name}": a for group, named in groups.items() for name, a in named.items()}
        tolerance = np.array([self.tolerance.atol, self.tolerance.rtol])
        return pack_arrays({**arrays, "at": self.at, "tolerance": tolerance, "precision": np.array(self.precision)})

    @staticmethod
    def from_arrays(arrays: Mapping[str, Array], spec: StreamSpec) -> Golden:
        """From what the file holds; raises BundleError where it does not fit the contract."""

        def group(prefix: str, names: Sequence[str]) -> dict[str, Array]:
            return {name: arrays[f"{prefix}/{name}"] for name in names}

        try:
            atol, rtol = (float(v) for v in arrays["tolerance"].reshape(-1))
            golden = Golden(
                group("input", [t.name for t in spec.inputs]),
                group("output", [t.name for t in spec.outputs]),
                group("state", [s.name for s in spec.states]),
                arrays["at"],
                Tolerance(atol, rtol),
                str(arrays["precision"]),
            )
            golden._check(spec)
        except (KeyError, ValueError, ExportError) as error:
            raise BundleError(f"{FILE} does not fit the contract: {error}. Export the bundle again.") from error
        return golden

    def _check(self, spec: StreamSpec) -> None:
        at = self.at
        if at.ndim != 1 or at.dtype.kind != "i" or not at.size or (np.diff(at, prepend=0) < 1).any():
            raise ValueError(f"its checkpoints are {at.dtype} {at.shape}, not rising numbers of frames")
        if (at % spec.chunk).any() or self.frames <= spec.delay:
            raise ValueError(f"its checkpoints {at.tolist()} do not fit a chunk of {spec.chunk} and delay {spec.delay}")
        if self.precision not in TOLERANCES:
            raise ValueError(f"its precision {self.precision!r} is none of {', '.join(TOLERANCES)}")
        rows = next(iter(self.inputs.values())).shape[:1]
        if rows in ((), (0,)):
            raise ValueError("its inputs have no rows")
        for named, tensors, frames in (
            (self.inputs, spec.inputs, self.frames),
            (self.outputs, spec.outputs, self.frames - spec.delay),
        ):
            for tensor in tensors:
                array = named[tensor.name]
                # How many frames a whole sequence gives is the model's affair.
                given = array.shape[1] if spec.sequence_only and array.ndim > 1 else frames // tensor.every
                time = (given,) if spec.timed(tensor) else ()
                _check_one(tensor.name, array, tensor.dtype, (*rows, *time, *tensor.frame))
        for state in spec.states:
            _check_one(state.name, self.states[state.name], state.dtype, (*rows, len(at), *state.row))


def _check_one(name: str, array: Array, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name!r} is {array.dtype} {array.shape}, not {dtype} {shape}")


def replay(engine: Engine, golden: Golden, progress: Callable[[str], None] = lambda check: None) -> ParityReport:
    """Drive `engine` over the golden vectors with the state fed back, in every way a user may.

    Checks: every step; the whole in one run; random pieces out of an array of NaN; a reset in mid-stream; a snapshot
    moved to a new stream in mid-stream; each row alone; and in a pool, in another order at each round. A model of whole
    sequences only: the whole, and each row alone.
    """
    golden = golden.fitted(engine)
    replayer = _Replay(engine, golden)
    drifts = []
    whole = (replayer.whole, replayer.alone)
    stream = (
        replayer.step,
        replayer.whole,
        replayer.pieces,
        replayer.reset,
        replayer.snapshot,
        replayer.alone,
        replayer.pool,
    )
    for check in whole if engine.spec.sequence_only else stream:
        progress(check.__name__)
        drifts += list(check())
    return ParityReport(engine.backend, engine.device, golden.frames, golden.rows, golden.tolerance, tuple(drifts))


class _Replay:
    def __init__(self, engine: Engine, golden: Golden) -> None:
        self.engine, self.spec, self.golden = engine, engine.spec, golden
        self.random = np.random.default_rng(0)
        self.half = max(golden.frames // 2 // self.spec.chunk, 1) * self.spec.chunk

    def stream(self) -> Stream:
        return self.engine.stream(batch=self.golden.rows)

    def cut(self, start: int, stop: int) -> dict[str, Array]:
        return {
            t.name: self.golden.inputs[t.name][:, start:stop] if self.spec.timed(t) else self.golden.inputs[t.name]
            for t in self.spec.inputs
        }

    def frame(self, at: int) -> dict[str, Array]:
        """What a step from frame `at` on takes, of all rows."""
        cut = self.cut(at, at + self.spec.chunk)
        return {
            t.name: cut[t.name][:, 0] if self.spec.timed(t) and self.spec.chunk == 1 else cut[t.name]
            for t in self.spec.inputs
        }

    def run(self, stream: Stream, start: int, stop: int) -> dict[str, Array]:
        return self.named(stream.run(self.cut(start, stop)))

    def named(self, given: object) -> dict[str, Array]:
        return given if isinstance(given, dict) else {self.spec.outputs[0].name: given}  # type: ignore[dict-item]

    def step(self) -> Iterator[Drift]:
        stream, chunk = self.stream(), self.spec.chunk
        states: dict[str, list[Array]] = {s.name: [] for s in self.spec.states}
        outputs: dict[str, list[Array]] = {t.name: [] for t in self.spec.outputs}
        wanted = set(self.golden.at.tolist())
        for at in range(0, self.golden.frames, chunk):
            frame = {n: a[0] if self.golden.rows == 1 else a for n, a in self.frame(at).items()}
            given = stream.step(frame if len(frame) > 1 else next(iter(frame.values())))
            if given is not None:
                for tensor in self.spec.outputs:
                    value = self.named(given)[tensor.name]
                    value = value[None] if self.golden.rows == 1 else value
                    one = self.spec.timed(tensor) and chunk == tensor.every
                    outputs[tensor.name].append(value[:, None] if one else value)
            if at + chunk in wanted:
                for name, value in stream.states.items():
                    states[name].append(value)
        given_outputs = {
            t.name: np.concatenate(outputs[t.name], 1) if self.spec.timed(t) else outputs[t.name][-1]
            for t in self.spec.outputs
        }
        for state in self.spec.states:
            got = np.stack(states[state.name], 1)
            yield drift("step", state.name, got, self.golden.states[state.name], self.golden.at, self.golden.tolerance)
        yield from self.compare("step", given_outputs, 0, self.golden.frames)

    def whole(self) -> Iterator[Drift]:
        stream = self.stream()
        yield from self.compare("whole", self.run(stream, 0, self.golden.frames), 0, self.golden.frames)
        yield from self.ends("whole", stream.states)

    def pieces(self) -> Iterator[Drift]:
        stream, at, given = self.stream(), 0, []
        while at < self.golden.frames:
            size = min(int(self.random.integers(1, 2 + self.golden.frames // 4)), self.golden.frames - at)
            given.append(self.named(stream.run(self.among_nan(at, at + size))))
            at += size
        joined = {
            t.name: np.concatenate([g[t.name] for g in given], 1) if self.spec.timed(t) else given[-1][t.name]
            for t in self.spec.outputs
        }
        yield from self.compare("pieces", joined, 0, self.golden.frames)
        yield from self.ends("pieces", stream.states)

    def among_nan(self, start: int, stop: int) -> dict[str, Array]:
        """A piece that lies in a larger array of NaN, so that a read beyond its ends shows."""
        cut = self.cut(start, stop)
        for tensor in self.spec.inputs:
            piece = cut[tensor.name]
            if self.spec.timed(tensor) and piece.dtype.kind == "f":
                room = np.full((piece.shape[0], piece.shape[1] + 4, *piece.shape[2:]), np.nan, piece.dtype)
                room[:, 2:-2] = piece
                cut[tensor.name] = room[:, 2:-2]
        return cut

    def reset(self) -> Iterator[Drift]:
        stream = self.stream()
        self.run(stream, 0, self.half)
        stream.reset()
        yield from self.compare("reset", self.run(stream, 0, self.half), 0, self.half)

    def snapshot(self) -> Iterator[Drift]:
        if self.half >= self.golden.frames:
            return
        first, second = self.stream(), self.stream()
        self.run(first, 0, self.half)
        second.restore(first.snapshot())
        yield from self.compare(
            "snapshot", self.run(second, self.half, self.golden.frames), self.half, self.golden.frames
        )
        yield from self.ends("snapshot", second.states)

    def alone(self) -> Iterator[Drift]:
        for row in range(self.golden.rows if self.golden.rows > 1 and self.engine.batches[0] == 1 else 0):
            stream = self.engine.stream()
            given = self.named(stream.run({n: a[row : row + 1] for n, a in self.cut(0, self.golden.frames).items()}))
            yield from self.compare("alone", given, 0, self.golden.frames, row)

    def pool(self) -> Iterator[Drift]:
        rows, chunk = self.golden.rows, self.spec.chunk
        source = np.resize(np.arange(rows), -(-POOLED // rows) * rows)
        pool = self.engine.pool(len(source))
        ids = np.array([pool.open() for _ in source])
        rounds: dict[str, list[Array]] = {t.name: [] for t in self.spec.outputs}
        for turn, at in enumerate(range(0, self.golden.frames, chunk)):
            order = np.roll(np.arange(len(ids)), turn)
            frame = {name: a[source[order]] for name, a in self.frame(at).items()}
            outputs = self.named(pool.step(ids[order], frame if len(frame) > 1 else next(iter(frame.values()))))
            for name, values in outputs.items():
                rounds[name].append(values[np.argsort(order)])
        given = {}
        for tensor in self.spec.outputs:
            given[tensor.name] = rounds[tensor.name][-1]
            if self.spec.timed(tensor):
                one = chunk == tensor.every
                frames = [values[:, None] if one else values for values in rounds[tensor.name]]
                given[tensor.name] = np.concatenate(frames, 1)[:, self.spec.delay // tensor.every :]
        for first in range(0, len(ids), rows):
            some = slice(first, first + rows)
            yield from self.compare("pool", {n: a[some] for n, a in given.items()}, 0, self.golden.frames)
            states = {s.name: np.concatenate([pool.states(i)[s.name] for i in ids[some]]) for s in self.spec.states}
            yield from self.ends("pool", states)

    # --- comparing

    def compare(
        self, check: str, given: Mapping[str, Array], start: int, stop: int, row: int | None = None
    ) -> Iterator[Drift]:
        """Outputs of the frames from `start` to `stop` against the golden ones, of one row or of all."""
        for tensor in self.spec.outputs:
            want = self.golden.outputs[tensor.name]
            want = want if row is None else want[row : row + 1]
            got = given[tensor.name]
            if self.spec.timed(tensor) and self.spec.sequence_only:
                yield drift(check, tensor.name, got, want, np.arange(want.shape[1]) + 1, self.golden.tolerance)
            elif self.spec.timed(tensor):
                late, every = self.spec.delay, tensor.every
                first = min(max(start, late), stop)
                want = want[:, max(first - late, 0) // every : max(stop - late, 0) // every]
                frames = np.arange(first, stop, every) + every
                yield drift(check, tensor.name, got, want, frames, self.golden.tolerance)
            elif stop == self.golden.frames:
                yield drift(check, tensor.name, got[:, None], want[:, None], self.golden.at[-1:], self.golden.tolerance)

    def ends(self, check: str, states: Mapping[str, Array]) -> Iterator[Drift]:
        """The states after the last frame."""
        last = self.golden.at[-1:]
        for name, value in states.items():
            yield drift(check, name, value[:, None], self.golden.states[name][:, -1:], last, self.golden.tolerance)
