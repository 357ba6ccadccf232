"""The pages of docs/targets: one for each target, and the programs on them run as they stand there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnn_export.contract.target_table import TARGETS
from rnn_export.runtime import load

from .runtime.graphs import SUM
from .runtime.graphs import frames as drawn
from .runtime.triton_stand_in import StandIn
from .zoo import store

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "targets"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("name", sorted({row.page for row in TARGETS.values()} | {"docs/targets/triton.md"}))
def test_a_page_goes_from_the_bundle_to_a_program_and_says_where_that_was_run(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "$ rnn-export" in text
    assert re.search(r"not run|not in the tests|were not there", text, re.IGNORECASE)
    assert re.search(r"^## What (it|they) cannot do$", text, re.MULTILINE)
    assert re.search(r"\*\*(data|code)\*\*|Whose code it is", text)
    assert f"]({Path(name).name})" in (PAGES / "README.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with detector.rnnx, an LSTM 8 -> 16 of two layers, and what it hears."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(store.bundle("two-layers-of-pages"), folder / "detector.rnnx")
    np.save(folder / "features.npy", np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def wanted(place: Path) -> np.ndarray:
    stream = load(place / "detector.rnnx", backend="onnxruntime").stream()
    return np.asarray(stream.run(np.load(place / "features.npy")))


def python(place: Path, code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def close(place: Path, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.load(place / "out.npy"), wanted, rtol=1e-4, atol=1e-5)


def test_the_python_of_onnx(place: Path, wanted: np.ndarray) -> None:
    (code,) = blocks("onnx", "python")
    python(place, code + "np.save('out.npy', outputs)")
    close(place, wanted)


def test_the_python_of_torchscript_and_pt2(place: Path, wanted: np.ndarray) -> None:
    (code,) = blocks("torchscript", "python")
    other = re.search(r"# the same of pt2: (.*)\n", code)
    assert other
    ends = "np.save(f'out{i}.npy', torch.stack(outputs))"
    both = [code, re.sub(r"step = torch\.jit\.load\(.*\)", other[1], code)]
    assert both[0] != both[1]
    # One process: torch takes seconds to be imported.
    python(place, "".join(f"i = {i}\n{text}{ends}\n" for i, text in enumerate(both)))
    for i in range(2):
        np.testing.assert_allclose(np.load(place / f"out{i}.npy"), wanted, rtol=1e-4, atol=1e-5)


def test_the_c_of_the_page(place: Path, wanted: np.ndarray) -> None:
    code, clock = blocks("c", "c")
    (place / "own.c").write_text(code)
    (place / "cycles.h").write_text(clock)
    text = (PAGES / "c.md").read_text()
    built, compiled = (re.findall(rf"^    \$ ({what}.*)$", text, re.MULTILINE) for what in ("rnn-export build", "cc "))
    build = [str(Path(sys.executable).with_name("rnn-export")), *built[0].split()[1:]]
    clocked = ["gcc", "-fsyntax-only", "-Wall", "-Werror", "-x", "c", "cycles.h"]
    for command in (build, compiled[0].split(), clocked):
        done(command, place)
    as_wanted("./own", place, wanted)


def done(command: list[str], place: Path) -> None:
    run = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def as_wanted(program: str, place: Path, wanted: np.ndarray) -> None:
    """Check the output of a program for the frames on its stdin."""
    frames = np.load(place / "features.npy").tobytes()
    given = subprocess.run([program], cwd=place, input=frames, capture_output=True, check=True)
    np.testing.assert_allclose(
        np.frombuffer(given.stdout, np.float32).reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5
    )


def test_the_cmake_and_the_cpp_of_the_page_of_c(place: Path, wanted: np.ndarray) -> None:
    (cmake,), (cpp,), (code, _) = (blocks("c", language) for language in ("cmake", "cpp", "c"))
    if not (place / "detector.rnnx/targets/c-fp32").exists():
        done([str(Path(sys.executable).with_name("rnn-export")), "build", "detector.rnnx", "--target", "c"], place)
    (place / "own.c").write_text(code)
    (place / "own.cpp").write_text(cpp)
    more = ("enable_language(CXX)", "add_executable(own_cpp own.cpp)", "target_link_libraries(own_cpp rnn::detector)")
    (place / "CMakeLists.txt").write_text("\n".join([cmake, *more]))
    for command in (["cmake", "-S", ".", "-B", "out"], ["cmake", "--build", "out"]):
        done(command, place)
    for program in ("own", "own_cpp"):
        as_wanted(f"out/{program}", place, wanted)


def test_the_python_of_tensorrt_says_what_is_missing_where_there_is_no_engine(place: Path) -> None:
    (code,) = blocks("tensorrt", "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "has no engine yet: build it on its machine with `rnn-export build" in done.stderr


def test_the_python_of_triton(tmp_path: Path) -> None:
    (code,) = blocks("triton", "python")
    np.save(tmp_path / "features.npy", drawn(12, 3))
    server = StandIn(SUM, "bytes").start()
    try:
        there = code.replace("10.0.0.1,10.0.0.2/vad", f"{server.address}/m")
        assert there != code
        python(tmp_path, there + "np.save('out.npy', outputs)")
    finally:
        server.stop()
    close(tmp_path, np.cumsum(drawn(12, 3), 0))
