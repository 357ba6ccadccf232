"""The code in a bundle, by target: files that are executed, loaded as machine code or compiled.

A graph of ONNX is data, interpreted and held to the contract. Every other file of a target is code, whatever its name:
libraries, TorchScript, engines, timing caches, sources, and with them the records and weights that they are used with.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rnn_export.bundle.draft import Draft
from rnn_export.bundle.manifest import TargetRow
from rnn_export.bundle.reading import Bundle
from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import TrustError
from rnn_export.platform.trusted_code import remember

# What an engine is built from.
GRAPH, RECIPE = "step.onnx", "recipe.json"


@dataclass(frozen=True)
class Code:
    """Files of one target that run together: of C the sources, and apart from them the build for each machine.

    `digest` is over the contract, what the target requires, and the name and sha256 of every file: code is trusted
    with all that it was built with, and with nothing else.
    """

    target: str
    precision: str
    machine: str | None
    files: tuple[str, ...]
    digest: str

    @property
    def title(self) -> str:
        return f"{self.target} ({self.precision})" + (f" for {self.machine}" if self.machine else "")

    @property
    def line(self) -> str:
        """Its line in a store of trusted code."""
        return f"code {self.digest} {self.title}"


def code_of(artefacts: Bundle | Draft) -> tuple[Code, ...]:
    """All code of a bundle, open or not written yet."""
    if isinstance(artefacts, Bundle):
        hashes = {path: row.sha256 for path, row in artefacts.files.items()}
    else:
        hashes = {path: hashlib.sha256(data).hexdigest() for path, data in artefacts.files.items()}
    return tuple(code for row in artefacts.targets for code in _of_row(artefacts.spec, row, hashes))


def record(made: Iterable[Code]) -> str:
    """Record code that was made here, from trusted files, as trusted; gives the reason where it cannot be."""
    lines = [code.line for code in made]
    try:
        if lines:
            remember(lines)
    except TrustError as error:
        return str(error)
    return ""


def _of_row(spec: StreamSpec, row: TargetRow, hashes: Mapping[str, str]) -> list[Code]:
    machines: dict[str | None, list[str]] = {}
    for path in row.files:
        if _is_code(row, path):
            machines.setdefault(_machine(row, path), []).append(path)
    return [
        Code(row.target, row.precision, machine, tuple(paths), _digest(spec, row, paths, hashes))
        for machine, paths in machines.items()
    ]


def _is_code(row: TargetRow, path: str) -> bool:
    known = TARGETS.get(row.target)
    if known is None:
        return True
    return not (known.is_data or (known.library and path.rpartition("/")[2] in (GRAPH, RECIPE)))


def _machine(row: TargetRow, path: str) -> str | None:
    built = f"targets/c-{row.precision}/build/"
    return path[len(built) :].partition("/")[0] if row.target == "c" and path.startswith(built) else None


def _digest(spec: StreamSpec, row: TargetRow, paths: Sequence[str], hashes: Mapping[str, str]) -> str:
    files = sorted((path, hashes[path]) for path in paths)
    whole = [spec.dumps(), row.target, row.precision, dict(row.requires), files]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
