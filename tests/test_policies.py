"""`policy_of`: its refusals, and the parts of policies; tests/published has the libraries themselves."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rnn_export.cli.source import load_source
from rnn_export.policies import policy_of
from rnn_export.policies.parts import taken

from .messages import raises

LIBRARIES = ("rsl_rl", "sb3_contrib", "stable_baselines3", "skrl", "rl_games")


def space(kind: str, **attributes):
    return type(kind, (), {"__repr__": lambda self: f"{kind}(...)", **attributes})()


BOX = {"shape": (3,), "dtype": np.dtype("float32"), "low": np.full(3, -1.0), "high": np.full(3, 1.0)}


def of(library: str, **attributes):
    """An object whose class stands in `library`, which is not here."""
    return type("Thing", (), {"__module__": f"{library}.somewhere", **attributes})()


def test_importing_it_imports_no_library_and_no_torch():
    code = f"import sys, rnn_export.policies; print(sorted({{'torch', *{LIBRARIES}}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("thing", [nn.Linear(3, 3), None, "walk.pt"])
def test_what_is_of_no_library(thing):
    with raises("policy-library-unknown"):
        policy_of(thing)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_of_a_library_and_no_policy(library):
    names = {"rl_games": "rl-games-player", "rsl_rl": "rsl-rl-without-policy", "skrl": "skrl-without-policy"}
    with raises(names.get(library, "sb3-without-policy"), "Thing"):
        policy_of(of(library))


def net(observes, acts, **attributes):
    return {"observation_space": observes, "action_space": acts, **attributes}


WITH_POLICY = {
    "stable_baselines3": lambda **spaces: of("stable_baselines3", policy=SimpleNamespace(predict=1, **spaces)),
    "skrl": lambda **spaces: of("skrl", compute=1, state_space=None, **spaces),
    "rl_games": lambda **spaces: of("rl_games", get_action=1, model=SimpleNamespace(a2c_network=1), **spaces),
}


@pytest.mark.parametrize("library", WITH_POLICY)
def test_observations_that_are_not_one_tensor_of_floats(library):
    for seen in (space("Dict"), space("Box", **{**BOX, "dtype": np.dtype("uint8")})):
        with raises("policy-observation-space", f"{type(seen).__name__}(...)"):
            policy_of(WITH_POLICY[library](**net(seen, space("Box", **BOX))))


@pytest.mark.parametrize("library", WITH_POLICY)
def test_actions_of_an_unknown_space(library):
    with raises("policy-action-space", "Tuple(...)", "Box, Discrete"):
        policy_of(WITH_POLICY[library](**net(space("Box", **BOX), space("Tuple"))))


def test_an_agent_of_an_older_skrl():
    agent = of("skrl", policy=SimpleNamespace(compute=1))
    with raises("skrl-too-old", "Thing"):
        policy_of(agent)


def test_images_with_observations_of_rsl_rl():
    model = of("rsl_rl", as_onnx=lambda self, verbose: nn.Linear(3, 3))
    with raises("rsl-rl-images"):
        policy_of(model)


class Walker(nn.Module):
    """A policy such as rsl_rl has, without a memory."""

    __module__ = "rsl_rl.somewhere"
    obs_normalization, is_recurrent, obs_groups = False, False, ("policy",)

    def __init__(self, error: float = 0.0, actions: int = 2):
        super().__init__()
        self.net, self.error, self.actions = nn.Linear(3, 2), error, actions
        self.net.input_size = 3

    def as_onnx(self, verbose):
        return self.net

    def get_hidden_state(self):
        return None

    def reset(self, dones=None, hidden_state=None):
        pass

    def forward(self, obs):
        return self.net(obs["policy"])[:, : self.actions] + self.error


def test_a_policy_without_a_memory_has_no_states():
    walker = Walker()
    model, (example,) = policy_of(walker)
    assert (model.names, example.shape) == ((), (8, 3))
    torch.testing.assert_close(model(example)["actions"], walker({"policy": example}))
    assert walker.training


@pytest.mark.parametrize(
    ("walker", "message"),
    [
        (
            Walker(error=1e-3),
            ("policy-actions-differ", "0.001", "24", "3"),
        ),
        (Walker(error=float("nan")), ("policy-actions-differ", "nan")),
        (Walker(actions=1), ("policy-action-shape", "(24, 3, 1)", "(24, 3, 2)")),
    ],
)
def test_other_actions_than_the_library_s_own(walker, message):
    with raises(*message):
        policy_of(walker)


def test_code_of_the_user_that_fails():
    walker = Walker()
    walker.obs_groups = ("height",)
    with raises("policy-not-comparable", "(3, 3)", "KeyError"):
        policy_of(walker)


def test_what_a_training_left_behind_is_copied():
    module = nn.Linear(2, 2).double()
    module.last = {"actions": [module(torch.ones(1, 2).double())]}
    with torch.inference_mode():
        module.mean = torch.ones(2)
    copied = taken(module)
    assert copied.last["actions"][0].is_leaf
    assert not copied.mean.is_inference()
    assert (copied.weight.dtype, copied.training, module.training) == (torch.float32, False, True)
    torch.testing.assert_close(copied.weight.double(), module.weight)


SOURCE = """
import torch
from rnn_export.policies import policy_of

class Walker(torch.nn.Module):
    __module__ = "rsl_rl.somewhere"
    obs_normalization, is_recurrent, obs_groups, get_hidden_state = False, False, ["policy"], lambda self: None

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)
        self.net.input_size = 3

    def as_onnx(self, verbose):
        return self.net

    def reset(self, dones=None, hidden_state=None):
        pass

    def forward(self, obs):
        return self.net(obs["policy"])

def factory():
    return policy_of(Walker())
"""


def test_a_factory_ends_with_it(tmp_path):
    (tmp_path / "walk.py").write_text(SOURCE)
    model, (example,), options = load_source(f"{tmp_path / 'walk.py'}:factory")
    assert model(example)["actions"].shape == (8, 2)
    assert options == {}
