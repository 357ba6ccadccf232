"""A C compiler, for any machine, and the folder that it works in."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rnn_export.errors import BuildError

# Here, for other machines, in CMakeLists.txt and in the tests.
FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
# gcc 12 and clang 14 by their own words; the linker's have no "error:".
_ERROR = re.compile(r"\berror\b|undefined reference|undefined symbol|cannot find|No such file")


@dataclass(frozen=True)
class Compiler:
    """A compiler: `command` starts it, `title` is its own name in one line."""

    command: tuple[str, ...]
    title: str

    def compile(self, arguments: Sequence[str], folder: Path) -> None:
        """Run it in `folder`; raises BuildError with its first error."""
        done = self._run(arguments, folder)
        if done.returncode:
            lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            first = next((line for line in lines if _ERROR.search(line)), (lines or ["no word"])[0])
            raise BuildError(f"{self.title} stopped with exit code {done.returncode}: {first}", id="compiler-failed")

    def macros(self, flags: Sequence[str], folder: Path) -> frozenset[str]:
        """The names that it defines by itself, given `flags`; raises BuildError where it does not know one."""
        done = self._run([*flags, "-dM", "-E", "-x", "c", os.devnull], folder)
        if done.returncode:
            first = (done.stderr.strip().splitlines() or ["no word"])[0]
            raise BuildError(f"{self.title} refuses {' '.join(flags)}: {first}", id="compiler-flags-refused")
        return frozenset(line.split()[1] for line in done.stdout.splitlines() if line.startswith("#define"))

    def _run(self, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        # zig keeps what it makes beside the sources, and the words of an error are asked for in English.
        there = {**os.environ, "LC_ALL": "C", "ZIG_LOCAL_CACHE_DIR": str(folder / "zig")}
        try:
            command = [*self.command, *arguments]
            return subprocess.run(command, cwd=folder, env=there, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise BuildError(f"{self.title} cannot be started: {error}", id="compiler-not-started") from error


def lay_out(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files by their path in `folder`."""
    for file, data in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)


def zig() -> tuple[str, ...]:
    """Command of zig; empty where it is not here."""
    if program := shutil.which("zig"):
        return (program,)
    return (sys.executable, "-m", "ziglang") if importlib.util.find_spec("ziglang") is not None else ()


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder that is gone afterwards; raises BuildError where it cannot be written."""
    try:
        with tempfile.TemporaryDirectory(prefix="rnn-export-") as place:
            yield Path(place)
    except OSError as error:
        why = f"{error.filename or 'the temporary folder'} cannot be written: {error.strerror or error}"
        raise BuildError(
            f"{why}. Make room there, or set TMPDIR to another folder.", id="work-folder-unusable"
        ) from error
