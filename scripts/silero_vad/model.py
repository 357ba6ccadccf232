"""Silero VAD (16 kHz) as a plain torch module: the probability of speech in 32 ms of sound.

A short-time Fourier transform (a convolution with fixed weights), four convolutions and one LSTM cell. The caller keeps
what the net remembers between calls: the last 64 samples of sound and the two states of the cell.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad, relu

SAMPLE_RATE = 16000  # Hz
CHUNK = 512  # new samples per call: 32 ms
CONTEXT = 64  # samples of the call before, put in front of them: 4 ms
HIDDEN = 128
BINS = 129  # frequencies of a 256-point transform

WEIGHTS = Path(__file__).with_name("silero_vad_16k.safetensors")


class SileroVAD(nn.Module):
    """The 16 kHz net of Silero VAD 6.2.3: one call, one chunk of 32 ms.

    B is the batch: streams that do not know of each other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, HIDDEN, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(HIDDEN, HIDDEN)
        self.final_conv = nn.Conv1d(HIDDEN, 1, 1)

    def features(self, sound: Tensor) -> Tensor:
        """Turn the sound (B, 576) of one call into its features (B, 128)."""
        x = pad(sound.unsqueeze(1), (0, 64), mode="reflect")
        real, imaginary = self.stft_conv(x).split(BINS, dim=1)
        x = torch.sqrt(real**2 + imaginary**2)  # (B, 129, 4): four windows of 16 ms, 8 ms apart
        x = relu(self.conv1(x))
        x = relu(self.conv2(x))
        x = relu(self.conv3(x))
        x = relu(self.conv4(x))
        return x.squeeze(-1)  # the strides have left one frame

    def forward(self, samples: Tensor, context: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hear one chunk.

        `samples` (B, 512) float32 are new at 16 kHz, full scale ±1; `context` (B, 64) came just before them; `h` and
        `c` (B, 128) are the hidden and the cell state of the LSTM cell. All three are zeros at first. Gives the
        probability of speech (B, 1), 0 to 1, and the next context, h and c, shaped as they came.
        """
        h, c = self.lstm_cell(self.features(torch.cat([context, samples], dim=1)), (h, c))
        logit = self.final_conv(relu(h).unsqueeze(-1)).squeeze(-1)
        return torch.sigmoid(logit), samples[:, -CONTEXT:], h, c


def factory() -> tuple[SileroVAD, tuple[Tensor, Tensor, Tensor, Tensor], dict[str, object]]:
    """Give the net with its weights, a batch of one to call it with (samples, context, h, c: zeros), and the options
    for `rnn_export.export.export`.
    """
    model = SileroVAD()
    model.load_state_dict(load_file(WEIGHTS))
    example_inputs = (
        torch.zeros(1, CHUNK),
        torch.zeros(1, CONTEXT),
        torch.zeros(1, HIDDEN),
        torch.zeros(1, HIDDEN),
    )
    options: dict[str, object] = {
        "states": {"context": 1, "h": 2, "c": 3},
        "sample_rate": SAMPLE_RATE,
        "input_names": ["samples"],
        "output_names": ["probability"],
    }
    return model.eval(), example_inputs, options
