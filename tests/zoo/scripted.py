"""Code in other forms than Python's: ScriptModules, scripted functions, operators of a package, what vmap maps."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(0))  # (B, T, C)
FRAMES = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))


@torch.jit.script
def raised(x: Tensor) -> Tensor:
    return torch.relu(x) + 1


class Tagger(nn.Module):
    """A layer, functions of torch's and of its own, a branch on a number."""

    def __init__(self, factor: int = 3) -> None:
        super().__init__()
        self.gru, self.act, self.factor = nn.GRU(8, 16, batch_first=True), nn.ReLU(), factor

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(F.gelu(raised(self.gru(x)[0])))
        return y * self.factor if self.factor > 1 else y


class Loop(nn.Module):
    """Its own loop over time, around torch's cell."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 16)
        c = torch.zeros(x.size(0), 16)
        ys = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            ys.append(h)
        return torch.stack(ys, 1)


class Stateful(nn.Module):
    """A state of its own, and one that the first call makes."""

    def __init__(self) -> None:
        super().__init__()
        self.level, self.last = torch.zeros(1, 8), torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        if not len(self.last):
            self.last = torch.zeros_like(x)
        y = x - self.last
        self.last = x
        self.level = 0.5 * self.level + y
        return self.level + 1


class Around(nn.Module):
    """An ordinary model with a scripted part."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.out = torch.jit.script(Tagger().eval()), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(raised(self.part(x)))


class Mixed(nn.Module):
    """Layers that a trace writes unlike a script: both kinds of convolution, and a stack of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up, self.gru = nn.Conv1d(8, 4, 3, padding=2), nn.ConvTranspose1d(4, 4, 1), nn.GRU(4, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.conv(x.transpose(1, 2))[..., :-2]).relu()
        return self.gru(y.permute(2, 0, 1))[0].transpose(0, 1)


class Lists(nn.Module):
    """Lists and dicts that are written to."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        kept = [torch.zeros(x.size(0), 4)]
        kept *= 2
        ys: list[Tensor] = []
        by_name: dict[str, Tensor] = {}
        for t in range(x.size(1)):
            h = self.cell(x[:, t], kept[0])
            kept += [h]
            del kept[0]
            by_name.update({"h": h})
            ys += [by_name["h"] + kept[0]]
        by_name.clear()
        return torch.stack(ys, 1)


class Strict(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(1) != 4:
            raise ValueError("four features, please")
        return x


@torch.jit.script
def levels(x: Tensor, h: Tensor, w: Tensor, factor: float = 0.5) -> Tensor:
    """A loop over frames that are written one by one; torch's own executor unrolls it by eights."""
    ys = torch.zeros(x.size(0), x.size(1), x.size(2), dtype=x.dtype)
    for t in range(x.size(1)):
        h = torch.tanh(x[:, t] + factor * torch.mm(h, w))
        ys[:, t] = h
    return ys


class Calling(nn.Module):
    """An ordinary model whose loop over time is a scripted function, by name or in an attribute."""

    def __init__(self, held: bool) -> None:
        super().__init__()
        self.w, self.held = nn.Linear(8, 8, bias=False), levels if held else None

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(x.shape[0], 8)
        if self.held is not None:
            return self.held(x, w=self.w.weight.t(), h=zeros)
        return levels(x, zeros, self.w.weight.t(), 0.25)


def scripted(make, how="scripted here"):
    """A function that makes it, as torch.jit does `how`."""

    def made():
        module = make().eval()
        with warnings.catch_warnings():
            # Of the sizes that a layer checks, and of methods of Python's lists.
            warnings.simplefilter("ignore")
            module = torch.jit.trace(module, X) if how.startswith("traced") else torch.jit.script(module)
        if how.endswith("frozen"):
            module = torch.jit.freeze(module)
        if how == "loaded":
            torch.jit.save(module, file := io.BytesIO())
            file.seek(0)
            module = torch.jit.load(file)
        return module

    return made


# --- operators that a package registers with torch and writes in Python


@torch.library.custom_op("test_rnn_export::leaky", mutates_args=())
def leaky(x: Tensor, held: Tensor, decay: float) -> Tensor:
    made = []
    for frame in x.unbind(1):
        held = decay * held + frame
        made.append(held)
    return torch.stack(made, 1)


@leaky.register_fake
def _(x: Tensor, held: Tensor, decay: float) -> Tensor:
    return torch.empty_like(x)


LIBRARY = torch.library.Library("test_rnn_export", "FRAGMENT")
LIBRARY.define("charge(Tensor x, Tensor held) -> Tensor")
LIBRARY.impl("charge", lambda x, held: torch.tanh(x + 0.5 * held), "CPU")
LIBRARY.impl("charge", lambda x, held: torch.empty_like(x), "Meta")
LIBRARY.define("by_values(Tensor x) -> Tensor")
LIBRARY.impl("by_values", lambda x: torch.as_tensor(x.numpy() * 2), "CPU")
LIBRARY.impl("by_values", lambda x: torch.empty_like(x), "Meta")


def charged(s, x):
    s.held = torch.ops.test_rnn_export.charge(x, s.held)
    return s.held


def mapped(s, x):
    """Over modules of one kind, whose convolutions torch writes in another form inside of it."""
    held, _ = torch.func.stack_module_state(list(s.convs))
    y, first = F.pad(x.transpose(1, 2), (2, 0)), s.convs[0]
    maps = torch.func.vmap(lambda parameters: torch.func.functional_call(first, parameters, (y,)))
    return s.gru(maps(held).mean(0).transpose(1, 2))[0]


def decomposed(lifted):
    return torch.ops.aten.tanh.default in {node.target for node in lifted.module.graph.nodes}


OPERATORS, KEPT = torch.ops.test_rnn_export, [("last", (8,), "zeros"), ("level", (8,), "zeros")]
MAPPED = {"convs": nn.ModuleList(nn.Conv1d(4, 4, 3) for _ in range(2)), "gru": nn.GRU(4, 4, batch_first=True)}
ROWS = [(8, 2), (5,), (5,)]
TABLE = {
    "a scripted model streams": {
        "loaded: a layer and functions": case(scripted(Tagger, "loaded"), X).streams(states=["gru.l0.h"]),
        "a loop around a cell": case(scripted(Loop), X).streams(states=["cell.l0.h", "cell.l0.c"]),
        "a layer and functions": case(scripted(Tagger), X).streams(states=[(16,)]),
        "loaded: a loop around a cell": case(scripted(Loop, "loaded"), X).streams(states=[(16,), (16,)]),
        "what it keeps": case(scripted(Stateful), X[:, 0]).streams(states=KEPT),
        "loaded: what it keeps": case(scripted(Stateful, "loaded"), X[:, 0]).streams(states=KEPT),
        "lists and dicts that are written to": case(scripted(Lists), X).streams(),
        "as a part": case(Around, X).streams(states=["part.gru.l0.h"]),
        "what it raises is said": case(scripted(Strict), X[:, 0]).refused(
            "example-call-fails", "four features, please"
        ),
    },
    # Their layers are functions of torch's, their weights numbers of the code where they are frozen.
    "a traced or a frozen model streams": {
        how: case(scripted(Mixed, how), X).streams(states=ROWS, holds=lambda lifted: lifted.spec.rows is None)
        for how in ("traced and frozen", "traced", "frozen")
    },
    "a loop in a scripted function is the model's own": {
        "by name": case(lambda: Calling(False), X).streams(chunk=1, states=[(8,)]),
        "in an attribute": case(lambda: Calling(True), X).streams(chunk=1, states=[(8,)]),
        "called wrongly": case(Call(lambda s, x: levels(x, x[:, 0])), X).refused("example-call-fails", "misses w"),
    },
    "an operator written in Python is decomposed": {
        "with a loop inside": case(
            Call(lambda s, x: OPERATORS.leaky(x, x.new_zeros(x.shape[0], 4), 0.9)), FRAMES
        ).streams(holds=lambda lifted: len(lifted.spec.states) == 1),
        "registered by hand": case(Call(charged, held=torch.zeros(1, 4)), FRAMES[:, 0], time_axis=None).streams(
            holds=decomposed
        ),
        "but stays if it asks for values": case(
            Call(lambda s, x: OPERATORS.by_values(x)), FRAMES[:, 0], time_axis=None
        ).streams(holds=lambda lifted: not lifted.spec.states),
        "what vmap maps": case(Call(mapped, **MAPPED), FRAMES, time_axis=1).streams(),
    },
}
