"""A cache of layers, an object that the first call makes, is states layer by layer."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.streams import Call  # noqa: TID252
from .case import case


class Layer:
    """The memory of one layer, written over in place, which knows whether there was a call."""

    def __init__(self):
        self.states, self.is_made = {0: None}, {0: False}

    def update(self, state):
        if not self.is_made[0]:
            self.states[0], self.is_made[0] = torch.zeros_like(state), True
        return self.states[0].copy_(0.5 * self.states[0] + state)


class Cache:
    def __init__(self, layers):
        self.layers = [Layer() for _ in range(layers)]


@dataclass
class Result:
    logits: Tensor
    cache: Any = None


class Language(nn.Module):
    """Layers that remember an average; frames of a sequence follow each other from nothing, or from a cache."""

    def __init__(self, named=True, layers=2):
        super().__init__()
        self.embed, self.named = nn.Embedding(9, 4), named
        self.mix = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))

    def forward(self, ids, mask=None, cache=None):
        x, cache = self.embed(ids), cache or Cache(len(self.mix))
        for layer, mix in zip(cache.layers, self.mix, strict=True):
            x = torch.stack([layer.update(torch.tanh(mix(x[:, t]))).clone() for t in range(x.shape[1])], 1)
        return Result(x, cache) if self.named else (cache, x)


IDS, TEXT = torch.zeros(2, 1, dtype=torch.long), torch.arange(6).repeat(2, 1)
SHORT = Language(layers=1)


def held_cache():
    """One token a call, its cache an attribute."""
    return Call(lambda s, ids: s.model(ids[:, None], cache=s.cache).logits[:, 0], model=Language(), cache=Cache(2))


def declared_cache(named, *given):
    example = case(Language(named), IDS, *given, states={"cache": "cache" if named else 0}, time_axis=None)
    return example.streams(
        holds=lambda lifted: [s.shape[1:] for s in lifted.spec.states] == [(4,)] * 2 and len(lifted.spec.outputs) == 1
    )


TABLE = {
    "a cache of layers is states": {
        "left out, by name": declared_cache(True),
        "in an attribute": case(held_cache, IDS[:, 0]).streams(
            states=["cache.layers.0.states.0", "cache.layers.1.states.0"]
        ),
        "given, by position": declared_cache(False, None, Cache(2)),
        "of whole sequences, which is no output": case(SHORT, TEXT).streams(
            lengths=range(2, 5),
            truth=Call(lambda s, ids: s.model(ids).logits, model=SHORT),
            holds=lambda lifted: [t.name for t in lifted.spec.outputs] == ["logits"],
            notes=["'cache', a Cache that a later call may take, is not among the outputs"],
        ),
        "not declared": case(Language, IDS, time_axis=None).refused(
            "state-left-out", "'cache'", "Cache", "states={'cache': 'cache'}"
        ),
    },
}
