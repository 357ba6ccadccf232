"""Machines that C is compiled for elsewhere: one row a triple, with its compiler, its flags and its emulator here."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from rnn_export.errors import BuildError

ANY_CORTEX_M = "arm-none-eabi"
CORTEX_M = r"cortex-m\d+\w*(\+[a-z0-9.+]+)?"


System = Literal["linux", "windows", "macos", "wasi", "bare"]


@dataclass(frozen=True)
class Board:
    """A board that QEMU plays: its name there, and the linker's flags for a program on it."""

    name: str
    layout: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """A machine that C is compiled for elsewhere: `triple` is its folder in a bundle's `build/`, a Cortex-M's its CPU.

    `packages` are Debian's that bring `gcc` and the C library, `zig` is its name for `zig cc -target`, `cpu` the flag
    that names a CPU, `emulator` runs its programs here, from `emulator_package`, and `board` carries it in QEMU; empty
    or None where there is none. A static library is made for a "bare" machine, which has no system, and for "wasi",
    whose programs load none; for all others one that is loaded.
    """

    triple: str
    gcc: str
    packages: str
    flags: tuple[str, ...] = ()
    zig: str = ""
    cpu: str = "-mcpu="
    emulator: str = ""
    board: Board | None = None
    system: System = "linux"
    emulator_package: str = "qemu-user"

    @property
    def bare(self) -> bool:
        return self.system == "bare"

    @property
    def program(self) -> str:
        """The self-test's file name: Windows runs nothing without its ending."""
        return "selftest.exe" if self.system == "windows" else "selftest"


def _linux(triple: str, packages: str, emulator: str, cpu: str = "-mcpu=") -> Machine:
    return Machine(triple, f"{triple}-gcc", packages, zig=triple, cpu=cpu, emulator=emulator)


def _cortex_m(cpu: str, board: Board | None, *abi: str) -> Machine:
    flags = (f"-mcpu={cpu}", "-mthumb", *abi)
    packages = "gcc-arm-none-eabi libnewlib-arm-none-eabi"
    qemu = "qemu-system-arm"
    return Machine(cpu, "arm-none-eabi-gcc", packages, flags, "", "-mcpu=", qemu, board, "bare", qemu)


def _mps2(name: str, psram: int) -> Board:
    """One of Arm's, with 16 MiB of PSRAM at `psram`."""
    return Board(name, ("-nostartfiles", "-T", "bare/mps2.ld", f"-Wl,--defsym=psram={psram}", "bare/startup.c"))


def _rv32(march: str, abi: str) -> Machine:
    """A RISC-V of 32 bits, with picolibc, whose own start and semihosting run it on the board `virt`."""
    flags = (f"-march={march}", f"-mabi={abi}", "--specs=picolibc.specs")
    parts = {"flash": 0x80000000, "flash_size": 2**25, "ram": 0x82000000, "ram_size": 2**22, "stack_size": 2**20}
    layout = [f"-Wl,--defsym=__{name}={value}" for name, value in parts.items()]
    limit = parts["ram"] + parts["ram_size"] - parts["stack_size"]
    start = ("--crt0=semihost", "--oslib=semihost", f"-Wl,--defsym=stack_limit={limit}", "bare/rv32.c")
    packages, qemu = "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf", "qemu-system-riscv32"
    board = Board("virt", (*layout, *start))
    gcc = "riscv64-unknown-elf-gcc"
    return Machine(march, gcc, packages, flags, "", "-mcpu=", qemu, board, "bare", "qemu-system-riscv")


def _xtensa() -> Machine:
    """The core of an ESP8266, which nothing here runs. Its ROM has what gcc lacks, the arithmetic of floats."""
    packages = "gcc-xtensa-lx106 picolibc-xtensa-lx106-elf"
    specs = "--specs=/usr/lib/xtensa-lx106-elf/picolibc.specs"
    flags = ("-mlongcalls", specs, "-Wl,--unresolved-symbols=ignore-all")
    return Machine("xtensa-lx106", "xtensa-lx106-elf-gcc", packages, flags, system="bare")


def _windows(processor: str, packages: str, emulator: str = "") -> Machine:
    triple, gcc = f"{processor}-windows-gnu", f"{processor}-w64-mingw32-gcc"
    cpu = "-march=" if processor == "x86_64" else "-mcpu="
    return Machine(triple, gcc, packages, (), triple, cpu, emulator, None, "windows", "wine wine64")


def _macos(processor: str) -> Machine:
    triple = f"{processor}-macos"
    return Machine(triple, "", "", (), triple, "-mcpu=", "", None, "macos", "")


MACHINES = {
    row.triple: row
    for row in (
        _linux("aarch64-linux-gnu", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross", "qemu-aarch64"),
        _linux("aarch64-linux-musl", "", "qemu-aarch64"),
        _linux("arm-linux-gnueabihf", "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross", "qemu-arm"),
        _linux("arm-linux-musleabihf", "", "qemu-arm"),
        _linux("x86_64-linux-gnu", "gcc-x86-64-linux-gnu libc6-dev-amd64-cross", "qemu-x86_64", "-march="),
        _linux("x86_64-linux-musl", "", "qemu-x86_64", "-march="),
        _linux("riscv64-linux-gnu", "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross", "qemu-riscv64", "-mcpu="),
        _linux("riscv64-linux-musl", "", "qemu-riscv64"),
        _rv32("rv32imc", "ilp32"),
        _rv32("rv32imafc", "ilp32f"),
        _xtensa(),
        _windows("x86_64", "gcc-mingw-w64-x86-64-win32", "wine"),
        _windows("aarch64", ""),
        _macos("aarch64"),
        _macos("x86_64"),
        Machine("wasm32-wasi", "", "", (), "wasm32-wasi", "-mcpu=", "node", None, "wasi", "nodejs"),
        _cortex_m("cortex-m3", _mps2("mps2-an385", 0x21000000), "-mfloat-abi=soft"),
        _cortex_m("cortex-m4", _mps2("mps2-an386", 0x21000000), "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
        _cortex_m("cortex-m7", _mps2("mps2-an500", 0x60000000), "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
    )
}


def find_machine(triple: str, cpu: str | None = None) -> Machine:
    """The row of `triple` for `cpu`, gcc's name; "arm-none-eabi" is any Cortex-M, named by `cpu`. Raises BuildError."""
    if cpu is not None and not re.fullmatch(r"[a-z0-9][a-z0-9+._-]*", cpu):
        raise BuildError(
            f"--cpu {cpu!r} is no name of a CPU: it is what gcc's -mcpu or -march takes, as cortex-a72.",
            id="cpu-name-malformed",
        )
    if cpu is None and triple not in MACHINES and re.fullmatch(CORTEX_M, triple):
        triple, cpu = ANY_CORTEX_M, triple
    if triple == ANY_CORTEX_M:
        if cpu is None:
            raise BuildError(
                f"{ANY_CORTEX_M} is every Cortex-M: say which, --cpu cortex-m4, as gcc's -mcpu names it.",
                id="cortex-m-unsaid",
            )
        if not re.fullmatch(CORTEX_M, cpu):
            raise BuildError(
                f"--cpu {cpu!r} is no Cortex-M, which {ANY_CORTEX_M} stands for: --cpu cortex-m33.",
                id="cpu-not-cortex-m",
            )
        # Without a row it is compiled, and not run.
        return MACHINES[cpu] if cpu in MACHINES else _cortex_m(cpu, None)
    row = MACHINES.get(triple)
    if row is None:
        known = ", ".join((*MACHINES, f"{ANY_CORTEX_M} --cpu CPU"))
        raise BuildError(f"no machine {triple!r} is known to compile for, only {known}.", id="machine-unknown")
    if cpu is None:
        return row
    if row.bare:
        other = f", or give --triple {ANY_CORTEX_M}" if re.fullmatch(CORTEX_M, triple) else ""
        raise BuildError(f"{triple} is a CPU already: leave --cpu {cpu} out{other}.", id="machine-with-cpu")
    return replace(row, flags=(*row.flags, f"{row.cpu}{cpu}"))
