"""Policies of rl_games (1.6): what its players do where they are deterministic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import SourceError
from rnn_export.policies.parts import Parts, States, observations, taken, unknown_actions


class Actor(nn.Module):
    """The network of a model behind its normaliser; of separate networks for actor and critic, the actor's states."""

    scale: Tensor
    shift: Tensor

    def __init__(self, player: Any, states: int) -> None:
        super().__init__()
        self.model, self.states = taken(player.model), states
        self.discrete = type(player.action_space).__name__ == "Discrete"
        # Of discrete actions nothing is scaled.
        self.scaled = bool(getattr(player, "clip_actions", True)) and not self.discrete
        if self.scaled:
            low, high = (bound.detach().cpu().float() for bound in (player.actions_low, player.actions_high))
            self.register_buffer("scale", (high - low) / 2.0)
            self.register_buffer("shift", (high + low) / 2.0)

    def forward(self, obs: Tensor, states: States) -> tuple[Tensor, States]:
        model: Any = self.model
        inputs: dict[str, Any] = {"is_train": False, "prev_actions": None, "obs": model.norm_obs(obs)}
        critic = tuple(torch.zeros_like(state) for state in states) if len(states) < self.states else ()
        inputs["rnn_states"] = (*states, *critic) if states else None
        actions, *_, after = model.a2c_network(inputs)
        if self.discrete:
            actions = actions.argmax(-1)
        elif self.scaled:
            actions = actions.clamp(-1.0, 1.0) * self.scale + self.shift
        return actions, tuple(after[: len(states)]) if states else ()


def parts_of(player: Any, normalizer: Any) -> Parts:
    """The parts of a player, or of an agent that trains."""
    if normalizer is not None:
        raise SourceError("a policy of rl_games has its normaliser inside: leave normalizer= out.")
    what, model = f"{type(player).__name__} of rl_games", getattr(player, "model", None)
    if not isinstance(model, nn.Module) or not hasattr(model, "a2c_network"):
        raise SourceError(
            f"{what} has no actor-critic network: give a player (runner.create_player(), restored) or the agent of a "
            "PPO, or export a torch.nn.Module around its network."
        )
    info = getattr(player, "env_info", {})
    shape = observations(info.get("observation_space", getattr(player, "observation_space", None)), what)
    action_space = info.get("action_space", getattr(player, "action_space", None))
    if type(action_space).__name__ not in ("Box", "Discrete"):
        raise unknown_actions(action_space, what, "Box and Discrete")
    all_states = tuple(model.get_default_rnn_state() or ()) if model.is_rnn() else ()
    separate = bool(getattr(model.a2c_network, "separate", False))
    count = len(all_states) // 2 if separate else len(all_states)
    memory = tuple((state.shape[0], state.shape[2]) for state in all_states[:count])
    actor = Actor(player, len(all_states))
    mean, std = torch.zeros(shape), torch.ones(shape)
    if getattr(model, "normalize_input", False):
        mean = actor.model.running_mean_std.running_mean.clone()
        std = actor.model.running_mean_std.running_var.sqrt()

    def own(obs: Tensor, starts: Tensor) -> Tensor:
        training, device, actions = model.training, next(model.parameters()).device, []
        plays = hasattr(player, "get_action")
        before = (player.states, player.has_batch_dimension) if plays else ()
        model.eval()
        states = [torch.zeros(s.shape[0], obs.shape[1], s.shape[2], device=device) for s in all_states]
        for x, begins in zip(obs.to(device), starts.to(device), strict=True):
            states = [torch.where(begins[:, None], 0.0, state) for state in states]
            if plays:
                player.states, player.has_batch_dimension = states or None, True
                actions.append(player.get_action(x, is_deterministic=True))
                states = list(player.states or ())
            else:
                given = model({"is_train": False, "prev_actions": None, "obs": x, "rnn_states": states or None})
                states = list(given["rnn_states"] or ())
                best = given["logits"].argmax(-1) if "logits" in given else given["mus"]
                actions.append(player.preprocess_actions(best) if "mus" in given else best)
        if plays:
            player.states, player.has_batch_dimension = before
        model.train(training)
        return torch.stack([torch.as_tensor(action) for action in actions]).cpu()

    return Parts(actor, memory, mean, std, own)
