"""The plan of a build, as a value, before anything is compiled or written."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.runtime.backends.native.cpu import host_triple
from rnn_export.runtime.backends.native.record import sources_sha256
from rnn_export.runtime.build.native.native_build import Destination, build_c, plan_c
from rnn_export.runtime.build.origin import find_row, on_disk

from ..messages import raises  # noqa: TID252
from ..trusting import trusted  # noqa: TID252

HERE, PLACE = host_triple(), "targets/c-fp32"
SOURCES = {"CMakeLists.txt", "golden.h", "kernels.h", "lstm.c", "lstm.h", "main.c", "selftest.c"}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """With C sources, and nothing compiled of them."""
    kept = Path(__file__).parent.parent / "data/format1/lstm.rnnx"
    return open_bundle(trusted(Path(shutil.copytree(kept, tmp_path / "lstm.rnnx"))))


@pytest.fixture(autouse=True)
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says its version and can no more: a plan needs none that works."""
    (tmp_path / "cc").write_text("#!/bin/sh\necho a compiler 1\ntest $1 = --version\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))


def draft(bundle: Bundle, *machines: str) -> Draft:
    """The same sources as a draft, with something compiled for `machines`."""
    row = bundle.targets[1]
    files = {path: bundle.read(path) for path in row.files}
    files |= {f"{PLACE}/build/{machine}/native.so": machine.encode() for machine in machines}
    return Draft(bundle.spec, files, (replace(row, files=tuple(files)),), {}, bundle, ("a note",))


def test_sources_are_compiled_for_this_machine(bundle: Bundle) -> None:
    plan = plan_c(bundle, None, Destination(), rebuild=False)
    assert (plan.way, plan.machine, plan.name, plan.build) == ("compile", HERE, "lstm", f"{PLACE}/build/{HERE}")
    assert (set(plan.sources), plan.there, plan.origin.new) == (SOURCES, {}, False)
    assert plan.sources["lstm.c"] == bundle.read(f"{PLACE}/lstm.c")


@pytest.mark.parametrize(
    ("triple", "cpu", "way", "machine"),
    [
        ("cortex-m4", None, "cross", "cortex-m4"),
        ("arm-none-eabi", "cortex-m33", "cross", "cortex-m33"),
        ("aarch64-linux-musl", "cortex-a76", "cross", "aarch64-linux-musl"),
        (HERE, None, "compile", HERE),
    ],
)
def test_another_machine_has_a_folder_of_its_own(bundle: Bundle, triple: str, cpu: str | None, way: str, machine: str):
    plan = plan_c(bundle, "fp32", Destination(triple, cpu), rebuild=False)
    assert (plan.way, plan.machine) == (way, machine)
    assert Destination(HERE).here
    assert not Destination(HERE, "x").here


def test_what_was_compiled_with_the_sources_is_taken(bundle: Bundle) -> None:
    there = draft(bundle, HERE, "cortex-m4")
    plan = plan_c(there, None, Destination(), rebuild=False)
    assert (plan.way, plan.there) == ("reuse", {f"{PLACE}/build/{HERE}/native.so": HERE.encode()})
    assert (set(plan.sources), plan.origin.new, plan.origin.bundle) == (SOURCES, True, bundle)
    assert plan.origin.notes == ("a note",)
    assert plan_c(there, None, Destination(cpu="x86-64-v3"), rebuild=False).way == "compile"
    assert plan_c(there, None, Destination("cortex-m4"), rebuild=False).way == "cross"


def test_what_others_compiled_stays_where_the_sources_are_the_same(bundle: Bundle) -> None:
    plan = plan_c(bundle, None, Destination(), rebuild=False)
    assert sources_sha256(plan.sources) == sources_sha256({p: bundle.read(p) for p in bundle.targets[1].files})
    other, mine = f"{PLACE}/build/cortex-m4/liblstm.a", f"{PLACE}/build/{HERE}/native.so"
    assert plan.is_of_others(bundle, other)
    assert not any(plan.is_of_others(bundle, path) for path in (mine, f"{PLACE}/lstm.c", "step.onnx"))
    changed = draft(bundle)
    changed = replace(changed, files={**changed.files, f"{PLACE}/lstm.c": b"int x;"})
    assert not plan_c(changed, None, Destination(), rebuild=False).is_of_others(bundle, other)


def test_what_cannot_be_planned(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises("build-without-sources", "lstm.rnnx", "in bf16", "bf16"):
        plan_c(bundle, "bf16", Destination(), rebuild=False)
    with raises("machine-unknown", "'mips-linux-gnu'"):
        plan_c(bundle, None, Destination("mips-linux-gnu"), rebuild=False)
    monkeypatch.setenv("CC", "no-such-cc")
    with raises("compiler-unusable", "CC, 'no-such-cc'"):
        plan_c(bundle, None, Destination(), rebuild=False)
    alone = replace(draft(bundle), base=None)
    with raises("build-of-draft"):
        build_c(alone)


def test_a_compiler_that_fails_leaves_the_bundle_as_it_was(bundle: Bundle) -> None:
    before = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    for origin in (bundle, draft(bundle)):
        with raises("compiler-flags-refused", "a compiler 1"):
            build_c(origin)
    assert {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in bundle.path.parent.iterdir()) == ["cc", "lstm.rnnx"]


def test_a_row_is_found_by_its_precision(bundle: Bundle) -> None:
    row = bundle.targets[1]
    assert find_row(bundle, "c", None) == find_row(bundle, "c", "fp32") == row
    assert find_row(bundle, "c", "bf16") is find_row(bundle, "pt2", None) is None
    low, int8 = replace(row, precision="bf16"), replace(row, precision="int8")
    # As it was before the other came.
    assert find_row(replace(draft(bundle), targets=(low, row)), "c", None) is row
    both = replace(draft(bundle), targets=(low, int8))
    with raises("build-precision-unsaid", "lstm.rnnx", "'c' in bf16, int8"):
        find_row(both, "c", None)
    assert on_disk(both) is bundle
