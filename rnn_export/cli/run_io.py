"""Recordings and pipes through a stream, and its outputs into files, for `rnn-export run`."""

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rnn_export.errors import SourceError
from rnn_export.platform.arrays import Array, Arrays, pack_arrays
from rnn_export.platform.files import save_atomically
from rnn_export.runtime import recording
from rnn_export.runtime.engine import Engine

SUFFIXES = (".npy", ".npz", ".csv")


def run_file(engine: Engine, source: recording.Source, output: Path | None, as_json: bool) -> dict[str, Any]:
    """Stream a recording; the outputs go to `output`, to stdout as CSV, or into the result where `as_json`."""
    _check_output(engine, output)
    inputs = recording.read(source, engine.spec)
    rows, frames = next(inputs[t.name].shape[:2] for t in engine.spec.inputs if engine.spec.timed(t))
    chunk = engine.spec.chunk
    if engine.spec.without_output(0, frames // chunk * chunk) and not engine.spec.tail:
        why = f"a step takes {chunk}, and the first {engine.spec.delay} give none"
        name = source.path if isinstance(source, recording.Csv) else source
        raise SourceError(f"{name} has {frames} frames, which give no output: {why}.", id="run-without-output")
    stream = engine.stream(batch=rows)
    begin = time.perf_counter()
    result: Any = stream.run(inputs if len(inputs) > 1 else next(iter(inputs.values())))
    outputs = _by_name(engine, result)
    if engine.spec.tail:
        held = {t.name: inputs[t.name] for t in engine.spec.inputs if not engine.spec.timed(t)}
        ended: Any = stream.finish(held or None)
        left = _by_name(engine, ended)
        ends = {name: end if rows > 1 else end[None] for name, end in left.items() if end is not None}
        outputs = {name: np.concatenate([a, ends[name]], 1) if name in ends else a for name, a in outputs.items()}
    seconds = time.perf_counter() - begin
    by_row = outputs
    if rows == 1:
        outputs = {name: a[0] for name, a in outputs.items()}
    # An output without a time axis is the answer at the last frame: one line a row.
    lines = {t.name: (outputs if engine.spec.timed(t) else by_row)[t.name] for t in engine.spec.outputs}
    report: dict[str, Any] = {
        "backend": engine.backend,
        "precision": engine.precision,
        "device": engine.device,
        "frames": frames,
        "rows": rows,
        "left": 0 if engine.spec.tail else frames % chunk,
        "seconds": seconds,
        "frames_a_step": chunk,
        "us_per_frame": seconds / frames * 1e6,
        "real_time": _real_time(engine, frames, seconds),
        "output": None if output is None else str(output),
    }
    if output is not None:
        _save(output, outputs, lines)
    elif as_json:
        report["outputs"] = {name: a.tolist() for name, a in outputs.items()}
    else:
        np.savetxt(sys.stdout, _lines(lines, "stdout"), delimiter=",", fmt="%.9g")
    return report


def run_raw(engine: Engine, source: BinaryIO, output: Path | None, as_json: bool) -> dict[str, Any]:
    """Stream raw frames as they come; each output is printed before the next frame is read."""
    spec = engine.spec
    if len(names := [t.name for t in spec.inputs]) > 1:
        raise SourceError(
            f"raw input has room for one input, but the model has {names}: give an .npz.", id="raw-input-several"
        )
    if output is not None:
        raise SourceError(
            f"raw input is printed as it comes: drop -o {output} and redirect stdout.", id="raw-with-output-file"
        )
    (tensor,), stream = spec.inputs, engine.stream()
    shape = (spec.chunk, *tensor.frame) if spec.chunk > 1 else tensor.frame
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    size = math.prod(shape) * dtype.itemsize
    frames, outputs = 0, []

    def give(named: Arrays, has_frames: bool) -> None:
        if as_json:
            outputs.append({name: a.tolist() for name, a in named.items()})
        else:
            lines = {name: a if has_frames else a[None] for name, a in named.items()}
            np.savetxt(sys.stdout, _lines(lines, "stdout"), delimiter=",", fmt="%.9g")
            sys.stdout.flush()

    while raw := source.read(size):
        if len(raw) < size:
            raise SourceError(
                f"the input ends inside a frame: {len(raw)} of {size} bytes after {frames} frames.",
                id="raw-ends-inside-frame",
            )
        result: Any = stream.step(np.frombuffer(raw, dtype).reshape(shape).astype(tensor.dtype))
        frames += spec.chunk
        if result is not None:
            give(_by_name(engine, result), spec.chunk > 1)
    if spec.tail:
        ended: Any = stream.finish()
        left = {name: a for name, a in _by_name(engine, ended).items() if a is not None}
        if any(len(a) for a in left.values()):
            give(left, True)
    about = {"backend": engine.backend, "precision": engine.precision, "device": engine.device}
    return {**about, "frames": frames, "outputs": outputs}


def _by_name(engine: Engine, result: Array | Arrays) -> Arrays:
    return result if isinstance(result, Mapping) else {engine.spec.outputs[0].name: result}


def _real_time(engine: Engine, frames: int, seconds: float) -> float | None:
    """Seconds of signal per second of work, where a frame is a number of samples of one signal."""
    spec = engine.spec
    if spec.sample_rate is None or len(spec.inputs) > 1 or len(spec.inputs[0].frame) > 1:
        return None
    return frames * math.prod(spec.inputs[0].frame) / spec.sample_rate / seconds


def _check_output(engine: Engine, output: Path | None) -> None:
    if output is None:
        return
    if output.suffix not in SUFFIXES:
        raise SourceError(
            f"{output} is of no known kind: name a {', '.join(SUFFIXES)} file.", id="output-suffix-unknown"
        )
    if output.suffix == ".npy" and (count := len(engine.spec.outputs)) > 1:
        raise SourceError(
            f"{output} has room for one array, but the model has {count} outputs: use .npz.", id="output-file-one-array"
        )
    if not output.absolute().parent.is_dir():
        raise SourceError(
            f"{output} cannot be written: the directory {output.parent} does not exist.", id="output-directory-missing"
        )


def _lines(outputs: Arrays, file: str) -> Array:
    """One line a frame: the values of every output side by side."""
    counts = sorted({a.shape[0] for a in outputs.values() if a.ndim})
    if len(counts) != 1:
        raise SourceError(
            f"{file} takes one line a frame, but the outputs have {counts}: write an .npz with -o.",
            id="output-counts-differ",
        )
    return np.concatenate([a.reshape(a.shape[0], -1).astype(np.float64) for a in outputs.values()], 1)


def _save(path: Path, outputs: Arrays, lines: Arrays) -> None:
    try:
        with save_atomically(path) as place:
            if path.suffix == ".npy":
                np.save(place, next(iter(outputs.values())))
            elif path.suffix == ".npz":
                place.write_bytes(pack_arrays(outputs))
            else:
                np.savetxt(place, _lines(lines, str(path)), delimiter=",", fmt="%.9g")
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error}", id="output-not-written") from error
