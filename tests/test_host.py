"""Systems other than Linux: a process without all features of Unix, and each difference between them."""

import ctypes
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rnn_export.platform import host
from rnn_export.platform.trusted_code import trusted_here
from rnn_export.runtime.backends.native import cpu

from .messages import raises
from .runtime.graphs import SUM
from .runtime.test_golden import golden_of

ROOT = Path(__file__).parent.parent

CHILD = """
import os, sys, tempfile
sys.path.insert(0, sys.argv[1])
import numpy, onnxruntime, multiprocessing.connection, subprocess, asyncio
from tests.without_unix import take_away
take_away()
import rnn_export, rnn_export.runtime.engine, rnn_export.cli.main
from click.testing import CliRunner
from rnn_export.bundle import open_bundle, write_bundle
from rnn_export.cli.main import main
from rnn_export.errors import BundleError
from rnn_export.platform.trusted_code import remember, trusted_here

path, out = sys.argv[2:]
engine = rnn_export.load(path, "onnxruntime")
stream = engine.stream()
print([stream.step(numpy.ones(3, numpy.float32)).tolist() for _ in range(2)][-1])
for command in (["verify", path], ["inspect", path], ["run", path, out + ".npy", "-o", out + "-y.npy"]):
    numpy.save(out + ".npy", numpy.ones((4, 3), numpy.float32))
    done = CliRunner().invoke(main, command)
    print(command[0], done.exit_code, repr(done.exception) if done.exit_code else "")
bundle = open_bundle(path)
for force in (False, True, True):
    files = {name: bundle.read(name) for name in bundle.files}
    write_bundle(out, spec=bundle.spec, producer={"n": str(force)}, files=files, targets=bundle.targets, force=force)
try:
    write_bundle(out, spec=bundle.spec, producer={}, files=files, targets=bundle.targets)
except BundleError as error:
    print("refused", "exists" in str(error))
print(open_bundle(out).producer, sorted(n for n in os.listdir(os.path.dirname(out)) if "rnnx" in n or "lock" in n))
remember(["code " + "1" * 64 + " x"])
print(trusted_here().code == {"1" * 64})
print(sorted(set(sys.modules) & {"fcntl", "resource", "pwd", "grp"}))
"""


def test_a_process_that_lacks_what_unix_alone_has(tmp_path: Path) -> None:
    """Load, step, run, verify, inspect, write, replace and record: nothing of Unix is imported or called."""
    path = SUM.write(tmp_path / "sum.rnnx", **{"golden.npz": golden_of(SUM).to_npz()})
    there = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "xdg")}
    command = [sys.executable, "-c", CHILD, str(ROOT), str(path), str(tmp_path / "new.rnnx")]
    done = subprocess.run(command, cwd=ROOT, env=there, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[2.0, 2.0, 2.0]",
        "verify 0 ",
        "inspect 0 ",
        "run 0 ",
        "refused True",
        "{'n': 'True'} ['new.rnnx', 'new.rnnx-y.npy', 'new.rnnx.npy', 'sum.rnnx']",
        "True",
        "[]",
    ]


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_fcntl", None)
    monkeypatch.setattr(host.os, "O_TEMPORARY", 0, raising=False)


@pytest.mark.usefixtures("windows")
def test_a_lock_without_flock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(5):
            with host.locked(tmp_path) as alone:
                assert alone
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
                (tmp_path / ".rnn-export.lock").unlink()  # as O_TEMPORARY does it

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == [1]
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("windows")
def test_where_no_lock_can_be_made_it_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(host, "PATIENCE", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(host.os, "open", refuse)
        with host.locked(tmp_path) as alone:
            assert not alone
    monkeypatch.delattr(host.os, "O_TEMPORARY")
    with host.locked(tmp_path) as alone:
        assert not alone


class Mac:
    """The C library of macOS, with this system's renames."""

    def renamex_np(self, source: bytes, target: bytes, flags: int) -> int:
        call = ctypes.CDLL(None, use_errno=True).renameat2
        return int(call(-100, source, -100, target, {2: 2, 4: 1}[flags]))


def test_a_mac_renames_by_its_own_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_function", lambda name: getattr(Mac(), name, None))
    one, other = tmp_path / "one", tmp_path / "other"
    for place in (one, other):
        place.mkdir()
        (place / place.name).touch()
    with pytest.raises(FileExistsError):
        host.rename(one, other)
    assert host.exchange(one, other)
    assert (os.listdir(one), os.listdir(other)) == (["other"], ["one"])
    host.rename(one, tmp_path / "free")
    assert sorted(os.listdir(tmp_path)) == ["free", "other"]


def test_a_mac_flushes_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Full:
        F_FULLFSYNC = 51

        def fcntl(self, fd: int, what: int) -> None:
            asked.append(what)
            if len(asked) > 1:  # a network disk
                raise OSError(errno.ENOTSUP, "no")

    monkeypatch.setattr(host, "_fcntl", Full())
    synced: list[int] = []
    monkeypatch.setattr(host.os, "fsync", synced.append)
    host.fsync(7)
    assert (asked, synced) == ([51], [])
    host.fsync(7)
    assert (asked, synced) == ([51, 51], [7])


@pytest.mark.parametrize("name", ["nul", "COM1.onnx", "golden.npz:hidden", "step.onnx.", "step.onnx "])
def test_names_that_are_something_else_on_windows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rnn_export.bundle import atomic

    (tmp_path / name).write_bytes(b"x")
    atomic.open_regular(tmp_path, name).close()
    monkeypatch.setattr(host, "refused_name", lambda part: _on_windows(monkeypatch, part))
    with raises("file-name-unusable"):
        atomic.open_regular(tmp_path, name)


_refused = host.refused_name


def _on_windows(monkeypatch: pytest.MonkeyPatch, part: str) -> bool:
    with monkeypatch.context() as patch:
        patch.setattr(host.os, "name", "nt")
        assert not _refused("step.onnx")
        return _refused(part)


def test_the_owner_of_a_store_is_not_asked_where_files_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "rnn-export" / "trust"
    store.parent.mkdir()
    store.write_text(f"code {'a' * 64} x\n")
    store.chmod(0o666)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(host, "user", lambda: None)
    assert trusted_here().code == {"a" * 64}


@pytest.mark.parametrize(
    ("platform", "machine", "triple", "library"),
    [
        ("win32", "AMD64", "x86_64-windows-gnu", "native.dll"),
        ("win32", "ARM64", "aarch64-windows-gnu", "native.dll"),
        ("darwin", "arm64", "aarch64-macos", "native.dylib"),
        ("darwin", "x86_64", "x86_64-macos", "native.dylib"),
    ],
)
def test_the_machines_that_they_are(
    platform: str, machine: str, triple: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu.sys, "platform", platform)
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    assert cpu.host_triple() == triple
    assert cpu.library_name(triple) == library
    assert (cpu.this_cpu().features == cpu.APPLE_M1) == (triple == "aarch64-macos")


def test_what_numpy_finds_is_what_the_kernel_says() -> None:
    there = cpu.this_cpu().features
    if not there or cpu.host_triple() != "x86_64-linux-gnu":
        pytest.skip("this is no x86 with /proc/cpuinfo")
    assert cpu.of_numpy() <= there
    assert ("avx2" in cpu.of_numpy()) == ("avx2" in there)
