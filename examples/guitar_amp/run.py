"""A guitar amplifier learnt by an LSTM, from samples to samples, in the blocks of an audio host."""

import time
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export import export, load

SAMPLE_RATE, BLOCK = 44100, 64
WARM = 512  # samples that a state takes to settle in training


class Amp(nn.Module):
    """Dry sound (B, samples, 1) in, the amplifier's out: what the LSTM adds to it (after Wright et al. 2019)."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, hidden, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, dry: Tensor) -> Tensor:
        return dry + self.head(self.lstm(dry)[0])


def guitar(seconds: float, seed: int) -> np.ndarray:
    """Plucked strings (Karplus and Strong 1983), one every 0.3 s."""
    rng, sound = np.random.default_rng(seed), np.zeros(int(seconds * SAMPLE_RATE))
    for start in range(0, len(sound), int(0.3 * SAMPLE_RATE)):
        period = int(SAMPLE_RATE / (82.4 * 2 ** (rng.integers(0, 24) / 12)))
        string, note = rng.uniform(-0.5, 0.5, period), []
        for _ in range(int(0.3 * SAMPLE_RATE) // period + 1):
            note.append(string)
            string = 0.498 * (string + np.roll(string, 1))
        piece = np.concatenate(note)[: len(sound) - start]
        sound[start : start + len(piece)] += piece
    return sound.astype(np.float32)


def amplifier(dry: np.ndarray) -> np.ndarray:
    """The one to be learnt: a stage that clips, whose bias follows the loudness, and a coupling capacitor."""
    wet, bias, held = np.zeros_like(dry), 0.0, 0.0
    for t, x in enumerate(dry):
        bias += 0.002 * (abs(x) - bias)
        y = np.tanh(4 * x - 0.8 * bias)
        held += 0.005 * (y - held)
        wet[t] = 0.6 * (y - held)
    return wet


def error_to_signal(output: Tensor, wet: Tensor) -> Tensor:
    return (output - wet).square().mean() / wet.square().mean()


def train(net: Amp, dry: Tensor, wet: Tensor, steps: int = 200) -> None:
    generator, optimiser = torch.Generator().manual_seed(0), torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        starts = torch.randint(len(dry) - 2 * WARM, (16,), generator=generator).tolist()
        x, y = (torch.stack([s[start : start + 2 * WARM] for start in starts])[..., None] for s in (dry, wet))
        loss = error_to_signal(net(x)[:, WARM:], y[:, WARM:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()


def save(path: Path, sound: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def main(folder: Path = Path("out"), steps: int = 200) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net, dry = Amp(), guitar(4, seed=0)
    train(net, torch.from_numpy(dry), torch.from_numpy(amplifier(dry)), steps)
    folder.mkdir(exist_ok=True)
    options = {"chunk": BLOCK, "sample_rate": SAMPLE_RATE, "targets": ("onnx", "c")}
    export(net, (torch.zeros(1, 4 * BLOCK, 1),), folder / "amp.rnnx", force=True, **options)

    played = guitar(3, seed=1)
    blocks = played[: len(played) // BLOCK * BLOCK].reshape(-1, BLOCK, 1)
    stream, output = load(folder / "amp.rnnx").stream(), np.empty_like(blocks)
    begin = time.perf_counter()
    for block, out in zip(blocks, output, strict=True):
        stream.step(block, out=out)
    step = (time.perf_counter() - begin) / len(blocks)
    wet, budget = amplifier(played)[: output.size], BLOCK / SAMPLE_RATE
    error = error_to_signal(torch.from_numpy(output.ravel()), torch.from_numpy(wet))
    save(folder / "dry.wav", played)
    save(folder / "amp.wav", output.ravel())
    print(
        f"error to signal {error:.1%} on what it has not heard; {folder / 'dry.wav'} and {folder / 'amp.wav'} to listen"
    )
    print(f"a block of {BLOCK}: {step * 1e6:.0f} µs of {budget * 1e6:.0f} µs on {load(folder / 'amp.rnnx').backend}")

    with torch.no_grad():
        whole = net(torch.from_numpy(blocks.reshape(1, -1, 1)))[0].numpy()
    print(f"largest difference to the net on the whole sound: {np.abs(output.reshape(-1, 1) - whole).max():.1e}")
    np.testing.assert_allclose(output.reshape(-1, 1), whole, rtol=0, atol=2e-5)


if __name__ == "__main__":
    main()
