"""Triton repositories: their files, refusals, and no half-written rest."""

import ast
import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from rnn_export.bundle import atomic, open_bundle, write_bundle
from rnn_export.cli.main import main
from rnn_export.errors import ExportError
from rnn_export.export.triton.repository import write_repository
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import load

from ..messages import raises  # noqa: TID252
from ..runtime.graphs import MODELS, WHOLE, Model, frames, spec, tensor  # noqa: TID252

ROOT = Path(__file__).parent.parent.parent


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def told(*command: object, **environment: str) -> str:
    """A script's output, with PATH and `environment` alone."""
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=True, cwd="/"
    )
    return done.stdout


# --- what is written


def test_the_python_backend_gets_the_whole_bundle_and_our_model(bundle, tmp_path):
    write_repository(bundle("lstm"), tmp_path / "repo")
    place = tmp_path / "repo" / "models" / "lstm"
    assert sorted(p.name for p in (tmp_path / "repo").iterdir()) == ["README.md", "launch", "models"]
    assert sorted(p.name for p in place.iterdir()) == ["1", "config.pbtxt"]
    assert tree(place / "1" / "lstm.rnnx") == tree(bundle("lstm"))
    x = frames(5, 8)
    np.testing.assert_array_equal(load(place / "1" / "lstm.rnnx").stream().run(x), load(bundle("lstm")).stream().run(x))
    assert (place / "1" / "model.py").read_bytes() == (ROOT / "export/triton/model.py.template").read_bytes()


def imports(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    found = {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    found |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def test_the_model_needs_numpy_and_the_runtime_alone():
    """Any other import would have to be in the Python of every server."""
    written = (ROOT / "export/triton/model.py.template").read_text()
    assert len(written.splitlines()) <= 10
    assert imports(written) == {"rnn_export.runtime.serve.triton_model"}
    found = imports((ROOT / "runtime/serve/triton_model.py").read_text())
    ours = {name for name in found if name.startswith("rnn_export")}
    assert {name.split(".")[1] for name in ours} == {"contract", "errors", "platform", "runtime"}
    assert found - ours == {"numpy", "triton_python_backend_utils"}


@pytest.mark.parametrize(("streams", "requests"), [(256, "1024"), (1024, "1024"), (3000, "4096")])
def test_launch_starts_triton_on_the_loopback(bundle, tmp_path, streams, requests):
    write_repository(bundle("sum"), tmp_path / "my repo", streams=streams)
    launch = tmp_path / "my repo" / "launch"
    said = told(launch, "--log-verbose=1", TRITONSERVER="/bin/echo")
    assert f"--model-repository={launch.parent}/models " in said
    for service in ("http", "grpc", "metrics"):
        assert f"--{service}-address=127.0.0.1 " in said
    assert f"--grpc-infer-allocation-pool-size={requests} " in said
    assert said.endswith("--log-verbose=1\n")
    said = told(launch, TRITONSERVER="/bin/echo", ADDRESS="0.0.0.0", GRPC_PORT="9001", EXIT_TIMEOUT="7")
    for word in ("--grpc-address=0.0.0.0", "--grpc-port=9001", "--http-port=8000", "--exit-timeout-secs=7"):
        assert f"{word} " in said


def test_the_readme_says_what_it_is(bundle, tmp_path):
    for backend, words in {
        "python": [pip_install("cpu"), "grpc://127.0.0.1:8001/lstm", "`rnn_snapshot`", "on Triton 2.51 on a CPU"],
        "onnxruntime": ["| input | `l0.h.seed` | float32 | (1, 16) | a state to begin from |", "no part of them"],
        "tensorrt": ["**Still to do:** run `./build`", "**Not run on hardware:**"],
    }.items():
        write_repository(bundle("lstm"), tmp_path / backend, backend=backend, streams=99, batch=33, idle_s=12.5)
        text = (tmp_path / backend / "README.md").read_text()
        for word in [*words, "99 sequences at a time", "at most 33 of them", "for 12.5 s", "127.0.0.1"]:
            assert word in text, (backend, word)
        assert "{" not in text


def test_build_makes_the_plan_for_every_input_of_the_graph(bundle, tmp_path):
    write_repository(bundle("lstm"), tmp_path / "repo", backend="tensorrt", batch=16)
    said = told(tmp_path / "repo" / "build", TRTEXEC="/bin/echo").split()
    assert said[:2] == ["--onnx=model.onnx", "--saveEngine=model.plan"]
    shapes = {word.split("=")[0]: word.split("=")[1].split(",") for word in said if "Shapes=" in word}
    graph = onnx.load(tmp_path / "repo" / "models" / "lstm" / "1" / "model.onnx").graph
    for flag, batch in (("--minShapes", 1), ("--optShapes", 8), ("--maxShapes", 16)):
        wanted = {v.name: [batch, *(d.dim_value for d in v.type.tensor_type.shape.dim[1:])] for v in graph.input}
        found = dict(text.split(":") for text in shapes[flag])
        assert {name: [int(n) for n in sizes.split("x")] for name, sizes in found.items()} == wanted


def test_launch_and_build_say_what_is_missing(bundle, tmp_path):
    """Without its plan Triton itself would start, and say of the model alone that it is unavailable."""
    write_repository(bundle("lstm"), tmp_path / "repo", backend="tensorrt")
    place, where = tmp_path / "repo" / "models" / "lstm" / "1", tmp_path / "where"

    def refused(script: str, **given: str) -> str:
        command, env = [tmp_path / "repo" / script], {"PATH": "/usr/bin:/bin", **given}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    plan = f"There is no model.plan yet: run {tmp_path}/repo/build on the machine with the GPU.\n"
    assert refused("launch", TRITONSERVER="/bin/echo") == plan
    where.write_text("#!/bin/sh\npwd\n")
    where.chmod(0o755)
    assert told(tmp_path / "repo" / "build", TRTEXEC=str(where)) == f"{place}\n"
    (place / "model.plan").write_bytes(b"plan")
    assert "--model-repository=" in told(tmp_path / "repo" / "launch", TRITONSERVER="/bin/echo")
    for script, name, program in (("launch", "TRITONSERVER", "tritonserver"), ("build", "TRTEXEC", "trtexec")):
        for given in ({}, {name: f"/nowhere/{program}"}):
            said = refused(script, **given)
            assert said.startswith(f"{given.get(name, program)} is not here: ")
            assert name in said


def test_precisions(bundle, tmp_path):
    """A bundle of several precisions is served in fp32, unless another is asked for."""
    opened = open_bundle(bundle("sum"))
    rows = [
        *opened.targets,
        replace(opened.targets[0], target="c", precision="bf16", files=(), requires={"name": "net"}),
    ]
    files = {name: opened.read(name) for name in opened.files}
    several = write_bundle(tmp_path / "net.rnnx", spec=opened.spec, producer={}, files=files, targets=rows).path
    assert write_repository(several, tmp_path / "one").serving.precision == "fp32"
    assert write_repository(several, tmp_path / "two", precision="bf16").serving.precision == "bf16"
    with raises("triton-precision-missing", "fp32, bf16", "python", "int8"):
        write_repository(several, tmp_path / "three", precision="int8")
    with raises("triton-precision-missing", "fp32", "onnxruntime", "bf16"):
        write_repository(several, tmp_path / "three", backend="onnxruntime", precision="bf16")


# --- what is refused


NO_STATE = Model(
    spec("stateless", [tensor("x", "batch", 3)], [tensor("y", "batch", 3)], []), [("Neg", ["x"], ["y"], {})]
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "pytorch"}, ("triton-backend-unknown", "python, onnxruntime, tensorrt", "'pytorch'")),
        ({"name": "a/b"}, ("triton-model-name", "'a/b'", "--name")),
        ({"name": ""}, ("triton-model-name", "''")),
        ({"name": ".hidden"}, ("triton-model-name", "'.hidden'")),
        ({"streams": 0}, ("triton-number-range", "--streams 0", "1", "2147483647")),
        ({"streams": 2**31}, ("triton-number-range", "--streams 2147483648", "1")),
        ({"batch": 0}, ("triton-number-range", "--batch 0", "1")),
        ({"delay_us": -1}, ("triton-number-range", "--delay-us -1", "0")),
        ({"idle_s": 0}, ("triton-idle-range", "0")),
        ({"idle_s": float("inf")}, ("triton-idle-range", "inf")),
        ({"idle_s": 1e300}, ("triton-idle-range", "1e+300", "0.001")),
        ({"streams": 8, "batch": 9}, ("triton-batch-over-streams", "9", "8")),
        ({"backend": "onnxruntime", "runtime_backend": "native"}, ("triton-python-option", "--runtime-backend native")),
        (
            {"runtime_backend": "nativ"},
            ("triton-runtime-backend-unknown", "--runtime-backend nativ", "tensorrt, native, onnxruntime"),
        ),
        ({"runtime_backend": "native"}, ("target-not-in-bundle", "--runtime-backend native", "'c'", "onnx")),
        ({"precision": "fp16"}, ("triton-precision-missing", "fp32 for --backend python", "fp16")),
    ],
)
def test_options_that_do_not_fit(bundle, tmp_path, options, message):
    with raises(*message, kind=ExportError):
        write_repository(bundle("sum"), tmp_path / "repo", **options)
    assert not (tmp_path / "repo").exists()


def test_models_that_are_no_streams(tmp_path):
    with raises("triton-sequence-only"):
        write_repository(WHOLE.write(tmp_path / "whole.rnnx"), tmp_path / "repo")
    with raises("triton-without-state"):
        write_repository(NO_STATE.write(tmp_path / "net.rnnx"), tmp_path / "repo")
    nameless = replace(MODELS["sum"], spec=replace(MODELS["sum"].spec, digest="")).write(tmp_path / "nameless.rnnx")
    with raises("triton-without-digest"):
        write_repository(nameless, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_a_name_that_is_none_can_be_replaced(tmp_path):
    path = MODELS["sum"].write(tmp_path / "my net.rnnx")
    with raises("triton-model-name", "'my net'"):
        write_repository(path, tmp_path / "repo")
    assert write_repository(path, tmp_path / "repo", name="net").serving.name == "net"
    assert load(tmp_path / "repo" / "models" / "net" / "1" / "net.rnnx").spec == MODELS["sum"].spec


def test_what_stands_there_is_kept(bundle, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    with raises("path-never-replaced", "model repository of rnn-export (no launch"):
        write_repository(bundle("sum"), tmp_path / "mine", force=True)
    assert tree(tmp_path / "mine") == {"file": b"precious"}
    with raises("triton-directory-missing"):
        write_repository(bundle("sum"), tmp_path / "none" / "repo")


def test_a_repository_is_replaced_with_force_alone(bundle, tmp_path):
    write_repository(bundle("sum"), tmp_path / "repo")
    before = tree(tmp_path / "repo")
    with raises("path-exists-already"):
        write_repository(bundle("sum"), tmp_path / "repo", streams=7)
    with raises("triton-other-models", "sum", "'tokens'"):
        write_repository(bundle("tokens"), tmp_path / "repo", force=True)
    assert tree(tmp_path / "repo") == before
    write_repository(bundle("sum"), tmp_path / "repo", streams=7, backend="onnxruntime", force=True)
    assert b"max_candidate_sequences: 7\n" in tree(tmp_path / "repo")["models/sum/config.pbtxt"]
    assert "models/sum/1/model.py" not in tree(tmp_path / "repo")
    assert [p.name for p in tmp_path.iterdir()] == ["repo"]


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_what_was_there(bundle, tmp_path, monkeypatch, force):
    place = tmp_path / "out"
    place.mkdir()
    if force:
        write_repository(bundle("sum"), place / "repo")
    before, count, write = tree(place), [0], atomic.write

    def full(fd, data):
        count[0] += 1
        if count[0] == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(fd, data)

    monkeypatch.setattr(atomic, "write", full)
    with raises("triton-not-written", "repo", "No space left on device"):
        write_repository(bundle("sum"), place / "repo", streams=7, force=force)
    assert tree(place) == before


def test_a_damaged_bundle_is_not_served(tmp_path):
    path = MODELS["sum"].write(tmp_path / "net.rnnx")
    (path / "step.onnx").write_bytes(b"x" * (path / "step.onnx").stat().st_size)
    with raises("bundle-file-hash-differs", "'step.onnx'"):
        write_repository(path, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


# --- the command


def run(*words: object):
    return CliRunner().invoke(main, ["triton", *map(str, words)])


def test_the_command(bundle, tmp_path):
    done = run(bundle("lstm"), "-o", tmp_path / "repo", "--backend", "tensorrt", "--streams", 9, "--json")
    assert done.exit_code == 0, done.output
    given = json.loads(done.stdout)
    wanted = {"name": "lstm", "backend": "tensorrt", "wire": "tensors", "precision": "fp32", "streams": 9, "batch": 9}
    wanted |= {"idle_s": 60.0, "delay_us": 200, "config_checked": True, "repository": str(tmp_path / "repo")}
    assert {name: given[name] for name in wanted} == wanted
    assert given["left"] == ["1/model.plan is built where it will run: start ./build there"]
    assert {"name": "rnn_seed", "dtype": "float32", "dims": [1]} in given["inputs"]
    done = run(bundle("lstm"), "-o", tmp_path / "other")
    assert done.exit_code == 0, done.output
    for words in ("lstm on Triton's python backend (fp32)", "rnn_snapshot", "grpc://127.0.0.1:8001/lstm"):
        assert words in done.stdout
    assert "note: still to do: the Python of the server needs rnn-export" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--streams", "8", "--batch", "9"), 1, "error: --batch 9 is more than --streams 8"),
        (("--idle", "nan"), 2, "nan is no number"),
        (("--backend", "pytorch"), 2, "'pytorch' is not one of"),
        (("--streams", "0"), 2, "0 is not in the range"),
    ],
)
def test_mistakes_on_the_command_line(bundle, tmp_path, words, code, message):
    done = run(bundle("sum"), "-o", tmp_path / "repo", *words)
    assert done.exit_code == code
    assert message in done.stderr
    assert not (tmp_path / "repo").exists()
