"""The command in a shell: by either name, in a pipe, completed, and in scripts that ask for what they need."""

import os
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rnn_export.cli import console
from rnn_export.cli.export import export_command
from rnn_export.cli.main import COMMANDS, main
from rnn_export.cli.options import export_keywords, line_value
from rnn_export.cli.probes import Finding
from rnn_export.errors import StreamError, keyword
from rnn_export.export.export_options import ExportOptions
from rnn_export.runtime import load

from .runtime.graphs import MODELS


def invoke(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, words)
    return result.exit_code, result.stdout, result.stderr


def complete(folder: Path, *words: str) -> list[str]:
    """Completions of bash for the last of `words`."""
    environment = {
        **os.environ,
        "_RNN_EXPORT_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["rnn-export", *words]),
        "COMP_CWORD": str(len(words)),
    }
    code = "from rnn_export.cli.main import main; main(prog_name='rnn-export')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_it_runs_as_a_module_too() -> None:
    command = [sys.executable, "-m", "rnn_export", "targets", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: python -m rnn_export targets [OPTIONS]\n")


def test_the_help_of_a_command_is_cut_off_nowhere() -> None:
    _, shown, _ = invoke("--help")
    text = " ".join(shown.partition("Commands:")[2].split())
    assert "..." not in text
    for name in COMMANDS:
        command = main.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.help is not None
        assert f"{name} {' '.join(command.help.split(chr(10) * 2)[0].split())}" in text
        assert len(command.help.partition("\n\n")[0]) < 140, name


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("load",), ["plain,loadtest"]),
        (("export", "a.py:f", "--target", "jetson-t"), ["plain,jetson-tx2", "plain,jetson-thor"]),
        (("build", "a.rnnx", "--triple", "aarch64-m"), ["plain,aarch64-macos"]),
        (("build", "a.rnnx", "--precision", "f"), ["plain,fp32", "plain,fp16"]),
        (("run", "a.rnnx", "--backend", "nat"), ["plain,native"]),
        (("run", "v"), ["plain,vad.rnnx", "dir,v"]),
        (("verify", "deep/"), ["plain,deep/net.rnnx", "dir,deep/"]),
        (("build", "v*"), ["dir,v*"]),
    ],
)
def test_a_shell_completes(tmp_path: Path, words: tuple[str, ...], offered: list[str]) -> None:
    for name in ("vad.rnnx", "deep/net.rnnx", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "video.rnnx").touch()
    assert complete(tmp_path, *words) == offered


MISSING = "zig is not installed (not found): pip install ziglang"
FINDINGS = [
    Finding("gcc", "ok", "gcc 12"),
    Finding("zig", "not installed", "not found", "pip install ziglang"),
    Finding("CC", "broken", "does not run", "install it again"),
]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ((), 0, ""),
        (("--strict", "gcc"), 0, ""),
        (
            ("--strict",),
            1,
            "error: zig is not installed (not found): pip install ziglang; CC is broken (does not run): install",
        ),
        (("--strict", "zig", "gcc"), 1, f"error: {MISSING}\n"),
        (("zig",), 0, ""),
        (("--strict", "gcd"), 2, "gcd: choose from gcc, zig, CC."),
    ],
)
def test_a_script_asks_the_doctor(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, error: str
) -> None:
    monkeypatch.setattr("rnn_export.cli.probes.examine", lambda: FINDINGS)
    exit_code, shown, said = invoke("doctor", *words)
    assert exit_code == code
    assert error in said
    if code < 2:
        named = {word for word in words if word != "--strict"}
        assert {f.name for f in FINDINGS if f.name in shown} == (named or {f.name for f in FINDINGS})


def test_a_table_in_a_pipe_has_no_trailing_blanks() -> None:
    _, shown, _ = invoke("targets")
    assert [line for line in shown.splitlines() if line != line.rstrip()] == []
    assert "jetson-orin-nano" in shown


def test_a_step_of_several_frames_is_timed_as_one() -> None:
    result = {"frames": 640, "left": 0, "seconds": 0.01, "us_per_frame": 2.5, "frames_a_step": 160, "real_time": None}
    result |= {"backend": "native", "precision": "int8"}
    assert console.speed(result) == "640 frames in 0.010 s on native (int8), 400.0 µs a step of 160"
    assert console.speed({**result, "frames_a_step": 1}) == "640 frames in 0.010 s on native (int8), 2.5 µs a frame"


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
def test_a_file_of_float64_is_refused_in_the_words_of_a_step(tmp_path: Path, kind: str) -> None:
    """Text has no precision of its own."""
    model = MODELS["sum"]
    bundle, frames = model.write(tmp_path / "net.rnnx"), np.zeros((3, *model.spec.inputs[0].frame))
    with pytest.raises(StreamError) as refused:
        load(bundle, backend="onnxruntime").stream().step(frames[0])
    path = tmp_path / f"x.{kind}"
    for dtype in (np.float64, np.float32):
        if kind == "npy":
            np.save(path, frames.astype(dtype))
        elif kind == "npz":
            np.savez(path, **{model.spec.inputs[0].name: frames.astype(dtype)})
        else:
            np.savetxt(path, frames, delimiter=",")
        code, _, said = invoke("run", str(bundle), str(path), "--backend", "onnxruntime")
        if kind == "csv" or dtype is np.float32:
            assert code == 0, said
        else:
            assert code == 1
            assert said == f"error: {path}: {refused.value}\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("time_axis", None),
        ("time_axis", -1),
        ("time_axis", {"x": 1, "h.0": None}),
        ("states", {"h": 1, "mask": None, "c": "cell"}),
        ("assume", {"a b/net.py:3": True, "net.py:4": False}),
        ("chunk", 128),
        ("max_frames", 5),
        ("max_context", 7),
        ("opset", 17),
    ],
)
def test_a_keyword_of_a_message_is_the_option_after_it(name: str, value: object) -> None:
    python, _, shell = keyword(name, value).removesuffix(")").partition(" (--")
    assert eval(f"dict({python})") == {name: value}
    context = export_command.make_context("export", ["net.py:f", "-o", "net.rnnx", *shlex.split(f"--{shell}")])
    options = {field.name for field in fields(ExportOptions)}
    given = export_keywords(**{name: value for name, value in context.params.items() if name in options - {"report"}})
    assert given == {name: value}


@pytest.mark.parametrize(("word", "is_taken"), [("true", True), ("True", True), ("FALSE", False), ("false", False)])
def test_a_side_of_a_branch_may_be_written_as_in_python(word: str, is_taken: bool) -> None:
    assert line_value(f"a=b/net.py:3={word}") == ("a=b/net.py:3", is_taken)
