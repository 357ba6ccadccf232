"""A writer killed at every single effect on the disk: the old bundle or the new one, never a damaged one."""

from __future__ import annotations

import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rnn_export.bundle import TargetRow, atomic, open_bundle, write_bundle
from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.errors import BundleError

from .messages import raises

NAME = "vad.rnnx"
EFFECTS = ("mkdir", "write", "fsync", "rename", "exchange", "remove")
SPEC = StreamSpec((TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 2)),), ())

Hook = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]


def contents(word: str) -> dict[str, bytes]:
    # Another set of files each time: a mixture of two bundles could not pass for either.
    return {"step.onnx": word.encode() * 5, f"targets/c-fp32/{word}.c": b"int x;", "parity.json": word.encode()}


def write(path: Path, word: str, force: bool) -> None:
    files = contents(word)
    target = TargetRow("c", "fp32", None, (f"targets/c-fp32/{word}.c",), {"name": "vad"})
    write_bundle(path, spec=SPEC, producer={"test": word}, files=files, targets=[target], force=force)


def read(path: Path) -> dict[str, bytes] | None:
    """The files of the bundle there, or None; a damaged bundle raises."""
    try:
        bundle = open_bundle(path)
    except BundleError as error:
        if "does not exist" in str(error):
            return None
        raise
    return {name: bundle.read(name) for name in bundle.files}


def hook_into(monkeypatch: pytest.MonkeyPatch, hook: Hook, exchange: bool) -> None:
    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: hook(name, real, args)

    for name in EFFECTS:
        real = (lambda *_: False) if name == "exchange" and not exchange else getattr(atomic, name)
        monkeypatch.setattr(atomic, name, wrap(name, real))


def record(path: Path, force: bool, exchange: bool) -> list[tuple[str, Any]]:
    """Write once in peace and list each effect with its last argument."""
    seen: list[tuple[str, Any]] = []

    def hook(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        seen.append((name, args[-1]))
        return real(*args)

    with pytest.MonkeyPatch.context() as monkeypatch:
        hook_into(monkeypatch, hook, exchange)
        write(path, "new", force)
    return seen


def half(name: str, args: tuple[Any, ...]) -> None:
    if name == "write":
        fd, data = args
        os.write(fd, data[: len(data) // 2])
    if name == "remove" and (args[0] / "step.onnx").exists():
        (args[0] / "step.onnx").unlink()


def write_and_die(path: Path, force: bool, exchange: bool, nth: int, moment: str) -> None:
    """Write in a child that kills itself at its n-th effect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's idle threads are not forked, nor needed
        child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"the child lived on: it has no effect {nth}"
        assert os.WTERMSIG(status) == signal.SIGKILL
        return
    try:
        count = 0

        def hook(name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
            nonlocal count
            count += 1
            if count != nth:
                return real(*args)
            if moment == "half":
                half(name, args)
            if moment == "after":
                real(*args)
            return os.kill(os.getpid(), signal.SIGKILL)

        hook_into(pytest.MonkeyPatch(), hook, exchange)
        write(path, "new", force)
    finally:
        os._exit(0)


@pytest.mark.parametrize("moment", ["before", "half", "after"])
@pytest.mark.parametrize(
    ("force", "exchange"), [(False, True), (True, True), (True, False)], ids=["new", "exchange", "two-renames"]
)
def test_a_killed_writer_leaves_the_old_bundle_or_the_new_one(
    tmp_path: Path, force: bool, exchange: bool, moment: str
) -> None:
    def fresh(name: str) -> Path:
        (tmp_path / name).mkdir()
        if force:
            write(tmp_path / name / NAME, "old", force=False)
        return tmp_path / name / NAME

    path = fresh("peace")
    effects = record(path, force, exchange)
    swap = max(i for i, (_, last) in enumerate(effects, start=1) if last == path)
    assert len(effects) >= 19  # fewer would mean that some effect goes past the hooks
    old = contents("old") if force else None

    for nth in range(1, len(effects) + 1):
        path = fresh(str(nth))
        write_and_die(path, force, exchange, nth, moment)
        swapped = nth > swap or (nth == swap and moment == "after")
        where = f"killed {moment} effect {nth} of {len(effects)}: {effects[nth - 1]}"
        assert read(path) == (contents("new") if swapped else old), where
        write(path, "next", force=True)
        assert read(path) == contents("next"), where
        assert os.listdir(path.parent) == [NAME], where


@pytest.mark.parametrize("exchange", [True, False])
def test_a_half_deleted_old_bundle_never_comes_back(tmp_path: Path, exchange: bool) -> None:
    write(tmp_path / NAME, "old", force=False)
    effects = record(tmp_path / NAME, True, exchange)
    removals = [nth for nth, (name, _) in enumerate(effects, start=1) if name == "remove"]
    for nth in removals:
        write(tmp_path / NAME, "old", force=True)
        write_and_die(tmp_path / NAME, True, exchange, nth, "half")
        shutil.rmtree(tmp_path / NAME)
        assert read(tmp_path / NAME) in (None, contents("old"))


@pytest.mark.parametrize("exchange", [True, False])
def test_a_force_write_after_a_kill_needs_no_open_in_between(tmp_path: Path, exchange: bool) -> None:
    write(tmp_path / NAME, "old", force=False)
    effects = len(record(tmp_path / NAME, True, exchange))
    for nth in range(1, effects + 1):
        write_and_die(tmp_path / NAME, True, exchange, nth, "after")
        with raises("path-exists-already"):  # the old one aside still counts as standing there
            write(tmp_path / NAME, "next", force=False)
        write(tmp_path / NAME, "next", force=True)
        assert read(tmp_path / NAME) == contents("next")
        assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize(("force", "exchange"), [(False, True), (True, True), (True, False)])
def test_all_is_on_the_disk_before_the_swap_and_the_swap_before_the_old_one_goes(
    tmp_path: Path, force: bool, exchange: bool
) -> None:
    path = tmp_path / NAME
    if force:
        write(path, "old", force=False)
    effects = record(path, force, exchange)
    names = [name for name, _ in effects]
    swap = max(i for i, (_, last) in enumerate(effects) if last == path)
    assert all(names[i + 1] == "fsync" for i, name in enumerate(names) if name == "write")
    before = names[:swap]
    assert before.count("fsync") == before.count("write") + before.count("mkdir")
    assert names[swap + 1] == "fsync"
    assert "remove" not in before
