"""Physical lines, files, functions and private names of torch in the source, by package, against the last release.

    scripts/size                  print the table
    scripts/size --keep VERSION   store today's figures as those of a release, in scripts/sizes.json

Lines are counted with blank ones, of .py .c .h .hpp .cpp .js .ts .css .sh files, without links and test data. A private
name of torch is a module, attribute or import below `torch` that begins with an underscore, counted once a file.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "scripts/sizes.json"
SUFFIXES = {".py", ".c", ".h", ".hpp", ".cpp", ".js", ".ts", ".css", ".sh"}
# By the start of a path, the first that fits; the source is all of them but the tests.
PACKAGES = {
    "C kernels and templates": ("export/targets/c/kernels/", "export/targets/c/templates/"),
    **{name: (f"{name}/",) for name in ("export/lift", "export/targets", "export", "runtime", "models", "rnn_export")},
    "scripts": ("scripts/",),
    "tests": ("tests/",),
}
COLUMNS = ("lines", "files", "functions", "private names of torch")


def main() -> None:
    parser = argparse.ArgumentParser(description="Lines, files and functions by package, against the last release.")
    parser.add_argument("--keep", metavar="VERSION", help="store these figures as those of a release")
    version = parser.parse_args().keep
    now, kept = figures(), json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if version:
        KEPT.write_text(json.dumps({**kept, version: now}, indent=1) + "\n")
        return
    last, before = list(kept.items())[-1]
    print(f"| package | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name, row in now.items():
        print(f"| {name} | {' | '.join(_cell(n, before[name][column]) for column, n in row.items())} |")
    print(f"\nIn brackets: the difference to {last}.")


def figures() -> dict[str, dict[str, int]]:
    """By package, its figures; the sum of all but the tests is the source."""
    rows = {name: Counter(dict.fromkeys(COLUMNS, 0)) for name in PACKAGES}
    for path in _files():
        name = next((n for n, starts in PACKAGES.items() if path.relative_to(ROOT).as_posix().startswith(starts)), None)
        if name is not None:
            rows[name].update(_of(path))
    source = sum((row for name, row in rows.items() if name != "tests"), Counter())
    return {name: {c: row[c] for c in COLUMNS} for name, row in {**rows, "source, without tests": source}.items()}


def _files() -> Iterator[Path]:
    for folder in ("models", "export", "runtime", "rnn_export", "scripts", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            left_out = path.is_relative_to(ROOT / "tests/data") or any(p.is_symlink() for p in (path, *path.parents))
            if path.suffix in SUFFIXES and path.is_file() and not left_out:
                yield path


def _of(path: Path) -> dict[str, int]:
    text = path.read_text()
    nodes = list(ast.walk(ast.parse(text))) if path.suffix == ".py" else []
    functions = sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes)
    private = {name for node in nodes for name in _names(node) if _is_private(name)}
    return dict(zip(COLUMNS, (len(text.splitlines()), 1, functions, len(private)), strict=True))


def _names(node: ast.AST) -> list[str]:
    """Dotted names that a node imports or reads."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [ast.unparse(node)] if isinstance(node, ast.Attribute) else []


def _is_private(name: str) -> bool:
    first, *rest = name.split(".")
    return first == "torch" and any(part.startswith("_") and not part.startswith("__") for part in rest)


def _cell(now: int, before: int) -> str:
    return f"{now:,} ({now - before:+,})" if now != before else f"{now:,}"


if __name__ == "__main__":
    main()
