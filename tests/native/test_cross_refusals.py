import os
import shutil
from pathlib import Path

import pytest

from rnn_export.runtime.build.native import compilers as compilers
from rnn_export.runtime.build.native import selftest
from rnn_export.runtime.build.native.cross import cross_build
from rnn_export.runtime.build.native.machines import MACHINES

from ..messages import raises  # noqa: TID252
from .building import LINUX, build, changed
from .needs import need
from .toys import SPEC, toy

# --- self-tests that fail


@pytest.mark.parametrize("triple", ["aarch64-linux-gnu", "cortex-m4"])
def test_a_self_test_that_fails(triple):
    with raises(
        "selftest-diverges",
        f"the self-test for {triple} on qemu-",
        "y: largest error 5.0e-01 / h: largest error",
        "/ FAIL.",
    ):
        build(triple, toy(wrong=True))


CRASH = {
    "aarch64-linux-gnu": ("*(volatile int *)8 = 1;", ("(SIGSEGV)",)),
    "cortex-m4": ("*(volatile int *)0xF0000000 = 1;", ("(exit code 128): the processor faulted, CFSR 0x0000",)),
    "cortex-m7": ('__asm__("udf #0");', ("(exit code 128): the processor faulted, CFSR 0x00010000",)),
}


@pytest.mark.parametrize("triple", CRASH)
def test_a_self_test_that_crashes(triple):
    code, said = CRASH[triple]
    with raises("selftest-crashed", f"the self-test for {triple} on qemu-", *said):
        build(triple, changed("float h[8];", f"float h[8]; {code}"))


def test_an_exit_code_without_a_verdict():
    files = changed('return puts("PASS"), 0;', "return 0;", "selftest.c")
    with raises("selftest-crashed", "(exit code 0)", "h: largest error"):
        build("aarch64-linux-gnu", files)


def test_a_self_test_without_end(monkeypatch):
    monkeypatch.setattr(selftest, "SECONDS", 0.5)
    with raises("selftest-endless", "cortex-m4 on qemu-", "0.5"):
        build("cortex-m4", changed("float h[8];", 'float h[8]; for (;;) __asm__ volatile ("nop");'))


def test_a_step_that_takes_all_of_the_stack():
    files = changed("float h[8];", "float h[8]; volatile char room[1 << 20]; room[4096] = 1;")
    with raises("step-stack-too-large", "toy", "1,044,480"):
        build("cortex-m4", files)


def test_a_self_test_without_a_step():
    files = changed("toy_step(&state, golden_x + i * TOY_X_SIZE, y);", "memset(y, 0, sizeof y);", "selftest.c")
    files["selftest.c"] = b"#include <string.h>\n" + files["selftest.c"].replace(b"<= 1e-5f", b"<= 1e5f")
    with raises("selftest-without-step", "toy_step"):
        build("cortex-m4", files)


# --- what cannot be compiled


@pytest.mark.parametrize("triple", ["aarch64-linux-gnu", "cortex-m4"])
def test_the_first_error_of_the_compiler(triple):
    name = {"cortex-m4": "arm-none-eabi-gcc"}.get(triple, f"{triple}-gcc")
    with raises("compiler-failed", name, "1: toy.c:", "error: ", "nonsense"):
        build(triple, changed("float h[8];", "float h[8]; nonsense x;"))
    with raises("compiler-failed", name, "1", "undefined reference to `missing'"):
        build(triple, changed("y[i] = sum;", "{ extern float missing(void); y[i] = sum + missing(); }"))


def test_a_header_that_is_not_of_the_contract():
    with raises("compiler-failed", "error: ", "toy_x_has_the_size_of_the_contract", " is negative"):
        build("aarch64-linux-gnu", changed("#define TOY_X_SIZE 4", "#define TOY_X_SIZE 5", "toy.h"))


def test_a_c_library_that_is_missing():
    with raises(
        "compiler-failed",
        "absent.h: No such file or directory. The C library of aarch64-linux-gnu is missing: sudo apt install "
        "gcc-aarch64-linux-gnu libc6-dev-arm64-cross (Debian, Ubuntu), or pip install ziglang",
    ):
        build("aarch64-linux-gnu", changed("#include <string.h>", "#include <absent.h>"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "static const float much[5 << 18] = {1};",
            "code and constants of the model take more than the 4 MiB of the board",
        ),
        ("static volatile float much[3 << 18];", "what is written to takes more than the 3 MiB of the board"),
    ],
)
def test_a_model_that_is_too_large_for_the_board(code, message):
    with raises("compiler-failed", f"error: {message}"):
        build("cortex-m4", changed("float h[8];", f"{code} static volatile int at; float h[8]; h[0] = much[at];"))


def test_weights_that_are_too_large_for_the_board():
    files = toy(separate=True)
    with raises("compiler-failed", "error: weights and golden vectors take more than the 16 MiB of the board"):
        build("cortex-m4", files | {"toy.bin": bytes(17 << 20)})


def test_sources_that_are_incomplete():
    files = {name: data for name, data in toy().items() if name not in ("toy.h", "golden.h")}
    with raises("cross-sources-lacking", "'toy'", "golden.h, toy.h"):
        cross_build(files, "toy", SPEC, "cortex-m4")


@pytest.mark.parametrize(
    ("triple", "cpu", "message"),
    [
        (
            "mips-linux-gnu",
            None,
            ("machine-unknown", "'mips-linux-gnu'", "aarch64-linux-gnu, ", ", cortex-m7, arm-"),
        ),
        ("arm-none-eabi", None, ("cortex-m-unsaid", "arm-none-eabi")),
        ("cortex-m4", "cortex-m7", ("machine-with-cpu", "cortex-m4", "--cpu cortex-m7")),
        ("arm-none-eabi", "../m4", ("cpu-name-malformed", "'../m4'")),
    ],
)
def test_machines_that_are_not_known(triple, cpu, message):
    with raises(*message):
        cross_build(toy(), "toy", SPEC, triple, cpu)


def test_a_cpu_that_is_not_known():
    need("arm-none-eabi-gcc", LINUX["aarch64-linux-gnu"])
    with raises("compiler-flags-refused", "aarch64-linux-gnu-gcc", "cortex-z9"):
        cross_build(toy(), "toy", SPEC, "aarch64-linux-gnu", "cortex-z9")
    with raises("compiler-flags-refused", "arm-none-eabi-gcc", "cortex-m99"):
        cross_build(toy(), "toy", SPEC, "arm-none-eabi", "cortex-m99")


# --- what is missing on the machine


@pytest.mark.parametrize(
    ("triple", "message"),
    [
        (
            "aarch64-linux-gnu",
            (
                "aarch64-linux-gnu",
                "neither aarch64-linux-gnu-gcc nor zig: sudo apt install gcc-aarch64-linux-gnu "
                "libc6-dev-arm64-cross (Debian, Ubuntu), or pip install ziglang",
            ),
        ),
        (
            "aarch64-linux-musl",
            ("neither aarch64-linux-musl-gcc nor zig: pip install ziglang, which needs no root",),
        ),
        (
            "x86_64-linux-gnu",
            ("neither x86_64-linux-gnu-gcc nor zig: sudo apt install gcc (Debian, Ubuntu), or",),
        ),
        (
            "cortex-m7",
            (
                "cortex-m7",
                "no arm-none-eabi-gcc: sudo apt install gcc-arm-none-eabi libnewlib-arm-none-eabi (Debian, Ubuntu).",
            ),
        ),
    ],
)
def test_no_compiler(triple, message, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(compilers, "host_triple", lambda: "x86_64-linux-gnu")
    with raises("cross-compiler-missing", *message):
        cross_build(toy(), "toy", SPEC, triple)


@pytest.mark.parametrize(
    ("triple", "programs", "reason"),
    [
        (
            "aarch64-linux-gnu",
            ["aarch64-linux-gnu-gcc"],
            "not run: qemu-aarch64 is not here (Debian, Ubuntu: sudo apt install qemu-user).",
        ),
        (
            "cortex-m4",
            ["arm-none-eabi-gcc", "arm-none-eabi-ar", "arm-none-eabi-size"],
            "not run: qemu-system-arm is not here (Debian, Ubuntu: sudo apt install qemu-system-arm).",
        ),
    ],
)
def test_no_emulator(triple, programs, reason, tmp_path, monkeypatch):
    need(*programs)
    for program in programs:
        # A script, not a link: gcc looks for its parts beside the place that it is called from.
        (tmp_path / program).write_text(f'#!/bin/sh\nexec {shutil.which(program)} "$@"\n')
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = cross_build(toy(), "toy", SPEC, triple)
    assert (done.selftest.ran, done.selftest.passed, done.selftest.reason) == (None, False, reason)
    assert len(done.files) == 2


def test_what_is_needed_is_there_in_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="qemu"):
        need("no-such-program")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"no no-such-program here; \.ci/run installs them"):
        need("no-such-program")


def test_ci_installs_what_is_needed():
    script = (Path(__file__).parents[2] / ".ci" / "run").read_text()
    packages = {
        package
        for row in MACHINES.values()
        if row.emulator and not row.triple.startswith("x86_64-linux")
        for package in [*row.packages.split(), *row.emulator_package.split()]
    }
    assert packages | {"gcc", "clang", "valgrind", "cmake", "make"} <= set(script.split())
    assert os.access(Path(__file__).parents[2] / ".ci" / "run", os.X_OK)
