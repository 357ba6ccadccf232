"""The number of instructions of a step on a Cortex-M, counted by QEMU; it is not a time."""

from __future__ import annotations

import re
import subprocess
import tempfile
from importlib.resources import files as resources
from pathlib import Path

from rnn_export.runtime.build.c_compiler import FLAGS, lay_out
from rnn_export.runtime.build.c_names import C_TYPES, identifiers
from rnn_export.runtime.build.native.compilers import BARE, STANDARD, find_cross
from rnn_export.runtime.build.native.machines import find_machine
from rnn_export.runtime.build.native.selftest import Runner, find_runner
from tests.native.models import Written

STEPS = 40
# An instruction is a nanosecond of the emulated time, and the timer counts at 25 MHz.
ICOUNT, PER_TICK = ("-icount", "shift=0"), 40
MAIN = """
#include <stdio.h>
#include "{name}.h"
#define TIMER ((volatile uint32_t *)0xE000E010) /* SysTick: control, reload, value */
static {name}_state state;
{arrays}
void print_measures(void) {{}}
int main(void)
{{
    {name}_init(&state);
    for (int i = 0; i < {values}; i++)
        in0[i] = ({type})(i * 7919 % 2001 - 1000) / 500;
    TIMER[1] = 0xffffff;
    TIMER[2] = 0;
    TIMER[0] = 5;
    while (!TIMER[2]) {{}}
    const uint32_t before = TIMER[2];
    for (int s = 0; s < {steps}; s++)
        {name}_step(&state, {arguments});
    printf("ticks %lu\\n", (unsigned long)(before - TIMER[2]));
    return 0;
}}
"""


def instructions(its: Written, triple: str) -> float | None:
    """The mean number for a step; None without QEMU, or for a step with no weights in its source."""
    machine = find_machine(triple)
    runner, compiler = find_runner(machine), find_cross(machine)
    if not isinstance(runner, Runner) or machine.board is None or f"{its.name}.bin" in its.files:
        return None
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lay_out({**its.files, "main.c": _main(its).encode()}, folder)
        bare = resources("rnn_export.runtime.build.native").joinpath("bare")
        lay_out({f"bare/{file.name}": file.read_bytes() for file in bare.iterdir()}, folder)
        compiler.compile([*STANDARD, *FLAGS, *BARE, "-c", f"{its.name}.c", "-o", "step.o"], folder)
        program = folder / machine.program
        parts = ["-O2", "-I.", "-Wl,--gc-sections", *machine.board.layout, "main.c", "step.o", "-lm", "-o"]
        compiler.compile([*parts, str(program)], folder)
        command = [runner.command[0], *ICOUNT, *runner.command[1:], str(program)]
        output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"ticks (\d+)", output)
    assert found is not None, output
    return int(found[1]) * PER_TICK / STEPS


def _main(its: Written) -> str:
    spec, ports = its.spec, (*its.spec.inputs, *its.spec.outputs)
    names = [*(f"in{i}" for i in range(len(spec.inputs))), *(f"out{i}" for i in range(len(spec.outputs)))]
    macros = [
        f"{its.name}_{port}_size".upper() for port in identifiers([t.name for t in (*spec.inputs, *spec.outputs)])
    ]
    types = [C_TYPES[t.dtype] for t in ports]
    arrays = "\n".join(f"static {t} {n}[{m}];" for t, n, m in zip(types, names, macros, strict=True))
    rest = {"arguments": ", ".join(names), "values": macros[0], "type": types[0], "steps": STEPS}
    return MAIN.format(name=its.name, arrays=arrays, **rest)
