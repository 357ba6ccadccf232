"""Export a net, build the program around its C++ header, and compare its two streams with two in Python."""

import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rnn_export import export, load

HERE = Path(__file__).parent
SAMPLES, AGAIN = 2_000, 700


class Amp(nn.Module):
    """dry (B, T, 1) -> wet (B, T, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, dry: torch.Tensor) -> torch.Tensor:
        return dry + self.head(self.rnn(dry)[0])


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    names = {"input_names": ["dry"], "output_names": ["wet"]}
    bundle = export(Amp().eval(), (torch.randn(1, 20, 1),), out / "amp.rnnx", targets=["c"], force=True, **names)
    sources = (bundle.path / "targets/c-fp32").resolve()
    configure = ["cmake", "-S", str(HERE), "-B", str(out / "build"), f"-DAMP={sources}", "-DCMAKE_BUILD_TYPE=Release"]
    for command in (configure, ["cmake", "--build", str(out / "build")]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    dry = np.random.default_rng(0).standard_normal((SAMPLES, 2)).astype(np.float32)
    program = [out / "build/program", str(AGAIN)]
    done = subprocess.run(program, input=dry.tobytes(), capture_output=True, check=True)
    wet = np.frombuffer(done.stdout, np.float32).reshape(SAMPLES, 2)
    engine = load(bundle.path, backend="native")
    left, right = engine.stream(), engine.stream()
    heard = [
        left.run(dry[:, :1]),
        np.concatenate([right.run(dry[:AGAIN, 1:]), (right.reset(), right.run(dry[AGAIN:, 1:]))[1]]),
    ]
    error = np.abs(wet - np.concatenate(heard, 1)).max()
    print(f"2 streams of {SAMPLES:,} samples in C++, one reset at {AGAIN}: of Python's off by at most {error:.1e}")


if __name__ == "__main__":
    main()
