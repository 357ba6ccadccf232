"""States that a model takes and returns as an object: a cache of layers, which the first call makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rnn_export.export.lift.model.module_attributes import attributes

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import assert_streams, stepped

torch.manual_seed(0)
IDS = torch.randint(0, 9, (2, 1))
TEXT = torch.randint(0, 9, (2, 6))


class Layer:
    """The memory of one layer, written over in place, which knows whether there was a call."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor | None] = {0: None}
        self.is_made = {0: False}

    def update(self, state: Tensor) -> Tensor:
        if not self.is_made[0]:
            self.states[0], self.is_made[0] = torch.zeros_like(state), True
        held = self.states[0]
        assert held is not None
        return held.copy_(0.5 * held + state)


class Cache:
    def __init__(self, layers: int) -> None:
        self.layers = [Layer() for _ in range(layers)]


@dataclass
class Result:
    logits: Tensor
    cache: Any = None


class Language(nn.Module):
    """Layers that remember an average; frames of a sequence follow each other from nothing, or from a cache."""

    def __init__(self, named: bool = True, layers: int = 2) -> None:
        super().__init__()
        self.embed, self.named = nn.Embedding(9, 4), named
        self.mix = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))

    def forward(self, ids: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Any:
        x, cache = self.embed(ids), cache or Cache(len(self.mix))
        for layer, mix in zip(cache.layers, self.mix, strict=True):
            frames = [layer.update(torch.tanh(mix(x[:, t]))).clone() for t in range(x.shape[1])]
            x = torch.stack(frames, 1)
        return Result(x, cache) if self.named else (cache, x)


class Held(nn.Module):
    """One token a call, its cache an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.cache = Language(), Cache(2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids[:, None], cache=self.cache).logits[:, 0]  # type: ignore[no-any-return]


def test_a_cache_in_an_attribute_is_states_layer_by_layer():
    lifted = assert_streams(Held().eval(), IDS[:, 0])
    assert [s.name for s in lifted.spec.states] == ["cache.layers.0.states.0", "cache.layers.1.states.0"]


@pytest.mark.parametrize(
    ("given", "key"), [((), "cache"), ((None, Cache(2)), 0)], ids=["left out, by name", "given, by position"]
)
def test_a_declared_cache_is_states(given, key):
    model = Language(key == "cache").eval()
    lifted = lift(model, (IDS, *given), states={"cache": key}, time_axis=None)
    spec = lifted.spec
    assert [s.shape[1:] for s in spec.states] == [(4,), (4,)]
    assert len(spec.outputs) == 1
    cache, states = Cache(2), [lifted.initial[s.name].expand(2, 4) for s in spec.states]
    with torch.no_grad():
        for frame in TEXT.split(1, 1):
            result = model(frame, cache=cache)
            y, *states = lifted.module(frame, *states)
            torch.testing.assert_close(y, result.logits if key == "cache" else result[1])


def test_a_cache_that_whole_sequences_leave_is_no_output():
    model = Language(layers=1).eval()
    lifted = lift(model, (TEXT,))
    assert [t.name for t in lifted.spec.outputs] == ["logits"]
    steps, _ = stepped(lifted, TEXT)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([y for (y,) in steps], 1), model(TEXT).logits)
    assert any("'cache', a Cache that a later call may take, is not among the outputs" in note for note in lifted.notes)


def test_a_cache_that_the_next_frame_needs_must_be_declared():
    with raises("state-left-out", "'cache'", "Cache", "states={'cache': 'cache'}"):
        lift(Language().eval(), (IDS,), time_axis=None)


def test_an_object_that_holds_itself_is_looked_into_once():
    model = Held()
    model.cache.layers[0].cache = model.cache  # type: ignore[attr-defined]
    paths = [str(path) for path, _ in attributes(model)]
    assert "cache.layers.0.cache" in paths
    assert "cache.layers.0.cache.layers" not in paths
