"""Policies of rsl_rl 3, which Isaac Lab 2 trains: actor and critic in one module, each with a memory of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.policies.parts import Memory, Parts, States, taken


class Actor(nn.Module):
    """`act_inference`, behind the groups of observations."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.normalizer: Any = taken(policy.actor_obs_normalizer)
        self.memory: Any = taken(policy.memory_a.rnn) if policy.is_recurrent else None
        self.net: Any = taken(policy.actor)
        self.has_std = bool(getattr(policy, "state_dependent_std", False))

    def forward(self, obs: Tensor, states: States) -> tuple[Tensor, States]:
        seen = self.normalizer(obs)
        after: States = ()
        if states:
            output, last = self.memory(seen[None], states if len(states) > 1 else states[0])
            seen, after = output[0], (last,) if isinstance(last, Tensor) else last
        actions = self.net(seen)
        return actions[..., 0, :] if self.has_std else actions, after


def parts_of(policy: Any) -> Parts:
    """The parts of an actor-critic."""
    actor = Actor(policy)
    memory: Memory = ()
    if actor.memory is not None:
        count = 2 if isinstance(actor.memory, nn.LSTM) else 1
        memory = ((actor.memory.num_layers, actor.memory.hidden_size),) * count
    width = actor.net[0].in_features if actor.memory is None else actor.memory.input_size
    mean, std = torch.zeros(width), torch.ones(width)
    if policy.actor_obs_normalization:
        mean, std = actor.normalizer._mean[0], actor.normalizer._std[0]

    def own(obs: Tensor, starts: Tensor) -> Tensor:
        memories = (policy.memory_a, policy.memory_c) if policy.is_recurrent else ()
        was, training, device = [m.hidden_state for m in memories], policy.training, next(policy.parameters()).device
        policy.eval()
        policy.reset()
        first, *others = policy.obs_groups["policy"]
        actions = []
        for x, begins in zip(obs.to(device), starts.to(device), strict=True):
            policy.reset(begins.long())
            actions.append(policy.act_inference({first: x, **dict.fromkeys(others, x[:, :0])}))
        for memory, state in zip(memories, was, strict=True):
            memory.hidden_state = state
        policy.train(training)
        return torch.stack(actions).cpu()

    return Parts(actor, memory, mean, std, own)
