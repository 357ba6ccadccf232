"""The toy built for another machine, where this one has the compiler and the emulator."""

from rnn_export.runtime.build.native.cross import CrossBuild, cross_build
from rnn_export.runtime.build.native.machines import MACHINES

from .needs import need
from .toys import SPEC, toy

LINUX = {
    "aarch64-linux-gnu": "aarch64-linux-gnu-gcc",
    "aarch64-linux-musl": "aarch64-linux-musl-gcc|zig",
    "arm-linux-gnueabihf": "arm-linux-gnueabihf-gcc|zig",
    "riscv64-linux-gnu": "riscv64-linux-gnu-gcc|zig",
}
OTHERS = {
    "x86_64-windows-gnu": "x86_64-w64-mingw32-gcc|zig",
    "wasm32-wasi": "zig",
    "rv32imc": "riscv64-unknown-elf-gcc",
    "rv32imafc": "riscv64-unknown-elf-gcc",
}


def build(triple: str, files: dict[str, bytes] | None = None, cpu: str | None = None) -> CrossBuild:
    compiler = {**LINUX, **OTHERS}.get(triple, "arm-none-eabi-gcc")
    need(compiler, MACHINES[triple].emulator)
    return cross_build(toy() if files is None else files, "toy", SPEC, triple, cpu)


def changed(old: str, new: str, file: str = "toy.c") -> dict[str, bytes]:
    files = toy()
    text = files[file].decode()
    assert old in text
    return files | {file: text.replace(old, new, 1).encode()}
