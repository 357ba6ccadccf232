"""A denoiser from samples to samples: trained, exported, and fed as a microphone does, to the last sample."""

from pathlib import Path

import denoiser
import numpy as np
import torch
from sound import decibels

from rnn_export import export, load


def main(folder: Path = Path("out"), steps: int = 250, **sizes: int) -> None:
    torch.set_num_threads(1)
    net, example, options = denoiser.factory(**sizes)
    denoiser.train(net, steps)
    folder.mkdir(exist_ok=True)
    export(net, example, folder / "denoiser.rnnx", targets=("onnx", "c"), steps=64, force=True, **options)

    clean, noisy = denoiser.noisy_clip()
    stream = load(folder / "denoiser.rnnx").stream()
    pieces = [stream.run(piece.numpy()) for piece in noisy.split(1000)]  # samples come late, by the window
    pieces.append(stream.finish())  # and the last of them at the end
    denoised = np.concatenate(pieces)
    before, after = decibels(clean, noisy), decibels(clean, torch.from_numpy(denoised))
    late = load(folder / "denoiser.rnnx").spec.delay / denoiser.SAMPLE_RATE
    print(f"signal over noise {before:.1f} dB before, {after:.1f} dB after, {1000 * late:.0f} ms late")

    with torch.no_grad():
        whole = net(noisy[None])[0].numpy()
    print(f"{len(denoised)} samples for {len(noisy)}; apart from the net: {np.abs(denoised - whole).max():.1e}")
    np.testing.assert_allclose(denoised, whole, rtol=0, atol=1e-5)


if __name__ == "__main__":
    main()
