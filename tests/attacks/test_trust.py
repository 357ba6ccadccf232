"""Code of a bundle runs only if the bundle is trusted: each of these ran before."""

import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import open_bundle, write_bundle
from rnn_export.bundle.code import code_of
from rnn_export.bundle.judgement import judge
from rnn_export.cli.main import COMMANDS
from rnn_export.errors import BackendUnavailable, ExportError
from rnn_export.export.triton.repository import write_repository
from rnn_export.runtime import load
from rnn_export.runtime.build.native.native_build import build_c

from ..messages import raises  # noqa: TID252
from ..native.command import TRIPLE, invoke, refused  # noqa: TID252
from ..runtime.graphs import SUM  # noqa: TID252
from ..runtime.native_toys import by_hand  # noqa: TID252
from ..triton.python_backend import Host  # noqa: TID252
from ..trusting import trusted  # noqa: TID252
from .forging import forge
from .hostile import data, hostile_sources, rewritten, with_files, with_library, with_sources, with_torchscript

pytestmark = pytest.mark.usefixtures("compiler", "elsewhere")
LIBRARY = f"targets/c-fp32/build/{TRIPLE}/native.so"
REBUILD = "`rnn-export build NAME.rnnx --target c --precision fp32 --rebuild`"
KEY = "`rnn-export trust KEY.pub`"


@pytest.fixture
def library(tmp_path: Path, mark: Path) -> Path:
    return with_library(tmp_path / "m.rnnx", mark)


# --- machine code, TorchScript and engines that came with a bundle


def test_a_library_is_passed_over_and_auto_says_so(library: Path, mark: Path, elsewhere: Path) -> None:
    engine = load(library)
    assert engine.backend == "onnxruntime"
    (note,) = engine.skipped_backends
    assert re.fullmatch(
        rf"native: the bundle's c \(fp32\) for {TRIPLE} is code: it is not recorded as built here in "
        rf"{re.escape(str(elsewhere))}, and the bundle is not signed\. Make it here, {re.escape(REBUILD)}; or trust "
        rf"the key of who signed it, {re.escape(KEY)}; --trust \(trust=True\) runs it unchecked\.",
        note,
    )
    assert not mark.exists()


def test_an_explicit_backend_raises_with_the_commands_that_mend_it(library: Path, mark: Path) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        load(library, "native")
    assert REBUILD in str(caught.value)
    assert KEY in str(caught.value)
    assert not mark.exists()


def test_the_caller_may_say_so(library: Path, mark: Path) -> None:
    engine = load(library, "native", trust=True)
    np.testing.assert_array_equal(engine.stream().step(np.ones(3, np.float32)), [1, 1, 1])
    assert mark.exists()


@pytest.mark.parametrize("command", ["run", "verify", "bench", "triton"])
def test_no_command_runs_it(command: str, library: Path, mark: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float32))
    options: dict[str, list[object]] = {
        "run": [tmp_path / "x.npy", "--backend", "native"],
        "verify": ["--backend", "native"],
        "bench": ["--backend", "native", "--steps", "4", "--seconds", "0.01"],
        "triton": ["-o", tmp_path / "repository", "--runtime-backend", "native"],
    }
    done = invoke(command, library, *options[command])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "is code: it is not recorded as built here" in done.stderr
    assert not mark.exists()
    done = invoke(command, library, *options[command], "--trust")
    assert done.exit_code == 0, done.output
    assert mark.exists()


def test_verify_by_auto_tells_that_the_library_was_passed_over(library: Path, mark: Path) -> None:
    done = invoke("verify", library)
    assert done.exit_code == 0, done.output
    assert "passed over was native: " in done.stderr
    assert not mark.exists()


def test_torchscript_is_code(tmp_path: Path, mark: Path) -> None:
    path = with_torchscript(tmp_path / "m.rnnx", mark)
    assert load(path).backend == "onnxruntime"
    advice = "rnn-export export SOURCE --target torchscript"
    with raises("code-not-trusted", "torchscript (fp32)", advice, "trust KEY"):
        load(path, "torchscript")
    assert not mark.exists()
    load(path, "torchscript", trust=True)
    assert mark.exists()


def test_whatever_a_target_of_code_lists_is_code(tmp_path: Path) -> None:
    path = with_files(
        data(tmp_path / "m.rnnx"), "c", {"a.txt": b"", "b/build/x/z": b"", "targets/c-fp32/build/x/y.onnx": b""}
    )
    with_files(path, "tensorrt", {"t/step.onnx": b"", "t/recipe.json": b"", "t/step.engine": b"", "t/more": b""})
    with_files(path, "another", {"another/step.onnx": b""})
    found = {(code.target, code.machine): set(code.files) for code in code_of(open_bundle(path))}
    assert found == {
        ("c", None): {"a.txt", "b/build/x/z"},
        ("c", "x"): {"targets/c-fp32/build/x/y.onnx"},
        ("tensorrt", None): {"t/step.engine", "t/more"},
        ("another", None): {"another/step.onnx"},
    }


def test_what_was_built_here_is_trusted_with_its_contract_sources_and_record_alone(library: Path, mark: Path) -> None:
    trusted(library)
    bundle = open_bundle(library)
    assert judge(bundle).untrusted == ()
    renamed = replace(bundle.spec.inputs[0], name="z")
    assert {
        code.machine for code in judge(replace(bundle, spec=replace(bundle.spec, inputs=(renamed,)))).untrusted
    } == {
        None,
        TRIPLE,
    }
    record = f"targets/c-fp32/build/{TRIPLE}/build.json"
    for name, harmed in ((record, {TRIPLE}), ("targets/c-fp32/sum.h", {None})):
        copy = Path(shutil.copytree(library, library.with_name(f"{len(harmed)}-{name.rpartition('/')[2]}.rnnx")))
        changed = open_bundle(rewritten(open_bundle(copy), **{name: bundle.read(name) + b"\n"}))
        assert {code.machine for code in judge(changed).untrusted} == harmed
        with pytest.raises(BackendUnavailable):
            load(copy, "native")
    assert not mark.exists()


def test_what_is_loaded_is_what_was_judged(tmp_path: Path, mark: Path) -> None:
    """A library that is swapped after the bundle was opened is another one, though its name is trusted."""
    good = Path(trusted(with_library(tmp_path / "good.rnnx", tmp_path / "harmless")))
    opened = open_bundle(good)
    shutil.copyfile(with_library(tmp_path / "bad.rnnx", mark) / LIBRARY, good / LIBRARY)
    from rnn_export.runtime.engine import Engine

    with raises("bundle-file-hash-differs", "native.so'"):
        Engine.of(opened, "native")
    assert not mark.exists()


# --- sources are code


def test_build_writes_the_sources_anew(tmp_path: Path, mark: Path) -> None:
    path = with_sources(tmp_path / "m.rnnx", mark)
    done = invoke("build", path, "--target", "c")
    assert done.exit_code == 0, done.output
    assert "note: the C of the bundle was made and signed by nobody who is trusted here" in done.stderr
    assert load(path).backend == "native"
    assert b"attack" not in open_bundle(path).read("targets/c-fp32/sum.c")
    assert not mark.exists()


def test_build_mends_a_bundle_with_a_library(library: Path, mark: Path) -> None:
    done = invoke("build", library, "--target", "c", "--rebuild")
    assert done.exit_code == 0, done.output
    assert load(library).backend == "native"
    assert not mark.exists()


def test_build_is_refused_where_it_can_write_none(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_sources(tmp_path / "m.rnnx", mark)
    monkeypatch.setitem(sys.modules, "onnx", None)
    said = refused(invoke("build", path, "--target", "c"))
    assert said.startswith(
        f"{path} has sources of c (fp32), and sources are code: the code is not recorded as built here"
    )
    assert "`rnn-export build` writes them anew from step.onnx where the export extra is, pip install" in said
    assert "`rnn-export trust KEY.pub`; --trust (trust=True) compiles them unchecked." in said
    with raises("build-sources-untrusted"):
        build_c(open_bundle(path))
    assert not mark.exists()


def test_sources_without_a_graph_are_refused_too(tmp_path: Path, mark: Path) -> None:
    bundle = open_bundle(with_sources(tmp_path / "m.rnnx", mark))
    row = next(row for row in bundle.targets if row.target == "c")
    files = {name: bundle.read(name) for name in bundle.files if name != "step.onnx"}
    write_bundle(bundle.path, spec=bundle.spec, producer={}, files=files, targets=[row], force=True)
    said = refused(invoke("build", bundle.path, "--target", "c"))
    assert "sources are code" in said
    assert "The bundle has no step.onnx to write them anew from: export it again; or trust the key" in said
    assert not mark.exists()


@pytest.mark.parametrize("place", ["evil/build/{0}", "targets/c-fp32/build/x/build/{0}", "targets/c-fp32/x/build/{0}"])
def test_a_build_runs_no_library_that_ends_like_its_own(place: str, tmp_path: Path, mark: Path) -> None:
    """The sources are trusted; beside them lies a library under a path that a careless reader takes for it."""
    path = trusted(with_files(data(tmp_path / "m.rnnx"), "c", sources(by_hand("sum", SUM))))
    bad = open_bundle(with_library(tmp_path / "bad.rnnx", mark))
    ends = ("native.so", "build.json")
    evil = {f"{place.format(TRIPLE)}/{end}": bad.read(f"targets/c-fp32/build/{TRIPLE}/{end}") for end in ends}
    with_files(path, "c", {**evil, **sources(by_hand("sum", SUM))})
    for options in ([], ["--rebuild"]):
        invoke("build", path, "--target", "c", *options)
        load(path)
        assert not mark.exists()
    assert load(path).backend == "native"


def test_sources_next_to_trusted_ones_are_not_compiled(tmp_path: Path, mark: Path) -> None:
    path = trusted(with_files(data(tmp_path / "m.rnnx"), "c", sources(by_hand("sum", SUM))))
    evil = {f"evil/build/x/{name}": raw for name, raw in hostile_sources(mark).items()}
    with_files(path, "c", {**sources(by_hand("sum", SUM)), **evil})
    assert invoke("build", path, "--target", "c").exit_code == 0
    assert load(path).backend == "native"
    assert not mark.exists()


def sources(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"targets/c-fp32/{name}": raw for name, raw in files.items()}


def test_inspect_tells_what_runs_here(library: Path) -> None:
    for runs in (False, True):
        shown = invoke("inspect", library).stdout
        does = "runs here" if runs else "does not run here without --trust: it is not recorded as built here in "
        assert f"code: c (fp32) for {TRIPLE} {does}" in shown
        told = json.loads(invoke("inspect", library, "--json").stdout)["code"]
        both = ["c (fp32)", f"c (fp32) for {TRIPLE}"]
        assert (told["runs_here"], told["does_not"]) == ((both, []) if runs else ([], both))
        trusted(library)


def test_what_the_caller_vouches_for_is_built_and_trusted(tmp_path: Path, mark: Path) -> None:
    path = with_sources(tmp_path / "m.rnnx", mark)
    done = invoke("build", path, "--target", "c", "--trust")
    assert done.exit_code == 0, done.output
    assert mark.exists()
    assert load(path).backend == "native"


def test_scales_of_a_stranger_are_not_lost_in_silence(tmp_path: Path, mark: Path) -> None:
    path = with_sources(tmp_path / "m.rnnx", mark)
    bundle = open_bundle(path)
    row = next(row for row in bundle.targets if row.target == "c")
    from rnn_export.bundle import extend_bundle

    said = replace(row, precision="int8", requires={"name": "sum", "scales": "calibrated"})
    extend_bundle(bundle, said, {name: bundle.read(name) for name in row.files})
    message = refused(invoke("build", path, "--target", "c", "--precision", "int8"))
    assert message.startswith(
        f"the C of {path} in int8 is not trusted, so it is written anew, but its scales came from "
    )
    assert "--calibrate FILE" in message


@pytest.mark.parametrize("name", ["../../../OUTSIDE", "/tmp/OUTSIDE", "a b", "", "int", "stdio", 7, None])
def test_the_name_of_the_sources_is_a_name_of_c(name: object, tmp_path: Path, mark: Path) -> None:
    """Before, build wrote a step of that name: `requires.name` was a path out of the bundle."""
    path = with_sources(tmp_path / "m.rnnx", mark)
    forge(path, lambda m: next(row for row in m["targets"] if row["target"] == "c")["requires"].update(name=name))
    before = sorted(tmp_path.rglob("*"))
    for more in ([], ["--precision", "int8"]):
        said = refused(invoke("build", path, "--target", "c", "--trust", *more))
        if name in ("int", "stdio"):
            assert said.startswith(f"target 'c' (fp32) calls its sources {name!r}, but that is a name of C itself")
        else:
            assert f"target 'c' requires name = {name!r}, which must be a name that C can have" in said
    assert sorted(tmp_path.rglob("*")) == before
    assert not mark.exists()


# --- Triton


def test_triton_names_the_code_that_is_trusted_and_the_server_runs_no_other(
    library: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = invoke("triton", library, "-o", tmp_path / "plain")
    assert done.exit_code == 0, done.output
    assert "still to do: the server passes over c unless it trusts its code, which is not recorded as built here" in (
        done.stderr
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", None)
    host = Host(tmp_path / "plain", "m").start()
    assert host.log[0] == "m: onnxruntime (fp32) on cpu"
    assert host.log[1].startswith(f"m: passed over was native: the bundle's c (fp32) for {TRIPLE} is code")
    assert not mark.exists()

    with raises("code-not-trusted", "--runtime-backend native", "is code", kind=ExportError):
        write_repository(library, tmp_path / "refused", runtime_backend="native")
    assert not mark.exists()

    write_repository(library, tmp_path / "trusting", trust=True)
    config = (tmp_path / "trusting" / "models" / "m" / "config.pbtxt").read_text()
    assert " ".join(code.digest for code in code_of(open_bundle(library))) in config
    assert Host(tmp_path / "trusting", "m").start().log[0] == "m: native (fp32) on cpu"
    assert mark.exists()
    mark.unlink()

    # What is in the repository is another library now: the digest in the configuration is not its.
    served = open_bundle(tmp_path / "trusting" / "models" / "m" / "1" / "m.rnnx")
    rewritten(served, **{LIBRARY: served.read(LIBRARY) + b"\0"})
    assert Host(tmp_path / "trusting", "m").start().log[0] == "m: onnxruntime (fp32) on cpu"
    assert not mark.exists()


def test_every_command_that_runs_a_bundle_can_be_told_to_trust_it() -> None:
    able = {name for name in COMMANDS if "--trust" in invoke(name, "--help").stdout}
    assert able == {"run", "verify", "bench", "triton", "build", "serve-web", "loadtest"}
