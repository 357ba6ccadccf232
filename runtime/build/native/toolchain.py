"""Compilers for other machines: which one is here, and how it is called."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rnn_export.errors import BuildError, ToolUnavailable
from rnn_export.runtime.backends.native.cpu import host_triple
from rnn_export.runtime.build.native.compiler import Compiler, zig
from rnn_export.runtime.build.native.machines import Machine

# The compiler is here without the C library that its package recommends.
_NO_LIBRARY = re.compile(
    r"error: <?'?\w+\.h.*(?:No such file|not found)|cannot find (?:-l|\w*crt)|cannot read spec file"
)


@dataclass(frozen=True)
class CrossCompiler(Compiler):
    """A compiler for `machine`; what makes it compile for that is in its command."""

    machine: Machine

    @property
    def flags(self) -> tuple[str, ...]:
        """The arguments of the command that choose the machine."""
        return self.command[self.command.index("cc") + 1 if self.zig else 1 :]

    @property
    def zig(self) -> bool:
        """Whether it is zig, not gcc."""
        return "cc" in self.command

    def compile(self, arguments: Sequence[str], folder: Path) -> None:
        """Run it in `folder`; raises BuildError with its first error, and what to install where that helps."""
        try:
            super().compile(arguments, folder)
        except BuildError as error:
            if not _NO_LIBRARY.search(str(error)):
                raise
            raise BuildError(
                f"{error}. The C library of {self.machine.triple} is missing: {_fix(self.machine)}."
            ) from error

    @property
    def static(self) -> CrossCompiler:
        """The same, for programs that need no library beside them: zig makes those with musl alone."""
        if not self.zig:
            return self
        target = self.machine.zig.replace("gnu", "musl")
        return replace(self, command=tuple(target if part == self.machine.zig else part for part in self.command))

    def tool(self, name: str, *arguments: str, folder: Path) -> str:
        """Run what comes with the compiler, `"ar"` or `"size"`, and give what it printed."""
        program = self.machine.gcc.removesuffix("gcc") + name
        found = shutil.which(program)
        if found is None:
            raise _missing(f"no {program}", self.machine)
        done = subprocess.run([found, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{program} stopped with exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def find_cross(machine: Machine) -> CrossCompiler:
    """Find gcc for `machine`, or zig where it knows it; raises ToolUnavailable that names what to install."""
    if program := shutil.which(machine.gcc):
        return _gcc(program, machine)
    command = zig() if machine.zig else ()
    if not command:
        raise _missing(f"neither {machine.gcc} nor zig" if machine.zig else f"no {machine.gcc}", machine)
    # zig writes cortex_a72 and x86_64_v3.
    flags = ["-" + flag[1:].replace("-", "_") for flag in machine.flags]
    title = f"zig cc {_first_line(*command, 'version')}"
    return CrossCompiler((*command, "cc", "-target", machine.zig, *flags), title, machine)


def _gcc(program: str, machine: Machine) -> CrossCompiler:
    found = CrossCompiler((program, *machine.flags), _first_line(program, "--version"), machine)
    if machine.bare and not any(flag.startswith("-mfloat-abi") for flag in machine.flags):
        # Floats go in registers of the FPU where the CPU has one.
        hard = "__ARM_FP" in found.macros(["-mfloat-abi=softfp"], Path("/"))
        found = replace(found, command=(*found.command, f"-mfloat-abi={'hard' if hard else 'soft'}"))
    return found


def _missing(what: str, machine: Machine) -> ToolUnavailable:
    return ToolUnavailable(f"no compiler for {machine.triple} is here, {what}", _fix(machine))


def _fix(machine: Machine) -> str:
    packages = "gcc" if machine.triple == host_triple() else machine.packages
    debian = f"sudo apt install {packages} (Debian, Ubuntu)" if packages else ""
    zig = "pip install ziglang, which needs no root" if machine.zig else ""
    return ", or ".join(filter(None, (debian, zig)))


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return (done.stdout.splitlines() or [command[0]])[0]
