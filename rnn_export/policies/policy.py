"""`policy_of`: from a library's trained policy to a module with memory, held to the library's own actions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import ParityError, SourceError
from rnn_export.lazy import load_module
from rnn_export.policies.parts import Parts

# The package that an object's class, or one that it inherits from, stands in, and where it is taken apart.
LIBRARIES = {
    "rsl_rl": "rnn_export.policies.from_rsl_rl",
    "sb3_contrib": "rnn_export.policies.from_sb3",
    "stable_baselines3": "rnn_export.policies.from_sb3",
    "skrl": "rnn_export.policies.from_skrl",
    "rl_games": "rnn_export.policies.from_rl_games",
}
STATES = ("h", "c")
# What the actions are compared over, and how far apart they may be, of the largest: fp32 in another order.
STEPS, ROWS, TOLERANCE = 24, 3, 1e-4
EXAMPLES = 8


class Policy(nn.Module):
    """Observations (rows, ...) to {"actions": (rows, ...)}; its memory is `h` and `c`, None at first."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.actor, self.memory = parts.actor, parts.memory
        few = len(parts.memory) <= len(STATES)
        self.names = STATES[: len(parts.memory)] if few else tuple(f"h{n}" for n in range(len(parts.memory)))
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        for name in self.names:
            setattr(self, name, None)

    def forward(self, obs: Tensor) -> dict[str, Tensor]:
        states = []
        for name, (layers, units) in zip(self.names, self.memory, strict=True):
            state = getattr(self, name)
            states.append(torch.zeros(layers, obs.shape[0], units) if state is None else state)
        actions, after = self.actor(obs, tuple(states))
        for name, state in zip(self.names, after, strict=True):
            setattr(self, name, state)
        return {"actions": actions}


def policy_of(policy: Any, normalizer: Any = None) -> tuple[Policy, tuple[Tensor]]:
    """The model and the example inputs with which `export` makes a bundle of a trained policy.

    The bundle takes observations as the environment gives them and gives the actions that the library's own
    deterministic call gives: normalised, remembered, squashed, clipped and scaled as there. That is tried here, over
    some steps with episodes that begin anew. A policy without a memory gives a bundle without states.

    Args:
        policy: of rsl_rl a runner, an algorithm or its actor; of Stable-Baselines3 (RecurrentPPO of its contrib, and
            those without a memory) an algorithm or its policy; of skrl an agent or its policy; of rl_games a player.
            It is left as it is.
        normalizer: of observations, where `policy` does not have it: a VecNormalize, or a preprocessor of skrl.

    Raises SourceError for objects of no such kind or not exportable, and ParityError where the actions are others than
    the library's own.
    """
    classes = type(policy).__mro__
    library = next((name for c in classes if (name := c.__module__.partition(".")[0]) in LIBRARIES), None)
    if library is None:
        raise SourceError(
            f"{_named(policy)} is no policy that policy_of knows: it takes runners, agents, players and policies of "
            "rsl_rl, sb3_contrib, stable_baselines3, skrl and rl_games. Any other is exported as a torch.nn.Module: "
            "export(model, example_inputs, path).",
            id="policy-library-unknown",
        )
    parts: Parts = load_module(LIBRARIES[library]).parts_of(policy, normalizer)
    model = Policy(parts).eval()
    _compare(model, parts, f"{_named(policy)} of {library}")
    return model, (parts.drawn(EXAMPLES),)


def _named(policy: Any) -> str:
    return f"{type(policy).__module__}.{type(policy).__qualname__}"


def _compare(model: Policy, parts: Parts, what: str) -> None:
    obs, starts = parts.drawn(STEPS, ROWS), torch.zeros(STEPS, ROWS, dtype=torch.bool)
    starts[0], starts[STEPS // 3, 1], starts[STEPS // 2, 2] = True, True, True
    given = []
    with torch.no_grad(), torch.random.fork_rng():
        try:
            own = parts.own(obs, starts)
            for x, begins in zip(obs, starts, strict=True):
                for name in model.names:
                    if (state := getattr(model, name)) is not None:
                        setattr(model, name, torch.where(begins[:, None], 0.0, state))
                given.append(model(x)["actions"])
        except Exception as error:  # of the library, and of the user's own code in it
            called = f"called with observations {tuple(obs.shape[1:])} it raised {type(error).__name__}: {error}"
            raise SourceError(f"{what} is not what policy_of knows: {called}.", id="policy-not-comparable") from error
    model.reset()
    got = torch.stack(given)
    if got.shape != own.shape:
        raise ParityError(
            f"{what} gives actions {tuple(own.shape)}, but taken apart {tuple(got.shape)}. {_ADVICE}",
            id="policy-action-shape",
        )
    difference, size = float((got.double() - own.double()).abs().max()), float(own.double().abs().max())
    if not difference <= TOLERANCE * max(size, 1.0):
        raise ParityError(
            f"{what}, taken apart, gives actions that differ by up to {difference:.3g} from its own over {STEPS} steps "
            f"of {ROWS} rows. {_ADVICE}",
            id="policy-actions-differ",
        )


_ADVICE = (
    "It does more than policy_of knows: write a torch.nn.Module around it that returns its deterministic actions, and "
    "export that."
)
