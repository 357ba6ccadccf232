"""Names from a bundle on their way to a terminal."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import rnn_export.cli
from rnn_export.bundle import TargetRow, write_bundle
from rnn_export.cli.main import main
from rnn_export.platform.terminal_text import visible

from ..runtime.graphs import SUM  # noqa: TID252

ESC = "\x1b]0;owned\x07\x1b[2J"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain é 日本 🎉", "plain é 日本 🎉"),
        (ESC, r"\x1b]0;owned\x07\x1b[2J"),
        ("a\r\nb\t\x00\x7f\x9b", r"a\r\nb\t\x00\x7f\x9b"),
        ("abc\u202edcb\u2066\u200b\ufeff", r"abc\u202edcb\u2066\u200b\ufeff"),
        ("\udc80\u2028\u2029", r"\udc80\u2028\u2029"),
    ],
)
def test_what_a_terminal_acts_on_is_written_out(raw, shown):
    assert visible(raw) == shown
    assert visible(f"{raw}\n{raw}", lines=True).count("\n") == 1 + 2 * raw.count("\n")


@pytest.fixture
def hostile(tmp_path) -> Path:
    """Every text of its manifest that is anybody's has a control sequence."""
    spec = replace(SUM.spec, outputs=(replace(SUM.spec.outputs[0], name=f"y{ESC}"),))
    rows = [TargetRow("onnx", "fp32", 18, ("step.onnx",), {"note": ESC})]
    path = tmp_path / "m.rnnx"
    write_bundle(path, spec=spec, producer={ESC: ESC}, files={"step.onnx": b""}, targets=rows, force=True)
    return path


@pytest.mark.parametrize("command", ["inspect", "run", "verify", "bench"])
def test_no_control_character_of_a_bundle_reaches_the_terminal(hostile, command):
    told = CliRunner().invoke(main, [command, str(hostile)])
    assert not re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", told.output), told.output
    if command == "inspect":
        assert r"y\x1b]0;owned\x07\x1b[2J" in told.output


def test_an_error_s_words_are_written_out(tmp_path):
    told = CliRunner().invoke(main, ["inspect", str(tmp_path / f"no{ESC}.rnnx")])
    assert told.exit_code
    assert "\x1b" not in told.output


def test_all_text_goes_through_one_door():
    """`console` and the error in `main` show text, and nothing else in the command does but JSON, which is ASCII."""
    found = [
        (path.name, line.strip())
        for path in Path(rnn_export.cli.__file__).parent.glob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\b(click\.s?echo|print)\(", line) and not re.search(r"json\.dumps|visible\(", line)
    ]
    # The table's cells are written out one by one.
    assert found == [
        ("console.py", "console.print(shown)"),
        ("console.py", "console.print(shown)"),
        ("console.py", "click.echo(line.rstrip())"),
    ]
