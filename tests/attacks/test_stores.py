"""Trust stores: their required owner, write permissions, and users without one."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rnn_export.errors import Untrusted
from rnn_export.export import export
from rnn_export.platform import trusted_code
from rnn_export.platform.trusted_code import KEPT, Trust, parse, record_path, remember, trusted_here
from rnn_export.runtime import load

from ..messages import raises  # noqa: TID252
from ..native.command import invoke  # noqa: TID252
from ..stages import without_stages  # noqa: TID252
from ..trusting import trusted  # noqa: TID252
from .hostile import with_library

KEY = "A" * 43 + "="
CODE = [f"code {number:064x} c (fp32)" for number in range(9)]
ROOT = Path(__file__).parents[2]
OTHER = 65534  # nobody


@pytest.fixture
def record(elsewhere: Path) -> Path:
    remember(CODE[:1])
    return elsewhere


def test_tests_have_a_record_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    path, _ = record_path()
    assert path is not None
    assert path.is_relative_to(tmp_path_factory.getbasetemp())


def test_the_record_is_for_its_user_alone(record: Path) -> None:
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(record.parent.stat().st_mode) == 0o700
    remember([f"ed25519 {KEY} somebody", *CODE[:3]])
    assert trusted_here() == Trust(frozenset(line.split()[1] for line in CODE[:3]), frozenset([KEY]))
    assert record.read_text().splitlines() == [f"ed25519 {KEY} somebody", *CODE[:3]]
    assert [path.name for path in record.parent.iterdir()] == ["trust"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
@pytest.mark.parametrize("which", ["file", "folder"])
def test_a_record_that_others_can_write_is_refused(mode: int, which: str, record: Path) -> None:
    place = record if which == "file" else record.parent
    mode |= 0 if which == "file" else 0o100
    place.chmod(mode)
    fix = "chmod 600" if which == "file" else "chmod 700"
    message = ("trust-store-writable", place, f"{mode:o}", fix)
    with raises(*message):
        trusted_here()
    with raises(*message):
        remember(CODE[1:2])
    assert record.read_text().splitlines() == CODE[:1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_record_of_another_user_is_refused(record: Path) -> None:
    os.chown(record, OTHER, OTHER)
    with raises("trust-store-other-owner", "trust belongs to user", OTHER, "user 0"):
        trusted_here()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"code 12\n", ("trust-store-line", "1", "neither `code SHA256` nor `ed25519 KEY`")),
        (b"# fine\n\ned25519 AAAA x\n", ("trust-store-line", "3", "neither")),
        (b"\xff\xfe", ("trust-store-not-text",)),
        (b"#" * (trusted_code.LIMIT + 1), ("trust-store-too-large", "4194304")),
    ],
)
def test_a_record_that_is_none(raw: bytes, message: tuple[str, ...], record: Path) -> None:
    record.write_bytes(raw)
    with raises(*message):
        trusted_here()


def test_a_record_that_is_a_pipe_does_not_block(record: Path) -> None:
    record.unlink()
    os.mkfifo(record, 0o600)
    with raises("trust-store-too-large"):
        trusted_here()


def test_a_name_that_others_chose_is_no_line_of_its_own(record: Path) -> None:
    remember([f"code {1:064x} c\ncode {2:064x} evil\u2028code {3:064x}"])
    assert trusted_here().code == {f"{0:064x}", f"{1:064x}"}


def test_the_record_keeps_the_newest(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT == 10_000
    monkeypatch.setattr(trusted_code, "KEPT", 4)
    remember([f"ed25519 {KEY} somebody"])
    remember(CODE[1:6])
    remember(CODE[2:3])
    assert record.read_text().splitlines() == [f"ed25519 {KEY} somebody", CODE[3], CODE[4], CODE[5], CODE[2]]


def test_two_writers_lose_nothing(record: Path) -> None:
    code = (
        "import sys; from rnn_export.platform.trusted_code import remember\n"
        "for n in range(40): remember([f'code {int(sys.argv[1]) + n:064x} x'])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, start], cwd=ROOT) for start in ("100", "200", "300")]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(trusted_here().code) == 1 + 3 * 40


def test_a_writer_that_is_killed_leaves_the_old_record(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rnn_export.platform.trusted_code.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        remember(CODE[1:2])
    assert record.read_text().splitlines() == CODE[:1]
    assert [path.name for path in record.parent.iterdir()] == ["trust"]


# --- where else


def test_files_and_folders_of_the_environment(record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "maker.pub").write_text(f"ed25519 {KEY} maker\n")
    (tmp_path / "d").mkdir(0o755)
    (tmp_path / "d" / "one").write_text(CODE[1])
    (tmp_path / "d" / ".half.tmp").write_text("half a li")
    monkeypatch.setenv(trusted_code.VARIABLE, f"{tmp_path / 'maker.pub'}::{tmp_path / 'd'}")
    assert trusted_here() == Trust(frozenset(line.split()[1] for line in CODE[:2]), frozenset([KEY]))
    (tmp_path / "maker.pub").chmod(0o666)
    with raises("trust-store-writable", "maker.pub", "666"):
        trusted_here()
    (tmp_path / "maker.pub").unlink()
    with raises("trust-store-unreadable", "maker.pub", "No such file"):
        trusted_here()


@pytest.mark.skipif(os.geteuid() != 0, reason="the machine-wide store belongs to root")
def test_the_machine_wide_store(record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(trusted_code.MACHINE_WIDE) == "/nonexistent/trust.d", "tests leave the machine's own alone"
    folder = tmp_path / "trust.d"
    folder.mkdir(0o755)
    (folder / "maker.pub").write_text(f"ed25519 {KEY} maker\n")
    monkeypatch.setattr(trusted_code, "MACHINE_WIDE", folder)
    assert trusted_here().keys == {KEY}
    os.chown(folder / "maker.pub", OTHER, OTHER)
    with raises("trust-store-other-owner", "maker.pub belongs to user", OTHER, "user 0 (chown)"):
        trusted_here()
    os.chown(folder / "maker.pub", 0, 0)
    folder.chmod(0o777)
    with raises("trust-store-writable", "trust.d"):
        trusted_here()


def test_a_record_that_cannot_be_believed_is_a_reason_and_no_crash(
    compiler: None, elsewhere: Path, tmp_path: Path, mark: Path
) -> None:
    path = trusted(with_library(tmp_path / "m.rnnx", mark))
    elsewhere.chmod(0o666)
    engine = load(path)
    assert engine.backend == "onnxruntime"
    assert "trust can be written by others (mode 666)" in engine.skipped_backends[0]
    assert not mark.exists()
    elsewhere.chmod(0o600)
    assert load(path).backend == "native"


# --- without a home, and as another user


def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert record_path() == (tmp_path / ".local/share/rnn-export/trust", "")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # no HOME, and an id that no passwd knows
    path, why = record_path()
    assert (path, why) == (None, "this user has no home: neither XDG_DATA_HOME nor HOME is an absolute path")
    assert trusted_here() == Trust()
    with raises("trust-not-recorded", why, "RNN_EXPORT_TRUST"):
        remember(CODE)
    monkeypatch.setenv(trusted_code.VARIABLE, str(tmp_path / "own"))
    (tmp_path / "own").write_text(CODE[0])
    assert len(trusted_here().code) == 1


def test_a_build_that_cannot_be_recorded_says_so(compiler: None, elsewhere: Path, tmp_path: Path, mark: Path) -> None:
    elsewhere.parent.parent.mkdir()
    elsewhere.parent.write_text("in the way")
    path = with_library(tmp_path / "m.rnnx", mark)
    done = invoke("build", path, "--target", "c", "--rebuild")
    assert done.exit_code == 0, done.output
    assert "note: what was built is not trusted here: nothing is recorded as trusted, for " in done.stderr
    assert load(path).backend == "onnxruntime"
    assert not mark.exists()


def test_an_export_that_cannot_be_recorded_warns(
    elsewhere: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.parent.parent.mkdir()
    elsewhere.parent.write_text("in the way")
    example, path = (torch.zeros(1, 1, 2),), tmp_path / "m.rnnx"
    said = r"^load\(\) will not run the code of .*m\.rnnx without trust=True .--trust.: nothing is recorded as "
    export(nn.GRU(2, 3).eval(), example, path, targets=("onnx", "torchscript"), steps=8)
    (record,) = (r for r in caplog.records if r.name.startswith("rnn_export"))
    assert (record.name, record.levelname) == ("rnn_export.export", "WARNING")
    assert re.match(said, record.getMessage())
    with pytest.raises(Untrusted):
        load(path, "torchscript")
    assert load(path, "torchscript", trust=True).backend == "torchscript"


def test_the_command_says_it_once_and_as_a_note(elsewhere: Path, tmp_path: Path) -> None:
    elsewhere.parent.parent.mkdir()
    elsewhere.parent.write_text("in the way")
    (tmp_path / "nets.py").write_text(
        "import logging, torch\nlogging.basicConfig()\n"
        "def net(): return torch.nn.GRU(2, 3).eval(), (torch.zeros(1, 1, 2),)\n"
    )
    code = "from rnn_export.cli.main import main; main()"
    options = ["-o", f"{tmp_path}/m.rnnx", "--steps", "8", "--target", "torchscript", "--json"]
    command = [sys.executable, "-c", code, "export", f"{tmp_path}/nets.py:net", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = without_stages(done.stderr).splitlines()
    assert line.startswith(
        f"note: load() will not run the code of {tmp_path}/m.rnnx without trust=True (--trust): nothing is"
    )
    assert json.loads(done.stdout)["parity"]["ok"]


@pytest.fixture
def as_nobody(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs Python as another user, without HOME; the folder of the test is made readable for it."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root, with setpriv, can run something as another user")
    command = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", sys.executable, "-c"]

    def call(code: str, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        for place in [*[*tmp_path.parents][:3], tmp_path]:
            place.chmod(place.stat().st_mode | 0o055)
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return subprocess.run([*command, code, *map(str, arguments)], env=env, cwd="/", capture_output=True, text=True)

    if call("import rnn_export.runtime.engine, onnxruntime").returncode:
        pytest.skip("another user cannot read this Python and this checkout")
    return call


BACKEND = "import sys; from rnn_export.runtime import load; e = load(sys.argv[1]); print(e.backend, e.skipped_backends)"


def test_another_user_does_not_trust_what_this_one_built(
    as_nobody: Callable[..., "subprocess.CompletedProcess[str]"],
    compiler: None, elsewhere: Path, tmp_path: Path, mark: Path,
) -> None:  # fmt: skip
    path = trusted(with_library(tmp_path / "m.rnnx", mark))
    assert load(path).backend == "native"
    mark.unlink()
    done = as_nobody(BACKEND, path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("onnxruntime (\"native: the bundle's c (fp32) for ")
    assert "is not recorded as built here" in done.stdout
    # Nor with the record of this one in the place of its own.
    elsewhere.chmod(0o644)
    elsewhere.parent.chmod(0o755)
    done = as_nobody(BACKEND, path, XDG_DATA_HOME=str(elsewhere.parent.parent))
    assert done.stdout.startswith("onnxruntime ")
    assert f"belongs to user 0, so it cannot say what user {OTHER} trusts" in done.stdout
    assert not mark.exists()
    # What root names for it counts.
    done = as_nobody(BACKEND, path, RNN_EXPORT_TRUST=str(elsewhere))
    assert done.stdout == "native ()\n", done.stdout + done.stderr


def test_text_is_read_as_it_was_written() -> None:
    assert parse(Path("x"), f"# a\n\n  {CODE[0]}\ned25519 {KEY}\n") == Trust(
        frozenset([CODE[0].split()[1]]), frozenset([KEY])
    )
