"""The start of buffers, and objects that hold themselves; tests/zoo/memory.py has more."""

import torch
from torch import nn

from rnn_export.export.lift.model.module_attributes import attributes

from ..lifting import lift  # noqa: TID252
from ..zoo.memory import FRAME, leaky  # noqa: TID252
from .streams import Call


def test_a_buffer_starts_from_what_it_holds_unless_said():
    model = Call(leaky, h=torch.full((1, 4), 3.0))
    lifted = lift(model, (FRAME,))
    assert torch.equal(lifted.initial["h"], torch.full((4,), 3.0))
    lifted = lift(model, (FRAME,), initial={"h": torch.arange(4.0)})
    assert torch.equal(lifted.initial["h"], torch.arange(4.0))
    assert torch.equal(model.h, torch.full((1, 4), 3.0))  # the user's own is left alone


def test_an_object_that_holds_itself_is_looked_into_once():
    class Held:
        pass

    model, cache = nn.Module(), Held()
    model.cache, cache.layers = cache, [Held()]
    cache.layers[0].cache = cache
    paths = [str(path) for path, _ in attributes(model)]
    assert "cache.layers.0.cache" in paths
    assert "cache.layers.0.cache.layers" not in paths
