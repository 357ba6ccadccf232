"""Policies of rsl_rl, here of release 5: normaliser, memory, network and output are one module of its own making."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import SourceError
from rnn_export.policies import from_rsl_rl_3
from rnn_export.policies.parts import Memory, Parts, States, taken


class Actor(nn.Module):
    """`inner` is rsl_rl's own module for ONNX: (obs, h, c) to (actions, h, c); a GRU has no c, an MLP neither."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, obs: Tensor, states: States) -> tuple[Tensor, States]:
        if not states:
            return self.inner(obs), ()
        actions, *after = self.inner(obs, *states)
        return actions, tuple(after[: len(states)])


def parts_of(policy: Any, normalizer: Any) -> Parts:
    """The parts of a runner, of an algorithm or of its actor."""
    if normalizer is not None:
        raise SourceError(
            "a policy of rsl_rl has its normaliser inside: leave normalizer= out.", id="rsl-rl-normalizer"
        )
    algorithm = getattr(policy, "alg", policy)
    model = algorithm.get_policy() if hasattr(algorithm, "get_policy") else getattr(algorithm, "policy", algorithm)
    if hasattr(model, "act_inference") and hasattr(model, "actor_obs_normalizer"):
        return from_rsl_rl_3.parts_of(model)
    if not hasattr(model, "as_onnx"):
        raise SourceError(
            f"{type(policy).__name__} of rsl_rl has no policy as rsl_rl 5 and 3 have: give the runner, runner.alg, or "
            "its policy. Of an older release, export a torch.nn.Module around its actor.",
            id="rsl-rl-without-policy",
        )
    inner: Any = taken(model.as_onnx(verbose=False))
    if not hasattr(inner, "input_size"):
        raise SourceError(
            f"{type(model).__name__} of rsl_rl takes images beside observations, and policy_of one tensor: export a "
            "torch.nn.Module around model.as_onnx(verbose=False).",
            id="rsl-rl-images",
        )
    memory: Memory = ()
    if model.is_recurrent:
        memory = ((inner.num_layers, inner.hidden_size),) * (2 if inner.rnn_type == "lstm" else 1)
    mean, std = torch.zeros(inner.input_size), torch.ones(inner.input_size)
    if model.obs_normalization:
        mean, std = inner.obs_normalizer._mean[0], inner.obs_normalizer._std[0]

    def own(obs: Tensor, starts: Tensor) -> Tensor:
        was, training, device = model.get_hidden_state(), model.training, next(model.parameters()).device
        model.eval()
        model.reset()
        first, *others = model.obs_groups
        actions = []
        for x, begins in zip(obs.to(device), starts.to(device), strict=True):
            model.reset(begins.long())
            # It joins its groups: here all are in the first.
            actions.append(model({first: x, **dict.fromkeys(others, x[:, :0])}))
        model.reset(hidden_state=was)
        model.train(training)
        return torch.stack(actions).cpu()

    return Parts(Actor(inner), memory, mean, std, own)
