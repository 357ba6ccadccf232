"""Recordings from files: .npy, .npz, .csv and .wav, as arrays (rows, time, ...) by input."""

from __future__ import annotations

import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.errors import SourceError
from rnn_export.runtime.backends import Array
from rnn_export.spec import TIME, StreamSpec, TensorSpec

Source = str | os.PathLike[str] | Array | Mapping[str, Any]


def read(source: Source, spec: StreamSpec) -> dict[str, Array]:
    """Read a recording for every input of `spec`, as (rows, time, ...) in the input's dtype.

    An array is (time, ...) or (rows, time, ...). Where a frame is a vector of n samples, a one-dimensional signal is
    cut into frames, the last one padded with zeros.

    Raises SourceError, naming the file, if it cannot be read, does not fit, or holds NaN or Inf.
    """
    if isinstance(source, str | os.PathLike):
        return {name: a for name, a in _fit(_load(Path(source), spec), spec, str(source)).items()}
    return _fit(source, spec, "the recording")


def _load(path: Path, spec: StreamSpec) -> Array | Mapping[str, Array]:
    readers = {".npy": _npy, ".npz": _npy, ".csv": _csv, ".wav": _wav}
    if path.suffix.lower() not in readers:
        raise SourceError(f"{path} is of no known kind: give a {', '.join(readers)} file.")
    if not path.is_file():
        raise SourceError(f"{path} does not exist or is not a file.")
    try:
        return readers[path.suffix.lower()](path, spec)
    except (OSError, ValueError, EOFError, wave.Error) as error:
        raise SourceError(f"{path} cannot be read as {path.suffix}: {error}") from None


def _npy(path: Path, spec: StreamSpec) -> Array | Mapping[str, Array]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return {name: loaded[name] for name in loaded.files}


def _csv(path: Path, spec: StreamSpec) -> Array:
    """One line a frame, its values separated by commas; a first line of names is passed over."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    names = any(_is_word(field) for field in first.split(","))
    return np.loadtxt(path, delimiter=",", skiprows=int(names), ndmin=2, dtype=np.float64)


def _is_word(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return bool(field.strip())
    return False


def _wav(path: Path, spec: StreamSpec) -> Array:
    """Mono PCM, scaled to [-1, 1)."""
    with wave.open(str(path), "rb") as file:
        rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
        raw = file.readframes(file.getnframes())
    if spec.sample_rate is not None and rate != spec.sample_rate:
        raise SourceError(
            f"{path} has {rate} Hz, but the model was made for {spec.sample_rate} Hz: resample it first, for example "
            f"with `sox {path.name} -r {spec.sample_rate} out.wav`."
        )
    if channels != 1:
        raise SourceError(f"{path} has {channels} channels, but one is needed: mix it down, `sox {path.name} -c 1 out.wav`.")
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        bytes3 = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(bytes3), 4), np.uint8)
        wide[:, 1:] = bytes3
        return (wide.reshape(-1).view("<i4") / 2**31).astype(np.float32)
    return (np.frombuffer(raw, f"<i{width}") / 2 ** (8 * width - 1)).astype(np.float32)


def _fit(source: Array | Mapping[str, Any], spec: StreamSpec, what: str) -> dict[str, Array]:
    names = [t.name for t in spec.inputs]
    if not isinstance(source, Mapping):
        if len(names) > 1:
            raise SourceError(f"{what} is one array, but the model has the inputs {names}: give an .npz with these names.")
        source = {names[0]: source}
    if set(source) != set(names):
        raise SourceError(f"{what} has {sorted(source)}, but the model's inputs are {names}.")
    arrays = {t.name: _fit_one(np.asarray(source[t.name]), t, spec, f"{what}: {t.name!r}") for t in spec.inputs}
    times = {a.shape[1] for t in spec.inputs if _timed(t, spec) for a in [arrays[t.name]]}
    if len(times) > 1:
        raise SourceError(f"{what}: the inputs have {sorted(times)} frames, but must have the same number.")
    return arrays


def _timed(tensor: TensorSpec, spec: StreamSpec) -> bool:
    return not spec.has_time or tensor.axis(TIME) is not None


def _fit_one(array: Array, tensor: TensorSpec, spec: StreamSpec, what: str) -> Array:
    dtype, frame = np.dtype(tensor.dtype), tensor.frame
    if array.dtype != dtype:
        lossy = not np.can_cast(array.dtype, dtype, "same_kind")
        if lossy and not (array.dtype.kind == "f" and np.array_equal(array, np.trunc(array))):
            raise SourceError(f"{what} is {array.dtype}, but must be {dtype}.")
        array = array.astype(dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SourceError(f"{what} holds NaN or Inf.")
    if not _timed(tensor, spec):
        array = array[None] if array.shape == frame else array
        if array.shape[1:] == frame:
            return array
    else:
        if array.ndim == 1 and len(frame) == 1:
            array = np.pad(array, (0, -len(array) % frame[0])).reshape(-1, *frame)
        elif frame == () and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        array = array[None] if array.shape[1:] == frame else array
        if array.shape[2:] == frame and array.ndim == 2 + len(frame) and array.shape[1] > 0:
            return array
    raise SourceError(
        f"{what} has shape {array.shape}, but a frame has {frame}: it must be (time, ...) or (rows, time, ...) and not empty."
    )
