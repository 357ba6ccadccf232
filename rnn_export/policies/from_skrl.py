"""Policies of skrl (2): what its trainers do in an evaluation, where actions are the means and not sampled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import SourceError
from rnn_export.policies.parts import Parts, States, observations, taken, unknown_actions


class Actor(nn.Module):
    """`compute` of a policy, the user's own code, behind the preprocessor of its observations."""

    def __init__(self, policy: nn.Module, preprocessor: nn.Module | None) -> None:
        super().__init__()
        self.policy, self.preprocessor = taken(policy), None if preprocessor is None else taken(preprocessor)
        self.discrete = type(policy.action_space).__name__ == "Discrete"
        # Each kind of its models has the letters of its own.
        kind = next((k for k in ("g", "mg", "d") if hasattr(policy, f"_{k}_clip_actions")), None)
        clips = {"g": "_g_clip_mean_actions", "mg": "_mg_clip_mean_actions", "d": "_d_clip_actions"}
        self.clips = kind is not None and bool(getattr(policy, clips[kind], False))
        self.low, self.high = (_bound(policy, f"_{kind}_{end}_actions") if self.clips else None for end in ENDS)

    def forward(self, obs: Tensor, states: States) -> tuple[Tensor, States]:
        seen = obs if self.preprocessor is None else self.preprocessor(obs)
        inputs: dict[str, Any] = {"observations": seen, "states": None}
        if states:
            inputs["rnn"] = list(states)
        policy: Any = self.policy
        actions, outputs = policy.compute(inputs, "policy")
        if self.discrete:
            actions = actions.argmax(-1, keepdim=True)
        elif self.clips:
            actions = actions.clamp(min=self.low, max=self.high)
        return actions, tuple(outputs.get("rnn", ())) if states else ()


ENDS = ("min", "max")


def _bound(policy: nn.Module, name: str) -> Any:
    bound = getattr(policy, name)
    return bound.detach().cpu().float().clone() if isinstance(bound, Tensor) else bound


def parts_of(given: Any, normalizer: Any) -> Parts:
    """The parts of a runner, of an agent or of a policy."""
    agent = getattr(given, "agent", given)
    policy = agent if isinstance(agent, nn.Module) and hasattr(agent, "compute") else getattr(agent, "policy", None)
    what = f"{type(given).__name__} of skrl"
    if policy is None or not hasattr(policy, "get_specification"):
        raise SourceError(f"{what} has no policy: give the agent, a runner of one, or agent.policy.")
    if policy is not agent and normalizer is None:
        normalizer = getattr(agent, "_observation_preprocessor", None)
        if normalizer is None:
            raise SourceError(
                f"{what} has no preprocessor of observations, as agents of skrl 2 have: give agent.policy."
            )
    preprocessor = normalizer if isinstance(normalizer, nn.Module) else None
    shape = observations(policy.observation_space, what)
    space = type(policy.action_space).__name__
    if space not in ("Box", "Discrete"):
        raise unknown_actions(policy.action_space, what, "Box and Discrete")
    memory = tuple((size[0], size[2]) for size in policy.get_specification().get("rnn", {}).get("sizes", ()))
    mean, std = torch.zeros(shape), torch.ones(shape)
    if preprocessor is not None and hasattr(preprocessor, "running_mean"):
        mean = preprocessor.running_mean.detach().cpu().float().reshape(shape)
        std = preprocessor.running_variance.detach().cpu().float().sqrt().reshape(shape)  # type: ignore[operator]

    def own(obs: Tensor, starts: Tensor) -> Tensor:
        training, device, actions = policy.training, next(policy.parameters()).device, []
        policy.eval()
        states = [torch.zeros(layers, obs.shape[1], units, device=device) for layers, units in memory]
        for x, begins in zip(obs.to(device), starts.to(device), strict=True):
            states = [torch.where(begins[:, None], 0.0, state) for state in states]
            seen = x if preprocessor is None else preprocessor(x)
            inputs = {"observations": seen, "states": None, **({"rnn": states} if states else {})}
            sampled, outputs = policy.act(inputs, role="policy")
            states = outputs.get("rnn", states)
            best = outputs["net_output"].argmax(-1, keepdim=True) if space == "Discrete" else sampled
            actions.append(outputs.get("mean_actions", best))
        policy.train(training)
        return torch.stack(actions).cpu()

    return Parts(Actor(policy, preprocessor), memory, mean, std, own)
