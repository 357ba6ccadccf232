"""Machines that C is compiled for elsewhere: one row a triple, with its compiler, its flags and what runs it here."""

import re
from dataclasses import dataclass, replace

from rnn_export.errors import BuildError

ANY_CORTEX_M = "arm-none-eabi"
CORTEX_M = r"cortex-m\d+\w*(\+[a-z0-9.+]+)?"


@dataclass(frozen=True)
class Board:
    """A board that qemu-system-arm plays: its name there, and where its 16 MiB of PSRAM start."""

    name: str
    psram: int


@dataclass(frozen=True)
class Machine:
    """A machine that C is compiled for elsewhere: `triple` is its folder in a bundle's `build/`, a Cortex-M's its CPU.

    `packages` are Debian's that bring `gcc` and the C library, `zig` what `zig cc -target` calls it, `cpu` the flag
    that names a CPU, `board` what carries it in QEMU; empty or None where there is none. One that is `bare` has no
    Linux: a static library is made for it.
    """

    triple: str
    gcc: str
    packages: str
    flags: tuple[str, ...] = ()
    zig: str = ""
    cpu: str = "-mcpu="
    emulator: str = ""
    board: Board | None = None
    bare: bool = False

    @property
    def emulator_package(self) -> str:
        return "qemu-system-arm" if self.bare else "qemu-user"


def _linux(triple: str, packages: str, emulator: str, cpu: str = "-mcpu=") -> Machine:
    return Machine(triple, f"{triple}-gcc", packages, zig=triple, cpu=cpu, emulator=emulator)


def _cortex_m(cpu: str, board: Board | None, *abi: str) -> Machine:
    flags = (f"-mcpu={cpu}", "-mthumb", *abi)
    packages = "gcc-arm-none-eabi libnewlib-arm-none-eabi"
    return Machine(cpu, "arm-none-eabi-gcc", packages, flags, emulator="qemu-system-arm", board=board, bare=True)


MACHINES = {
    row.triple: row
    for row in (
        _linux("aarch64-linux-gnu", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross", "qemu-aarch64"),
        _linux("aarch64-linux-musl", "", "qemu-aarch64"),
        _linux("arm-linux-gnueabihf", "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross", "qemu-arm"),
        _linux("arm-linux-musleabihf", "", "qemu-arm"),
        _linux("x86_64-linux-gnu", "gcc-x86-64-linux-gnu libc6-dev-amd64-cross", "qemu-x86_64", "-march="),
        _linux("x86_64-linux-musl", "", "qemu-x86_64", "-march="),
        _cortex_m("cortex-m3", Board("mps2-an385", 0x21000000), "-mfloat-abi=soft"),
        _cortex_m("cortex-m4", Board("mps2-an386", 0x21000000), "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
        _cortex_m("cortex-m7", Board("mps2-an500", 0x60000000), "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
    )
}


def find_machine(triple: str, cpu: str | None = None) -> Machine:
    """The row of `triple` for `cpu`, gcc's name; "arm-none-eabi" is any Cortex-M, named by `cpu`. Raises BuildError."""
    if cpu is not None and not re.fullmatch(r"[a-z0-9][a-z0-9+._-]*", cpu):
        raise BuildError(f"--cpu {cpu!r} is no name of a CPU: it is what gcc's -mcpu or -march takes, as cortex-a72.")
    if cpu is None and triple not in MACHINES and re.fullmatch(CORTEX_M, triple):
        triple, cpu = ANY_CORTEX_M, triple
    if triple == ANY_CORTEX_M:
        if cpu is None:
            raise BuildError(f"{ANY_CORTEX_M} is every Cortex-M: say which, --cpu cortex-m4, as gcc's -mcpu names it.")
        if not re.fullmatch(CORTEX_M, cpu):
            raise BuildError(f"--cpu {cpu!r} is no Cortex-M, which {ANY_CORTEX_M} stands for: --cpu cortex-m33.")
        # Without a row it is compiled, and not run.
        return MACHINES[cpu] if cpu in MACHINES and MACHINES[cpu].bare else _cortex_m(cpu, None)
    row = MACHINES.get(triple)
    if row is None:
        known = ", ".join((*MACHINES, f"{ANY_CORTEX_M} --cpu CPU"))
        raise BuildError(f"no machine {triple!r} is known to compile for, only {known}.")
    if cpu is None:
        return row
    if row.bare:
        raise BuildError(f"{triple} is a CPU already: leave --cpu {cpu} out, or give --triple {ANY_CORTEX_M}.")
    return replace(row, flags=(*row.flags, f"{row.cpu}{cpu}"))
