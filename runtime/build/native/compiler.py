"""The C compiler of this machine: gcc, clang or zig, whichever is there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rnn_export.errors import BuildError, ToolUnavailable

# gcc 12 and clang 14 by their own words; the linker's have no "error:".
_ERROR = re.compile(r"\berror\b|undefined reference|undefined symbol|cannot find|No such file")
FIX = "sudo apt install gcc, or pip install ziglang, which needs no root"


@dataclass(frozen=True)
class Compiler:
    """A compiler: `command` starts it, `title` is what it says of itself in one line."""

    command: tuple[str, ...]
    title: str

    def compile(self, arguments: Sequence[str], folder: Path) -> None:
        """Run it in `folder`; raises BuildError with its first error."""
        done = self._run(arguments, folder)
        if done.returncode:
            lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            first = next((line for line in lines if _ERROR.search(line)), (lines or ["no word"])[0])
            raise BuildError(f"{self.title} stopped with exit code {done.returncode}: {first}")

    def macros(self, flags: Sequence[str], folder: Path) -> frozenset[str]:
        """The names that it defines by itself, given `flags`; raises BuildError where it does not know one."""
        done = self._run([*flags, "-dM", "-E", "-x", "c", os.devnull], folder)
        if done.returncode:
            first = (done.stderr.strip().splitlines() or ["no word"])[0]
            raise BuildError(f"{self.title} does not know {' '.join(flags)}: {first}")
        return frozenset(line.split()[1] for line in done.stdout.splitlines() if line.startswith("#define"))

    def _run(self, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        # zig keeps what it makes beside the sources, and the words of an error are asked for in English.
        there = {**os.environ, "LC_ALL": "C", "ZIG_LOCAL_CACHE_DIR": str(folder / "zig")}
        try:
            return subprocess.run(
                [*self.command, *arguments],
                cwd=folder,
                env=there,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise BuildError(f"{self.title} cannot be started: {error}") from error


def find_compiler(name: str | None = None) -> Compiler:
    """Find the one that `name` says (a program, or a whole command), else $CC, else gcc, clang or zig.

    Raises ToolUnavailable with what was looked for.
    """
    asked = name or os.environ.get("CC", "").strip()
    if asked:
        who = "the compiler asked for" if name else "CC"
        command = _zig() if asked == "zig" else tuple(shlex.split(asked))
        said = _version(command)
        if not isinstance(said, Compiler):
            fix = "name another one" if name else "set CC to a compiler, or unset it"
            raise ToolUnavailable(f"{who}, {asked!r}, {said}", fix)
        return said
    tried = []
    for command in (("gcc",), ("clang",), _zig()):
        said = _version(command)
        if isinstance(said, Compiler):
            return said
        tried.append(f"{command[0] if command[0] in ('gcc', 'clang') else 'zig'} {said}")
    raise ToolUnavailable(f"no C compiler is here: {', '.join(tried)}", FIX)


def zig() -> tuple[str, ...]:
    """What starts zig; empty where it is not here."""
    if program := shutil.which("zig"):
        return (program,)
    return (sys.executable, "-m", "ziglang") if importlib.util.find_spec("ziglang") is not None else ()


def _zig() -> tuple[str, ...]:
    return (*(zig() or ("zig",)), "cc")


def _version(command: tuple[str, ...]) -> Compiler | str:
    """The compiler, or what is wrong with it."""
    path = shutil.which(command[0])
    if path is None:
        return "is not found"
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, errors="replace", check=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run ({error})"
    first = (done.stdout.splitlines() or [command[0]])[0]
    return Compiler((path, *command[1:]), f"zig cc, {first}" if "cc" in command[1:] else first)
