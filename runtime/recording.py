"""Recordings from files: .npy, .npz, .csv and .wav, as arrays (rows, time, ...) by input."""

import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.arrays import Array, is_masked, unpack_array, unpack_arrays
from rnn_export.errors import SourceError
from rnn_export.layout import frames_in
from rnn_export.runtime.frame_io import MASKED, exact_cast, other_dtype, without_precision
from rnn_export.spec import StreamSpec, TensorSpec

Source = str | os.PathLike[str] | Array | Mapping[str, Any]


def read(source: Source, spec: StreamSpec) -> dict[str, Array]:
    """Read a recording for every input of `spec`, as (rows, time, ...) in the input's dtype.

    An array is (time, ...) or (rows, time, ...). A one-dimensional signal for a model with a sample rate and a frame of
    n samples is cut into frames, the last one padded with zeros. Floats are as a step takes them: numbers of a .csv or
    of Python's have no precision of their own, but arrays of wider floats than the model's are refused. Whole numbers
    are taken in any dtype.

    Raises SourceError, naming the file, if it cannot be read, does not fit, or holds NaN or Inf.
    """
    if isinstance(source, str | os.PathLike):
        return _fit(_load(Path(source), spec), spec, str(source))
    return _fit(source, spec, "the recording")


def _load(path: Path, spec: StreamSpec) -> Array | Mapping[str, Array]:
    readers = {".npy": _npy, ".npz": _npy, ".csv": _csv, ".wav": _wav}
    if path.suffix.lower() not in readers:
        raise SourceError(f"{path} is of no known kind: give a {', '.join(readers)} file.")
    if not path.is_file():
        raise SourceError(f"{path} does not exist or is not a file.")
    try:
        loaded = readers[path.suffix.lower()](path, spec)
    except SourceError:
        raise
    except Exception as error:  # of a damaged file each reader raises kinds of its own
        reason = str(error) or "it ends too early"
        raise SourceError(f"{path} cannot be read as {path.suffix}: {reason}.") from None
    if isinstance(loaded, Mapping) or path.suffix.lower() == ".npy":
        return loaded
    # Text and samples of sound have no precision of their own.
    wanted = np.dtype(spec.inputs[0].dtype)
    cast = exact_cast(loaded, wanted) if wanted.kind == "f" else None
    return loaded if cast is None else cast


def _npy(path: Path, spec: StreamSpec) -> Array | Mapping[str, Array]:
    raw = path.read_bytes()
    return unpack_arrays(raw) if raw.startswith(b"PK") else unpack_array(raw)


def _csv(path: Path, spec: StreamSpec) -> Array:
    """One line a frame, its values separated by commas, or a signal in one column; a line of names may come first."""
    # A byte order mark would make the first line one of names.
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if lines and not any(_is_number(field) for field in lines[0].split(",")):
        del lines[0]
    if not lines:
        raise ValueError("it holds no values")
    table: Array = np.loadtxt(lines, delimiter=",", ndmin=2, dtype=np.float64, comments=None)
    return table[:, 0] if table.shape[1] == 1 else table


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _wav(path: Path, spec: StreamSpec) -> Array:
    """Mono PCM of 8 to 32 bits, scaled to [-1, 1) in float32."""
    if (wanted := spec.sample_rate) is None:
        fix = "export it with its sample_rate"
        raise SourceError(f"{path} is sound, but the model has no sample rate to hold it to: {fix}.")
    with wave.open(str(path), "rb") as file:
        rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
        nbytes, raw = file.getnframes() * channels * width, file.readframes(file.getnframes())
    if len(raw) != nbytes:
        raise SourceError(f"{path} is cut off: its header says {nbytes} bytes of sound, {len(raw)} are there.")
    if rate != wanted:
        fix = f"resample it first, for example with `sox {path.name} -r {wanted} out.wav`"
        raise SourceError(f"{path} has {rate} Hz, but the model was made for {wanted} Hz: {fix}.")
    if channels != 1:
        fix = f"mix it down, `sox {path.name} -c 1 out.wav`"
        raise SourceError(f"{path} has {channels} channels, but one is needed: {fix}.")
    if width not in (1, 2, 3, 4):
        raise SourceError(f"{path} has samples of {8 * width} bits, but 8, 16, 24 and 32 are read.")
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        wide = np.pad(np.frombuffer(raw, np.uint8).reshape(-1, 3), ((0, 0), (1, 0)))
        raw, width = wide.tobytes(), 4
    samples: Array = np.frombuffer(raw, f"<i{width}") / 2 ** (8 * width - 1)
    # The loudest of 32 bits would round to 1.
    return np.minimum(samples.astype(np.float32), np.nextafter(np.float32(1), np.float32(0)))


def _fit(source: Array | Mapping[str, Any], spec: StreamSpec, what: str) -> dict[str, Array]:
    names = [t.name for t in spec.inputs]
    if not isinstance(source, Mapping):
        if len(names) > 1:
            fix = "give an .npz with these names"
            raise SourceError(f"{what} is one array, but the model has the inputs {names}: {fix}.")
        source = {names[0]: source}
    if set(source) != set(names):
        raise SourceError(f"{what} has {sorted(map(str, source))}, but the model's inputs are {names}.")
    arrays = {t.name: _fit_one(source[t.name], t, spec, f"{what}: {t.name!r}") for t in spec.inputs}
    rows = {a.shape[0] for a in arrays.values()}
    if len(rows) > 1:
        raise SourceError(f"{what}: the inputs have {sorted(rows)} rows, but must have the same number.")
    try:
        frames_in(spec, {t.name: arrays[t.name].shape[1] for t in spec.inputs if spec.timed(t)})
    except ValueError as error:
        raise SourceError(f"{what}: {error}.") from None
    return arrays


def _fit_one(value: Any, tensor: TensorSpec, spec: StreamSpec, what: str) -> Array:
    dtype, frame = np.dtype(tensor.dtype), tensor.frame
    if is_masked(value):
        raise SourceError(f"{what} {MASKED}.")
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise SourceError(f"{what} is no array: {error}.") from None
    wider = found.dtype.kind == dtype.kind == "f" and found.dtype.itemsize > dtype.itemsize
    if wider and not without_precision(value):
        raise SourceError(f"{what} {other_dtype(found.dtype, dtype)}")
    array = exact_cast(found, dtype)
    if array is None:
        raise SourceError(f"{what} is {found.dtype} with values that {dtype} does not have: convert it first.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SourceError(f"{what} holds NaN or Inf.")
    if not spec.timed(tensor):
        array = array[None] if array.shape == frame else array
        if array.shape[1:] == frame:
            return array
    else:
        if array.ndim == 1 and len(frame) == 1 and (spec.sample_rate is not None or frame == (1,)):
            array = np.pad(array, (0, -len(array) % frame[0])).reshape(-1, *frame)
        array = array[None] if array.shape[1:] == frame else array
        if array.shape[2:] == frame and array.ndim == 2 + len(frame) and array.shape[1] > 0:
            return array
    wanted = "it must be (time, ...) or (rows, time, ...) and not empty"
    raise SourceError(f"{what} has shape {array.shape}, but a frame has {frame}: {wanted}.")
