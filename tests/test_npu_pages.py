"""The programs of docs/targets/qnn.md and rknn.md in the emulators that `scripts/npu_venv.sh` installs."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rnn_export.runtime import load

from .zoo import store

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["qnn", "rknn"])
def test_the_program_of_the_page_in_the_emulator(name: str, tmp_path: Path) -> None:
    interpreter = ROOT / f".venv-{name}" / "bin" / "python"
    if not interpreter.exists():
        pytest.skip(f"there is no {interpreter.parent.parent.name} here: scripts/npu_venv.sh {name} makes it")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/targets/{name}.md").read_text(), re.DOTALL)
    bundle = shutil.copytree(store.bundle("two-layers-of-pages"), tmp_path / "detector.rnnx")
    frames = np.random.default_rng(0).standard_normal((12, 8)).astype(np.float32)
    np.save(tmp_path / "features.npy", frames)
    command = [str(interpreter), "-c", f"{code}\nnp.save('out.npy', outputs)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    error = np.abs(np.load(tmp_path / "out.npy") - load(bundle, backend="onnxruntime").stream().run(frames)).max()
    # Both compute in fp16: more than its rounding is wrong, and less is no NPU.
    assert 1e-6 < error < 2e-3
