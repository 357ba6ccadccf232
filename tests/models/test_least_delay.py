"""The delay of a contract is the least that the model allows, measured by changing one frame of the input."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lifting import lift  # noqa: TID252
from .whole_streams import assert_lifted_whole

WIDTH = 4


class Block(nn.Module):
    """A convolution over time with what stands around it; `kind` says which."""

    def __init__(self, kind: str, size: int, dilation: int, stride: int) -> None:
        super().__init__()
        self.kind, self.span, self.stride = kind, (size - 1) * dilation, stride
        padding = {"same": self.span // 2, "residual": dilation, "causal": self.span}.get(kind, 0)
        if kind.startswith("up"):
            padding = stride // 2 if kind == "up_centred" else 0
            self.conv: nn.Module = nn.ConvTranspose1d(WIDTH, WIDTH, 2 * stride, stride, padding)
        elif kind.startswith("down"):
            padding = (stride + 1) // 2 if kind == "down_centred" else 0
            self.conv = nn.Conv1d(WIDTH, WIDTH, 2 * stride, stride, padding)
        else:
            size = 3 if kind == "residual" else size
            self.conv = nn.Conv1d(WIDTH, WIDTH, size, padding=padding, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "residual":
            return x + torch.tanh(self.conv(x))
        if self.kind == "causal":
            return self.conv(x)[..., : -self.span] if self.span else self.conv(x)
        if self.kind in ("constant", "replicate", "reflect"):
            return self.conv(F.pad(x, (self.span, 0), mode=self.kind))
        if self.kind in ("up_replicate", "up_constant"):
            mode = self.kind.removeprefix("up_")
            return self.conv(F.pad(x, (1, 0), mode=mode))[:, :, self.stride : -self.stride]
        if self.kind == "up_causal":
            return self.conv(x)[:, :, : -self.stride]
        if self.kind == "down_causal":
            return self.conv(F.pad(x, (self.stride, 0)))
        if self.kind == "up_repeated":
            return x.repeat_interleave(self.stride, -1)
        return self.conv(x)


KEEP = ("same", "residual", "causal", "constant", "replicate")
UP = ("up_centred", "up_replicate", "up_constant", "up_causal", "up_repeated")
DOWN = ("down_centred", "down_causal")


def drawn(seed: int, ways: tuple[str, ...]) -> nn.Module:
    """Blocks in a row: strides of `ways` (all one way, so that a step has few frames), others between them."""
    draw, blocks = random.Random(f"{seed} {ways}"), []
    for _ in range(draw.randint(1, 2)):
        blocks += [Block(draw.choice(KEEP), 3, draw.choice((1, 2)), 1)] * draw.randint(0, 2)
        blocks.append(Block(draw.choice(ways), 1, 1, draw.choice((2, 4))))
    blocks += [Block(draw.choice(KEEP), 3, draw.choice((1, 3)), 1) for _ in range(draw.randint(1, 3))]
    return nn.Sequential(*blocks)


class Vocoder(nn.Module):
    """Upsampling by 16, and convolutions that look ahead 4 samples in all, a quarter of a frame."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(WIDTH, WIDTH, 16, 16)
        self.convs = nn.Sequential(*[nn.Conv1d(WIDTH, WIDTH, 3, padding=1) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(self.up(x))


NETS = {
    **{f"up {seed}": lambda seed=seed: drawn(seed, UP) for seed in range(15)},
    **{f"down {seed}": lambda seed=seed: drawn(seed, DOWN) for seed in range(10)},
    **{f"kept {seed}": lambda seed=seed: drawn(seed, KEEP) for seed in range(2)},
    **{f"vocoder {layers}": lambda layers=layers: Vocoder(layers) for layers in (1, 4)},
    # What repeats later frames before the first one waits for them, unless a step brings both.
    "reflect": lambda: nn.Sequential(Block("residual", 3, 1, 1), Block("reflect", 3, 2, 1)),
    "reflect within a step": lambda: nn.Sequential(Block("up_causal", 1, 1, 4), Block("reflect", 3, 1, 1)),
    "reflect over two steps": lambda: nn.Sequential(Block("up_causal", 1, 1, 4), Block("reflect", 3, 3, 1)),
    "reflect in a step of four": lambda: nn.Sequential(Block("reflect", 3, 1, 1), Block("down_causal", 1, 1, 4)),
}


@torch.no_grad()
def least_delay(model: nn.Module, chunk: int, frames: int = 64) -> int:
    """The least delay of a stream of `model`, in frames of the input, in steps of `chunk` frames."""
    x = torch.randn(1, WIDTH, frames * chunk, dtype=torch.float64)
    before = model.double()(x)
    rate = round(before.shape[-1] / frames)  # frames of the output in a step
    latest = 0
    for frame in range((frames // 2 + 1) * chunk):
        changed = x.clone()
        changed[..., frame] += 1e3
        differ = (model(changed) != before).any(1)[0].nonzero()
        latest = max(latest, frame // chunk - int(differ[0]) // rate)
    return latest * chunk


@pytest.mark.parametrize("name", NETS)
def test_the_delay_is_the_least(name):
    torch.manual_seed(0)
    model = NETS[name]().eval()
    lifted = lift(model, (torch.randn(1, WIDTH, 96),))
    assert lifted.spec.delay == least_delay(model, lifted.spec.chunk)
    torch.manual_seed(0)
    assert_lifted_whole(lifted, NETS[name]().eval(), (torch.randn(1, WIDTH, 96),), atol=1e-5)
