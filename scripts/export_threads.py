"""Seconds of an export with torch's own threads and with one, beside no, one and two busy processes."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

BUSY = "while True: pass"
# Input, units, layers.
NETS = {"README": (8, 16, 2), "512": (512, 512, 1), "1024": (1024, 1024, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", choices=[[], *NETS], help="which LSTMs; all of them if none is named")
    for net in parser.parse_args().nets or NETS:
        for busy in range(3):
            others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
            try:
                limits = (str(1 << 62), "0")
                one, several = (
                    subprocess.run([sys.executable, __file__, "--of", net, limit], capture_output=True, check=True)
                    for limit in limits
                )
            finally:
                for other in others:
                    other.kill()
            row = f"torch's threads {several.stdout.decode().strip()} s, one thread {one.stdout.decode().strip()} s"
            print(f"LSTM{NETS[net]}, {busy} busy processes: {row}", flush=True)


def measure(net: str, large: int) -> None:
    """The seconds of the second export, by a limit that a weight must have to keep torch's threads."""
    import torch
    from torch import nn

    from rnn_export.export import export

    inputs, units, layers = NETS[net]
    with tempfile.TemporaryDirectory() as folder, patch("rnn_export.platform.threads.LARGE", large):
        for i in range(2):
            torch.manual_seed(0)
            begin = time.perf_counter()
            export(nn.LSTM(inputs, units, layers).eval(), (torch.randn(4, 20, inputs),), Path(folder, f"{i}.rnnx"))
    print(f"{time.perf_counter() - begin:.1f}")


if __name__ == "__main__":
    measure(sys.argv[2], int(sys.argv[3])) if sys.argv[1:2] == ["--of"] else main()
