"""Policies of skrl (2), as its trainers act in an evaluation, where actions are the means and not sampled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import SourceError
from rnn_export.policies.parts import Memory, Parts, States, observations, taken, unknown_actions

SPACES = ("Box", "Discrete")
# The letters that the attributes of its kinds of models begin with, and whether these clip the mean.
KINDS = {"g": "_g_clip_mean_actions", "mg": "_mg_clip_mean_actions", "d": "_d_clip_actions"}


class Actor(nn.Module):
    """`compute` of a policy, the user's own code, behind the preprocessor of its observations."""

    def __init__(self, policy: Any, preprocessor: nn.Module | None) -> None:
        super().__init__()
        self.policy: Any = taken(policy)
        self.preprocessor = None if preprocessor is None else taken(preprocessor)
        self.discrete = type(policy.action_space).__name__ == "Discrete"
        kind = next((kind for kind, clips in KINDS.items() if getattr(policy, clips, False)), None)
        self.low, self.high = (_bound(policy, f"_{kind}_{end}_actions") for end in ("min", "max"))
        self.clipped = self.low is not None or self.high is not None

    def forward(self, obs: Tensor, states: States) -> tuple[Tensor, States]:
        inputs: dict[str, Any] = {"observations": obs if self.preprocessor is None else self.preprocessor(obs)}
        if states:
            inputs["rnn"] = list(states)
        actions, outputs = self.policy.compute({**inputs, "states": None}, "policy")
        if self.discrete:
            actions = actions.argmax(-1, keepdim=True)
        elif self.clipped:
            actions = actions.clamp(min=self.low, max=self.high)
        return actions, tuple(outputs["rnn"]) if states else ()


def _bound(policy: Any, name: str) -> Any:
    bound = getattr(policy, name, None)
    return bound.detach().cpu().float().clone() if isinstance(bound, Tensor) else bound


def parts_of(given: Any, normalizer: Any) -> Parts:
    """The parts of an agent or of a policy."""
    policy: Any = given if hasattr(given, "compute") else getattr(given, "policy", None)
    what = f"{type(given).__name__} of skrl"
    if not hasattr(policy, "compute"):
        raise SourceError(
            f"{what} has no policy: give an agent (runner.agent), or agent.policy.", id="skrl-without-policy"
        )
    if not hasattr(policy, "state_space"):
        raise SourceError(
            f"{what} is of a release before 2: train with skrl 2, or export a torch.nn.Module around it.",
            id="skrl-too-old",
        )
    if policy is not given and normalizer is None:
        normalizer = getattr(given, "_observation_preprocessor", None)
    # An agent without one has a method in its place.
    preprocessor: Any = normalizer if isinstance(normalizer, nn.Module) else None
    shape = observations(policy.observation_space, what)
    space = type(policy.action_space).__name__
    if space not in SPACES:
        raise unknown_actions(policy.action_space, what, SPACES)
    sizes = policy.get_specification().get("rnn", {}).get("sizes", ())
    memory: Memory = tuple((layers, units) for layers, _, units in sizes)
    actor = Actor(policy, preprocessor)
    mean, std = torch.zeros(shape), torch.ones(shape)
    copied: Any = actor.preprocessor
    if hasattr(copied, "running_mean"):
        mean, std = copied.running_mean.reshape(shape), copied.running_variance.sqrt().reshape(shape)

    def own(obs: Tensor, starts: Tensor) -> Tensor:
        training, device, actions = policy.training, next(policy.parameters()).device, []
        policy.eval()
        states = [torch.zeros(layers, obs.shape[1], units, device=device) for layers, units in memory]
        for x, begins in zip(obs.to(device), starts.to(device), strict=True):
            states = [torch.where(begins[:, None], 0.0, state) for state in states]
            inputs: dict[str, Any] = {"observations": x if preprocessor is None else preprocessor(x), "states": None}
            sampled, outputs = policy.act({**inputs, "rnn": states} if states else inputs, role="policy")
            states = outputs.get("rnn", states)
            # What it samples even in an evaluation: here the most likely.
            best = outputs["net_output"].argmax(-1, keepdim=True) if space == "Discrete" else sampled
            actions.append(outputs.get("mean_actions", best))
        policy.train(training)
        return torch.stack(actions).cpu()

    return Parts(actor, memory, mean, std, own)
