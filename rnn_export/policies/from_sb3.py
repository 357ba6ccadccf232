"""Policies of Stable-Baselines3 and of RecurrentPPO, from its contrib; the normaliser is VecNormalize's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export.errors import SourceError
from rnn_export.policies.parts import Parts, States, observations, taken, unknown_actions

ACTIONS = "Box, Discrete, MultiDiscrete and MultiBinary"
# In the place of no bound.
LARGEST = float(np.finfo(np.float32).max)


class Normaliser(nn.Module):
    """clip((obs - mean) / std, -clip, clip), as VecNormalize does it. The mean is two parts, since it has 64 bits."""

    mean: Tensor
    rest: Tensor
    std: Tensor

    def __init__(self, mean: Any, std: Any, clip: float) -> None:
        super().__init__()
        high = np.float32(mean)
        self.register_buffer("mean", torch.from_numpy(high))
        self.register_buffer("rest", torch.from_numpy(np.float32(mean - high)))
        self.register_buffer("std", torch.from_numpy(np.float32(std)))
        self.clip = float(clip)

    def forward(self, obs: Tensor) -> Tensor:
        return (((obs - self.mean) - self.rest) / self.std).clamp(-self.clip, self.clip)


class Actor(nn.Module):
    """The actor's half of a policy, and what `predict` does with its actions."""

    low: Tensor
    high: Tensor

    def __init__(self, policy: Any, normaliser: nn.Module) -> None:
        super().__init__()
        self.policy, self.normaliser = taken(policy), normaliser
        self.recurrent = hasattr(policy, "lstm_actor")
        for part in ("lstm_critic", "critic", "value_net", "optimizer") if self.recurrent else ():
            setattr(self.policy, part, None)
        space = policy.action_space
        self.shape, self.bounded = tuple(space.shape), type(space).__name__ == "Box"
        self.squashed = bool(policy.squash_output)
        low, high = (space.low, space.high) if self.bounded else (np.zeros(1), np.zeros(1))
        self.register_buffer("low", torch.from_numpy(np.float32(np.clip(low, -LARGEST, LARGEST))))
        self.register_buffer("high", torch.from_numpy(np.float32(np.clip(high, -LARGEST, LARGEST))))
        self.limited = bool(np.isfinite(low).any() or np.isfinite(high).any())

    def forward(self, obs: Tensor, states: States) -> tuple[Tensor, States]:
        obs = self.normaliser(obs)
        policy: Any = self.policy
        if self.recurrent:
            features = policy.extract_features(obs, policy.pi_features_extractor)
            features = features[0] if isinstance(features, tuple) else features
            output, states = policy.lstm_actor(features[None], states)
            actions = self.most_likely(policy.mlp_extractor.forward_actor(output[0]))
        else:
            actions = policy._predict(obs, deterministic=True)
        actions = actions.reshape(-1, *self.shape)
        if self.bounded and self.squashed:
            actions = self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        elif self.bounded and self.limited:
            actions = torch.maximum(torch.minimum(actions, self.high), self.low)
        return actions, states

    def most_likely(self, latent: Tensor) -> Tensor:
        """The mode of the distribution, which torch would make with checks that no graph has."""
        policy: Any = self.policy
        kind = type(policy.action_dist).__name__
        values = policy.action_net(latent)
        if kind == "CategoricalDistribution":
            return values.argmax(-1)  # type: ignore[no-any-return]
        if kind == "MultiCategoricalDistribution":
            return torch.stack([part.argmax(-1) for part in values.split(policy.action_dist.action_dims, -1)], -1)
        if kind == "BernoulliDistribution":
            return values.sigmoid().round()  # type: ignore[no-any-return]
        return values.tanh() if self.squashed else values  # type: ignore[no-any-return]


def parts_of(algorithm: Any, normalizer: Any) -> Parts:
    """The parts of an algorithm, or of its policy."""
    policy = getattr(algorithm, "policy", algorithm)
    if not isinstance(policy, nn.Module) or not hasattr(policy, "action_space"):
        raise SourceError(f"{type(algorithm).__name__} has no policy: give the algorithm (model), or model.policy.")
    shape = observations(policy.observation_space, type(algorithm).__name__)
    if type(policy.action_space).__name__ not in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
        raise unknown_actions(policy.action_space, type(algorithm).__name__, ACTIONS)
    if normalizer is None and hasattr(algorithm, "get_vec_normalize_env"):
        normalizer = algorithm.get_vec_normalize_env()
    mean, std = torch.zeros(shape), torch.ones(shape)
    normaliser: nn.Module = nn.Identity()
    if normalizer is not None and normalizer.norm_obs:
        rms = normalizer.obs_rms
        spread = np.sqrt(rms.var + normalizer.epsilon)
        normaliser = Normaliser(rms.mean, spread, normalizer.clip_obs)
        mean, std = torch.from_numpy(np.float32(rms.mean)), torch.from_numpy(np.float32(spread))
    recurrent = hasattr(policy, "lstm_actor")
    lstm = policy.lstm_actor if recurrent else None
    memory = ((lstm.num_layers, lstm.hidden_size),) * 2 if lstm is not None else ()

    def own(obs: Tensor, starts: Tensor) -> Tensor:
        training, state, actions = policy.training, None, []
        for x, begins in zip(obs.numpy(), starts.numpy(), strict=True):
            seen = x if normalizer is None else normalizer.normalize_obs(x)
            given, state = policy.predict(seen, state, episode_start=begins, deterministic=True)
            actions.append(torch.as_tensor(given))
        policy.set_training_mode(training)
        return torch.stack(actions)

    return Parts(Actor(policy, normaliser), memory, mean, std, own)
