"""Silero VAD exported, verified, and streamed over real speech 32 ms at a time."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "silero_vad"))

import model as silero  # noqa: E402
from picture import draw, share_found  # noqa: E402
from segments import speech_segments  # noqa: E402

from rnn_export.export import export  # noqa: E402
from rnn_export.platform.threads import one_thread  # noqa: E402
from rnn_export.runtime import Stream, load  # noqa: E402
from rnn_export.runtime.recording import read  # noqa: E402

SPEECH = HERE / "silero_vad" / "speech.wav"


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    net, example, options = silero.factory()

    begin = time.perf_counter()
    bundle = export(net, example, folder / "vad.rnnx", data=SPEECH, steps=1000, force=True, **options)
    print(f"exported and verified on the clip in {time.perf_counter() - begin:.1f} s: {bundle.path}")

    engine = load(bundle.path)
    frames = read(SPEECH, engine.spec)["samples"][0]
    stream = engine.stream()
    carried, microseconds = stepped(stream, frames)
    reset = np.array([alone(stream, frame) for frame in frames])
    expected = by_torch(net, frames)

    seconds = silero.CHUNK / engine.spec.sample_rate
    segments = speech_segments(carried, seconds)
    print(f"streamed {len(frames)} frames of {1000 * seconds:.0f} ms on {engine.backend} ({engine.device})")
    for start, end in segments:
        print(f"  speech from {start:6.2f} s to {end:6.2f} s")
    step = statistics.median(microseconds)
    print(f"{step:.0f} µs a step, {seconds * 1e6 / step:.0f} times faster than real time")
    print(f"largest difference to PyTorch: {np.abs(carried - expected).max():.1e}")
    print(f"with the state reset at each call, {share_found(carried, reset):.0%} of the speech frames are found")

    picture = folder / "vad.png"
    draw(picture, frames.reshape(-1), engine.spec.sample_rate, carried, reset, segments)
    print(f"drawn: {picture}")


def stepped(stream: Stream, frames: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The probability of each frame with the state kept, and the µs that each step took."""
    probability, microseconds = [], []
    for frame in frames:
        begin = time.perf_counter()
        y = stream.step(frame)
        microseconds.append((time.perf_counter() - begin) * 1e6)
        probability.append(y[0])
    return np.array(probability), microseconds


def alone(stream: Stream, frame: np.ndarray) -> float:
    stream.reset()
    return float(stream.step(frame)[0])


@one_thread
@torch.no_grad()
def by_torch(net: silero.SileroVAD, frames: np.ndarray) -> np.ndarray:
    context, h, c = torch.zeros(1, silero.CONTEXT), torch.zeros(1, silero.HIDDEN), torch.zeros(1, silero.HIDDEN)
    probability = []
    for frame in torch.from_numpy(frames):
        p, context, h, c = net(frame[None], context, h, c)
        probability.append(p.item())
    return np.array(probability)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("out"))
