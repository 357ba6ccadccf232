"""Export a net, build the program around it, run it on noise, and compare it with PyTorch."""

import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rnn_export import export

HERE = Path(__file__).parent


class Spotter(nn.Module):
    """features (B, T, 40) -> scores (B, T, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(40, 64, batch_first=True), nn.Linear(64, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(self.rnn(features)[0]), -1)


def build(folder: Path, sources: Path, *options: str) -> Path:
    """The program, built in `folder`."""
    configure = ["cmake", "-S", str(HERE), "-B", str(folder), f"-DSPOTTER={sources}", "-DCMAKE_BUILD_TYPE=Release"]
    for command in ([*configure, *options], ["cmake", "--build", str(folder)]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "program"


def main(out: Path = Path("out")) -> None:
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model, frames = Spotter().eval(), torch.randn(1, 100, 40)
    names = {"input_names": ["features"], "output_names": ["scores"]}
    bundle = export(model, (frames[:, :20],), out / "spotter.rnnx", targets=["c"], force=True, **names)
    sources = (bundle.path / "targets/c-fp32").resolve()
    program = build(out / "build", sources)
    given = subprocess.run([program], input=frames.numpy().tobytes(), capture_output=True, check=True)
    scores = np.frombuffer(given.stdout, np.float32).reshape(100, 2)
    with torch.no_grad():
        error = np.abs(scores - model(frames)[0].numpy()).max()
    print(f"100 frames in C, of PyTorch off by at most {error:.1e}")
    profiled = build(out / "profiled", sources, "-DRNN_PROFILE=ON")
    told = subprocess.run([profiled], input=frames.numpy().tobytes(), capture_output=True, check=True)
    print(told.stderr.decode(), end="")


if __name__ == "__main__":
    main()
