"""Whole pipelines, from samples on: exported, verified, streamed on ONNX Runtime and in C, and timed."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
sys.path[:0] = [str(HERE), str(HERE.parent), *(str(EXAMPLES / name) for name in ("keyword_spotting", "denoiser"))]

import denoiser  # noqa: E402
import keywords  # noqa: E402
from sound import clip, decibels  # noqa: E402
from spectra import draw  # noqa: E402
from turns import in_turn  # noqa: E402

from rnn_export.bundle import Bundle  # noqa: E402
from rnn_export.contract.layout import canonical  # noqa: E402
from rnn_export.export import export  # noqa: E402
from rnn_export.runtime import load  # noqa: E402

BACKENDS = {"native": "in C", "onnxruntime": "on ONNX Runtime"}
Array = np.ndarray


@dataclass(frozen=True)
class Pipeline:
    """A net, how it is trained, and what else is to be said once it has streamed the sound.

    `sound` gives the samples (1, samples), and what `summary` is told of them beside the output.
    """

    train: Callable[[Any], None] | None = None
    sound: Callable[[], tuple[Tensor, Any]] = lambda: (clip()[None], None)
    summary: Callable[[Array, Any, Path], str] = lambda output, about, folder: "random weights"


def noisy() -> tuple[Tensor, Any]:
    clean, sound = denoiser.noisy_clip()
    return sound[None], (clean, sound)


def denoised(output: Array, about: Any, folder: Path) -> str:
    clean, sound = about
    before, after = decibels(clean, sound), decibels(clean, torch.from_numpy(output))
    draw(folder / "denoiser.png", clean.numpy(), sound.numpy(), output, (before, after))
    return f"signal over noise {before:.1f} dB before, {after:.1f} dB after; drawn: {folder / 'denoiser.png'}"


def sentence() -> tuple[Tensor, Any]:
    sound, words = keywords.spoken(60)
    return sound[None], words


def found(output: Array, words: Any, folder: Path) -> str:
    return f"{keywords.words_right(torch.from_numpy(output), words)} of {len(words)} made-up words told apart"


PIPELINES = {
    "keywords": Pipeline(keywords.train, sentence, found),
    "denoiser": Pipeline(denoiser.train, noisy, denoised),
    "conv_tasnet": Pipeline(),
    "demucs": Pipeline(),
    "transformer": Pipeline(),
}


def exported(name: str, folder: Path, steps: int = 64, **sizes: int) -> tuple[nn.Module, Bundle]:
    """The net, trained where it can be, and its bundle."""
    net, example, options = importlib.import_module(name).factory(**sizes)
    train = PIPELINES[name].train
    if train is not None:
        train(net)
    targets = ("onnx", "c")
    path = folder / f"{name}.rnnx"
    return net, export(net, example, path, targets=targets, steps=steps, force=True, **options)


def streamed(bundle: Bundle, backend: Any, samples: Array, seed: int = 0) -> Array:
    """A stream's outputs (frames, ...) for (samples,) fed in randomly cut pieces, its end included."""
    stream = load(bundle.path, backend).stream()
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(samples), 9))
    pieces = [stream.run(piece) for piece in np.split(samples, cuts)]
    return np.concatenate([*pieces, stream.finish()])


@torch.no_grad()
def whole(net: nn.Module, bundle: Bundle, sound: Tensor) -> Array:
    """The net's own output (frames, ...) for the whole sound (1, samples)."""
    return canonical(net(sound).numpy(), bundle.spec.outputs[0])[0]


def microseconds(bundle: Bundle, samples: Array, rounds: int = 501, number: int = 3) -> dict[str, float]:
    """A step's time by backend: the median of rounds in turn."""
    frame = np.ascontiguousarray(samples[: bundle.spec.chunk])
    streams = {backend: load(bundle.path, backend).stream() for backend in BACKENDS}
    calls = {backend: lambda stream=stream: stream.step(frame) for backend, stream in streams.items()}
    return {backend: float(np.median(times)) for backend, times in in_turn(calls, rounds, number).items()}


def shown(name: str, folder: Path, steps: int = 64, rounds: int = 501, **sizes: int) -> str:
    """One line on a pipeline, exported into `folder` and streamed on every backend, equal to the whole."""
    pipeline, begin = PIPELINES[name], time.perf_counter()
    net, bundle = exported(name, folder, steps, **sizes)
    took, spec = time.perf_counter() - begin, bundle.spec
    sound, about = pipeline.sound()
    outputs = {backend: streamed(bundle, backend, sound[0].numpy()) for backend in BACKENDS}
    want = whole(net, bundle, sound)
    for backend, output in outputs.items():
        np.testing.assert_allclose(output, want, rtol=0, atol=2e-5 * np.abs(want).max(), err_msg=f"{name}, {backend}")
    separate = max(float(np.abs(output - want).max()) for output in outputs.values()) / float(np.abs(want).max())
    step = microseconds(bundle, sound[0].numpy(), rounds)
    budget = 1e6 * spec.chunk / spec.sample_rate
    cost = ", ".join(f"{BACKENDS[b]} {us:.0f} µs ({_times(budget / us)} times real time)" for b, us in step.items())
    return (
        f"{name}: {sound.shape[1]:,} samples in, {len(want):,} frames out; "
        f"delay {1000 * spec.delay / spec.sample_rate:.0f} ms, tail {spec.tail} frames; "
        f"largest difference to the whole {separate:.1e} of its scale; a step of {budget / 1000:g} ms: {cost}; "
        f"{pipeline.summary(outputs['native'], about, folder)}; trained, exported and verified in {took:.0f} s"
    )


def _times(real_time: float) -> str:
    return f"{real_time:,.0f}" if real_time >= 2 else f"{real_time:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(PIPELINES)}")
    parser.add_argument("--folder", type=Path, default=Path("out"), help="for the bundles and the picture")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in PIPELINES]:
        parser.error(f"there is no pipeline {unknown[0]!r}: {', '.join(PIPELINES)}")
    arguments.folder.mkdir(exist_ok=True)
    for name in arguments.names or PIPELINES:
        print(shown(name, arguments.folder), flush=True)


if __name__ == "__main__":
    main()
