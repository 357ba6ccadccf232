"""Lifting works on copies that share nothing with the user's model, and a trace leaves nothing in one."""

from __future__ import annotations

import copy
import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rnn_export.export.lift.model.model_copy import copied
from rnn_export.export.lift.model.module_attributes import as_before
from rnn_export.export.lift.trace.tracing import export_program

from ..messages import raises  # noqa: TID252


class Immutable:
    def __init__(self) -> None:
        vars(self).update(gains=torch.ones(3), seen=[1])

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("immutable")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("immutable")


class Slotted:
    __slots__ = ("later", "value")

    def __init__(self) -> None:
        self.value = 1


class Part(nn.Module):
    def __init__(self, **held: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Refusing(Part):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("not this one")


def twice(model: nn.Module) -> Any:
    """A copy of the copy, as stages of lifting make them."""
    return copy.deepcopy(copied(model)[0])


def test_an_object_whose_class_refuses_is_copied_as_any_other():
    model = Part(held=Immutable(), deep=[{"part": Refusing()}])
    made = twice(model)
    held, inner, own = made.held, made.deep[0]["part"], model.deep[0]["part"]
    assert isinstance(held, Immutable)
    assert type(model.held) is Immutable
    assert held.gains is not model.held.gains
    assert held.seen is not model.held.seen
    assert inner.linear.weight is not own.linear.weight
    assert torch.equal(held.gains, model.held.gains)
    assert torch.equal(inner(torch.ones(3)), own(torch.ones(3)))
    with pytest.raises(TypeError, match="immutable"):
        copy.deepcopy(model)


def test_what_cannot_be_copied_and_holds_no_tensors_is_shared(tmp_path):
    with open(tmp_path / "log", "w") as log:
        model = Part(lock=threading.Lock(), math=math, log=log)
        model.steps = [model.linear(torch.ones(3))]
        made = twice(model)
        assert torch.equal(made.steps[0], model.steps[0])
        assert made.math.pi == math.pi
        with made.lock:
            assert model.lock.locked()
        made.log.write("a line")
    assert (tmp_path / "log").read_text() == "a line"


def test_an_iterator_is_refused_by_name():
    with raises("part-not-copyable", "'frames' (generator", "cannot pickle 'generator' object"):
        copied(Part(frames=(n for n in range(9))))


def test_a_function_of_a_copy_closes_over_the_copy():
    model, calls = Part(), []
    inner = model.forward

    def forward(x: Tensor) -> Tensor:
        calls.append(model.training)
        return depth(inner(x), 2)

    def depth(x: Tensor, n: int) -> Tensor:
        return depth(x * model.linear.weight.sum(), n - 1) if n else x

    model.forward, model.scale = forward, lambda x: x * len(calls)
    model.linear.register_forward_hook(lambda module, args, result: result + model.linear.bias)
    made, x = twice(model), torch.ones(2, 3)
    torch.testing.assert_close(made(x), model(x))
    assert calls == [True]
    with torch.no_grad():
        made.linear.weight.zero_()
    assert (made(x) == 0).all()
    assert calls == [True]
    assert (made.scale(x) == 2).all()
    assert not (model(x) == 0).all()


def test_what_code_changes_is_put_back():
    model = Part(parts=[Part(h=None)], seen={1}, table={"a": [1]}, slots=Slotted(), n=0)
    weight = model.parts[0].linear.weight
    with as_before(model):
        model.parts[0].h, model.n, model.slots.value, model.slots.later = torch.ones(1), 1, 2, 3
        model.parts[0].linear.weight = nn.Parameter(torch.zeros(3, 3))
        model.seen.add(2), model.table["a"].append(2), model.table.update(b=1), model.parts.append(model)
        model.register_buffer("made", torch.zeros(1))
    assert (len(model.parts), model.parts[0].h, model.n, model.slots.value) == (1, None, 0, 1)
    assert (model.seen, model.table, hasattr(model.slots, "later")) == ({1}, {"a": [1]}, False)
    assert model.parts[0].linear.weight is weight
    assert not hasattr(model, "made")


class Cells(nn.Module):
    """Cells in a plain list keep a state that a call makes; behind them the code leaves torch."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = [Part(h=None)]

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            cell.h = cell(x) if cell.h is None else cell.h + x
        return torch.from_numpy(self.cells[0].h.detach().numpy())


def test_a_trace_that_fails_leaves_nothing():
    model = Cells()
    with raises(
        "trace-failed",
        "the model (test_copies_of_models.py",
        "`return torch.from_numpy",
        "RuntimeError: .numpy()",
        "The code leaves torch there, and no graph has what is computed outside of it",
    ):
        export_program(model, (torch.ones(2, 3),), ({},))
    assert model.cells[0].h is None
    copy.deepcopy(model)
