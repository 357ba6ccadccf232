"""Checks of C: every warning an error, sanitizers, valgrind, and the symbols.

All of them take the sources of a step as files by bare name, of any model.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rnn_export.runtime.build.c_compiler import FLAGS
from rnn_export.runtime.build.native.compilers import STANDARD

STRICT = (*STANDARD, "-pedantic", "-Wall", "-Wextra", "-Werror")
FAST = FLAGS
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
VALGRIND = ("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all")
CPP = {"gcc": "g++", "clang": "clang++"}
# What a compiler puts in place of a loop, and what a step may call.
MEMORY = {"memcpy", "memset", "memmove", "memcmp"}


def lay_out(files: Mapping[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def run(command: Sequence[str], folder: Path) -> str:
    """The output of a command; an AssertionError shows it if the command failed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\ngave {done.returncode}:\n{done.stdout}{done.stderr}"
    assert not done.stderr, done.stderr
    return done.stdout


def build_and_run(
    files: Mapping[str, bytes],
    name: str,
    compiler: str,
    flags: Sequence[str],
    folder: Path,
    wrapper: Sequence[str] = (),
) -> list[str]:
    """Compile step and self-test in `folder` and run them; what was printed, which must end in PASS."""
    lay_out(files, folder)
    run([compiler, *STRICT, *flags, f"{name}.c", "selftest.c", "-o", "selftest", "-lm"], folder)
    return run_selftest(files, name, folder, wrapper)


def run_selftest(files: Mapping[str, bytes], name: str, folder: Path, wrapper: Sequence[str] = ()) -> list[str]:
    weights = [f"{name}.bin"] * (f"{name}.bin" in files)
    lines = run([*wrapper, "./selftest", *weights], folder).splitlines()
    assert "PASS" in lines
    return lines


def include_from_cpp(files: Mapping[str, bytes], name: str, compiler: str, folder: Path) -> None:
    """Include the header first and twice from C++, and link a call of the step."""
    lay_out(files, folder)
    run([compiler, *STRICT, "-c", f"{name}.c", "-o", f"{name}.o"], folder)
    link_from_cpp(name, compiler, folder)


def link_from_cpp(name: str, compiler: str, folder: Path) -> None:
    """The same where NAME.o is there."""
    # Through volatile pointers: else a compiler knows that no function lies at 0, and asks the linker for none.
    text = (
        f'#include "{name}.h"\n#include "{name}.h"\n'
        "typedef void (*function)();\n"
        f"int main() {{ volatile function both[] = {{(function){name}_step, (function){name}_init}};\n"
        "    return both[0] == 0 || both[1] == 0; }\n"
    )
    (folder / "user.cpp").write_text(text)
    quiet = ["-Wno-cast-function-type"]
    run([CPP[compiler], "-Wall", "-Wextra", "-Werror", *quiet, "user.cpp", f"{name}.o", "-o", "user"], folder)
    run(["./user"], folder)


def compile_object(
    files: Mapping[str, bytes], name: str, compiler: str, folder: Path, flags: Sequence[str] = FAST
) -> Path:
    """The object of NAME.c, without what some distributions have their compilers add."""
    lay_out(files, folder)
    plain = ("-fno-pic", "-fno-stack-protector", "-U_FORTIFY_SOURCE")
    run([compiler, *STRICT, *flags, *plain, "-c", f"{name}.c", "-o", f"{name}.o"], folder)
    return folder / f"{name}.o"


def symbols(path: Path, nm: str = "nm") -> dict[str, str]:
    """The letter of nm for each symbol of an object or library: `U` is called elsewhere, `T` is a function here."""
    rows = [line.split() for line in run([nm, "-P", str(path)], path.parent).splitlines()]
    return {row[0]: row[1] for row in rows if len(row) > 1}


def called(found: Mapping[str, str]) -> set[str]:
    return {symbol for symbol, letter in found.items() if letter in "Uw"}


def written(found: Mapping[str, str]) -> set[str]:
    """Data that may change: initialized, zero or common, global or not."""
    return {symbol for symbol, letter in found.items() if letter in "DdBbCGgSs"}


def given(found: Mapping[str, str]) -> set[str]:
    """The exported symbols."""
    return {symbol for symbol, letter in found.items() if letter in "TRDBC"}
