"""manifest.json: the description of a bundle, held to the same rules by writer and reader. Reasons: BUNDLE.md."""

import json
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnn_export import limits
from rnn_export.bundle.atomic import MANIFEST
from rnn_export.bundle.requirements import check_requirements
from rnn_export.bundle.signature import SIGNATURE
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BundleError, SpecError
from rnn_export.platform.json_parser import parse_json

FORMAT, OLDEST = 2, 1
_WORD = re.compile("[a-z0-9][a-z0-9_-]{0,63}")
CHECKSUM = "manifest.sha256"

# By format, and what stands for the fields that format 1 lacks.
FIELDS_1 = {"format": int, "spec": dict, "producer": dict, "files": list, "targets": list}
FIELDS_2 = {**FIELDS_1, "weights": int | None, "extra": dict}
SINCE_2: Mapping[str, Any] = {"weights": None, "extra": {}}


@dataclass(frozen=True)
class FileRow:
    """The manifest's row of one file; `path` is relative, with `/` between its parts."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class TargetRow:
    """One target in one precision: its files, its opset if it has one, and its requirements of a device."""

    target: str
    precision: str
    opset: int | None
    files: tuple[str, ...]
    requires: Mapping[str, Any]

    def file(self, name: str) -> str | None:
        """The path of its file of that name; None where it has none."""
        return next((path for path in self.files if path.rsplit("/", 1)[-1] == name), None)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The fields of manifest.json: `producer` has versions of packages that made it, `files` a row by path.

    `weights` is the number that a step reads, looked-up rows left out; None if nobody counted them. `extra` are entries
    of others, by name: a reader ignores those that it does not know.
    """

    spec: StreamSpec
    producer: Mapping[str, str]
    weights: int | None
    files: Mapping[str, FileRow]
    targets: tuple[TargetRow, ...]
    extra: Mapping[str, Any]


def write_manifest(path: Path, manifest: Manifest) -> bytes:
    """The bytes of the manifest of the bundle `path`; raises BundleError where it has something that JSON has not."""
    data = {
        "format": FORMAT,
        "spec": manifest.spec.to_json(),
        "producer": dict(manifest.producer),
        "weights": manifest.weights,
        "files": [vars(row) for row in manifest.files.values()],
        "targets": [{**vars(row), "requires": dict(row.requires)} for row in manifest.targets],
        "extra": dict(manifest.extra),
    }
    try:
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"{path}: this cannot be written as {MANIFEST}: {error}.", id="manifest-not-writable"
        ) from error


def read_manifest(path: Path, raw: bytes) -> Manifest:
    """The manifest of the bundle `path`, in this format or an older one; raises BundleError."""
    try:
        data = _of_newest_format(path, parse_json(raw))
        spec = StreamSpec.from_json(data["spec"])
        if not all(isinstance(version, str) for version in data["producer"].values()):
            raise ValueError(f"producer is {data['producer']}, not versions by name")
        if data["weights"] is not None and data["weights"] < 0:
            raise ValueError(f"weights is {data['weights']}, which is no number of weights")
        for name, most in (("files", limits.FILES), ("targets", limits.TARGETS)):
            if len(data[name]) > most:
                raise ValueError(f"it has {len(data[name])} {name}, over the limit of {most}")
        rows = [_file_row(row) for row in data["files"]]
        _check_tree([row.path for row in rows])
        files = {row.path: row for row in rows}
        targets = tuple(_target_row(row, files) for row in data["targets"])
        _refuse_doubles([f"{row.target}-{row.precision}" for row in targets], "target")
    except (SpecError, ValueError) as error:
        why = str(error).removesuffix(".")
        raise BundleError(
            f"{path}: {MANIFEST} cannot be used: {why}. Export the bundle again.", id="manifest-unusable"
        ) from error
    own = {name: data[name] for name in ("producer", "weights", "extra")}
    return Manifest(spec=spec, files=files, targets=targets, **own)


def _of_newest_format(path: Path, data: Any) -> dict[str, Any]:
    """With the fields of the newest format, where it has exactly those of its own."""
    found = data.get("format") if isinstance(data, dict) else None
    if type(found) is int and found > FORMAT:
        raise BundleError(
            f"{path}: written by a newer rnn-export: format {found}, this one reads {FORMAT}: upgrade.",
            id="bundle-format-newer",
        )
    if type(found) is not int or found < OLDEST:
        raise ValueError(f"format is {found!r}, not {OLDEST} to {FORMAT}")
    _fields(data, "the manifest", FIELDS_2 if found == FORMAT else FIELDS_1)
    return {**SINCE_2, **data}


def _refuse_doubles(names: Iterable[str], what: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{what} {name!r} stands there twice")


def _fields(data: Any, what: str, types: Mapping[str, Any]) -> None:
    if not isinstance(data, dict) or set(data) != set(types):
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{what} must have exactly the fields {sorted(types)}, but has {found}")
    for key, kind in types.items():
        if not isinstance(data[key], kind) or isinstance(data[key], bool):
            raise ValueError(f"{what} has {key} = {data[key]!r}, which is of the wrong type")


def _file_row(data: Any) -> FileRow:
    _fields(data, "a file row", {"path": str, "sha256": str, "bytes": int})
    row = FileRow(**data)
    if row.bytes < 0 or len(row.sha256) != 64 or set(row.sha256) - set("0123456789abcdef"):
        raise ValueError(f"file {row.path!r} has size {row.bytes} and sha256 {row.sha256!r}, which cannot be")
    if len(row.path) > limits.PATH or row.path.count("/") >= limits.PARTS:
        found = f"{len(row.path)} characters and {row.path.count('/') + 1} parts"
        raise ValueError(f"file {row.path[:80]!r} has {found}, over the limits of {limits.PATH} and {limits.PARTS}")
    return row


def _target_row(data: Any, files: Container[str]) -> TargetRow:
    types = {"target": str, "precision": str, "opset": int | None, "files": list, "requires": dict}
    _fields(data, "a target row", types)
    for name in data["files"]:
        if not isinstance(name, str) or name not in files:
            raise ValueError(f"target {data['target']!r} lists the file {name!r}, which has no file row")
    # They name a folder, and stand in commands that messages advise.
    for field in ("target", "precision"):
        if not _WORD.fullmatch(data[field]):
            raise ValueError(f"a target row has {field} = {data[field]!r}, which is no word of a-z, 0-9, '-' and '_'")
    check_requirements(data["target"], data["requires"])
    return TargetRow(**{**data, "files": tuple(data["files"])})


def _check_tree(paths: Sequence[str]) -> None:
    _refuse_doubles(paths, "file")
    taken = {*paths, MANIFEST, CHECKSUM, SIGNATURE}
    for path in paths:
        parts = path.split("/")
        unsafe = any(part in ("", ".", "..") for part in parts) or "\\" in path or path[1:2] == ":"
        if unsafe or not path.isprintable():
            raise ValueError(f"file {path!r} is not a plain relative path inside the bundle (a/b.onnx)")
        if path in (MANIFEST, CHECKSUM, SIGNATURE):
            raise ValueError(f"file {path!r} is the format's own and has no file row")
        for folder in map("/".join, (parts[:n] for n in range(1, len(parts)))):
            if folder in taken:
                raise ValueError(f"{folder!r} is a file and cannot hold {path!r}")
