"""ExecuTorch: the targets and the backend. The common suite here covers its streams and pools."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rnn_export.bundle import TargetRow, open_bundle
from rnn_export.bundle.code import code_of
from rnn_export.bundle.writing import extend_bundle
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import TARGETS
from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.runtime import Engine, load
from rnn_export.runtime.replay.checks import replay_golden

from ..zoo import store  # noqa: TID252
from .graphs import SUM, H, Model, X, Y, frames, spec, tensor

pytest.importorskip("executorch", reason="executorch: pip install 'rnn-export[executorch]'")

from rnn_export.export.targets.executorch.pte_conversion import reason, written
from rnn_export.export.targets.executorch.pte_runner import runner
from rnn_export.export.targets.executorch.pte_states import StatefulStep
from rnn_export.export.targets.registry import find_writer
from rnn_export.runtime.backends.executorch.library import open_program
from rnn_export.runtime.backends.executorch.program import check_program

from ..messages import raises  # noqa: TID252
from .executorch_toys import LENDING, PATH, Lending, draft, files
from .test_backends import block_of, exported, golden_of, invoke


@pytest.fixture(scope="module")
def detector() -> Path:
    return exported("executorch")[0]


def in_python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# --- the targets


def test_build_writes_it_from_the_step_in_the_bundle(detector, tmp_path):
    path, stripped = tmp_path / "detector.rnnx", tmp_path / "portable.rnnx"
    shutil.copytree(detector, path)
    invoke("build", path, "--target", "executorch-portable")
    assert open_bundle(path).target("executorch-portable", "fp32").requires["delegates"] == []
    invoke("strip", path, "--keep", "executorch-portable", "-o", stripped)
    assert replay_golden(load(stripped, backend="executorch", trust=True), golden_of(detector)).ok


def test_portable_is_a_target_of_its_own():
    """The same step on ExecuTorch's kernels alone. This one has a constant with the bytes of an initial state."""
    name, both = "look-ahead", files()
    bundle = open_bundle(store.bundle(name))
    portable = draft(bundle.spec, both[f"{name}, portable"], bundle.initial_states(), "executorch-portable")
    row = TARGETS["executorch-portable"]
    (engine,) = find_writer(row.name).engines(portable, row, TargetOptions())
    report = replay_golden(engine, golden_of(store.bundle(name)))
    report.raise_for_failure("")
    assert (engine.backend, max(d.relative for d in report.drifts) < 1e-5) == ("executorch-portable", True)
    assert Engine.of(portable, "executorch").stream()
    assert (b"XnnpackBackend" in both[name], b"XnnpackBackend" in both[f"{name}, portable"]) == (True, False)
    assert find_writer(row.name).requires(row, TargetOptions()) == {"executorch": "1.5", "delegates": []}


def test_results_that_lie_in_a_state_are_those_of_before():
    """ExecuTorch copies next states into buffers first, one after the other, and then gives what lies in them."""
    zeros = [torch.zeros(1, *shape) for shape in ((3,), (3,), (3,), (3,))]
    assert StatefulStep(Lending(), zeros[:1], zeros[1:]).copied == [True] * 5
    stream = Engine.of(LENDING.draft("executorch", {PATH: files()["lending"]}), "executorch").stream()
    xs = [frames(1, 3, seed=seed)[0] for seed in range(4)]
    given = [stream.step(x) for x in xs]
    zero, start = np.zeros(3, np.float32), LENDING.initial["b"]
    np.testing.assert_array_equal([g["y"] for g in given], [zero, *xs[:3]])
    np.testing.assert_array_equal([g["z"][0] for g in given], [zero, start, zero, xs[0]])


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("\nOperator torch._ops.aten._linalg_det.default is not in Core ATen opset (h).", "aten._linalg_det.default"),
        ("Missing out variants: {'aten::_cdist'}", "aten::_cdist"),
        ("ExecuTorch 1.5 cannot run it: Missing operator: [2] aten::x.out; 1 in all", "aten::x.out"),
    ],
)
def test_what_the_converter_says_is_said_with_the_operator(said, wanted):
    assert reason(said) == f"it has no kernel for {wanted}"
    said = "Memory allocator node requires concrete upper-bounded dimensions. Got shape (u0,) and evaluated ..."
    assert reason(said).startswith("a size follows from values, and nothing bounds it: Memory allocator node")
    assert reason("Something else.\nmore") == "Something else"


def test_a_file_that_is_no_program_of_torch_s_is_no_step():
    with raises("executorch-refuses-step", "Leave executorch out, or write that"):
        written(b"no program", SUM.spec, "executorch")


# --- the backend


def test_methods_of_one_program_lie_in_one_memory():
    """So each stream has a program of its own, as the page says."""
    raw, x = files()["stored"], torch.ones(1, 3)
    program = open_program(raw)
    one = program.load_method("step")
    assert one([x])[0].tolist() == [[2, 3, 4]]
    other = program.load_method("step")
    assert one([x])[0].tolist() == [[2, 3, 4]]
    assert other([x])[0].tolist() == [[3, 4, 5]]
    assert open_program(raw).load_method("step")([x])[0].tolist() == [[2, 3, 4]]


def test_it_is_taken_where_it_is_asked_for_alone():
    with pytest.raises(BackendUnavailable) as refused:
        Engine.of(SUM.draft("executorch", {PATH: files()["sum"]}), "auto")
    tried = [line.strip().partition(":")[0] for line in str(refused.value).splitlines()[1:]]
    assert "onnxruntime" in tried
    assert "executorch" not in tried


def test_what_it_refuses_is_told_and_the_state_stays(executorch_engine, capfd):
    stream = executorch_engine("tokens").stream()
    stream.step(3)
    for wrong in (7, 2**32 + 3):
        with raises("executorch-frame-refused", f"Index {wrong} out of range", "in operator aten::index.Tensor_out"):
            stream.step(wrong)
    np.testing.assert_array_equal(stream.states["h"], [[6, 7]])
    np.testing.assert_array_equal(stream.step(0), [6, 8])
    assert capfd.readouterr() == ("", "")


def test_a_forked_process_has_to_load_it_again(executorch_engine):
    engine = executorch_engine("sum")
    stream, read, write = engine.stream(), *os.pipe()
    child = os.fork()
    if not child:
        try:
            stream.step(np.ones(3, np.float32))
        except StreamError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as said:
        assert "was opened before a fork, and its backend has threads and locks" in said.read()


# --- files of others


def test_it_is_code(tmp_path):
    path = SUM.with_target(tmp_path / "m.rnnx", "executorch", {PATH: files()["sum"]})
    assert [code.title for code in code_of(open_bundle(path))] == ["executorch (fp32)"]
    assert load(path, backend="executorch").backend == "executorch"
    SUM.write(tmp_path / "n.rnnx")
    row = TargetRow("executorch", "fp32", None, (PATH,), {})
    other = extend_bundle(open_bundle(tmp_path / "n.rnnx"), row, {PATH: files()["sum"] + b"more"}).path
    with raises("code-not-trusted", "executorch (fp32)", "--target executorch --precision fp32 --rebuild`"):
        load(other, backend="executorch")


def test_why_it_is_code(tmp_path):
    """The file says how much memory its tensors take, and ExecuTorch makes that much of zeros."""
    code = (
        "import sys\n"
        "from rnn_export.runtime.backends.executorch.library import open_program\n"
        "for file in sys.argv[1:]:\n"
        "    raw = open(file, 'rb').read()\n"
        "    program = open_program(raw)\n"
        "    method = program.load_method('step')\n"
        "    print(open('/proc/self/statm').read().split()[1])\n"
    )
    raw, paths = files()["sum"], [tmp_path / "small.pte", tmp_path / "large.pte"]
    (planned,) = (m.end() for m in re.finditer(rb"\x02\0{11}(?=[\x40-\xff]\0{7})", raw))
    for path, size in zip(paths, (raw[planned], 2**28), strict=True):
        path.write_bytes(raw[:planned] + size.to_bytes(8, "little") + raw[planned + 8 :])
    small, large = map(int, in_python(code, *paths).split())
    assert (large - small) * os.sysconf("SC_PAGE_SIZE") > 2**27


def of(other: Model) -> bytes:
    """The file of SUM, with the contract of another, whose JSON is as long."""
    said, instead = SUM.spec.dumps().encode(), other.spec.dumps().encode()
    assert len(said) == len(instead)
    return files()["sum"].replace(said, instead)


WIDE = Model(spec("sum", [tensor("x", "batch", 4)], [Y], [H]), SUM.step)
INTS = Model(spec("sum", [X], [tensor("y", "batch", 9)], [H]), SUM.step)
INVALID = "executorch-program-invalid"
HOSTILE = {
    "no file of ExecuTorch's": (SUM, lambda: b"\x08\x0a garbage", INVALID, "it is no file of ExecuTorch's"),
    "cut off": (SUM, lambda: files()["sum"][:300], INVALID, "it is damaged: File size is too small"),
    "another contract": (SUM, lambda: files()["stored"], INVALID, "it was written for another contract than the bund"),
    "another input": (WIDE, lambda: of(WIDE), INVALID, "it takes [('float32', (1, 3))], but the contract says"),
    "another output": (INTS, lambda: of(INTS), INVALID, "it gives [('float32', (1, 3))], but the contract says"),
    "another state": (SUM, lambda: files()["sum"].replace(b"state_0", b"kept__0"), "executorch-state-lost", "'h'"),
    "another method": (SUM, lambda: files()["sum"].replace(b"step\0", b"walk\0"), INVALID, "it has the methods"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_is_none_of_a_bundle(case):
    model, make, *message = HOSTILE[case]
    with raises(*message):
        check_program("step.pte", make(), model.spec)


# --- the page


def test_the_program_in_cpp_runs(detector, tmp_path):
    """As the page compiles it, against the headers and libraries of the wheel."""
    if shutil.which("g++") is None or sys.platform != "linux":
        pytest.skip("the page compiles with g++ on Linux")
    folder, golden = (detector / PATH).parent, golden_of(detector)
    places = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OUT": str(tmp_path)}
    np.ascontiguousarray(golden.inputs["x"][0]).tofile(tmp_path / "frames")
    script = f"{block_of('executorch', 'sh')}\n./runner step.pte < $OUT/frames > $OUT/outputs"
    script = script.replace("detector.rnnx/targets/executorch-fp32", str(folder)).replace("./runner", "$OUT/runner")
    script = script.replace("-o runner", "-o $OUT/runner")
    subprocess.run(["bash", "-ec", script], env=places, check=True, capture_output=True)
    given = np.fromfile(tmp_path / "outputs", np.float32).reshape(-1, 16)
    np.testing.assert_allclose(given, golden.outputs["y"][0], rtol=1e-5, atol=1e-6)


def test_the_program_in_cpp_has_every_input_and_says_what_is_late():
    inputs = [tensor("x", "batch", 3), tensor("id", "batch", dtype="int64"), tensor("on", "batch", dtype="bool")]
    text = runner(spec("many", inputs, [Y], [H], delay=2))
    assert "std::vector<int64_t> input_1(1);  // id" in text
    assert "from_blob(input_2.data(), {1}, ScalarType::Bool)" in text
    assert "stream.step({input_0_tensor, input_1_tensor, input_2_tensor})" in text
    assert "// Note: the first 2 frames give no output" in text
    assert len(text.splitlines()) < 60
