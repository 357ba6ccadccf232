"""Forty bugs, planted one by one: is each caught by the tests of its area? They stand in mutations.txt.

    python scripts/mutations.py [NAME ...]       all of them, or those named; prints what catches each

The sources are copied to a folder of their own first.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "export", "runtime", "rnn_export")
LIMIT = 900  # seconds for the tests of one bug


@dataclass(frozen=True)
class Mutation:
    """A bug: the first of `edits`, (text, in its place), whose text stands in one place; `tests` are its area."""

    name: str
    edits: tuple[tuple[str, str], ...]
    tests: str


def read() -> list[Mutation]:
    """The bugs of mutations.txt."""
    _, *blocks = re.split(r"^== ", Path(__file__).with_suffix(".txt").read_text(), flags=re.MULTILINE)
    found = []
    for block in blocks:
        head, *lines = block.rstrip("\n").split("\n")
        name, _, tests = head.partition(": ")
        edits = re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", "\n".join([*lines, ""]), re.MULTILINE)
        bare = [tuple(re.sub(r"^.", "", text, flags=re.MULTILINE).rstrip("\n") for text in pair) for pair in edits]
        found.append(Mutation(name, tuple((before, after) for before, after in bare), tests))
    return found


def sources(root: Path) -> list[Path]:
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in (".py", ".h", ".c")]
    return [path for path in found if not any(parent.is_symlink() for parent in path.parents)]


def plant(mutation: Mutation, root: Path) -> str:
    """Change the source below `root`; says where, raises ValueError where no form of it stands in one place."""
    for text, instead in mutation.edits:
        places = [path for path in sources(root) if text in path.read_text()]
        if len(places) == 1 and places[0].read_text().count(text) == 1:
            places[0].write_text(places[0].read_text().replace(text, instead))
            return places[0].relative_to(root).as_posix()
    raise ValueError(f"{mutation.name}: its text stands nowhere, or in several places: write its new form.")


def caught_by(mutation: Mutation) -> str:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "copy")
        shutil.copytree(
            ROOT, root, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv*", ".*cache*", "__pycache__")
        )
        try:
            where = plant(mutation, root)
        except ValueError as error:
            return str(error)
        tests = [word for word in mutation.tests.split() if not word.endswith(".py") or (root / word).exists()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        begin = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=root, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{where}: not caught in {LIMIT} s"
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        what = failed.group(1) if failed else "NOT CAUGHT" if done.returncode == 0 else done.stdout[-200:]
        return f"{where}: {what} ({time.monotonic() - begin:.0f} s)"


def main() -> int:
    names = sys.argv[1:]
    survived = 0
    for mutation in read():
        if not names or mutation.name in names:
            result = caught_by(mutation)
            survived += "::" not in result and ".py (" not in result
            print(f"{mutation.name:20} {result}", flush=True)
    print(f"{survived} survived")
    return survived > 0


if __name__ == "__main__":
    sys.exit(main())
