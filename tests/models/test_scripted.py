"""ScriptModules, as the model and inside it, scripted functions and scripted cells."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from rnn_export.export.lift.model.script import script_interpreter, script_modules

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call, assert_streams, stepped

X = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(0))


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


def scripted(make, tmp_path, how: str) -> nn.Module:
    torch.manual_seed(0)
    module = make().eval()
    with warnings.catch_warnings():
        # Of the sizes that a layer checks.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        module = torch.jit.trace(module, X) if how.startswith("traced") else torch.jit.script(module)
    if how.endswith("frozen"):
        module = torch.jit.freeze(module)
    if how == "loaded":
        torch.jit.save(module, tmp_path / "model.pt")
        module = torch.jit.load(tmp_path / "model.pt")
    return module


@pytest.mark.parametrize("how", ["scripted here", "loaded"])
@pytest.mark.parametrize(
    ("make", "states"),
    [(Tagger, [("gru.l0.h", (16,))]), (Loop, [("cell.l0.h", (16,)), ("cell.l0.c", (16,))])],
    ids=["a layer and functions", "a loop around a cell"],
)
def test_a_scripted_model_over_time(make, states, how, tmp_path):
    lifted = assert_streams(scripted(make, tmp_path, how), X)
    assert [(s.name, s.row) for s in lifted.spec.states] == states


def test_functions_that_were_scripted_elsewhere(tmp_path, monkeypatch):
    for module in (script_interpreter, script_modules):
        monkeypatch.setattr(module, "function_of", lambda value: None)
    assert_streams(scripted(Tagger, tmp_path, "loaded"), X)


@pytest.mark.parametrize("how", ["scripted here", "loaded"])
def test_what_a_scripted_model_keeps(how, tmp_path):
    lifted = assert_streams(scripted(Stateful, tmp_path, how), X[:, 0])
    assert [(s.name, s.row, s.initial) for s in lifted.spec.states] == [
        ("last", (8,), "zeros"),
        ("level", (8,), "zeros"),
    ]


@pytest.mark.parametrize("how", ["traced", "traced and frozen", "frozen"])
def test_traced_and_frozen_models(how, tmp_path):
    """Their layers are functions of torch's, their weights numbers of the code where they are frozen."""
    lifted = assert_streams(scripted(Mixed, tmp_path, how), X)
    assert [s.row for s in lifted.spec.states] == [(8, 2), (5,), (5,)]
    assert lifted.spec.rows is None


def test_a_scripted_part():
    torch.manual_seed(0)
    lifted = assert_streams(Around().eval(), X)
    assert [s.name for s in lifted.spec.states] == ["part.gru.l0.h"]


def test_the_users_own_is_left_alone():
    module = torch.jit.script(Stateful().eval())
    lift(module, (X[:, 0],))
    assert not len(module.last)


def test_what_the_scripted_code_raises_is_said():
    class Strict(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.size(1) != 4:
                raise ValueError("four features, please")
            return x

    with raises("example-call-fails", "four features, please"):
        lift(torch.jit.script(Strict()), (X[:, 0],))


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


def test_lists_and_dicts_that_are_written_to():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.jit.script(Lists().eval())
    assert_streams(model, X)


@torch.jit.script
def levels(x: Tensor, h: Tensor, w: Tensor, factor: float = 0.5) -> Tensor:
    """A loop over frames that are written one by one; torch's own executor unrolls it by eights."""
    ys = torch.zeros(x.size(0), x.size(1), x.size(2), dtype=x.dtype)
    for t in range(x.size(1)):
        h = torch.tanh(x[:, t] + factor * torch.mm(h, w))
        ys[:, t] = h
    return ys


@torch.jit.script
def last_level(x: Tensor, h: Tensor, w: Tensor) -> Tensor:
    for t in range(x.size(1)):
        h = torch.tanh(x[:, t] + torch.mm(h, w))
    return h


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


@pytest.mark.parametrize("held", [False, True])
def test_a_loop_in_a_scripted_function_is_the_models_own(held):
    model = Calling(held).eval()
    lifted = lift(model, (X,))
    assert [(state.shape, lifted.spec.chunk) for state in lifted.spec.states] == [(("batch", 8), 1)]
    outputs, _ = stepped(lifted, X)
    assert_close(torch.cat([y for (y,) in outputs], 1), model(X))
    assert model.held is (levels if held else None)


def test_only_within_lift_is_a_scripted_function_followed():
    before = torch.jit.ScriptFunction.__call__
    model = Call(lambda s, x: last_level(x, torch.zeros(x.shape[0], 8), s.w.weight), w=nn.Linear(8, 8))
    with raises("max-context-without-attention", "max_context"):
        lift(model, (X,), max_context=5)
    assert torch.jit.ScriptFunction.__call__ is before


def test_a_scripted_function_that_is_called_wrongly_says_so():
    with raises("example-call-fails", "misses w"):
        lift(Call(lambda s, x: levels(x, x[:, 0])), (X,))
