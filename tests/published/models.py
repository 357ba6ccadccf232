"""Models of published packages, as their authors wrote them: only arguments and outputs are chosen here.

Packages are imported where a model is made, for they are in `.venv-published` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Frames = Mapping[str, Tensor]


@dataclass(frozen=True)
class Published:
    """A model and what its author says that it gives.

    Attributes:
        title: the class and what is special in it.
        package: as on PyPI, of `packages.txt`.
        make: the model, seeded; `example` is of its inputs, `options` are of `export`.
        own: what the model gives for inputs (frames, ...) of one stream by the author's own API: (frames, ...).
        refused: a pattern of the message, where it is refused.
    """

    title: str
    package: str
    make: Callable[[], nn.Module]
    example: tuple[Tensor, ...]
    own: Callable[[nn.Module, Frames], Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""


def whole(model: nn.Module, frames: Frames) -> Tensor:
    """The sequence (1, frames, ...) in one call."""
    (x,) = frames.values()
    return first(model(x[None]))[0]


def by_call(model: nn.Module, frames: Frames) -> Tensor:
    """One call a frame; the model keeps its memory itself."""
    (x,) = frames.values()
    return torch.cat([first(model(frame[None])) for frame in x])


def with_states(*states: tuple[int, ...]) -> Callable[[nn.Module, Frames], Tensor]:
    """One call a frame, its states, of these shapes at first, passed on."""

    def run(model: nn.Module, frames: Frames) -> Tensor:
        held, given = [torch.zeros(shape) for shape in states], []
        names = list(frames)
        for values in zip(*frames.values(), strict=True):
            fed = dict(zip(names, values, strict=True))
            y, *held = model(fed[names[0]][None], *held, *(fed[n][None] for n in names[1:]))
            given.append(y)
        return torch.cat(given)

    return run


def first(result: Any) -> Tensor:
    while not isinstance(result, Tensor):
        result = result[0]
    return result


class SpikingNet(nn.Module):
    """One step of the package's tutorial net, its membranes passed in and out."""

    def __init__(self) -> None:
        import snntorch

        super().__init__()
        self.first, self.fire = nn.Linear(16, 32), snntorch.Leaky(beta=0.9)
        self.second, self.out = nn.Linear(32, 4), snntorch.Leaky(beta=0.8)

    def forward(self, x: Tensor, inner: Tensor, outer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spikes, inner = self.fire(self.first(x), inner)
        y, outer = self.out(self.second(spikes), outer)
        return y, inner, outer


def hidden_membranes() -> nn.Module:
    import snntorch

    leaky = [snntorch.Leaky(beta=beta, init_hidden=True) for beta in (0.9, 0.8)]
    return nn.Sequential(nn.Linear(16, 32), leaky[0], nn.Linear(32, 4), leaky[1])


def own_membranes(model: nn.Module, frames: Frames) -> Tensor:
    from snntorch import utils

    utils.reset(model)
    return by_call(model, frames)


def cfc() -> nn.Module:
    from ncps.torch import CfC

    made: nn.Module = CfC(20, 50, batch_first=True)
    return made


def ltc() -> nn.Module:
    from ncps.torch import LTC
    from ncps.wirings import AutoNCP

    made: nn.Module = LTC(20, AutoNCP(28, 4), batch_first=True)
    return made


def mamba() -> nn.Module:
    from mambapy.mamba import Mamba, MambaConfig

    made: nn.Module = Mamba(MambaConfig(d_model=32, n_layers=2, pscan=False))
    return made


class MinGruStep(nn.Module):
    """The package's own step: a frame and the hidden state before it."""

    def __init__(self) -> None:
        from minGRU_pytorch import minGRU

        super().__init__()
        self.cell = minGRU(32, expansion_factor=1.5)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.cell(x, h, return_next_prev_hidden=True)


def whole_min_gru(model: nn.Module, frames: Frames) -> Tensor:
    return model.cell(frames["x"].reshape(1, -1, 32))[0][:, None]  # type: ignore[operator, no-any-return]


def min_lstm() -> nn.Module:
    from minGRU_pytorch.minLSTM import minLSTM

    made: nn.Module = minLSTM(32)
    return made


def tcn() -> nn.Module:
    from pytorch_tcn import TCN

    made: nn.Module = TCN(num_inputs=20, num_channels=[32] * 4, kernel_size=4, causal=True, input_shape="NLC")
    return made


def rsl_rnn() -> nn.Module:
    from rsl_rl.modules.rnn import RNN

    made: nn.Module = RNN(48, 64, 1, "gru")
    return made


def own_rsl(model: nn.Module, frames: Frames) -> Tensor:
    model.reset()  # type: ignore[operator]
    return by_call(model, frames)


class Silero(nn.Module):
    """Silero VAD as its package ships it, at one rate."""

    def __init__(self, rate: int) -> None:
        from importlib.resources import files

        super().__init__()
        self.vad, self.rate = torch.jit.load(str(files("silero_vad") / "data" / "silero_vad.jit")), rate

    def forward(self, x: Tensor) -> Tensor:
        return self.vad(x, self.rate)  # type: ignore[no-any-return]


def own_silero(model: nn.Module, frames: Frames) -> Tensor:
    model.vad.reset_states()  # type: ignore[union-attr, operator]
    return by_call(model, frames)


def cached_convolutions() -> nn.Module:
    import cached_conv

    cached_conv.use_cached_conv(True)
    inner = cached_conv.Conv1d(4, 16, 5, padding=cached_conv.get_padding(5))
    model = nn.Sequential(inner, nn.Tanh(), cached_conv.Conv1d(16, 4, 1, padding=(0, 0)))
    # The caches are made by the first call, for so many rows.
    with torch.no_grad():
        model(torch.zeros(1, 4, 8))
    return model


def lru() -> nn.Module:
    from LRU_pytorch.LRU import LRU

    made: nn.Module = LRU(16, 16, 24)
    return made


class RecurrentPolicy(nn.Module):
    """The action of a policy of RecurrentPPO, deterministic, with its states and the starts of episodes."""

    def __init__(self) -> None:
        import gymnasium
        import numpy as np
        from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

        super().__init__()
        seen = gymnasium.spaces.Box(-10, 10, (24,), np.float32)
        done = gymnasium.spaces.Box(-1, 1, (6,), np.float32)
        self.policy = RecurrentActorCriticPolicy(seen, done, lambda _: 3e-4, lstm_hidden_size=64)

    def forward(self, obs: Tensor, h: Tensor, c: Tensor, episode_starts: Tensor) -> Any:
        action, (h, c) = self.policy._predict(obs, (h, c), episode_starts, deterministic=True)
        return action, h, c


MODELS: Mapping[str, Published] = {
    "snntorch_leaky": Published(
        "Leaky, membranes passed", "snntorch", SpikingNet, (torch.randn(1, 16), torch.zeros(1, 32), torch.zeros(1, 4)),
        with_states((1, 32), (1, 4)), {"time_axis": None, "states": {"inner": 1, "outer": 2}},
    ),
    "snntorch_hidden": Published(
        "Leaky(init_hidden=True)", "snntorch", hidden_membranes, (torch.randn(1, 16),), own_membranes,
        {"time_axis": None},
    ),
    "ncps_cfc": Published("CfC", "ncps", cfc, (torch.randn(1, 12, 20),), whole),
    "ncps_ltc": Published("LTC with AutoNCP", "ncps", ltc, (torch.randn(1, 12, 20),), whole),
    "mambapy_mamba": Published("Mamba, sequential scan", "mambapy", mamba, (torch.randn(1, 12, 32),), whole),
    "mingru_step": Published(
        "minGRU, step by step", "minGRU-pytorch", MinGruStep, (torch.randn(1, 1, 32), torch.zeros(1, 1, 48)),
        whole_min_gru, {"time_axis": None, "states": {"h": 1}},
    ),
    "minlstm": Published("minLSTM, in parallel", "minGRU-pytorch", min_lstm, (torch.randn(1, 12, 32),), whole),
    "pytorch_tcn": Published("TCN(causal=True)", "pytorch-tcn", tcn, (torch.randn(1, 40, 20),), whole),
    "rsl_rl_rnn": Published("RNN, its state in an attribute", "rsl-rl-lib", rsl_rnn, (torch.zeros(1, 48),), own_rsl),
    "silero_16k": Published(
        "Silero VAD, 16 kHz, TorchScript", "silero-vad", lambda: Silero(16000), (torch.zeros(1, 512),), own_silero,
        {"time_axis": None, "sample_rate": 16000},
    ),
    "silero_8k": Published(
        "Silero VAD, 8 kHz, TorchScript", "silero-vad", lambda: Silero(8000), (torch.zeros(1, 256),), own_silero,
        {"time_axis": None, "sample_rate": 8000},
    ),
    "cached_conv": Published(
        "cached convolutions of RAVE", "cached-conv", cached_convolutions, (torch.zeros(1, 4, 8),), by_call,
        {"time_axis": None},
    ),
    "lru": Published("LRU, complex", "lru-pytorch", lru, (torch.randn(1, 12, 16),), whole, {"time_axis": 1}),
    "sb3_recurrent_ppo": Published(
        "RecurrentPPO, MlpLstmPolicy", "sb3_contrib", RecurrentPolicy,
        (torch.zeros(1, 24), torch.zeros(1, 1, 64), torch.zeros(1, 1, 64), torch.zeros(1)),
        with_states((1, 1, 64), (1, 1, 64)), {"time_axis": None, "states": {"h": 1, "c": 2}},
    ),
}  # fmt: skip
