"""Which refusals of lifting and export no test has met: read after `./scripts/test`, whose processes write down theirs.

rm -r .cache/refusals; ./scripts/test; python scripts/refusals.py
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from rnn_export import errors

ROOT = Path(__file__).resolve().parents[1]
KINDS = {n for n, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.LiftError)}
KINDS.add("ExportError")


def refusals() -> Iterator[tuple[str, range]]:
    """Each place under export/ that makes an error: its file and its lines."""
    for path in sorted((ROOT / "export").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                yield path.relative_to(ROOT).as_posix(), range(node.lineno, (node.end_lineno or node.lineno) + 1)


def met() -> set[tuple[str, int]]:
    lines = (line for file in (ROOT / ".cache" / "refusals").iterdir() for line in file.read_text().splitlines())
    places = (line.rpartition(":") for line in lines)
    return {(Path(file).resolve().relative_to(ROOT).as_posix(), int(n)) for file, _, n in places if _ours(file)}


def _ours(file: str) -> bool:
    return Path(file).resolve().is_relative_to(ROOT)


if __name__ == "__main__":
    found, made = list(refusals()), met()
    missing = [(file, lines) for file, lines in found if not any((file, n) in made for n in lines)]
    for file, lines in missing:
        sys.stdout.write(f"{file}:{lines.start}\n")
    sys.stdout.write(f"{len(found) - len(missing)} of {len(found)} refusals were met\n")
