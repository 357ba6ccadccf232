"""The programs of docs/targets/openvino.md, run as they stand there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnn_export.runtime import load

from ..zoo import store  # noqa: TID252
from .graphs import frames
from .test_openvino import invoke

PAGE = Path(__file__).parents[2] / "docs/targets/openvino.md"


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(store.bundle("two-layers-on-onnx"), folder / "detector.rnnx")
    assert "wrote openvino (fp32)" in invoke("build", folder / "detector.rnnx", "--target", "openvino")
    np.save(folder / "features.npy", frames(12, 8))
    return folder


@pytest.fixture(scope="module")
def wanted(place) -> np.ndarray:
    return load(place / "detector.rnnx", backend="onnxruntime").stream().run(frames(12, 8))


def test_the_python(place, wanted):
    code = block("python") + "\nnp.save('out.npy', np.concatenate(outputs)[:, 0])"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=place, check=True)
    np.testing.assert_allclose(np.load(place / "out.npy"), wanted, rtol=1e-5, atol=1e-6)


def test_the_c_plus_plus(place, wanted):
    import openvino.utils

    (place / "detector.cpp").write_text(block("cpp"))
    (place / "CMakeLists.txt").write_text(block("cmake"))
    configure = ["cmake", "-S", ".", "-B", "build", f"-DOpenVINO_DIR={openvino.utils.get_cmake_path()}"]
    for command in (configure, ["cmake", "--build", "build"]):
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        ["./build/detector"], cwd=place, input=frames(12, 8).tobytes(), capture_output=True, check=True
    )
    given = np.frombuffer(done.stdout, np.float32).reshape(wanted.shape)
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)
