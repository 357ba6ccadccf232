"""Refusals of `rnn-export build --target c`, in one message each, before the bundle is touched."""

import sys
from pathlib import Path

import pytest

from rnn_export.bundle import open_bundle
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.build.native.native_build import build_c

from ..messages import raises  # noqa: TID252
from .command import ARM, build, invoke, refused, unchanged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "1:2:4"], "--batch does not go with --target c: leave it out."),
        (
            ["--batch", "4", "--memory", "64", "--compute", "portable", "--state-precision", "fp32"],
            "--batch, --state-precision, --memory, --compute do not go with --target c: leave them out.",
        ),
        (["--calibrate", "x.npy"], "--calibrate is for --precision int8, not for fp32: leave it out."),
        (
            ["--precision", "bf16", "--calibrate", "x.npy"],
            "--calibrate is for --precision int8, not for bf16: leave it out.",
        ),
        (["--precision", "int8", "--calibrate", "x.npy"], "x.npy does not exist or is not a file."),
        (
            ["--precision", "fp16"],
            "target 'c' is not written in 'fp16': choose from fp32, bf16, int8. Targets in fp16: openvino, coreml, "
            "tensorrt, tensorrt-rtx, jetson-nano, jetson-tx2, jetson-xavier-nx, jetson-agx-xavier, jetson-orin-nano, "
            "jetson-orin-nx, jetson-agx-orin, jetson-thor.",
        ),
        (["--cpu", "x.y/z", "--rebuild"], "march='x.y/z': say native, or a level such as x86-64-v3."),
        (
            ["--triple", "arm-none-eabi"],
            "arm-none-eabi is every Cortex-M: say which, --cpu cortex-m4, as gcc's -mcpu names it.",
        ),
        (
            ["--triple", "cortex-m4", "--cpu", "cortex-m7"],
            "cortex-m4 is a CPU already: leave --cpu cortex-m7 out, or give --triple arm-none-eabi.",
        ),
    ],
)
def test_options_that_do_not_go(lstm: Path, options: list[str], message: str) -> None:
    before = (lstm / "manifest.json").read_bytes()
    assert refused(build(lstm, *options)) == message
    unchanged(lstm, before)


def test_code_that_crashes_leaves_the_bundle_as_it_was(
    lstm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (lstm / "manifest.json").read_bytes()
    crash = tmp_path / "crash.h"
    crash.write_text("__attribute__((constructor)) static void starts(void) { *(volatile int *)8 = 1; }\n")
    monkeypatch.setenv("CC", f"gcc -include {crash}")
    message = refused(build(lstm, "--rebuild"))
    assert "in a process of its own, which ended with SIGSEGV." in message
    unchanged(lstm, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--triple", ARM], "--triple does not go with --target tensorrt: leave it out."),
        (
            ["--triple", ARM, "--cpu", "cortex-a76", "--calibrate", "x.npy"],
            "--triple, --cpu, --calibrate do not go with --target tensorrt: leave them out.",
        ),
    ],
)
def test_options_of_c_alone(lstm: Path, options: list[str], message: str) -> None:
    assert refused(invoke("build", lstm, "--target", "tensorrt", *options)) == message


def test_a_machine_that_is_not_known(lstm: Path, plain: Path) -> None:
    said = refused(build(lstm, "--triple", "mips-linux-gnu"))
    assert said.startswith("no machine 'mips-linux-gnu' is known to compile for, only aarch64-linux-gnu, ")
    # Before anything is written for it.
    assert refused(build(plain, "--triple", "mips-linux-gnu")) == said


def test_of_two_precisions_fp32_is_meant(lstm: Path) -> None:
    assert build(lstm, "--precision", "bf16").exit_code == 0
    result = build(lstm, "--rebuild")
    assert result.exit_code == 0, result.output
    assert "built c (fp32)" in result.output


def test_no_compiler(lstm: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("rnn_export.runtime.build.c_compiler.importlib.util.find_spec", lambda name: None)
    none = (
        "no C compiler is here: gcc is not found, clang is not found, zig is not found: sudo apt install gcc, or pip "
        "install ziglang, which needs no root."
    )
    assert refused(build(lstm, "--rebuild")) == none
    assert refused(build(plain)) == none
    said = refused(build(lstm, "--triple", ARM))
    assert said.startswith(f"no compiler for {ARM} is here, neither aarch64-linux-gnu-gcc nor zig: sudo apt install ")
    assert refused(build(lstm, "--triple", "cortex-m4")).startswith("no compiler for cortex-m4 is here")


def test_a_compiler_that_is_none(lstm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-cc")
    assert refused(build(lstm, "--rebuild")) == ("CC, 'no-such-cc', is not found: set CC to a compiler, or unset it.")


def test_without_the_export_extra(lstm: Path, plain: Path, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Existing sources are compiled; missing ones cannot be written."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert refused(build(plain)) == (
        f"{plain} has no C sources: write them where torch is, rnn-export export SOURCE --target c."
    )
    assert refused(build(plain, "--precision", "int8")) == (
        f"{plain} has no C sources in int8: write them where torch is, rnn-export export SOURCE --target c "
        "--precision int8."
    )
    assert build(lstm, "--rebuild").exit_code == 0
    with raises("build-without-sources", "in bf16"):
        build_c(open_bundle(lstm), "bf16")


def test_scales_are_not_written_without_the_export_extra(
    lstm: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(lstm, "--precision", "int8").exit_code == 0
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert refused(build(lstm, "--precision", "int8", "--calibrate", recording, "--rebuild")) == (
        f"{lstm} has c (int8), and its sources are written again only where the export extra is: "
        f"{pip_install('export,cpu')}."
    )
