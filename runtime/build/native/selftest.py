"""The self-test of compiled C: run where it can be, under QEMU or on this machine, and held to its golden vectors."""

import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rnn_export.errors import BuildError, ParityError
from rnn_export.runtime.backends.native.cpu import host_triple, this_cpu
from rnn_export.runtime.build.native.machines import Machine

SECONDS = 600
_SHOWN = 8
# A program of WASI in Node, which sees the folder it is started in.
_NODE = """
const { WASI } = require("node:wasi");
const args = process.argv.slice(1);
const wasi = new WASI({ version: "preview1", args, preopens: { ".": "." }, returnOnExit: true });
const program = new WebAssembly.Module(require("node:fs").readFileSync(args[0]));
process.exitCode = wasi.start(new WebAssembly.Instance(program, wasi.getImportObject()));
"""


@dataclass(frozen=True)
class SelfTest:
    """A self-test: the runner it `ran` on and its output lines, or the `reason` why it did not and a fix.

    Of a bare machine `flash` are the bytes of code and weights, and where it ran `ram` those of its state, its stack
    and its other writable memory, of which a step takes `stack` and leaves it again.
    """

    ran: str | None
    reason: str = ""
    lines: tuple[str, ...] = ()
    flash: int | None = None
    ram: int | None = None
    stack: int | None = None

    @property
    def passed(self) -> bool:
        """True if it ran: where it ran and failed there is an error, and no SelfTest."""
        return self.ran is not None


@dataclass(frozen=True)
class Runner:
    """A runner of a machine's programs: its name for people, and the command before the program's path."""

    title: str
    command: tuple[str, ...]


def find_runner(machine: Machine, features: Sequence[str] = ()) -> Runner | str:
    """The runner for a program of `machine` that uses `features`; where there is none, the reason and a fix."""
    if _is_here(machine):
        cpu = this_cpu()
        lacking = sorted(set(features) - cpu.features)
        if lacking and cpu.features:
            return f"not run: it is made for {', '.join(lacking)}, which this CPU ({cpu.model}) does not have."
        return Runner("this machine", ())
    board = machine.board
    if not machine.emulator:
        return f"not run there: nothing here runs what {machine.triple} runs. Run selftest.c on such a machine."
    if machine.bare and board is None:
        return f"not run: there is no board with {machine.triple} among those known here. Run selftest.c on yours."
    names = (machine.emulator, f"{machine.emulator}-static") if machine.system == "linux" else (machine.emulator,)
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        return f"not run: {machine.emulator} is not here (Debian, Ubuntu: sudo apt install {machine.emulator_package})."
    if machine.system == "wasi":
        return Runner(machine.emulator, (program, "--no-warnings", "-e", _NODE))
    if machine.system == "windows":
        return Runner(machine.emulator, ("env", "WINEDEBUG=-all", program))
    if board is None:
        return Runner(machine.emulator, (program,))
    console = ("-display", "none", "-monitor", "none", "-serial", "none", "-chardev", "stdio,id=console")
    semihosting = ("-semihosting-config", "enable=on,target=native,chardev=console")
    start = ("-bios", "none") * (board.name == "virt")
    command = (program, "-M", board.name, *start, *console, *semihosting, "-kernel")
    return Runner(f"{machine.emulator} ({board.name})", command)


def run_selftest(runner: Runner, machine: Machine, folder: Path, *arguments: str) -> list[str]:
    """The lines of `selftest` in `folder`; raises ParityError where it says FAIL, BuildError on crash or timeout."""
    where = f"the self-test for {machine.triple} on {runner.title}"
    command = [*runner.command, str(folder / machine.program), *arguments]
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{where} was stopped: it had no end after {SECONDS} s.", id="selftest-endless") from error
    lines = [line.rstrip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    if done.returncode == 0 and "PASS" in lines:
        return lines
    if done.returncode == 1 and "FAIL" in lines:
        raise ParityError(
            f"{where} diverges from the golden vectors: {_shown(_messages(lines))} What was compiled does not do "
            "there what the model does: the bundle is as it was. Another compiler or --cpu may do better.",
            id="selftest-diverges",
        )
    message = _messages(lines) + [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    raise BuildError(f"{where} crashed ({end_of(done.returncode)}): {_shown(message)}", id="selftest-crashed")


def _is_here(machine: Machine) -> bool:
    own, _, rest = machine.triple.partition("-")
    if machine.system != "linux":
        return machine.triple == host_triple()
    return sys.platform == "linux" and platform.machine() == own and bool(rest)


def end_of(code: int) -> str:
    """Signal or exit code; shells and emulators say 128 + N for the signal N."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit code {code}"


def _messages(lines: Sequence[str]) -> list[str]:
    """Lines of the self-test, without the measures that are taken around it."""
    return [line for line in lines if not line.startswith("rnn-export:")]


def _shown(lines: Sequence[str]) -> str:
    return " / ".join(lines[-_SHOWN:]) + "." if lines else "it printed nothing."
