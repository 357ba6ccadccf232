"""Nets that others trained, as PyTorch modules, and their own programs' outputs; see `tests/data`.

Axes: B batch, T time, F features, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..test_silero_example import load_script  # noqa: TID252

DATA = Path(__file__).parents[1] / "data"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """A third party's outputs for `inputs` (T, ...), from its start.

    `outputs` are (T, ...) in the order of the module's. `states` are those after the frames `at`, all of them side by
    side, (len(at), cells).
    """

    inputs: Array
    outputs: tuple[Array, ...]
    at: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    states: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))


@dataclass(frozen=True)
class Fixture:
    """A net, how it is exported and what is true of it.

    `example` is what `export` is called with; `drive(model, x)` calls the module as its user does, on (1, T, ...), and
    gives its outputs, each (1, T, ...). The tolerances are absolute, one for each output and one for the states.
    """

    name: str
    load: Callable[[], nn.Module]
    example: tuple[Tensor, ...]
    reference: Callable[[], Reference]
    atol: tuple[float, ...]
    atol_states: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    drive: Callable[[nn.Module, Tensor], tuple[Tensor, ...]] = lambda model, x: tupled(model(x))


def tupled(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def read(name: str) -> dict[str, Array]:
    with np.load(DATA / name) as stored:
        return dict(stored)


def loaded(model: nn.Module, weights: dict[str, Array]) -> nn.Module:
    """`model` with every one of `weights` in it, in eval mode."""
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model.eval()


# --- Silero VAD ---------------------------------------------------------------------------------------------------


class SileroVAD16kSeq(nn.Module):
    """Windows of sound (B, T, 576) -> probability of speech (B, T).

    A window is 512 new samples after the last 64 of the window before. The state of the LSTM is hidden.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = load_script("model").SileroVAD()
        self.lstm = nn.LSTM(128, 128, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        B, T, samples = x.shape
        features = self.net.features(x.reshape(B * T, samples)).reshape(B, T, 128)
        h: Tensor = self.lstm(features)[0]
        logit = self.net.final_conv(torch.relu(h).transpose(1, 2))
        return torch.sigmoid(logit).squeeze(1)


def silero() -> SileroVAD16kSeq:
    model = SileroVAD16kSeq()
    model.net, _, _ = load_script("model").factory()
    model.lstm.load_state_dict({f"{name}_l0": value for name, value in model.net.lstm_cell.state_dict().items()})
    return model.eval()


def silero_reference() -> Reference:
    """Silero's own ONNX file in ONNX Runtime, on speech."""
    stored = read("silero_vad/upstream.npz")
    sound = np.concatenate([np.zeros(64, np.float32), stored["wav_i16"].astype(np.float32) / np.float32(32768)])
    windows = np.lib.stride_tricks.sliding_window_view(sound, 576)[::512]
    return Reference(
        np.ascontiguousarray(windows),
        (stored["prob_ort"],),
        stored["at"],
        np.concatenate([stored["h_ort"], stored["c_ort"]], axis=1),
    )


# --- Neural Amp Modeler -------------------------------------------------------------------------------------------


class NamLSTM(nn.Module):
    """Samples of a guitar (B, T, 1) -> samples of the amplifier (B, T, 1); the first h and c are learned."""

    def __init__(self, hidden: int = 3) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, hidden, batch_first=True), nn.Linear(hidden, 1)
        self.h0, self.c0 = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor) -> Tensor:
        h, c = (start.expand(1, x.shape[0], -1).contiguous() for start in (self.h0, self.c0))
        y, _ = self.lstm(x, (h, c))
        return self.head(y)


def nam() -> nn.Module:
    return loaded(NamLSTM(), read("nam_lstm/weights.npz"))


def nam_reference() -> Reference:
    """NAM's C++."""
    stored = read("nam_lstm/io.npz")
    return Reference(stored["x"][:, None], (stored["y"][:, None],))


# --- RNNoise ------------------------------------------------------------------------------------------------------


class ReluGRUCell(nn.Module):
    """x (B, F), h (B, H) -> the next h; the candidate is a ReLU, and the reset comes before its product.

    z, r = σ(W x + U h + b), n = relu(W_n x + U_n (r h) + b_n), h' = z h + (1 - z) n; rows in the order z, r, n.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.zeros(3 * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.zeros(3 * hidden, hidden))
        self.bias = nn.Parameter(torch.zeros(3 * hidden))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        x_z, x_r, x_n = (x @ self.weight_ih.T + self.bias).chunk(3, 1)
        u_z, u_r, u_n = self.weight_hh.chunk(3)
        z = torch.sigmoid(x_z + h @ u_z.T)
        r = torch.sigmoid(x_r + h @ u_r.T)
        n = torch.relu(x_n + (r * h) @ u_n.T)
        return z * h + (1 - z) * n


class RNNoise01(nn.Module):
    """One frame: features (B, 42) and three states -> gains (B, 22), voice (B, 1) and the next states."""

    def __init__(self) -> None:
        super().__init__()
        self.input_dense = nn.Linear(42, 24)
        self.vad_gru = ReluGRUCell(24, 24)
        self.noise_gru = ReluGRUCell(24 + 24 + 42, 48)
        self.denoise_gru = ReluGRUCell(24 + 48 + 42, 96)
        self.vad_output, self.denoise_output = nn.Linear(24, 1), nn.Linear(96, 22)

    def forward(
        self, features: Tensor, vad: Tensor, noise: Tensor, denoise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        dense = torch.tanh(self.input_dense(features))
        vad = self.vad_gru(dense, vad)
        noise = self.noise_gru(torch.cat([dense, vad, features], 1), noise)
        denoise = self.denoise_gru(torch.cat([vad, noise, features], 1), denoise)
        gains, voice = torch.sigmoid(self.denoise_output(denoise)), torch.sigmoid(self.vad_output(vad))
        return gains, voice, vad, noise, denoise


class RNNoiseLoop(nn.Module):
    """Features (B, T, 42) -> gains (B, T, 22), voice (B, T, 1): the same in a loop that keeps the states to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.step = RNNoise01()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        vad, noise, denoise = (features.new_zeros(features.shape[0], cells) for cells in (24, 48, 96))
        all_gains, all_voice = [], []
        for t in range(features.shape[1]):
            gains, voice, vad, noise, denoise = self.step(features[:, t], vad, noise, denoise)
            all_gains.append(gains)
            all_voice.append(voice)
        return torch.stack(all_gains, 1), torch.stack(all_voice, 1)


def rnnoise() -> nn.Module:
    weights = read("rnnoise_v01/weights.npz")
    return loaded(RNNoise01(), {name: value.astype(np.float32) / np.float32(256) for name, value in weights.items()})


def rnnoise_loop() -> nn.Module:
    model = RNNoiseLoop()
    model.step = rnnoise()
    return model.eval()


def rnnoise_reference() -> Reference:
    """RNNoise's C code, on speech with noise."""
    stored = read("rnnoise_v01/io.npz")
    return Reference(stored["features"], (stored["c_gains"], stored["c_vad"][:, None]), stored["at"], stored["c_state"])


def by_frames(model: nn.Module, features: Tensor) -> tuple[Tensor, ...]:
    """RNNoise01 frame after frame, from zeros."""
    states, frames = [torch.zeros(1, cells) for cells in (24, 48, 96)], []
    for frame in features.unbind(1):
        gains, voice, *states = model(frame, *states)
        frames.append((gains, voice))
    return tuple(torch.stack(one, 1) for one in zip(*frames, strict=True))


# --- RTNeural -----------------------------------------------------------------------------------------------------


class KerasNet(nn.Module):
    """(B, T, 1) -> (B, T, 1): dense tanh where `pre`, a layer of 8, dense sigmoid where `mid`, dense."""

    def __init__(self, kind: type[nn.RNNBase], pre: bool, mid: bool) -> None:
        super().__init__()
        if pre:
            self.pre = nn.Linear(1, 8)
        self.rec = kind(8 if pre else 1, 8, batch_first=True)
        if mid:
            self.mid = nn.Linear(8, 8)
        self.out = nn.Linear(8, 1)
        self.has_pre, self.has_mid = pre, mid

    def forward(self, x: Tensor) -> Tensor:
        if self.has_pre:
            x = torch.tanh(self.pre(x))
        x, _ = self.rec(x)
        if self.has_mid:
            x = torch.sigmoid(self.mid(x))
        return self.out(x)


class TorchGRU(nn.Module):
    """(B, T, 1) -> (B, T, 1): a layer of 8, three stacked layers of 8, dense."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.gru2 = nn.GRU(1, 8, batch_first=True), nn.GRU(8, 8, 3, batch_first=True)
        self.dense = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.gru(x)
        x, _ = self.gru2(x)
        return self.dense(x)


class TorchLSTM(nn.Module):
    """The same with LSTMs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.lstm2 = nn.LSTM(1, 8, batch_first=True), nn.LSTM(8, 8, 3, batch_first=True)
        self.dense = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(x)
        x, _ = self.lstm2(x)
        return self.dense(x)


RTNEURAL: dict[str, Callable[[], nn.Module]] = {
    "gru": partial(KerasNet, nn.GRU, pre=True, mid=True),
    "gru_1d": partial(KerasNet, nn.GRU, pre=False, mid=True),
    "lstm": partial(KerasNet, nn.LSTM, pre=True, mid=False),
    "lstm_1d": partial(KerasNet, nn.LSTM, pre=False, mid=False),
    "gru_torch": TorchGRU,
    "lstm_torch": TorchLSTM,
}


def rtneural(name: str) -> nn.Module:
    stored = read(f"rtneural/{name}.npz")
    return loaded(RTNEURAL[name](), {key[2:]: value for key, value in stored.items() if key.startswith("w.")})


def rtneural_reference(name: str) -> Reference:
    """RTNeural's CSV files."""
    stored = read(f"rtneural/{name}.npz")
    return Reference(stored["x"][:, None], (stored["y_ref"][:, None],))


# --- Thai word segmentation ---------------------------------------------------------------------------------------


class ThaiBiLSTM(nn.Module):
    """Ids (B, T) -> probabilities of begin, inside, end and single (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(74, 40)
        self.lstm = nn.LSTM(40, 27, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(54, 4)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.lstm(self.emb(ids))[0]
        return torch.softmax(self.fc(y), -1)


@dataclass(frozen=True)
class Sentence:
    """A text, its ids (T,), what the third party's numpy gives for them (T, 4), and its words."""

    text: str
    ids: Array
    probability: Array
    words: list[str]


def thai() -> nn.Module:
    weights = read("thai_bilstm/weights.npz")
    return loaded(ThaiBiLSTM(), {name: value for name, value in weights.items() if name != "codepoints"})


def thai_ids(text: str) -> Array:
    known = {point: i for i, point in enumerate(read("thai_bilstm/weights.npz")["codepoints"].tolist())}
    return np.array([known.get(point, len(known)) for point in text], np.int64)


def thai_words(text: str, probability: Array) -> list[str]:
    """Cut `text` (T letters) before each letter that begins a word or is one; `probability` is (T, 4)."""
    words: list[str] = []
    for letter, best in zip(text, probability.argmax(1), strict=True):
        if best in (0, 3) or not words:
            words.append(letter)
        else:
            words[-1] += letter
    return words


def thai_sentences() -> list[Sentence]:
    stored = read("thai_bilstm/io.npz")
    return [
        Sentence(str(stored[f"t{i}.text"]), stored[f"t{i}.ids"], stored[f"t{i}.prob"], stored[f"t{i}.words"].tolist())
        for i in range(4)
    ]


# --- the table ----------------------------------------------------------------------------------------------------

# The tolerances leave room over what was measured (tests/data/*/README.md), not over what would be wrong.
FIXTURES = [
    Fixture("silero", silero, (torch.zeros(1, 3, 576),), silero_reference, (1e-5,), 1e-4, {"sample_rate": 16000}),
    Fixture("nam", nam, (torch.zeros(1, 8, 1),), nam_reference, (1e-6,), options={"sample_rate": 48000}),
    Fixture(
        "rnnoise",
        rnnoise,
        (torch.zeros(1, 42), torch.zeros(1, 24), torch.zeros(1, 48), torch.zeros(1, 96)),
        rnnoise_reference,
        (5e-5, 5e-5),
        3e-4,
        {"states": {"vad": 2, "noise": 3, "denoise": 4}},
        by_frames,
    ),
    Fixture("rnnoise-loop", rnnoise_loop, (torch.zeros(1, 5, 42),), rnnoise_reference, (5e-5, 5e-5), 3e-4),
    *(
        Fixture(
            f"rtneural-{name}",
            partial(rtneural, name),
            (torch.zeros(1, 8, 1),),
            partial(rtneural_reference, name),
            (1e-6,),
        )
        for name in RTNEURAL
    ),
]
