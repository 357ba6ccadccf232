"""Behaviour that backends with a target of their own share: a bundle, its export by the command, pages options."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock

from rnn_export.bundle import open_bundle
from rnn_export.cli.main import main
from rnn_export.runtime import load
from rnn_export.runtime.bench.candidates import candidates
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

from ..messages import raises  # noqa: TID252
from ..stages import without_stages  # noqa: TID252
from ..trusting import trusted  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .graphs import frames

DOCS = Path(__file__).parents[2] / "docs/targets"
NETS = """
import torch
def detector():
    torch.manual_seed(0)
    names = {"input_names": ["x"], "output_names": ["y"]}
    return torch.nn.LSTM(8, 16, 2).eval(), (torch.zeros(1, 1, 8),), names
"""


@dataclass(frozen=True)
class Facts:
    """The packages of a backend; its result without each module; options that it refuses, in which message."""

    packages: tuple[str, ...]
    without: dict[str, str]
    refused: tuple[tuple[dict[str, object], tuple[str, ...]], ...]


BACKENDS = {
    "openvino": Facts(
        ("openvino",), {"openvino": "openvino-missing"}, (({"device": "gpu"}, ("openvino-device-untried", "'gpu'")),)
    ),
    "litert": Facts(
        ("litert_torch", "ai_edge_litert"),
        {"ai_edge_litert.interpreter": "ai-edge-litert-missing", "torch": ""},
        (({"device": "gpu"}, ("litert-device-untried", "'gpu'")),),
    ),
    "executorch": Facts(
        ("executorch",),
        {"executorch": "executorch-missing", "torch": "executorch-missing"},
        (
            ({"device": "gpu"}, ("executorch-device-untried", "'gpu'")),
            ({"threads": 2}, ("executorch-threads-option", "2")),
        ),
    ),
    "torchscript": Facts(
        (),
        {"torch": "torch-missing"},
        (
            ({"device": "tpu"}, ("torchscript-device-unknown", "'tpu'")),
            ({"device": "cpu:1"}, ("torchscript-device-unknown", "'cpu:1'")),
            ({"threads": 2}, ("torchscript-threads-option", "2")),
        ),
    ),
}
# By a target whose converter has a process of its own: its files, first the one with the weights and how many bytes it
# may have besides; and what it requires.
CONVERTED = {
    "openvino": (("step.bin", "step.xml", "rows.xml"), 4096, {"openvino": "2026.0"}),
    "litert": (("step.tflite",), 12_000, {"litert": "2.3"}),
    "executorch": (("step.pte", "runner.cpp"), 24_000, {"executorch": "1.5", "delegates": ["xnnpack"]}),
}
WITHOUT = """
import sys
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime import load
path, backend, *modules = sys.argv[1:]
for module in modules:
    sys.modules[module] = None
    try:
        load(path, backend=backend, trust=True)
        print()
    except BackendUnavailable as error:
        print(error.id)
    del sys.modules[module]
"""


def need(backend: str) -> str:
    for package in BACKENDS[backend].packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not here: pip install 'rnn-export[dev-full]'")
    return backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return need(request.param)


@pytest.fixture(params=CONVERTED)
def target(request: pytest.FixtureRequest) -> str:
    return need(request.param)


def invoke(*arguments: object, code: int = 0) -> str:
    """The words of the command: on stdout, or of an error in one line."""
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else " ".join(done.stderr.split())


def exported(target: str) -> tuple[Path, dict]:
    """A detector by the command, once for all processes that test: the bundle, and what the command said."""
    place = store.folder() / f"{target}-by-the-command"
    with FileLock(f"{place}.lock"):
        if not (place / "said.json").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            (place / "nets.py").write_text(NETS)
            command = [Path(sys.executable).with_name("rnn-export"), "export", place / "nets.py:detector", "--json"]
            command += ["-o", place / "detector.rnnx", "--target", target, "--target", "onnx", "--steps", "64"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            said = {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
            (place / "said.json").write_text(json.dumps(said))
    return trusted(place / "detector.rnnx"), json.loads((place / "said.json").read_text())


def block_of(target: str, language: str) -> str:
    """The only block of code in a language that a target's page has."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", (DOCS / f"{target}.md").read_text(), re.DOTALL)
    return found


@pytest.fixture
def path(backend: str) -> Path:
    """Two inputs and outputs, three states, chunks of two frames."""
    return store.bundle(f"several-on-{backend}")


def golden_of(path: Path) -> Golden:
    bundle = open_bundle(path)
    return Golden.from_arrays(bundle.arrays(FILE), bundle.spec)


def test_the_golden_vectors_replay(backend, path):
    engine = load(path, backend=backend)
    assert (engine.backend, engine.device, engine.precision) == (backend, "cpu", "fp32")
    report = replay_golden(engine, golden_of(path))
    assert report.ok
    assert max(drift.relative for drift in report.drifts) < 1e-5
    assert {d.check for d in report.drifts} >= {"step", "chunked", "reset", "snapshot", "batch-invariance", "pool"}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_snapshot_moves_to_and_from_onnx_runtime(backend, path, there, batch):
    golden = golden_of(path)

    def cut(start: int, stop: int) -> dict[str, np.ndarray]:
        return {name: a[:batch, start:stop] if name != "speaker" else a[:batch] for name, a in golden.inputs.items()}

    # An odd number of frames, so that one waits for its chunk.
    one, other = (backend, "onnxruntime") if there else ("onnxruntime", backend)
    a, b = load(path, backend=one).stream(batch=batch), load(path, backend=other).stream(batch=batch)
    start = a.run(cut(0, 13))
    b.restore(a.snapshot())
    rest = b.run(cut(13, 32))
    for name, want in golden.outputs.items():
        got = np.concatenate([start[name], rest[name]], 1)
        np.testing.assert_allclose(got, want[:batch, :32], rtol=1e-5, atol=1e-6)


def test_a_device_without_its_packages(backend, path):
    without = BACKENDS[backend].without
    command = [sys.executable, "-c", WITHOUT, path, backend, *without]
    given = subprocess.run(command, capture_output=True, text=True, check=True)
    assert given.stdout.splitlines() == [*without.values()]


def test_options_that_it_refuses(backend, path):
    for options, message in (
        *BACKENDS[backend].refused,
        ({"precision": "fp16"}, ("target-precision-missing", f"'{backend}' in fp32", "fp16")),
    ):
        with raises(*message):
            load(path, backend=backend, **options)
    threads = any("threads" in options for options, _ in BACKENDS[backend].refused)
    assert threads or load(path, backend=backend, threads=2).stream()


def test_bench_times_it(backend, path):
    assert (backend, "fp32") in [(c.backend, c.precision) for c in candidates(open_bundle(path))]


# --- targets whose converter has a process of its own


def test_the_command_says_nothing_of_the_converter_s_and_the_file_nothing_of_the_user_s(target):
    (path, said), (names, more, requires) = exported(target), CONVERTED[target]
    assert (said["code"], without_stages(said["stderr"])) == (0, "")
    assert json.loads(said["stdout"])["parity"]["ok"] is True
    row = open_bundle(path).target(target, "fp32")
    files = {name.rpartition("/")[2]: (path / name).read_bytes() for name in row.files}
    assert (set(files), row.requires, row.opset) == ({*names}, requires, None)
    floats = sum(p.numel() for p in torch.nn.LSTM(8, 16, 2).parameters())
    # The two biases of a layer may be summed.
    assert 3.9 * floats < len(files[names[0]]) < 4 * floats + more
    for raw in files.values():
        assert b"nets.py" not in raw
        assert str(path.parent).encode() not in raw


def test_the_python_of_the_page(target):
    path, _ = exported(target)
    np.save(path.parent / "features.npy", frames(12, 8))
    code = block_of(target, "python") + "\nnp.save('out.npy', np.array(outputs).reshape(-1, 16))"
    warn = ["-W", "error"] if target != "executorch" else []
    subprocess.run([sys.executable, *warn, "-c", code], cwd=path.parent, check=True)
    wanted, given = load(path, backend="onnxruntime").stream().run(frames(12, 8)), np.load(path.parent / "out.npy")
    # Twelve frames, and after a reset the page may do them again.
    np.testing.assert_allclose(given, np.tile(wanted, (len(given) // 12, 1)), rtol=1e-5, atol=1e-6)


UNFIT = [
    ("openvino", "--precision bf16", "target 'openvino' is not written in 'bf16': choose from fp32, fp16, int8"),
    ("openvino", "--triple cortex-m4 --cpu x", "--triple, --cpu do not go with --target openvino"),
    ("openvino", f"--precision int8 --calibrate {__file__}", "--calibrate does not go with --target openvino"),
    ("litert", f"--calibrate {__file__}", "--calibrate is for --precision int8, not for fp32: leave it out."),
    ("litert", "--precision fp16", "target 'litert' is not written in 'fp16': choose from fp32, int8."),
    ("litert", "--batch 1:2:4", "--batch does not go with --target litert: leave it out."),
    ("litert", f"--precision int8 --calibrate {__file__}", "is of no known kind: give a .npy, .npz, .csv, .wav, .flac"),
]


@pytest.mark.parametrize(("name", "options", "message"), UNFIT)
def test_options_that_do_not_go_with_a_target(name, options, message):
    assert message in invoke("build", store.bundle("two-layers-on-onnx"), "--target", name, *options.split(), code=1)
