"""Forecast a load hour by hour: one stream that remembers, and forecasts that leave no trace in it."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export import export, load

HOURS, TRAINED, AHEAD = 24 * 7 * 12, 24 * 7 * 9, 48


class Forecaster(nn.Module):
    """Load and time of day up to each hour in (B, hours, 3), the load an hour later out (B, hours, 1)."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, hidden, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :1] + self.head(self.lstm(x)[0])


def series() -> Tensor:
    """Twelve weeks of a made-up load with days, weekends and noise that lasts for hours, (1, hours, 3)."""
    hour = np.arange(HOURS)
    day = np.stack([np.sin(2 * np.pi * hour / 24), np.cos(2 * np.pi * hour / 24)], 1)
    weekend = (hour // 24 % 7 >= 5).astype(float)
    noise, rng = np.zeros(HOURS), np.random.default_rng(0)
    for t in range(1, HOURS):
        noise[t] = 0.9 * noise[t - 1] + 0.05 * rng.standard_normal()
    load = 0.8 * day[:, 0] * (1 - 0.5 * weekend) + 0.3 * day[:, 1] - 0.4 * weekend + noise
    return torch.from_numpy(np.concatenate([load[:, None], day], 1).astype(np.float32))[None]


def train(net: Forecaster, x: Tensor, steps: int = 150) -> None:
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        loss = (net(x[:, : TRAINED - 1]) - x[:, 1:TRAINED, :1]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()


def main(folder: Path = Path("out")) -> None:
    torch.manual_seed(0)
    net, x = Forecaster(), series()
    train(net, x)
    folder.mkdir(exist_ok=True)
    export(net, (x[:, :24],), folder / "forecaster.rnnx", force=True)

    stream = load(folder / "forecaster.rnnx").stream()
    frames = x[0].numpy()
    own, yesterday = [], []
    for now, frame in enumerate(frames[:-AHEAD]):
        following = stream.step(frame)
        if now < TRAINED or now % 24:
            continue
        # A forecast feeds the stream with what it said itself; the snapshot takes that back.
        snapshot, said = stream.snapshot(), [following[0]]
        for ahead in range(1, AHEAD):
            said.append(stream.step(np.array([said[-1], *frames[now + ahead, 1:]], np.float32))[0])
        stream.restore(snapshot)
        true = frames[now + 1 : now + 1 + AHEAD, 0]
        own.append(np.abs(said - true).mean())
        yesterday.append(np.abs(np.resize(frames[now - 23 : now + 1, 0], AHEAD) - true).mean())
    print(f"{len(own)} forecasts of {AHEAD} h: error {np.mean(own):.3f}, like the day before {np.mean(yesterday):.3f}")

    with torch.no_grad():
        whole = net(x[:, :-AHEAD])[0, -1, 0].item()
    print(
        f"after {len(frames) - AHEAD} hours and all forecasts: stream {following[0]:.6f}, net on the whole {whole:.6f}"
    )
    assert abs(following[0] - whole) < 1e-5


if __name__ == "__main__":
    main()
