"""A detector for a Jetson: the graph that its TensorRT takes, held to the model in fp16, and a recipe."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from rnn_export import export

TARGET = "jetson-orin-nano"


class Detector(nn.Module):
    """Features (B, time, 40) in, the chance of an event (B, time, 1) out."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(40, 96, 2, batch_first=True), nn.Linear(96, 1)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.head(self.gru(features)[0]))


def main(folder: Path = Path("out")) -> None:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    path = folder / "detector.rnnx"
    bundle = export(
        Detector().eval(),
        (torch.zeros(1, 4, 40),),
        path,
        targets=(TARGET,),
        precision="fp16",
        batch=(1, 1, 8),
        force=True,
    )
    recipe = json.loads(bundle.read(f"targets/{TARGET}-fp16/recipe.json"))
    print(f"on the module, without Python: {recipe['trtexec']}")
    # On the module this makes the engine and proves it; anywhere else it says what to do.
    command = [sys.executable, "-m", "rnn_export", "build", str(path), "--target", TARGET, "--precision", "fp16"]
    built = subprocess.run(command, check=False)
    print(
        "built and proven"
        if built.returncode == 0
        else f"not built here, which is no {TARGET}: docs/jetson.md goes on from here"
    )


if __name__ == "__main__":
    main()
