"""Lifting of ScriptModules, scripted functions and compiled modules leaves them as they are."""

import torch
from torch import nn

from rnn_export.export.lift.model.script import script_interpreter, script_modules

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.scripted import Calling, Stateful, Tagger, X, levels, scripted  # noqa: TID252
from .streams import Call, assert_streams


def test_functions_that_were_scripted_elsewhere(monkeypatch):
    for module in (script_interpreter, script_modules):
        monkeypatch.setattr(module, "function_of", lambda value: None)
    assert_streams(scripted(Tagger, "loaded")(), X)


def test_the_users_own_is_left_alone():
    module = torch.jit.script(Stateful().eval())
    lift(module, (X[:, 0],))
    assert not len(module.last)
    model = Calling(True).eval()
    lift(model, (X,))
    assert model.held is levels


def test_only_within_lift_is_a_scripted_function_followed():
    @torch.jit.script
    def last_level(x: torch.Tensor, h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        for t in range(x.size(1)):
            h = torch.tanh(x[:, t] + torch.mm(h, w))
        return h

    before = torch.jit.ScriptFunction.__call__
    model = Call(lambda s, x: last_level(x, torch.zeros(x.shape[0], 8), s.w.weight), w=nn.Linear(8, 8))
    with raises("max-context-without-attention", "max_context"):
        lift(model, (X,), max_context=5)
    assert torch.jit.ScriptFunction.__call__ is before


def test_nothing_is_compiled_while_it_is_tried():
    sizes = []

    def counting(module, samples):
        sizes.append(samples)
        return module.forward

    compiled = torch.compile(nn.Sequential(nn.Linear(8, 3), nn.Tanh()), backend=counting)
    model = Call(lambda s, x: s.gru(s.compiled(x))[0], compiled=compiled, gru=nn.GRU(3, 3, batch_first=True))
    lift(model, (X,), time_axis=1)
    assert not sizes
