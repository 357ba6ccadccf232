"""C for Windows, macOS, WASI and RV32: run by Wine, Node and QEMU, or said as not run."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rnn_export.runtime.backends.native.cpu import library_name
from rnn_export.runtime.build.native.cross import cross_build
from rnn_export.runtime.build.native.machines import MACHINES

from ..messages import raises  # noqa: TID252
from .building import build, changed
from .needs import need
from .quality import called, given, symbols, written
from .toys import OUTPUTS, SPEC, STEPS, recorded, toy

PASSED = r"y: largest error \d\.\de-0[5-9]\nh: largest error \d\.\de-0[5-9]\nPASS"
RV32 = ["rv32imc", "rv32imafc"]
WINDOWS, WASI, MAC, XTENSA = "x86_64-windows-gnu", "wasm32-wasi", "aarch64-macos", "xtensa-lx106"


@pytest.mark.parametrize("separate", [False, True], ids=["inside", "apart"])
@pytest.mark.parametrize(("triple", "starts"), [(WINDOWS, b"MZ"), (WASI, b"!<arch>\n")])
def test_other_systems(triple: str, starts: bytes, separate: bool) -> None:
    done = build(triple, toy(separate=separate))
    library = "libtoy.a" if triple == WASI else library_name(triple)
    assert set(done.files) == {f"build/{triple}/{library}", f"build/{triple}/build.json"}
    assert done.files[f"build/{triple}/{library}"].startswith(starts)
    assert done.selftest.ran == MACHINES[triple].emulator
    assert re.fullmatch(PASSED, "\n".join(done.selftest.lines))
    assert (done.record.triple, done.record.features, done.record.python) == (triple, (), None)


@pytest.mark.parametrize("triple", [WINDOWS, WASI, "rv32imafc"])
def test_a_self_test_that_fails_there(triple: str) -> None:
    with raises("selftest-diverges", f"the self-test for {triple} on ", "y: largest error 5.0e-01 / "):
        build(triple, toy(wrong=True))


LOADER = """
#include <windows.h>
#include <fcntl.h>
#include <io.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    HMODULE library = LoadLibraryA(argv[1]);
    float x[4], y[3];
    const void *in[] = {x};
    void *out[] = {y}, *state;
    if (argc < 2 || !library) return 2;
    size_t (*bytes)(void) = (void *)GetProcAddress(library, "rnn_state_bytes");
    void (*init)(void *, const void *) = (void *)GetProcAddress(library, "rnn_init");
    void (*step)(void *, const void *const *, void *const *) = (void *)GetProcAddress(library, "rnn_step");
    if (!bytes || !init || !step) return 3;
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
    state = malloc(bytes());
    init(state, NULL);
    while (fread(x, sizeof x, 1, stdin)) {
        step(state, in, out);
        fwrite(y, sizeof y, 1, stdout);
    }
    return 0;
}
"""


def test_the_library_of_windows_is_what_its_python_loads(tmp_path):
    """The self-test is a program of its own; this opens native.dll itself, as ctypes does, and steps it."""
    need("x86_64-w64-mingw32-gcc", "wine")
    done = build(WINDOWS)
    (tmp_path / "native.dll").write_bytes(done.files[f"build/{WINDOWS}/native.dll"])
    (tmp_path / "loader.c").write_text(LOADER)
    compile_it = ["x86_64-w64-mingw32-gcc", "loader.c", "-o", "loader.exe"]
    subprocess.run(compile_it, cwd=tmp_path, check=True)
    x, y, _ = recorded()
    command = ["env", "WINEDEBUG=-all", "wine", "loader.exe", "native.dll"]
    ran = subprocess.run(command, cwd=tmp_path, input=x.tobytes(), capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    np.testing.assert_allclose(np.frombuffer(ran.stdout, np.float32).reshape(STEPS, OUTPUTS), y, atol=1e-5)


def test_a_mac_is_compiled_for_and_not_run():
    need("zig")
    done = cross_build(toy(), "toy", SPEC, MAC)
    assert set(done.files) == {f"build/{MAC}/native.dylib", f"build/{MAC}/build.json"}
    # A 64-bit Mach-O, cputype 0x0100000C (arm64), filetype 6 (a dynamic library).
    head = np.frombuffer(done.files[f"build/{MAC}/native.dylib"][:16], "<u4")
    assert [hex(word) for word in head[[0, 1, 3]]] == ["0xfeedfacf", "0x100000c", "0x6"]
    assert not done.selftest.passed
    assert (
        done.selftest.reason == f"not run there: nothing here runs what {MAC} runs. Run selftest.c on such a machine."
    )


@pytest.mark.parametrize("separate", [False, True], ids=["inside", "apart"])
@pytest.mark.parametrize("march", RV32)
def test_rv32(march, separate, tmp_path):
    done = build(march, toy(separate=separate))
    assert set(done.files) == {f"build/{march}/libtoy.a", f"build/{march}/build.json"}
    proof = done.selftest
    assert proof.ran == "qemu-system-riscv32 (virt)"
    assert re.fullmatch(PASSED, "\n".join(proof.lines))
    weights, state, pointer = 120 * 4, 8 * 4, 4
    assert weights < proof.flash < weights + 4000
    assert 32 <= proof.stack < 256
    assert proof.ram == state + separate * pointer + proof.stack
    (tmp_path / "libtoy.a").write_bytes(done.files[f"build/{march}/libtoy.a"])
    found = symbols(tmp_path / "libtoy.a", "riscv64-unknown-elf-nm")
    assert given(found) == {"toy_init", "toy_step", "toy_run"} | ({"toy_check", "toy_weights"} if separate else set())
    assert written(found) == set()
    assert not {"malloc", "free", "expf"} & called(found)


def test_a_fault_of_rv32_ends():
    with raises("selftest-crashed", "rv32imc on qemu-", "exit code 128): the processor faulted, mcause 7"):
        build("rv32imc", changed("float h[8];", "float h[8]; *(volatile int *)8 = 1;"))


@pytest.mark.parametrize("separate", [False, True], ids=["inside", "apart"])
def test_xtensa_is_compiled_for_and_not_run(separate: bool, tmp_path: Path) -> None:
    need("xtensa-lx106-elf-gcc")
    done = cross_build(toy(separate=separate), "toy", SPEC, XTENSA)
    assert set(done.files) == {f"build/{XTENSA}/libtoy.a", f"build/{XTENSA}/build.json"}
    proof = done.selftest
    assert proof.reason == f"not run there: nothing here runs what {XTENSA} runs. Run selftest.c on such a machine."
    assert proof.flash is not None
    assert 120 * 4 < proof.flash < 120 * 4 + 4000
    (tmp_path / "libtoy.a").write_bytes(done.files[f"build/{XTENSA}/libtoy.a"])
    found = symbols(tmp_path / "libtoy.a", "xtensa-lx106-elf-nm")
    assert given(found) == {"toy_init", "toy_step", "toy_run"} | ({"toy_check", "toy_weights"} if separate else set())
    assert written(found) == set()
    assert not {"malloc", "free"} & called(found)


def test_a_cpu_of_rv32_is_in_its_name():
    with raises("machine-with-cpu", "rv32imc", "sifive-e31"):
        cross_build(toy(), "toy", SPEC, "rv32imc", "sifive-e31")


def test_a_compiler_that_is_missing_there(monkeypatch):
    from rnn_export.runtime.build.native import compilers as compilers

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(compilers, "zig", lambda: ())
    for triple, said in (
        (MAC, ("aarch64-macos", "no zig: pip install ziglang")),
        (WINDOWS, ("neither x86_64-w64-mingw32-gcc nor zig: sudo apt install gcc-mingw-w64-x86-64",)),
        ("rv32imc", ("no riscv64-unknown-elf-gcc: sudo apt install gcc-riscv64-unknown-elf picolibc-riscv64",)),
    ):
        with raises("cross-compiler-missing", *said):
            cross_build(toy(), "toy", SPEC, triple)
