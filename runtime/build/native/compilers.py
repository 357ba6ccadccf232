"""C compilers for this machine and for others: gcc, clang or zig, whichever is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rnn_export.errors import BuildError, ToolUnavailable
from rnn_export.runtime.backends.native.cpu import host_triple
from rnn_export.runtime.backends.native.team import has_teams
from rnn_export.runtime.build.c_compiler import Compiler, zig
from rnn_export.runtime.build.native.machines import Machine

# For a library here.
_LINK = ("-shared", "-fPIC", "-fvisibility=hidden")
STANDARD = ("-std=c99",)
# For a microcontroller: unrolled by -O3 a step takes up to twice the flash, and a program takes what it calls.
BARE = ("-O2", "-ffunction-sections", "-fdata-sections")
FIX = "sudo apt install gcc, or pip install ziglang, which needs no root"
# The compiler is here without the C library that its package recommends.
_NO_LIBRARY = re.compile(
    r"error: <?'?\w+\.h.*(?:No such file|not found)|cannot find (?:-l|\w*crt)|cannot read spec file"
)


def find_compiler(name: str | None = None) -> Compiler:
    """The one that `name` says (a program or a command), else $CC, else gcc, clang or zig; raises ToolUnavailable."""
    asked = name or os.environ.get("CC", "").strip()
    if asked:
        who = "the compiler asked for" if name else "CC"
        command = _zig() if asked == "zig" else tuple(shlex.split(asked))
        found = _version(command)
        if not isinstance(found, Compiler):
            fix = "name another one" if name else "set CC to a compiler, or unset it"
            raise ToolUnavailable(f"{who}, {asked!r}, {found}", fix, id="compiler-unusable")
        return found
    tried = []
    for command in (("gcc",), ("clang",), _zig()):
        found = _version(command)
        if isinstance(found, Compiler):
            return found
        tried.append(f"{command[0] if command[0] in ('gcc', 'clang') else 'zig'} {found}")
    raise ToolUnavailable(f"no C compiler is here: {', '.join(tried)}", FIX, id="compiler-missing")


def _zig() -> tuple[str, ...]:
    return (*(zig() or ("zig",)), "cc")


def _version(command: tuple[str, ...]) -> Compiler | str:
    """The compiler, or its fault in words."""
    path = shutil.which(command[0])
    if path is None:
        return "is not found"
    try:
        asked = [*command, "--version"]
        done = subprocess.run(asked, capture_output=True, text=True, errors="replace", check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run ({error})"
    first = (done.stdout.splitlines() or [command[0]])[0]
    return Compiler((path, *command[1:]), f"zig cc, {first}" if "cc" in command[1:] else first)


def with_team(name: str, triple: str) -> list[str]:
    """Flags by which `NAME.c` can also be stepped by a team of threads, where the machine `triple` has teams."""
    return [f"-D{name.upper()}_THREADS", "-pthread"] if has_teams(triple) else []


def link(triple: str) -> tuple[str, ...]:
    """Flags for a library that is loaded: the linker of macOS knows no -s."""
    return _LINK if triple.endswith("-macos") else (*_LINK, "-s")


@dataclass(frozen=True)
class CrossCompiler(Compiler):
    """A compiler for `machine`, which is chosen in its command."""

    machine: Machine

    @property
    def flags(self) -> tuple[str, ...]:
        """The arguments of the command that choose the machine."""
        return self.command[self.command.index("cc") + 1 if self.zig else 1 :]

    @property
    def zig(self) -> bool:
        return "cc" in self.command

    def compile(self, arguments: Sequence[str], folder: Path) -> None:
        """Run it in `folder`; raises BuildError with its first error, and what to install where that helps."""
        try:
            super().compile(arguments, folder)
        except BuildError as error:
            if not _NO_LIBRARY.search(str(error)):
                raise
            missing = f"The C library of {self.machine.triple} is missing"
            raise BuildError(f"{error}. {missing}: {fix_of(self.machine)}.", id=error.id) from error

    @property
    def static(self) -> CrossCompiler:
        """The same, for programs that need no library beside them: zig makes those with musl alone."""
        if not self.zig:
            return self
        target = self.machine.zig.replace("linux-gnu", "linux-musl")
        return replace(self, command=tuple(target if part == self.machine.zig else part for part in self.command))

    def tool(self, name: str, *arguments: str, folder: Path) -> str:
        """Run a tool of the compiler, `"ar"` or `"size"`, and give its output."""
        program = f"zig {name}" if self.zig else self.machine.gcc.removesuffix("gcc") + name
        found = None if self.zig else shutil.which(program)
        if found is None and not self.zig:
            raise _missing(f"no {program}", self.machine)
        command = (*zig(), name) if found is None else (found,)
        done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(
                f"{program} stopped with exit code {done.returncode}: {done.stderr.strip()}", id="cross-tool-failed"
            )
        return done.stdout


def find_cross(machine: Machine) -> CrossCompiler:
    """Find gcc for `machine`, or zig where it knows it; raises ToolUnavailable that names the package."""
    if machine.gcc and (program := shutil.which(machine.gcc)):
        return _gcc(program, machine)
    command = zig() if machine.zig else ()
    if not command:
        names = [name for name in (machine.gcc, "zig" if machine.zig else "") if name]
        raise _missing(f"neither {names[0]} nor zig" if names[1:] else f"no {names[0]}", machine)
    # zig writes cortex_a72 and x86_64_v3.
    flags = ["-" + flag[1:].replace("-", "_") for flag in machine.flags]
    title = f"zig cc {_first_line(*command, 'version')}"
    return CrossCompiler((*command, "cc", "-target", machine.zig, *flags), title, machine)


def _gcc(program: str, machine: Machine) -> CrossCompiler:
    found = CrossCompiler((program, *machine.flags), _first_line(program, "--version"), machine)
    arm = machine.bare and machine.gcc.startswith("arm-")
    if arm and not any(flag.startswith("-mfloat-abi") for flag in machine.flags):
        # Floats go in registers of the FPU where the CPU has one.
        hard = "__ARM_FP" in found.macros(["-mfloat-abi=softfp"], Path("/"))
        found = replace(found, command=(*found.command, f"-mfloat-abi={'hard' if hard else 'soft'}"))
    return found


def _missing(what: str, machine: Machine) -> ToolUnavailable:
    return ToolUnavailable(
        f"no compiler for {machine.triple} is here, {what}", fix_of(machine), id="cross-compiler-missing"
    )


def fix_of(machine: Machine) -> str:
    """Commands that install `machine`'s compiler and C library."""
    packages = "gcc" if machine.triple == host_triple() else machine.packages
    debian = f"sudo apt install {packages} (Debian, Ubuntu)" if packages else ""
    pip = "pip install ziglang, which needs no root" if machine.zig else ""
    return ", or ".join(filter(None, (debian, pip)))


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return (done.stdout.splitlines() or [command[0]])[0]
