"""Policies of rl_games (1.6), as its players act where they are deterministic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import SourceError
from rnn_export.policies.parts import Memory, Parts, States, observations, taken, unknown_actions

SPACES = ("Box", "Discrete")


class Actor(nn.Module):
    """The network of a model behind its normaliser.

    Of separate networks for actor and critic, whose states are `all_states`, those of the actor come first.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, player: Any, all_states: int) -> None:
        super().__init__()
        self.model: Any = taken(player.model)
        self.all_states, self.discrete = all_states, type(player.action_space).__name__ == "Discrete"
        self.scaled = not self.discrete and bool(player.clip_actions)
        if self.scaled:
            low, high = player.actions_low.detach().cpu().float(), player.actions_high.detach().cpu().float()
            self.register_buffer("scale", (high - low) / 2.0)
            self.register_buffer("shift", (high + low) / 2.0)

    def forward(self, obs: Tensor, states: States) -> tuple[Tensor, States]:
        critic = tuple(torch.zeros_like(state) for state in states[: self.all_states - len(states)])
        inputs = {"is_train": False, "prev_actions": None, "obs": self.model.norm_obs(obs)}
        actions, *_, after = self.model.a2c_network({**inputs, "rnn_states": (*states, *critic) if states else None})
        if self.discrete:
            actions = actions.argmax(-1)
        elif self.scaled:
            actions = actions.clamp(-1.0, 1.0) * self.scale + self.shift
        return actions, tuple(after[: len(states)]) if states else ()


def parts_of(player: Any, normalizer: Any) -> Parts:
    """The parts of a player."""
    if normalizer is not None:
        raise SourceError(
            "a policy of rl_games has its normaliser inside: leave normalizer= out.", id="rl-games-normalizer"
        )
    what = f"{type(player).__name__} of rl_games"
    model: Any = getattr(player, "model", None)
    if not hasattr(player, "get_action") or not hasattr(model, "a2c_network"):
        raise SourceError(
            f"{what} is no player of an actor-critic: give runner.create_player(), restored.", id="rl-games-player"
        )
    shape = observations(player.observation_space, what)
    if type(player.action_space).__name__ not in SPACES:
        raise unknown_actions(player.action_space, what, SPACES)
    every: Any = model.get_default_rnn_state() if player.is_rnn else ()
    separate = bool(model.a2c_network.is_separate_critic())
    memory: Memory = tuple((s.shape[0], s.shape[2]) for s in every[: len(every) // 2 if separate else None])
    actor = Actor(player, len(every))
    mean, std = torch.zeros(shape), torch.ones(shape)
    if model.normalize_input:
        mean, std = actor.model.running_mean_std.running_mean, actor.model.running_mean_std.running_var.sqrt()

    def own(obs: Tensor, starts: Tensor) -> Tensor:
        before, device, actions = (player.states, player.has_batch_dimension), player.device, []
        player.has_batch_dimension = True
        player.states = [torch.zeros(s.shape[0], obs.shape[1], s.shape[2], device=device) for s in every]
        for x, begins in zip(obs.to(device), starts.to(device), strict=True):
            player.states = [torch.where(begins[:, None], 0.0, state) for state in player.states or ()]
            actions.append(player.get_action(x, is_deterministic=True))
        player.states, player.has_batch_dimension = before
        return torch.stack(actions).cpu()

    return Parts(actor, memory, mean, std, own)
