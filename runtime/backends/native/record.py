"""build.json: the record of a compiled library, so that it is loaded where it runs and with its own sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rnn_export.errors import BundleError
from rnn_export.platform.json_parser import parse_json

# Not compiled into the library: these may be added or change after it was.
AROUND = ("golden.h", "main.c", "selftest.c")


@dataclass(frozen=True)
class Record:
    """A library's build record: the fields of `build/<triple>/build.json`.

    `flags` are those that the code depends on, `features` those of a CPU, in the words of /proc/cpuinfo. Its extension
    is for a Python with the EXT_SUFFIX `python`, and for the major version `numpy`; None where it has none.
    """

    triple: str
    compiler: str
    flags: tuple[str, ...]
    features: tuple[str, ...]
    python: str | None
    numpy: int | None
    sha256: str

    def to_file(self) -> bytes:
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    @staticmethod
    def from_file(path: str, raw: bytes) -> Record:
        """Read what `to_file` wrote, with anything more left out; raises BundleError."""
        try:
            data = parse_json(raw)
        except ValueError as error:
            raise BundleError(
                f"{path} is no record of a build: {error}. {_AGAIN}", id="build-record-malformed"
            ) from error
        known: dict[str, Any] = {name: data.get(name) for name in _FORMS} if isinstance(data, dict) else {}
        for name, fits in _FORMS.items():
            if not fits(known.get(name)):
                raise BundleError(
                    f"{path} is no record of a build: {name} is {known.get(name)!r}. {_AGAIN}", id="build-record-field"
                )
        return Record(**known | {name: tuple(known[name]) for name in ("flags", "features")})


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


# What each field is, in the order of `Record`.
_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "triple": _text,
    "compiler": _text,
    "flags": _texts,
    "features": _texts,
    "python": lambda value: value is None or _text(value),
    "numpy": lambda value: value is None or type(value) is int,
    "sha256": _text,
}
_AGAIN = "Build it again with --rebuild."


def sources_sha256(files: Mapping[str, bytes]) -> str:
    """The sha256 of the C sources and weights in `files`, by file name without folder; `AROUND` is left out."""
    named = {path.rsplit("/", 1)[-1]: data for path, data in files.items()}
    whole = hashlib.sha256()
    for name in sorted(named):
        if name.endswith((".c", ".h", ".bin")) and name not in AROUND:
            whole.update(f"{name} {hashlib.sha256(named[name]).hexdigest()}\n".encode())
    return whole.hexdigest()


def numpy_major() -> int:
    """The major version of numpy, by which its binary interface goes."""
    return int(np.__version__.split(".")[0])
