"""Policies of Stable-Baselines3 and of RecurrentPPO, from its contrib; the normaliser is VecNormalize's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export.errors import SourceError
from rnn_export.policies.parts import Memory, Parts, States, observations, taken, unknown_actions

SPACES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
# In the place of no bound.
LARGEST = float(np.finfo(np.float32).max)


class Normaliser(nn.Module):
    """clip((obs - mean) / std, -clip, clip), as VecNormalize does it in 64 bits: the mean is two parts of 32."""

    mean: Tensor
    rest: Tensor
    std: Tensor

    def __init__(self, normalizer: Any) -> None:
        super().__init__()
        mean, variance = normalizer.obs_rms.mean, normalizer.obs_rms.var
        self.register_buffer("mean", torch.from_numpy(np.float32(mean)))
        self.register_buffer("rest", torch.from_numpy(np.float32(mean - np.float32(mean))))
        self.register_buffer("std", torch.from_numpy(np.float32(np.sqrt(variance + normalizer.epsilon))))
        self.clip = float(normalizer.clip_obs)

    def forward(self, obs: Tensor) -> Tensor:
        return (((obs - self.mean) - self.rest) / self.std).clamp(-self.clip, self.clip)


class Actor(nn.Module):
    """The actor's half of a policy, with `predict`'s handling of its actions."""

    low: Tensor
    high: Tensor

    def __init__(self, policy: Any, normaliser: Normaliser | None) -> None:
        super().__init__()
        self.policy: Any = taken(policy)
        self.normaliser, self.recurrent = normaliser, hasattr(policy, "lstm_actor")
        for part in ("lstm_critic", "critic", "value_net", "optimizer") if self.recurrent else ():
            setattr(self.policy, part, None)
        space = policy.action_space
        self.shape, self.squashed = tuple(space.shape), bool(policy.squash_output)
        box = type(space).__name__ == "Box"
        self.scaled = box and self.squashed
        self.clipped = box and not self.squashed and bool(np.isfinite([space.low, space.high]).any())
        for name in ("low", "high") if box else ():
            bound = np.clip(getattr(space, name), -LARGEST, LARGEST)
            self.register_buffer(name, torch.from_numpy(np.float32(bound)))

    def forward(self, obs: Tensor, states: States) -> tuple[Tensor, States]:
        seen = obs if self.normaliser is None else self.normaliser(obs)
        if self.recurrent:
            output, states = self.policy.lstm_actor(self.policy.pi_features_extractor(seen)[None], states)
            actions = self.most_likely(self.policy.mlp_extractor.forward_actor(output[0]))
        else:
            actions = self.policy._predict(seen, deterministic=True)
        actions = actions.reshape(-1, *self.shape)
        if self.scaled:
            actions = self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        elif self.clipped:
            actions = torch.maximum(torch.minimum(actions, self.high), self.low)
        return actions, states

    def most_likely(self, latent: Tensor) -> Tensor:
        """The mode of the distribution, which torch would make with checks that no graph has."""
        values: Tensor = self.policy.action_net(latent)
        kind = type(self.policy.action_dist).__name__
        if kind == "CategoricalDistribution":
            return values.argmax(-1)
        if kind == "MultiCategoricalDistribution":
            return torch.stack(
                [part.argmax(-1) for part in torch.split(values, self.policy.action_dist.action_dims, -1)], -1
            )
        if kind == "BernoulliDistribution":
            return values.sigmoid().round()
        return values.tanh() if self.squashed else values


def parts_of(algorithm: Any, normalizer: Any) -> Parts:
    """The parts of an algorithm, or of its policy."""
    policy = getattr(algorithm, "policy", algorithm)
    what = type(algorithm).__name__
    if not hasattr(policy, "predict") or not hasattr(policy, "action_space"):
        raise SourceError(
            f"{what} has no policy: give the algorithm (model), or model.policy.", id="sb3-without-policy"
        )
    shape = observations(policy.observation_space, what)
    if type(policy.action_space).__name__ not in SPACES:
        raise unknown_actions(policy.action_space, what, SPACES)
    if normalizer is None and hasattr(algorithm, "get_vec_normalize_env"):
        normalizer = algorithm.get_vec_normalize_env()
    if normalizer is not None and not hasattr(normalizer, "norm_obs"):
        raise SourceError(
            f"normalizer= is a {type(normalizer).__name__}, and must be the VecNormalize of the training.",
            id="sb3-normalizer-kind",
        )
    normaliser = Normaliser(normalizer) if normalizer is not None and normalizer.norm_obs else None
    mean, std = (torch.zeros(shape), torch.ones(shape)) if normaliser is None else (normaliser.mean, normaliser.std)
    lstm = getattr(policy, "lstm_actor", None)
    memory: Memory = () if lstm is None else ((lstm.num_layers, lstm.hidden_size),) * 2

    def own(obs: Tensor, starts: Tensor) -> Tensor:
        training, state, actions = policy.training, None, []
        for x, begins in zip(obs.numpy(), starts.numpy(), strict=True):
            seen = x if normaliser is None else normalizer.normalize_obs(x)
            given, state = policy.predict(seen, state, episode_start=begins, deterministic=True)
            actions.append(torch.as_tensor(given))
        policy.set_training_mode(training)
        return torch.stack(actions)

    return Parts(Actor(policy, normaliser), memory, mean, std, own)
