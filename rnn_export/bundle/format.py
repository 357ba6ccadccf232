"""The bundle, `NAME.rnnx/`: a directory with graphs, contract, proof and artefacts. BUNDLE.md specifies it in prose."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rnn_export import arrays
from rnn_export.arrays import unpack_arrays
from rnn_export.bundle import atomic
from rnn_export.bundle.atomic import MANIFEST
from rnn_export.errors import BundleError, SpecError
from rnn_export.spec import StateSpec, StreamSpec

FORMAT = 1
CHECKSUM = "manifest.sha256"
INITIAL_STATES = "initial_states.npz"
MANIFEST_LIMIT = 16 * 2**20

_DAMAGED = "damaged, or replaced meanwhile. Open the bundle again; if that fails, copy or export it again."


@dataclass(frozen=True)
class FileRow:
    """What the manifest says of one file; `path` is relative, with `/` between its parts."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class TargetRow:
    """One target in one precision: its files, its opset if it has one, and what it requires of a device."""

    target: str
    precision: str
    opset: int | None
    files: tuple[str, ...]
    requires: Mapping[str, Any]

    def file(self, name: str) -> str | None:
        """The path of its file of that name; None where it has none."""
        return next((path for path in self.files if path.rsplit("/", 1)[-1] == name), None)


@dataclass(frozen=True)
class Bundle:
    """An open bundle. Every read is verified against the manifest again, so what is used is what was checked."""

    path: Path
    spec: StreamSpec
    producer: Mapping[str, str]
    targets: tuple[TargetRow, ...]
    files: Mapping[str, FileRow]

    def read(self, name: str) -> bytes:
        """Read one file; raises BundleError if it is not in the manifest or no longer what the manifest says."""
        if name not in self.files:
            raise BundleError(f"{self.path}: the bundle has no file {name!r}; it has {', '.join(sorted(self.files))}.")
        row = self.files[name]
        with _open_sized(self.path, row) as file:
            data = file.read(row.bytes + 1)
        _check_hash(self.path, row, hashlib.sha256(data).hexdigest())
        return data

    def arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Read the arrays of an `.npz` file; raises BundleError on pickles, damage or over `arrays.LIMIT` bytes."""
        raw = self.read(name)
        try:
            return unpack_arrays(raw)
        except Exception as error:  # zip, zlib, lzma and numpy's header parser each have their own
            raise BundleError(
                f"{self.path}: {name!r} is no usable .npz file: {error}. Export the bundle again."
            ) from error

    def target(self, target: str, precision: str) -> TargetRow | None:
        """Find the row of one target and precision, or None."""
        return next((row for row in self.targets if (row.target, row.precision) == (target, precision)), None)

    def initial_states(self) -> dict[str, npt.NDArray[Any]]:
        """Give one row (shape `state.row`, no batch axis) for every state by name: zeros or the stored value."""
        some_stored = any(state.initial == "stored" for state in self.spec.states)
        stored = self.arrays(INITIAL_STATES) if some_stored else {}
        return {state.name: _initial(self.path, state, stored) for state in self.spec.states}


def write_bundle(
    path: str | os.PathLike[str],
    *,
    spec: StreamSpec,
    producer: Mapping[str, str],
    files: Mapping[str, bytes],
    targets: Sequence[TargetRow],
    force: bool = False,
) -> Bundle:
    """Write a bundle in one atomic step: killed at any moment, the old bundle, the new one or none stands there.

    `path` is the directory `NAME.rnnx`: its parent must exist, a symlink is followed. `producer` are versions by
    name of what made the bundle, `files` the contents by relative path; the manifest and its checksum are added.
    `force` replaces a bundle that stands at `path`; anything else is never replaced.

    Raises BundleError if the bundle contradicts itself, `path` is taken, or the file system refuses.
    """
    path = Path(path)
    manifest = {
        "format": FORMAT,
        "spec": spec.to_json(),
        "producer": dict(producer),
        "files": [vars(FileRow(name, hashlib.sha256(data).hexdigest(), len(data))) for name, data in files.items()],
        "targets": [{**vars(row), "requires": dict(row.requires)} for row in targets],
    }
    try:
        raw = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path}: this cannot be written as {MANIFEST}: {error}.") from error
    bundle = _parse(path, raw)
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise BundleError(f"{path} cannot be written: the directory {place.parent} does not exist. Make it first.")
    try:
        atomic.replace_directory(place, {**files, MANIFEST: raw, CHECKSUM: _checksum(raw)}, force)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be written: {error.strerror or error}. Check space and permissions."
        ) from error
    return bundle


def extend_bundle(
    bundle: Bundle,
    row: TargetRow,
    files: Mapping[str, bytes],
    keep: Callable[[Bundle, str], bool] = lambda bundle, name: False,
) -> Bundle:
    """Write the bundle again with `row` and its files, in place of what it had for that target and precision.

    What others have added to it since `bundle` was opened stays: of this row, what `keep` says of the bundle as it is
    now and the path of a file.
    One atomic step, as `write_bundle`, which says what it raises; several at once wait for each other.
    """
    try:
        with atomic.locked(Path(os.path.realpath(bundle.path)).parent):
            return _extended(bundle, row, files, keep)
    except OSError as error:
        raise BundleError(f"{bundle.path} cannot be written: {error.strerror or error}.") from error


def _extended(
    bundle: Bundle, row: TargetRow, files: Mapping[str, bytes], keep: Callable[[Bundle, str], bool]
) -> Bundle:
    before, bundle = bundle, open_bundle(bundle.path)
    if bundle.spec != before.spec:
        raise BundleError(f"{bundle.path} was replaced by another model's bundle meanwhile: nothing was written.")
    key = (row.target, row.precision)
    since = {name for known in bundle.targets if (known.target, known.precision) == key for name in known.files}
    others_of_row = sorted(name for name in since - set(files) if keep(bundle, name))
    row = replace(row, files=(*row.files, *others_of_row))
    files = {**files, **{name: bundle.read(name) for name in others_of_row}}
    others = [known for known in bundle.targets if (known.target, known.precision) != key]
    gone = {name for known in bundle.targets if known not in others for name in known.files}
    gone -= {name for known in others for name in known.files}
    kept = {name: bundle.read(name) for name in bundle.files if name not in gone}
    return write_bundle(
        bundle.path,
        spec=bundle.spec,
        producer=bundle.producer,
        files={**kept, **files},
        targets=[*others, row],
        force=True,
    )


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle with every hash and size checked; raises BundleError naming the file that is wrong."""
    path = Path(path)
    while True:
        try:
            place = Path(os.path.realpath(path))
            seen = _identity(place)
            atomic.recover(place)
            return _open(path)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror or error}.") from error
        except BundleError:
            # A writer that swapped in a new bundle meanwhile is no damage.
            if _identity(place) == seen:
                raise


def _open(path: Path) -> Bundle:
    if not os.path.lexists(path):
        raise BundleError(f"{path} does not exist: check the name, or make it with `rnn-export export`.")
    if not path.is_dir():
        raise BundleError(f"{path} is not a directory, but a bundle is one: give the NAME.rnnx directory itself.")
    if not os.path.lexists(path / MANIFEST):
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}. Export it again if it should be one.")
    raw = _read_bounded(path, MANIFEST)
    if _read_bounded(path, CHECKSUM) != _checksum(raw):
        raise BundleError(
            f"{path}: {MANIFEST} does not match {CHECKSUM}: the bundle is damaged. Copy or export it again."
        )
    bundle = _parse(path, raw)
    for row in bundle.files.values():
        digest = hashlib.sha256()
        with _open_sized(path, row) as file:
            while block := file.read(2**20):
                digest.update(block)
        _check_hash(path, row, digest.hexdigest())
    return bundle


def _identity(place: Path) -> tuple[int, int, int] | None:
    try:
        found = os.lstat(place)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _checksum(raw: bytes) -> bytes:
    return f"{hashlib.sha256(raw).hexdigest()}\n".encode()


def _read_bounded(path: Path, name: str) -> bytes:
    with atomic.open_regular(path, name) as file:
        raw = file.read(MANIFEST_LIMIT + 1)
    if len(raw) > MANIFEST_LIMIT:
        raise BundleError(
            f"{path}: {name} is larger than {MANIFEST_LIMIT} bytes, which no bundle needs: it is not read."
        )
    return raw


def _open_sized(path: Path, row: FileRow) -> BinaryIO:
    file = atomic.open_regular(path, row.path)
    size = os.fstat(file.fileno()).st_size
    if size != row.bytes:
        file.close()
        raise BundleError(f"{path}: {row.path!r} has {size} bytes where {MANIFEST} says {row.bytes}: {_DAMAGED}")
    return file


def _check_hash(path: Path, row: FileRow, digest: str) -> None:
    if digest != row.sha256:
        raise BundleError(f"{path}: {row.path!r} has another sha256 than {MANIFEST} says: {_DAMAGED}")


def _initial(path: Path, state: StateSpec, stored: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    dtype = np.dtype(state.dtype)
    if state.initial == "zeros":
        if math.prod(state.row) * dtype.itemsize > arrays.LIMIT:
            raise BundleError(
                f"{path}: state {state.name!r} of shape {state.row} is over {arrays.LIMIT} bytes a stream."
            )
        return np.zeros(state.row, dtype)
    if state.name not in stored:
        raise BundleError(
            f"{path}: state {state.name!r} starts from a stored value, but {INITIAL_STATES} has none for it. "
            "Export the bundle again."
        )
    value = stored[state.name]
    if value.shape != state.row or value.dtype != dtype:
        raise BundleError(
            f"{path}: {INITIAL_STATES} has {value.dtype} {value.shape} for state {state.name!r}, "
            f"which must be {dtype} {state.row}. Export the bundle again."
        )
    return value


def _parse(path: Path, raw: bytes) -> Bundle:
    """Turn a manifest into a Bundle; whatever is wrong with it is found here, for writer and reader alike."""
    try:
        data = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
        found = data.get("format") if isinstance(data, dict) else None
        if type(found) is int and found > FORMAT:
            raise BundleError(
                f"{path}: written by a newer rnn-export: format {found}, this one reads {FORMAT}: upgrade."
            )
        if type(found) is not int or found != FORMAT:
            raise ValueError(f"format is {found!r}, not {FORMAT}")
        _fields(data, "the manifest", format=int, spec=dict, producer=dict, files=list, targets=list)
        spec = StreamSpec.from_json(data["spec"])
        if not all(isinstance(version, str) for version in data["producer"].values()):
            raise ValueError(f"producer is {data['producer']}, not versions by name")
        files = [_file_row(row) for row in data["files"]]
        _check_tree([row.path for row in files])
        targets = [_target_row(row, {row.path for row in files}) for row in data["targets"]]
        _refuse_doubles([f"{row.target}-{row.precision}" for row in targets], "target")
    except (SpecError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST} cannot be used: {error}. Export the bundle again.") from error
    return Bundle(path, spec, data["producer"], tuple(targets), {row.path: row for row in files})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_doubles([key for key, _ in pairs], "field")
    return dict(pairs)


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is not a number that JSON has")
    return float(text)


def _refuse_doubles(names: Iterable[str], what: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{what} {name!r} stands there twice")


def _fields(data: Any, what: str, **types: type | tuple[type, ...]) -> None:
    if not isinstance(data, dict) or set(data) != set(types):
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{what} must have exactly the fields {sorted(types)}, but has {found}")
    for key, kind in types.items():
        if not isinstance(data[key], kind) or isinstance(data[key], bool):
            raise ValueError(f"{what} has {key} = {data[key]!r}, which is of the wrong type")


def _file_row(data: Any) -> FileRow:
    _fields(data, "a file row", path=str, sha256=str, bytes=int)
    row = FileRow(**data)
    if row.bytes < 0 or len(row.sha256) != 64 or set(row.sha256) - set("0123456789abcdef"):
        raise ValueError(f"file {row.path!r} has size {row.bytes} and sha256 {row.sha256!r}, which cannot be")
    return row


def _target_row(data: Any, files: set[str]) -> TargetRow:
    _fields(data, "a target row", target=str, precision=str, opset=(int, type(None)), files=list, requires=dict)
    for name in data["files"]:
        if not isinstance(name, str) or name not in files:
            raise ValueError(f"target {data['target']!r} lists the file {name!r}, which has no file row")
    return TargetRow(**{**data, "files": tuple(data["files"])})


def _check_tree(paths: Sequence[str]) -> None:
    _refuse_doubles(paths, "file")
    taken = {*paths, MANIFEST, CHECKSUM}
    for path in paths:
        parts = path.split("/")
        unsafe = any(part in ("", ".", "..") for part in parts) or "\\" in path or path[1:2] == ":"
        if unsafe or not path.isprintable():
            raise ValueError(f"file {path!r} is not a plain relative path inside the bundle (a/b.onnx)")
        if path in (MANIFEST, CHECKSUM):
            raise ValueError(f"file {path!r} is the format's own and has no file row")
        for folder in map("/".join, (parts[:n] for n in range(1, len(parts)))):
            if folder in taken:
                raise ValueError(f"{folder!r} is a file and cannot hold {path!r}")
