"""build.json: what is recorded of a compiled library, so that it is loaded where it runs and with its own sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from rnn_export.errors import BundleError

# Not compiled into the library: these may be added or change after it was.
AROUND = ("golden.h", "main.c", "selftest.c")


@dataclass(frozen=True)
class Record:
    """How a library was compiled: the fields of `build/<triple>/build.json`.

    `flags` are those that the code depends on, `features` what it uses of a CPU, in the words of /proc/cpuinfo. Its
    extension is for a Python with the EXT_SUFFIX `python`, and for the major version `numpy`; None where it has none.
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
            data: Any = json.loads(raw)
            known = {field.name: data[field.name] for field in fields(Record)}
        except (ValueError, TypeError, KeyError) as error:
            raise BundleError(f"{path} is no record of a build ({type(error).__name__}: {error}).") from error
        return Record(**known | {name: tuple(known[name]) for name in ("flags", "features")})


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
