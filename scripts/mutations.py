"""Bugs, planted one by one: is each caught by the tests named for it, and in which lane? They stand in mutations.txt.

    python scripts/mutations.py [--jobs N] [NAME ...]       all of them, or those named; prints what catches each

The sources are copied to a folder of their own first.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.lanes import LANES  # noqa: E402

FOLDERS = ("models", "export", "runtime", "rnn_export")
LIMIT = 900  # seconds for the tests of one bug in one lane


@dataclass(frozen=True)
class Mutation:
    """A bug: the first of `edits`, (text, in its place), whose text stands in one place; `tests` must catch it."""

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


def tried(mutation: Mutation) -> tuple[bool, str, float]:
    """True if its tests catch a bug; its place, the lane and the test, or why nothing does; and the seconds."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "copy")
        shutil.copytree(
            ROOT, root, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv*", ".*cache*", "__pycache__")
        )
        try:
            where = plant(mutation, root)
        except ValueError as error:
            return False, str(error), 0.0
        tests = [word for word in shlex.split(mutation.tests) if not word.endswith(".py") or (root / word).exists()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        begin, what = time.monotonic(), "NOT CAUGHT"
        for marks, lane in LANES.items():
            try:
                done = subprocess.run(
                    [*command, "-m", marks],
                    cwd=root, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return False, f"{where}: not caught in {LIMIT} s", LIMIT
            if failed := re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - |$)", done.stdout, re.MULTILINE):
                return True, f"{where}: {lane}, {failed.group(1)}", time.monotonic() - begin
            if done.returncode not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
                what = done.stdout[-200:]
        return False, f"{where}: {what}", time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--jobs", type=int, default=2, help="bugs that are tried at once")
    options = parser.parse_args()
    chosen = [m for m in read() if not options.names or m.name in options.names]
    begin, caught = time.monotonic(), 0
    with ThreadPoolExecutor(options.jobs) as jobs:
        for mutation, (is_caught, what, seconds) in zip(chosen, jobs.map(tried, chosen), strict=True):
            caught += is_caught
            print(f"{mutation.name:20} {seconds:4.0f} s  {what}", flush=True)
    minutes = (time.monotonic() - begin) / 60
    print(f"{caught} caught, {len(chosen) - caught} survived, {minutes:.0f} minutes")
    return caught < len(chosen)


if __name__ == "__main__":
    sys.exit(main())
