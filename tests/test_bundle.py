"""The bundle format: files are read back, and damaged, unsafe or obstructing ones are refused by name."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnn_export.bundle import Bundle, FileRow, TargetRow, atomic, extend_bundle, open_bundle, write_bundle
from rnn_export.bundle.readme import README, targets_section
from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec
from rnn_export.platform import arrays, host

from .messages import raises

H = StateSpec("rnn.l0.h", "rnn.l0.h", "rnn.l0.h.next", "float32", ("batch", 3))
LEARNED = StateSpec("clock", "clock", "clock.next", "int64", ("batch",), initial="stored")
SPEC = StreamSpec(
    (TensorSpec("x", "float32", ("batch", 4)),),
    (TensorSpec("y", "float32", ("batch", 2)),),
    (H, LEARNED),
    digest="d" * 64,
)
TARGETS = [
    TargetRow("onnx", "fp32", 17, ("step.onnx",), {}),
    TargetRow("tensorrt", "fp16", 18, ("targets/tensorrt-fp16/a.plan",), {"compute": [8, 9], "trt": "10.3"}),
]


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    return {
        "step.onnx": bytes(range(256)) * 3,
        "golden.npz": npz(x=np.arange(8, dtype=np.float32).reshape(2, 4)),
        "parity.json": b"{}",
        "initial_states.npz": npz(clock=np.int64(7)),
        "targets/tensorrt-fp16/a.plan": b"plan",
    }


def write(path: Path, **changes: Any) -> Bundle:
    given: dict[str, Any] = {"spec": SPEC, "producer": {"torch": "2.9"}, "files": files(), "targets": TARGETS}
    return write_bundle(path, **{**given, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "vad.rnnx")
    return tmp_path / "vad.rnnx"


def forge(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest as an attacker would: with a checksum that fits."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    edit(manifest)
    forge_raw(path, json.dumps(manifest).encode())


def forge_raw(path: Path, raw: bytes) -> None:
    (path / "manifest.json").write_bytes(raw)
    (path / "manifest.sha256").write_text(hashlib.sha256(raw).hexdigest() + "\n")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = write(tmp_path / "vad.rnnx")
    opened = open_bundle(str(tmp_path / "vad.rnnx"))
    assert opened == written
    assert opened.spec == SPEC
    assert opened.producer == {"torch": "2.9"}
    assert opened.targets == tuple(TARGETS)
    assert {name: opened.read(name) for name in opened.files} == files()
    assert opened.files["parity.json"] == FileRow("parity.json", hashlib.sha256(b"{}").hexdigest(), 2)
    assert opened.target("tensorrt", "fp16") == TARGETS[1]
    assert opened.target("tensorrt", "fp32") is None
    np.testing.assert_array_equal(opened.arrays("golden.npz")["x"], np.arange(8, dtype=np.float32).reshape(2, 4))
    assert os.listdir(tmp_path) == ["vad.rnnx"]


def test_of_a_target_that_is_replaced_some_files_may_stay(path: Path) -> None:
    """Two writers of one row, each with a bundle that it opened before the other wrote."""
    before = open_bundle(path)
    for name in ("a/1", "a/2"):
        row = TargetRow("c", "fp32", None, (name,), {"name": "vad"})
        both = extend_bundle(before, row, {name: b"x"}, keep=lambda now, other: other == "a/1")
    assert both.target("c", "fp32") == TargetRow("c", "fp32", None, ("a/2", "a/1"), {"name": "vad"})
    assert both.read("a/1") == both.read("a/2") == b"x"


def test_a_folder_is_locked_once_by_a_thread_and_against_others(tmp_path: Path) -> None:
    free = []

    def other() -> None:
        with atomic.locked(tmp_path):
            free.append(True)

    waiting = threading.Thread(target=other)
    with atomic.locked(tmp_path), atomic.locked(tmp_path) as alone:
        assert alone
        waiting.start()
        waiting.join(0.2)
        assert not free
    waiting.join(10)
    assert free


def test_a_target_is_added_or_replaced_with_its_files(path: Path) -> None:
    before = open_bundle(path)
    kept = {name: data for name, data in files().items() if name != "targets/tensorrt-fp16/a.plan"}
    row = TargetRow("tensorrt", "fp16", 17, ("targets/tensorrt-fp16/b.plan", "step.onnx"), {"trt": "11.0"})
    replaced = extend_bundle(before, row, {"targets/tensorrt-fp16/b.plan": b"new"})
    added = TargetRow("tensorrt", "fp32", 18, ("c.plan",), {})
    # `before` is older than the bundle by now: what others have written meanwhile stays.
    both = extend_bundle(before, added, {"c.plan": b"c"})
    assert both == open_bundle(path)
    assert (replaced.targets, both.targets) == ((TARGETS[0], row), (TARGETS[0], row, added))
    assert {n: both.read(n) for n in both.files} == {**kept, "targets/tensorrt-fp16/b.plan": b"new", "c.plan": b"c"}
    assert (both.spec, both.producer) == (before.spec, before.producer)


def test_the_list_of_the_readme_is_renewed_with_the_targets(tmp_path: Path) -> None:
    before = f"# vad\n\ntext\n\n{targets_section([TARGETS[0]])}\n\n## How it was verified\n\nby hand\n"
    for name, page in {"ours": before, "own": "# vad\n\n- onnx\n"}.items():
        path = tmp_path / f"{name}.rnnx"
        write(path, files={**files(), README: page.encode()}, targets=TARGETS[:1])
        row = TargetRow("c", "fp32", None, ("targets/c-fp32/vad|1.c",), {"name": "vad"})
        given = extend_bundle(open_bundle(path), row, {"targets/c-fp32/vad|1.c": b"c"}).read(README).decode()
        if name == "own":
            assert given == page
        else:
            assert given == before.replace("\n\n## How", "\n- c (fp32): `targets/c-fp32/vad\\|1.c`\n\n## How")


def test_a_file_of_two_targets_outlives_one_of_them(path: Path) -> None:
    shared = TargetRow("tensorrt", "fp16", 18, ("step.onnx", "a.plan"), {})
    extend_bundle(open_bundle(path), shared, {"a.plan": b"a"})
    alone = extend_bundle(open_bundle(path), TargetRow("tensorrt", "fp16", 18, ("b.plan",), {}), {"b.plan": b"b"})
    assert "a.plan" not in alone.files
    assert alone.read("step.onnx") == files()["step.onnx"]


def test_a_target_is_not_added_to_another_models_bundle(path: Path) -> None:
    opened = open_bundle(path)
    other = write(path, spec=replace(SPEC, digest="e" * 64), force=True)
    with raises("extension-other-model", "vad.rnnx"):
        extend_bundle(opened, TargetRow("c", "fp32", None, ("c",), {}), {"c": b""})
    with raises("manifest-unusable", "'c' lists the file 'c', which has no file row"):
        extend_bundle(other, TargetRow("c", "fp32", None, ("c",), {}), {})
    assert open_bundle(path) == other


def test_the_checksum_is_64_hex_characters_and_a_newline(path: Path) -> None:
    digest = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    assert (path / "manifest.sha256").read_bytes() == digest.encode() + b"\n"
    (path / "manifest.sha256").write_text(digest.upper() + "\n")
    with raises("manifest-checksum-differs"):
        open_bundle(path)


def test_unicode_names(tmp_path: Path) -> None:
    names = {"модель/ünï 模型.onnx": b"a", "targets/c-fp32/ß.c": b""}
    write(tmp_path / "голос [1] 🎤.rnnx", spec=SPEC, files=names, targets=[])
    opened = open_bundle(tmp_path / "голос [1] 🎤.rnnx")
    assert {name: opened.read(name) for name in opened.files} == names
    write(tmp_path / "голос [1] 🎤.rnnx", force=True)
    assert os.listdir(tmp_path) == ["голос [1] 🎤.rnnx"]


def test_a_bundle_has_the_mode_that_the_umask_gives(path: Path) -> None:
    (path.parent / "folder").mkdir()
    (path.parent / "file").touch()
    assert path.stat().st_mode == (path.parent / "folder").stat().st_mode
    assert (path / "step.onnx").stat().st_mode == (path.parent / "file").stat().st_mode


def test_files_outside_the_manifest_are_ignored(path: Path) -> None:
    (path / "notes.txt").write_text("mine")
    (path / "link").symlink_to("/etc/passwd")
    assert "notes.txt" not in open_bundle(path).files
    with raises("no-such-bundle-file", "'notes.txt'", "golden.npz, initial_states.npz"):
        open_bundle(path).read("notes.txt")


def test_a_thousand_random_corruptions_are_refused_by_name(path: Path) -> None:
    draw = random.Random(0)
    originals = {name: (path / name).read_bytes() for name in [*files(), "manifest.json", "manifest.sha256"]}
    for _ in range(1000):
        name = draw.choice(sorted(originals))
        good = originals[name]
        if draw.random() < 0.5:
            bit = draw.randrange(len(good) * 8)
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
        else:
            bad = bytearray(good[: draw.randrange(len(good))])
        (path / name).write_bytes(bad)
        found = "size" if len(bad) < len(good) else "hash"
        is_manifest = name.startswith("manifest")
        with raises("manifest-checksum-differs") if is_manifest else raises(f"bundle-file-{found}-differs", repr(name)):
            open_bundle(path)
        (path / name).write_bytes(good)
    open_bundle(path)


def test_what_changed_after_opening_is_not_used(path: Path) -> None:
    opened = open_bundle(path)
    (path / "parity.json").write_bytes(b"[]")
    with raises("bundle-file-hash-differs", "'parity.json'"):
        opened.read("parity.json")
    (path / "parity.json").write_bytes(b"{ }")
    with raises("bundle-file-size-differs", "'parity.json'", "3", "2"):
        opened.read("parity.json")


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with raises("bundle-missing", "none.rnnx"):
        open_bundle(tmp_path / "none.rnnx")
    (tmp_path / "file").touch()
    with raises("bundle-not-directory", "file"):
        open_bundle(tmp_path / "file")
    with raises("bundle-without-manifest"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["step.onnx", "manifest.sha256", "targets/tensorrt-fp16/a.plan"])
def test_missing_files_and_things_that_are_no_files(path: Path, name: str) -> None:
    file = path / name
    data = file.read_bytes()
    file.unlink()
    with raises("bundle-file-missing", name):
        open_bundle(path)
    file.mkdir()
    with raises("bundle-file-not-regular", f"'{name}'"):
        open_bundle(path)
    file.rmdir()
    os.mkfifo(file)
    with raises("bundle-file-not-regular", f"'{name}'"):
        open_bundle(path)
    file.unlink()
    (path.parent / "outside").write_bytes(data)
    file.symlink_to(path.parent / "outside")
    with raises("path-through-symlink", f"'{name}'", f"'{file.name}'"):
        open_bundle(path)


def test_a_folder_that_is_a_symlink_or_a_file(path: Path) -> None:
    (path / "targets").rename(path.parent / "elsewhere")
    (path / "targets").symlink_to(path.parent / "elsewhere")
    with raises("path-through-symlink", "'targets/tensorrt-fp16/a.plan'", "'targets'"):
        open_bundle(path)
    (path / "targets").unlink()
    (path / "targets").touch()
    with raises("bundle-file-missing", "'targets/tensorrt-fp16/a.plan'"):
        open_bundle(path)


def test_the_bundle_itself_may_be_reached_through_a_symlink(path: Path) -> None:
    link = path.parent / "latest.rnnx"
    link.symlink_to(path.name)
    assert open_bundle(link).read("parity.json") == b"{}"
    write(link, files={"step.onnx": b"new"}, targets=[], force=True)
    assert link.is_symlink()
    assert open_bundle(path).read("step.onnx") == b"new"


UNSAFE = [
    "/etc/passwd",
    "../x",
    "a/../b",
    "a\\b",
    "C:x",
    "c:/x",
    "a//b",
    "a/",
    "",
    ".",
    "./a",
    "a\0b",
    "a\nb",
    "\ud800",
]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_paths_are_refused_by_reader_and_writer(path: Path, name: str) -> None:
    forge(path, lambda m: m["files"][0].update(path=name))
    half = "it has half a surrogate pair"
    plain = f"{name!r} is not a plain relative path inside the bundle"
    with raises("manifest-unusable", half if name == "\ud800" else plain):
        open_bundle(path)
    wanted = ("manifest-not-writable", "surrogates not allowed") if name == "\ud800" else ("manifest-unusable", plain)
    with raises(*wanted):
        write(path.parent / "b.rnnx", files={name: b""}, targets=[])
    assert not (path.parent / "b.rnnx").exists()


Edit = Callable[[dict[str, Any]], Any]
SCALES = [
    *(["h"], {"h": 0.5}, {"h": {"scale": 0.5}}, {"h": {"scale": 0, "zero_point": 0}}),
    *({"h": {"scale": 0.5, "zero_point": 128}}, {"h": {"scale": True, "zero_point": 0}}),
    *({"h": {"scale": 0.5, "zero_point": 0.0}}, {"h\n": {"scale": 0.5, "zero_point": 0}}),
]
# What the message says of a change that makes the manifest unusable.
WRONG: list[tuple[Edit, str]] = [
    (lambda m: m.update(format=0), "format is 0, not 1 to 2"),
    (lambda m: m.update(format=True), "format is True, not 1 to 2"),
    (lambda m: m.update(format="1"), "format is '1', not 1 to 2"),
    (lambda m: m.pop("format"), "format is None, not 1 to 2"),
    (lambda m: m.update(more=1), "the manifest must have exactly the fields"),
    (lambda m: m.pop("producer"), "the manifest must have exactly the fields"),
    (lambda m: m.update(files={}), "the manifest has files = {}, which is of the wrong type"),
    (lambda m: m["producer"].update(torch=2), "producer is {'torch': 2}, not versions by name"),
    (lambda m: m["spec"].update(chunk=0), "chunk is 0"),
    (lambda m: m["spec"].pop("states"), "the stream contract must have exactly"),
    (lambda m: m["files"].append(m["files"][0]), "file 'step.onnx' stands there twice"),
    (lambda m: m["files"][0].update(mode=1), "a file row must have exactly the fields"),
    (lambda m: m["files"].append("x"), "a file row must have exactly the fields"),
    (lambda m: m["files"][0].update(bytes=-1), "file 'step.onnx' has size -1"),
    (lambda m: m["files"][0].update(bytes=True), "a file row has bytes = True, which is of the wrong type"),
    (lambda m: m["files"][0].update(sha256="A" * 64), f"file 'step.onnx' has size 768 and sha256 '{'A' * 64}'"),
    (lambda m: m["files"][0].update(path="manifest.json"), "file 'manifest.json' is the format's own"),
    (lambda m: m["files"][0].update(path="parity.json/a"), "'parity.json' is a file and cannot hold 'parity.json/a'"),
    (lambda m: m["files"][0].update(path="manifest.sha256/a"), "'manifest.sha256' is a file and cannot hold"),
    (lambda m: m["targets"][0].update(files=["no.onnx"]), "'onnx' lists the file 'no.onnx', which has no file"),
    (lambda m: m["targets"][0].update(files=[["a"]]), "'onnx' lists the file ['a']"),
    (lambda m: m["targets"][0].update(opset="17"), "a target row has opset = '17'"),
    (lambda m: m["targets"][0].pop("requires"), "a target row must have exactly the fields"),
    (lambda m: m["targets"].append(m["targets"][0]), "'onnx-fp32' stands there twice"),
    *(
        (
            lambda m, value=value: m["targets"][0]["requires"].update(state_scales=value),
            "which must be by state a scale above 0 and a zero_point from -128 to 127",
        )
        for value in SCALES
    ),
    (
        lambda m: m["spec"]["states"][0].update(shape=["batch", 2**40]),
        "'rnn.l0.h' of a step of one stream takes 4398046511104 bytes, over the limit of 268435456 a tensor",
    ),
]


@pytest.mark.parametrize(("edit", "message"), WRONG, ids=[message[:60] for _, message in WRONG])
def test_wrong_manifests(path: Path, edit: Edit, message: str) -> None:
    forge(path, edit)
    with raises("manifest-unusable", message):
        open_bundle(path)


@pytest.mark.parametrize("fields", [{"files": [], "format": 3}, {"format": 4}], ids=["a field", "alone"])
def test_a_newer_format(path: Path, fields: dict[str, Any]) -> None:
    forge_raw(path, json.dumps(fields).encode())
    with raises("bundle-format-newer", fields["format"], 2):
        open_bundle(path)


# What is no strict JSON.
RAW = [
    (b"", "Expecting value"),
    (b"[]", "format is None"),
    (b"\xff", "'utf-8' codec"),
    (b'{"format": 1, "format": 1}', "field 'format' stands there twice"),
    (b'{"format": NaN}', "NaN is not a number that JSON has"),
    (b'{"format": -Infinity}', "-Infinity is not a number"),
    (b'{"format": 1e999}', "1e999 is not a number"),
    (b"[" * 200_000, ""),
]


@pytest.mark.parametrize(("raw", "message"), RAW, ids=[message for _, message in RAW])
def test_manifests_that_are_no_strict_json(path: Path, raw: bytes, message: str) -> None:
    forge_raw(path, raw)
    with raises("manifest-unusable", message):
        open_bundle(path)


def test_a_manifest_of_absurd_size(path: Path) -> None:
    forge_raw(path, b" " * (16 * 2**20 + 1))
    with raises("bundle-file-too-large", "manifest.json", "16777216"):
        open_bundle(path)


CONTRADICTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"files": {}}, ("manifest-unusable", "'onnx' lists the file 'step.onnx', which has no file row")),
    ({"targets": [TARGETS[0]] * 2}, ("manifest-unusable", "target 'onnx-fp32' stands there twice")),
    ({"targets": [TargetRow("c", "fp32", None, (), {"x": float("nan")})]}, ("manifest-not-writable",)),
    ({"targets": [TargetRow("c", "fp32", None, (), {"x": {1}})]}, ("manifest-not-writable", "not JSON serializable")),
    ({"files": {"a": b"", "a/b": b""}, "targets": []}, ("manifest-unusable", "'a' is a file and cannot hold 'a/b'")),
]


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS)
def test_a_contradiction_is_not_even_written(tmp_path: Path, changes: Any, message: tuple[str, ...]) -> None:
    with raises(*message):
        write(tmp_path / "vad.rnnx", **changes)
    assert os.listdir(tmp_path) == []


def test_what_stands_in_the_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises("path-exists-already", "vad.rnnx"):
        write(path)
    for name in ("file", "folder"):
        other = path.parent / name
        other.touch() if name == "file" else other.mkdir()
        for force in (False, True):
            with raises("path-never-replaced", name, "bundle"):
                write(other, force=force)
    with raises("bundle-parent-missing", "none"):
        write(path.parent / "none" / "vad.rnnx")
    with raises("path-never-replaced", "bundle"):
        write(Path("/"), force=True)
    assert sorted(os.listdir(path.parent)) == ["file", "folder", "vad.rnnx"]


@pytest.mark.parametrize("offered", [True, False], ids=["renameat2", "plain"])
def test_what_appears_while_writing_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: bool
) -> None:
    real = atomic.rename

    def late(source: Path, target: Path) -> None:
        target.mkdir()
        real(source, target)

    monkeypatch.setattr(atomic, "rename", late)
    if not offered:
        monkeypatch.setattr(host, "_function", lambda name: None)
    with raises("bundle-not-written", "vad.rnnx", "File exists"):
        write(tmp_path / "vad.rnnx")
    assert [os.listdir(tmp_path), os.listdir(tmp_path / "vad.rnnx")] == [["vad.rnnx"], []]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_write_that_fails_anywhere_leaves_one_complete_bundle_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    effects = ("mkdir", "write", "fsync", "rename", "exchange")
    real = {name: getattr(atomic, name) for name in effects}
    if not exchange:
        real["exchange"] = lambda *_: False
    seen: list[str] = []
    left = 0

    def failing(name: str) -> Callable[..., Any]:
        def effect(*args: Any) -> Any:
            nonlocal left
            left -= 1
            seen.append(name)
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[name](*args)

        return effect

    for name in effects:
        monkeypatch.setattr(atomic, name, failing(name))
    changed = {**files(), "step.onnx": b"new"}
    write(path, force=True)
    clean = list(seen)
    swap = clean.index("exchange") + (1 if exchange else 3)  # the exchange itself, or the second rename after it
    for nth in range(1, len(clean) + 1):
        left = nth
        with raises("bundle-not-written", "vad.rnnx", "No space left on device"):
            write(path, files=changed, force=True)
        assert path.is_dir(), nth  # at once, not only after the recovery at the next open
        swapped = open_bundle(path).read("step.onnx") == b"new"
        assert swapped == (nth > swap), nth
        if nth < len(clean):  # at the very last, the old bundle aside could not be renamed to be deleted
            assert os.listdir(path.parent) == ["vad.rnnx"], nth
        left = 0
        write(path, force=True)
        assert os.listdir(path.parent) == ["vad.rnnx"], nth


def test_leftovers_of_the_dead_are_removed_and_those_of_others_are_not(path: Path) -> None:
    others = [".vad.rnnx.mine.tmp", ".vad.rnnx.0123abcd", ".vad.rnnx.bak.0123abcd.tmp", "vad.rnnx.0123abcd.tmp"]
    for name in [".vad.rnnx.0123abcd.tmp", *others]:
        (path.parent / name).mkdir()
        (path.parent / name / "step.onnx").touch()
    write(path, force=True)
    assert sorted(os.listdir(path.parent)) == sorted([*others, "vad.rnnx"])


def test_an_interrupted_swap_is_undone_by_the_next_open(path: Path) -> None:
    aside = path.parent / ".vad.rnnx.old"
    path.rename(aside)
    assert open_bundle(path).read("parity.json") == b"{}"
    assert os.listdir(path.parent) == ["vad.rnnx"]

    shutil.copytree(path, aside)
    (aside / "parity.json").write_bytes(b"stale")
    assert open_bundle(path).read("parity.json") == b"{}"
    write(path, force=True)
    assert os.listdir(path.parent) == ["vad.rnnx"]


WRITER = """
import sys
from rnn_export.bundle import atomic
from rnn_export.bundle import write_bundle
from rnn_export.errors import BundleError
from rnn_export.contract.spec import StreamSpec, TensorSpec
path, word, exchange, force, times = sys.argv[1], sys.argv[2], sys.argv[3] == "1", sys.argv[4] == "1", int(sys.argv[5])
if not exchange:
    atomic.exchange = lambda *_: False
spec = StreamSpec((TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 2)),), ())
for i in range(times):
    files = {f"{word}{n}.bin": f"{word}{i}".encode() for n in range(5)}
    write_bundle(path, spec=spec, producer={}, files=files, targets=[], force=force)
"""


def start(path: Path, word: str, exchange: bool, force: bool, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), word, str(int(exchange)), str(int(force)), str(times)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two-renames"])
def test_two_writers_and_a_reader_at_once(tmp_path: Path, exchange: bool) -> None:
    path = tmp_path / "vad.rnnx"
    write(path)
    writers = [start(path, word, exchange, True, 40) for word in ("a", "b")]
    opened = 0
    while any(writer.poll() is None for writer in writers):
        open_bundle(path)
        opened += 1
    assert opened > 0
    assert [(writer.wait(), writer.communicate()[1]) for writer in writers] == [(0, ""), (0, "")]
    last = open_bundle(path)
    assert {last.read(name) for name in last.files} in ({b"a39"}, {b"b39"})
    assert os.listdir(tmp_path) == ["vad.rnnx"]


def test_of_two_first_writers_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "vad.rnnx"
    writers = [start(path, word, True, False, 1) for word in ("a", "b")]
    errors = [writer.communicate()[1] for writer in writers]
    assert sorted(writer.returncode for writer in writers) == [0, 1]
    assert "vad.rnnx exists: choose another name, or replace it with --force" in "".join(errors)
    assert len(open_bundle(path).files) == 5
    assert os.listdir(tmp_path) == ["vad.rnnx"]


def test_arrays_of_every_kind(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.float16(2),
        "empty": np.zeros((0, 3), np.int8),
        "bool": np.array([True, False]),
        "rnn.l0.h": np.arange(3, dtype=">i4"),
        "größe": np.array(["a", "bc"]),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write(tmp_path / "vad.rnnx", files={"golden.npz": buffer.getvalue()}, targets=[])
    read = open_bundle(tmp_path / "vad.rnnx").arrays("golden.npz")
    assert list(read) == list(arrays)
    for name, value in arrays.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)
        assert read[name].flags.writeable


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def member(data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    return zipped(("x.npy", data), method=method)


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def with_size(raw: bytes, size: int) -> bytes:
    """Declare another uncompressed size in the zip's central directory."""
    at = raw.index(b"PK\1\2") + 24
    return raw[:at] + size.to_bytes(4, "little") + raw[at + 4 :]


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


BAD_NPZ: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"no zip", "File is not a zip file"),
    (lambda: pickle.dumps([1]), "File is not a zip file"),
    (lambda: npy(np.zeros(3)), "File is not a zip file"),
    (lambda: npz(x=np.array([{}, None])), "x.npy holds Python objects, which would have to be unpickled"),
    (lambda: member(header("(1,)", "[('a', '|O')]") + b"12345678"), "x.npy holds Python objects"),
    (lambda: zipped(("x.pkl", pickle.dumps(1))), "members must be different .npy files, but are ['x.pkl']"),
    (
        lambda: zipped(("a.npy", npy(1)), ("b.npy", npy(2))).replace(b"b.npy", b"a.npy"),
        "members must be different .npy files, but are ['a.npy', 'a.npy']",
    ),
    (lambda: member(b""), ""),
    (lambda: member(b"\x93NUMPY\x03\x00"), "x.npy has .npy version (3, 0)"),
    (lambda: member(header("(1 << 40,)")), ""),
    (lambda: member(header("(1099511627776,)")), "x.npy says float32(1099511627776,), but 0 bytes follow"),
    (lambda: member(header("(-1, -2)") + b"12345678"), "x.npy says float32(-1, -2), but 8 bytes follow"),
    (lambda: member(header("(3,)") + b"1234"), "but 4 bytes follow"),
    (lambda: member(npy(1), zipfile.ZIP_BZIP2), "compressed in another way than numpy does"),
    (lambda: with_size(member(npy(1)), 2**32 - 2), "unpacks to 4294967294 bytes, over the limit of 67108864"),
]


@pytest.mark.parametrize(("make", "message"), BAD_NPZ, ids=[message[:60] for _, message in BAD_NPZ])
def test_npz_files_that_are_refused(tmp_path: Path, make: Callable[[], bytes], message: str) -> None:
    write(tmp_path / "vad.rnnx", files={"golden.npz": make()}, targets=[])
    with raises("npz-unusable", "'golden.npz'", message):
        open_bundle(tmp_path / "vad.rnnx").arrays("golden.npz")


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "UNPACKED", 10**6)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros(60_000), b=np.zeros(70_000))  # each is below the limit, the sum is not
    write(tmp_path / "vad.rnnx", files={"golden.npz": buffer.getvalue()}, targets=[])
    monkeypatch.setattr(arrays, "_member", lambda *_: pytest.fail("something was unpacked"))
    with raises("npz-unusable", "'golden.npz'", "it unpacks to 1040", "bytes, over the limit of 1000000"):
        open_bundle(tmp_path / "vad.rnnx").arrays("golden.npz")


def test_a_member_that_says_less_than_it_holds_does_not_unpack_more(tmp_path: Path) -> None:
    raw = with_size(member(npy(np.zeros(10**6))), 1000)
    write(tmp_path / "vad.rnnx", files={"golden.npz": raw}, targets=[])
    opened = open_bundle(tmp_path / "vad.rnnx")
    tracemalloc.start()
    try:
        with raises("npz-unusable", "Bad CRC-32"):
            opened.arrays("golden.npz")
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_initial_states_are_one_row_of_every_state(path: Path) -> None:
    states = open_bundle(path).initial_states()
    assert {name: (value.shape, value.dtype.name) for name, value in states.items()} == {
        "rnn.l0.h": ((3,), "float32"),
        "clock": ((), "int64"),
    }
    assert not states["rnn.l0.h"].any()
    assert states["clock"] == 7


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (None, ("no-such-bundle-file", "'initial_states.npz'")),
        ({"other": np.int64(1)}, ("stored-initial-missing", "'clock'")),
        ({"clock": np.zeros(2, np.int64)}, ("stored-initial-differs", "int64 (2,)", "'clock'", "int64 ()")),
        ({"clock": np.float32(1)}, ("stored-initial-differs", "float32 ()", "'clock'", "int64 ()")),
    ],
)
def test_stored_values_that_do_not_fit(tmp_path: Path, stored: dict[str, Any] | None, message: tuple[str, ...]) -> None:
    given = {} if stored is None else {"initial_states.npz": npz(**stored)}
    write(tmp_path / "vad.rnnx", files=given, targets=[])
    with raises(*message):
        open_bundle(tmp_path / "vad.rnnx").initial_states()
