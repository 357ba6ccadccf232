"""A model repository for NVIDIA Triton, and streams on its servers: `run.py` writes it, `run.py ADDRESS` calls it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export import export, load

STREAMS, FRAMES = 8, 50


class Tagger(nn.Module):
    """Frames (B, time, 40) in, scores (B, time, 4) out."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(40, 64, batch_first=True), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0])


def write(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    bundle = export(Tagger().eval(), (torch.zeros(1, 4, 40),), folder / "tagger.rnnx", force=True)
    command = [
        sys.executable,
        "-m",
        "rnn_export",
        "triton",
        str(bundle.path),
        "-o",
        str(folder / "repository"),
        "--force",
    ]
    subprocess.run(command, check=True)
    print(f"then: python {sys.argv[0]} grpc://127.0.0.1:8001/tagger")


def call(folder: Path, address: str) -> None:
    """Several streams at once on the servers, each held to a stream of its own here."""
    far, here = load(address), load(folder / "tagger.rnnx")
    frames = np.random.default_rng(0).standard_normal((STREAMS, FRAMES, 40)).astype(np.float32)
    remote, local = [far.stream() for _ in range(STREAMS)], [here.stream() for _ in range(STREAMS)]
    worst = 0.0
    for t in range(FRAMES):
        for x, there, near in zip(frames[:, t], remote, local, strict=True):
            worst = max(worst, float(np.abs(there.step(x) - near.step(x)).max()))
    print(f"{STREAMS} streams of {FRAMES} frames on {address}: largest difference to a stream here {worst:.1e}")
    assert worst < 1e-5


def main(folder: Path = Path("out"), *addresses: str) -> None:
    if not addresses:
        write(folder)
    for address in addresses:
        call(folder, address)


if __name__ == "__main__":
    main(Path("out"), *sys.argv[1:])
