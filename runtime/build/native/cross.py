"""The C of a bundle compiled for another machine, and tried where something here can run that machine's code."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files as package_data
from pathlib import Path
from typing import NamedTuple

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BuildError
from rnn_export.runtime.backends.native.backend import RECORD
from rnn_export.runtime.backends.native.cpu import features, library_name
from rnn_export.runtime.backends.native.record import Record, sources_sha256
from rnn_export.runtime.build.c_compiler import FLAGS, lay_out, work_folder
from rnn_export.runtime.build.glue import FILE, glue, with_rows
from rnn_export.runtime.build.native.compilers import BARE, STANDARD, CrossCompiler, find_cross, link, with_team
from rnn_export.runtime.build.native.machines import find_machine
from rnn_export.runtime.build.native.selftest import SelfTest, find_runner, run_selftest

STACK = 2**20 - 2**12  # of bare/mps2.ld, what the self-test itself takes left out
_MEASURED = re.compile(r"rnn-export: steps (\d+), stack (\d+), state (\d+)")


@dataclass(frozen=True)
class CrossBuild:
    """A library for another machine with its `build.json`, by path in the target's folder, and its self-test."""

    triple: str
    files: Mapping[str, bytes]
    record: Record
    selftest: SelfTest


class _Sources(NamedTuple):
    folder: Path
    name: str
    spec: StreamSpec
    weights: bool


def cross_build(
    files: Mapping[str, bytes], name: str, spec: StreamSpec, triple: str, cpu: str | None = None
) -> CrossBuild:
    """Compile `files`, the sources of the step `name` by bare file name, for `triple`; run the self-test if it can be.

    `triple` and `cpu` are as `find_machine` takes them. Raises BuildError where something does not compile or crashes,
    BackendUnavailable where the compiler is not here, and ParityError where the self-test fails.
    """
    machine = find_machine(triple, cpu)
    if lacking := sorted({f"{name}.h", f"{name}.c", "selftest.c", "golden.h"} - set(files)):
        raise BuildError(
            f"the sources of {name!r} lack {', '.join(lacking)}: export the bundle again.", id="cross-sources-lacking"
        )
    compiler = find_cross(machine)
    with work_folder() as place:
        sources = _Sources(place, name, spec, f"{name}.bin" in files)
        lay_out(files, sources.folder)
        used = [] if machine.bare else features(compiler.macros(FLAGS, sources.folder))
        library, proof = _bare(sources, compiler) if machine.bare else _hosted(sources, compiler, used)
        made = (sources.folder / library).read_bytes()
    flags = (*compiler.flags, *FLAGS, *(BARE if machine.bare else ()))
    record = Record(machine.triple, compiler.title, flags, tuple(used), None, None, sources_sha256(files))
    written = json.loads(record.to_file())
    if proof.flash is not None:
        written |= {"flash": proof.flash, "ram": proof.ram, "stack": proof.stack}
    if proof.passed:
        written["selftest"] = {"ran": proof.ran, "lines": proof.lines}
    at = f"build/{machine.triple}"
    built = {f"{at}/{library}": made, f"{at}/{RECORD}": (json.dumps(written, indent=1) + "\n").encode()}
    return CrossBuild(machine.triple, built, record, proof)


def _hosted(sources: _Sources, compiler: CrossCompiler, used: list[str]) -> tuple[str, SelfTest]:
    """A library for the backend `native`, which calls it through ctypes, and the self-test as a program of its own.

    Of "wasi" it is a static library without the glue.
    """
    folder, machine = sources.folder, compiler.machine
    library = _archive(sources, compiler) if machine.system == "wasi" else _loaded(sources, compiler)
    runner = find_runner(machine, used)
    if isinstance(runner, str):
        return library, SelfTest(None, runner)
    static = ["-static"] * (machine.system in ("linux", "windows"))
    parts = [f"{sources.name}.c", "selftest.c", "-o", machine.program, "-lm"]
    compiler.static.compile([*FLAGS, *static, *parts], folder)
    lines = run_selftest(runner, machine, folder, *[f"{sources.name}.bin"] * sources.weights)
    return library, SelfTest(runner.title, "", tuple(lines))


def _archive(sources: _Sources, compiler: CrossCompiler) -> str:
    library, objects = f"lib{sources.name}.a", f"{sources.name}.o"
    compiler.compile([*FLAGS, "-c", f"{sources.name}.c", "-o", objects], sources.folder)
    compiler.tool("ar", "rcsD", library, objects, folder=sources.folder)
    return library


def _loaded(sources: _Sources, compiler: CrossCompiler) -> str:
    folder, library = sources.folder, library_name(compiler.machine.triple)
    (folder / "glue").mkdir()
    (folder / "glue" / FILE).write_text(glue(sources.name, sources.spec), encoding="utf-8")
    parts = ["-I.", f"{sources.name}.c", f"glue/{FILE}", "-o", library]
    needed = ["-Wl,--as-needed"] * (compiler.machine.system == "linux")
    triple = compiler.machine.triple
    defines = [with_rows(sources.name), *with_team(sources.name, triple)]
    compiler.compile([*FLAGS, *defines, *link(triple), *parts, *needed, "-lm"], folder)
    return library


def _bare(sources: _Sources, compiler: CrossCompiler) -> tuple[str, SelfTest]:
    """A static library; and linked to startup code, where it is run with the stack of a step measured."""
    folder, name = sources.folder, sources.name
    (folder / "bare").mkdir()
    for file in package_data(__package__).joinpath("bare").iterdir():
        (folder / "bare" / file.name).write_bytes(file.read_bytes())
    objects = [f"{name}.o"]
    compiler.compile([*STANDARD, *FLAGS, *BARE, "-c", f"{name}.c", "-o", objects[0]], folder)
    if sources.weights:
        objects.append(f"{name}_weights.o")
        symbol = [f"-DWEIGHTS={name}_weights", f'-DFILE="{name}.bin"']
        compiler.compile([*symbol, "-c", "bare/weights.S", "-o", objects[1]], folder)
    library = f"lib{name}.a"
    compiler.tool("ar", "rcsD", library, *objects, folder=folder)
    constant, written = _sizes(sources, compiler, objects)
    runner, board = find_runner(compiler.machine), compiler.machine.board
    if isinstance(runner, str) or board is None:
        return library, SelfTest(None, str(runner), flash=constant)
    embedded = [f"-D{name.upper()}_WEIGHTS_EMBEDDED"] * sources.weights
    compiler.compile([*STANDARD, *FLAGS, *embedded, "-c", "selftest.c", "-o", "selftest.o"], folder)
    parts = ["bare/measure.c", "selftest.o", library, "-lm", "-o", compiler.machine.program]
    flags = ["-O2", "-I.", *_measuring(sources), "-Wl,--gc-sections", f"-Wl,--wrap={name}_step"]
    compiler.compile([*flags, *board.layout, *parts], folder)
    lines = run_selftest(runner, compiler.machine, folder)
    stack, state = _measures(sources, lines)
    shown = tuple(line for line in lines if not _MEASURED.fullmatch(line))
    return library, SelfTest(runner.title, "", shown, constant, written + state + stack, stack)


def _measuring(sources: _Sources) -> list[str]:
    """The defines of measure.c: every argument of a step is a pointer."""
    name, arguments = sources.name, [f"a{i}" for i in range(1 + len(sources.spec.inputs) + len(sources.spec.outputs))]
    defines = {
        "HEADER": f'"{name}.h"',
        "WRAPPED_STEP": f"__wrap_{name}_step",
        "REAL_STEP": f"__real_{name}_step",
        "PARAMETERS": ", ".join(f"void *{a}" for a in arguments),
        "ARGUMENTS": ", ".join(arguments),
        "STATE_BYTES": f"{name.upper()}_STATE_BYTES",
    }
    return [f"-D{key}={value}" for key, value in defines.items()]


def _sizes(sources: _Sources, compiler: CrossCompiler, objects: list[str]) -> tuple[int, int]:
    """Constant and writable bytes that a program gains with NAME_init and NAME_step, their callees included."""
    wanted = [f"-Wl,-u,{sources.name}_{what}" for what in ("init", *["weights"] * sources.weights)]
    flags = ["-nostartfiles", "-Wl,--gc-sections", f"-Wl,-e,{sources.name}_step", *wanted]
    compiler.compile([*flags, *objects, "-lm", "-o", "model"], sources.folder)
    table = compiler.tool("size", "model", folder=sources.folder)
    text, data, bss = (int(number) for number in table.splitlines()[1].split()[:3])
    # picolibc's layout has a stack among what is written to.
    stack = re.search(r"^\.stack\s+(\d+)", compiler.tool("size", "-A", "model", folder=sources.folder), re.MULTILINE)
    return text + data, data + bss - (int(stack[1]) if stack else 0)


def _measures(sources: _Sources, lines: list[str]) -> tuple[int, int]:
    """Bytes of stack and state, as measure.c prints them."""
    found = next(filter(None, map(_MEASURED.fullmatch, lines)), None)
    if found is None or found[1] == "0":
        raise BuildError(
            f"selftest.c ended without a call of {sources.name}_step: export the bundle again.",
            id="selftest-without-step",
        )
    stack, state = int(found[2]), int(found[3])
    if stack > STACK:
        raise BuildError(
            f"a step of {sources.name} takes more than {STACK:,} bytes of stack, which is all there is.",
            id="step-stack-too-large",
        )
    return stack, state
