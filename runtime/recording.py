"""Recordings from files: .npy, .npz, .csv and sound, as arrays (rows, time, ...) by input."""

import csv
import math
import os
import shlex
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.contract.layout import frames_in
from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.errors import SourceError
from rnn_export.lazy import load_module
from rnn_export.platform.arrays import Array, is_masked, unpack_array, unpack_arrays
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.core.frame_io import MASKED, exact_cast, other_dtype, without_precision


@dataclass(frozen=True)
class Csv:
    """A .csv with the `columns` to read, in this order: names of its header, or numbers from 1 on; all where empty."""

    path: str | os.PathLike[str]
    columns: Sequence[str | int] = ()


Reader = Callable[[Path, StreamSpec], Array | Mapping[str, Array]]
Source = str | os.PathLike[str] | Csv | Array | Mapping[str, Any]


def read(source: Source, spec: StreamSpec) -> dict[str, Array]:
    """Read a recording for every input of `spec`, as (rows, time, ...) in the input's dtype.

    A file is .npy, .npz, .csv (some of its columns by `Csv`), .wav, or with the extra `audio` .flac, .ogg and .wav of
    floats.

    An array is (time, ...) or (rows, time, ...). A one-dimensional signal for a model with a sample rate and a frame of
    n samples is cut into frames, the last one padded with zeros. Floats are as a step takes them: numbers of a .csv or
    of Python's have no precision of their own, but arrays of wider floats than the model's are refused. Whole numbers
    are taken in any dtype.

    Raises SourceError, naming the file, if it cannot be read, does not fit, or holds NaN or Inf.
    """
    if isinstance(source, str | os.PathLike):
        source = Csv(source)
    if isinstance(source, Csv):
        return _fit(_load(Path(source.path), source.columns, spec), spec, str(source.path))
    return _fit(source, spec, "the recording")


def _load(path: Path, columns: Sequence[str | int], spec: StreamSpec) -> Array | Mapping[str, Array]:
    text, sound = partial(_csv, columns=columns), dict.fromkeys((".wav", ".flac", ".ogg"), _sound)
    readers: dict[str, Reader] = {".npy": _npy, ".npz": _npy, ".csv": text, **sound}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise SourceError(
            f"{path} is of no known kind: give a {', '.join(readers)} file.", id="recording-suffix-unknown"
        )
    if columns and suffix != ".csv":
        raise SourceError(
            f"{path} has no columns to pick, which a .csv has: leave --columns out, and Csv in Python.",
            id="recording-without-columns",
        )
    if isinstance(columns, str):
        raise SourceError(
            f"columns of {path} are {columns!r}: give a list of names, Csv({str(path)!r}, [{columns!r}]).",
            id="recording-columns-untyped",
        )
    if not path.is_file():
        raise SourceError(f"{path} does not exist or is not a file.", id="recording-missing")
    try:
        loaded = readers[suffix](path, spec)
    except SourceError:
        raise
    except Exception as error:  # of a damaged file each reader raises kinds of its own
        reason = str(error).rstrip(".") or "it ends too early"
        raise SourceError(f"{path} cannot be read as {path.suffix}: {reason}.", id="recording-unreadable") from None
    if suffix in (".npy", ".npz"):
        return loaded
    if isinstance(loaded, Mapping):
        return {tensor.name: _rounded(loaded[tensor.name], tensor) for tensor in spec.inputs}
    return _rounded(loaded, spec.inputs[0])


def _rounded(values: Array, tensor: TensorSpec) -> Array:
    """Text and samples of sound have no precision of their own."""
    wanted = np.dtype(tensor.dtype)
    cast = exact_cast(values, wanted) if wanted.kind == "f" else None
    return values if cast is None else cast


def _npy(path: Path, spec: StreamSpec) -> Array | Mapping[str, Array]:
    raw = path.read_bytes()
    return unpack_arrays(raw) if raw.startswith(b"PK") else unpack_array(raw)


def _csv(path: Path, spec: StreamSpec, columns: Sequence[str | int]) -> Array | Mapping[str, Array]:
    """One line a frame, its values separated by commas, or a signal in one column; a line of names may come first.

    Several inputs of one value a frame each are taken from the columns that have their names.
    """
    # A byte order mark would be a part of the first name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        lines = [_Line(reader.line_num, [f.strip() for f in fields]) for fields in reader if fields]
    lines = [line for line in lines if line.fields != [""]]
    named = bool(lines) and not any(map(_is_number, lines[0].fields))
    names = lines.pop(0).fields if named else [""] * len(lines[0].fields if lines else [])
    if not lines:
        raise ValueError("it holds no values")
    for line in lines:
        if len(line.fields) != len(names):
            raise ValueError(f"line {line.number} has {len(line.fields)} values, but the first line has {len(names)}")
    chosen = [_column(path, names, column) for column in columns] or list(range(len(names)))
    try:
        table = np.array([[_number(line.fields[at]) for at in chosen] for line in lines])
    except ValueError:
        fewest = sum(math.prod(tensor.frame) for tensor in spec.inputs)
        raise ValueError(_no_number(path, names, lines, chosen, fewest)) from None
    if len(spec.inputs) > 1:
        return _by_input(path, spec, [names[at] for at in chosen], table)
    (tensor,), one = spec.inputs, len(chosen) == 1
    if len(chosen) != math.prod(tensor.frame) and not (one and _is_signal(spec, tensor)):
        raise SourceError(_other_width(path, names, chosen, tensor), id="csv-width-differs")
    return table[:, 0] if one else table.reshape(-1, *tensor.frame)


@dataclass(frozen=True)
class _Line:
    number: int
    fields: list[str]


def _number(field: str) -> float:
    # Python's own underscores are no way of writing numbers into files.
    return float(field.replace("_", "no number"))


def _is_number(field: str) -> bool:
    try:
        _number(field)
    except ValueError:
        return False
    return True


def _column(path: Path, names: Sequence[str], column: str | int) -> int:
    """The index of a column that is given by the name in the header, or by its number from 1 on."""
    text = str(column).strip()
    if text and names.count(text) == 1:
        return names.index(text)
    if text.isdecimal() and 1 <= int(text) <= len(names):
        return int(text) - 1
    twice = f"several columns {text!r}, so give the number of one" if text and text in names else f"no column {text!r}"
    has = f"{', '.join(filter(None, names))}" if any(names) else "no header"
    has = f"{has}; columns have the numbers 1 to {len(names)}, too"
    raise SourceError(f"{path} has {twice}: it has {has}.", id="csv-column-missing")


def _columns(path: Path, names: Sequence[str], chosen: Sequence[int]) -> str:
    """The option that picks columns, as the command and as Python has it."""
    plain = [at + 1 if "," in names[at] or names.count(names[at]) > 1 else names[at] or at + 1 for at in chosen]
    return f"--columns {shlex.quote(','.join(map(str, plain)))} (in Python Csv({str(path)!r}, {plain}))"


def _with_names(names: Sequence[str], chosen: Sequence[int]) -> Sequence[int]:
    """Without the columns that have no name where others have one, such as the row numbers that pandas writes."""
    return [at for at in chosen if names[at]] or chosen


def _other_width(path: Path, names: Sequence[str], chosen: Sequence[int], tensor: TensorSpec) -> str:
    """A message for columns that are no frame of the only input."""
    found, wanted = len(chosen), math.prod(tensor.frame)
    listed = f" ({', '.join(names[at] or 'one without a name' for at in chosen)})" if any(names) else ""
    sure = [at for at in chosen if names[at] == tensor.name] if wanted == 1 else []
    sure = sure or list(_with_names(names, chosen))
    picked = _columns(path, names, sure) if len(sure) == wanted else "by name or number, --columns (in Python Csv)"
    fix = f"pick {wanted}, {picked}" if found > wanted else "give all of them"
    has, takes = (f"{number} {what}{'s' * (number > 1)}" for number, what in ((found, "column"), (wanted, "value")))
    has = has if found == len(names) else f"{len(names)} columns, of which {found} are picked"
    return f"{path} has {has}{listed}, but a frame of {tensor.name!r} has {takes}: {fix}."


def _no_number(path: Path, names: Sequence[str], lines: Sequence[_Line], chosen: Sequence[int], fewest: int) -> str:
    """A message for a field that is no number; a frame takes the `fewest` columns."""
    wrong = [(line, at) for line in lines for at in chosen if not _is_number(line.fields[at])]
    line, at = wrong[0]
    text = {column for _, column in wrong}
    left = _with_names(names, [column for column in chosen if column not in text])
    some = any(_is_number(line.fields[at]) for line in lines)
    leave = f"leave the column out, {_columns(path, names, left)}" if len(left) >= fewest else ""
    fix = " or ".join(filter(None, ("correct it," if leave else "correct it", leave) if some else (leave,)))
    title = f"column {at + 1}" + (f" ({names[at]!r})" if names[at] else "")
    return f"line {line.number}, {title} holds {line.fields[at]!r}, which is no number: {fix or 'give numbers'}"


def _by_input(path: Path, spec: StreamSpec, names: Sequence[str], table: Array) -> Mapping[str, Array]:
    wanted = [tensor.name for tensor in spec.inputs]
    single = all(spec.timed(tensor) and math.prod(tensor.frame) == 1 for tensor in spec.inputs)
    if not single or sorted(names) != sorted(wanted):
        fix = "name one column after each of them" if single else "give an .npz with these names"
        found = f"the columns {names}" if any(names) else f"{len(names)} columns and no header"
        raise SourceError(f"{path} has {found}, but the model has the inputs {wanted}: {fix}.", id="csv-inputs-unfit")
    return {name: table[:, at] for at, name in enumerate(names)}


def _is_signal(spec: StreamSpec, tensor: TensorSpec) -> bool:
    """True if a sequence of values is cut into frames."""
    return len(tensor.frame) == 1 and (spec.sample_rate is not None or tensor.frame == (1,))


def _sound(path: Path, spec: StreamSpec) -> Array:
    """Mono sound in float32: PCM of 8 to 32 bits scaled to [-1, 1), other kinds as the package soundfile reads them."""
    if (wanted := spec.sample_rate) is None:
        fix = "export it with its sample_rate (--sample-rate)"
        raise SourceError(
            f"{path} is sound, but the model has no sample rate to hold it to: {fix}.", id="sound-without-rate"
        )
    samples, rate = _wav(path) if path.suffix.lower() == ".wav" else _soundfile(path, f"{path.suffix} is read")
    if rate != wanted:
        fix = f"resample it first, for example with `sox {path.name} -r {wanted} out.wav`"
        raise SourceError(
            f"{path} has {rate} Hz, but the model was made for {wanted} Hz: {fix}.", id="sound-rate-differs"
        )
    if (channels := samples.shape[1]) != 1:
        fix = f"mix it down, `sox {path.name} -c 1 out.wav`"
        raise SourceError(f"{path} has {channels} channels, but one is needed: {fix}.", id="sound-channels")
    return samples[:, 0]


def _wav(path: Path) -> tuple[Array, int]:
    """Samples (time, channels) and their rate."""
    try:
        with wave.open(str(path), "rb") as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            nbytes, raw = file.getnframes() * channels * width, file.readframes(file.getnframes())
    except wave.Error as error:
        # Python's words for every kind that is not PCM.
        if not str(error).startswith("unknown"):
            raise
        return _soundfile(path, f"samples other than PCM ({error}; 3 is floats) are read")
    if len(raw) != nbytes:
        raise SourceError(
            f"{path} is cut off: its header says {nbytes} bytes of sound, {len(raw)} are there.", id="wav-cut-off"
        )
    if width not in (1, 2, 3, 4):
        raise SourceError(
            f"{path} has samples of {8 * width} bits, but 8, 16, 24 and 32 are read.", id="wav-sample-bits"
        )
    return _of_pcm(raw, width).reshape(-1, channels), rate


def _of_pcm(raw: bytes, width: int) -> Array:
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:
        wide = np.pad(np.frombuffer(raw, np.uint8).reshape(-1, 3), ((0, 0), (1, 0)))
        raw, width = wide.tobytes(), 4
    samples: Array = np.frombuffer(raw, f"<i{width}") / 2 ** (8 * width - 1)
    # The loudest of 32 bits would round to 1.
    return np.minimum(samples.astype(np.float32), np.nextafter(np.float32(1), np.float32(0)))


def _soundfile(path: Path, read: str) -> tuple[Array, int]:
    """Samples (time, channels) and their rate, by an optional package; `read` says the purpose."""
    try:
        soundfile = load_module("soundfile")
    except (ImportError, OSError) as error:
        fix = f"{pip_install('audio')}, or convert it, `sox {path.name} -e signed -b 16 out.wav`"
        raise SourceError(
            f"{path} cannot be read: {read} by soundfile, which is not here ({error}): {fix}.", id="soundfile-missing"
        ) from None
    with soundfile.SoundFile(path) as file:
        samples, frames, rate = file.read(dtype="float32", always_2d=True), file.frames, file.samplerate
    with path.open("rb") as raw:
        head, size = raw.read(8), path.stat().st_size
    # libsndfile takes what is there of a RIFF file, whatever its header says.
    says = int.from_bytes(head[4:], "little") + 8 if head[:4] == b"RIFF" else size
    if len(samples) != frames or says > size:
        raise SourceError(f"{path} is cut off: its header says more than its {size} bytes hold.", id="sound-cut-off")
    return samples, int(rate)


def _fit(source: Array | Mapping[str, Any], spec: StreamSpec, what: str) -> dict[str, Array]:
    names = [t.name for t in spec.inputs]
    if not isinstance(source, Mapping):
        if len(names) > 1:
            fix = "give an .npz with these names"
            raise SourceError(
                f"{what} is one array, but the model has the inputs {names}: {fix}.", id="recording-one-array"
            )
        source = {names[0]: source}
    if set(source) != set(names):
        raise SourceError(
            f"{what} has {sorted(map(str, source))}, but the model's inputs are {names}.", id="recording-inputs-differ"
        )
    arrays = {t.name: _fit_one(source[t.name], t, spec, f"{what}: {t.name!r}") for t in spec.inputs}
    rows = {a.shape[0] for a in arrays.values()}
    if len(rows) > 1:
        raise SourceError(
            f"{what}: the inputs have {sorted(rows)} rows, but must have the same number.", id="recording-rows-differ"
        )
    try:
        frames_in(spec, {t.name: arrays[t.name].shape[1] for t in spec.inputs if spec.timed(t)})
    except ValueError as error:
        raise SourceError(f"{what}: {error}.", id="recording-frames-unfit") from None
    return arrays


def _fit_one(value: Any, tensor: TensorSpec, spec: StreamSpec, what: str) -> Array:
    dtype, frame = np.dtype(tensor.dtype), tensor.frame
    if is_masked(value):
        raise SourceError(f"{what} {MASKED}.", id="recording-masked")
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise SourceError(f"{what} is no array: {error}.", id="recording-not-an-array") from None
    wider = found.dtype.kind == dtype.kind == "f" and found.dtype.itemsize > dtype.itemsize
    if wider and not without_precision(value):
        raise SourceError(f"{what} {other_dtype(found.dtype, dtype)}", id="recording-dtype")
    array = exact_cast(found, dtype)
    if array is None:
        raise SourceError(
            f"{what} is {found.dtype} with values that {dtype} does not have: convert it first.",
            id="recording-values-lost",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SourceError(f"{what} holds NaN or Inf.", id="recording-not-finite")
    if not spec.timed(tensor):
        array = array[None] if array.shape == frame else array
        if array.shape[1:] == frame:
            return array
    else:
        if array.ndim == 1 and _is_signal(spec, tensor):
            array = np.pad(array, (0, -len(array) % frame[0])).reshape(-1, *frame)
        array = array[None] if array.shape[1:] == frame else array
        if array.shape[2:] == frame and array.ndim == 2 + len(frame) and array.shape[1] > 0:
            return array
    wanted = "it must be (time, ...) or (rows, time, ...) and not empty"
    raise SourceError(f"{what} has shape {array.shape}, but a frame has {frame}: {wanted}.", id="recording-shape")
