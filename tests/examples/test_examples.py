"""Each example is run as its README says, and shows what it claims; where a device is missing, it says so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# By example: what `main` is given in place of its defaults, and what it must print.
SHOWN = {
    "forecasting": ("", r"19 forecasts of 48 h: error 0\.1\d\d, like the day before 0\.2\d\d\nafter 1968 hours"),
    "guitar_amp": ("steps=20", r"a block of 64: \d+ µs of 1451 µs on native\nlargest difference .*: \d\.\de-0[678]\n"),
    "keyword_spotting": (
        "steps=2",
        r"said were, ending at: .*\n\d+ of 12 words told apart\napart .*: \d\.\de-0[5-8]\n",
    ),
    "denoiser": (
        "steps=1, window=64, hop=16, hidden=6",
        r"dB after, 4 ms late\n(\d+) samples for \1; apart .*: \d\.\de-0[6-9]\n",
    ),
    "browser": ("", r"model-scalar\.wasm, .*worklet\.js\nin Node: \{\"passed\":true.*\nnow: rnn-export serve-web"),
    "triton": ("", r"wrote out/repository: .*\n.*grpc://127\.0\.0\.1:8001/tagger\n"),
    "jetson": ("", r"without Python: trtexec --onnx=step\.onnx .*\nnot built here, which is no jetson-orin-nano"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_an_example_shows_what_it_says(name: str, tmp_path: Path) -> None:
    given, pattern = SHOWN[name]
    # `steps` is how long it trains: a test needs the way, not the skill.
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES / name)!r}); import run; run.main({given})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(pattern, done.stdout), done.stdout


def test_every_example_has_a_readme_that_runs_it_and_a_test() -> None:
    names = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert len(names) >= len(SHOWN)
    for name in names:
        assert f"examples/{name}/run.py" in (EXAMPLES / name / "README.md").read_text()
        assert f'"{name}"' in tests
