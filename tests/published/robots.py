"""Recurrent policies of four libraries as their users make them, and episodes in environments of gymnasium.

`python -m tests.published.robots NAME...` exports each and prints a line of JSON: how far the actions of the bundle are
from the library's own over 1,000 steps in which episodes begin anew, and those of LEAPP from the bundle's.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from rnn_export.errors import RnnExportError
from rnn_export.export import export
from rnn_export.platform.arrays import Array
from rnn_export.policies import policy_of
from rnn_export.runtime import load
from tests.published.leapp_reads import differences

STEPS, ROWS, UNITS = 1000, 4, 24
PENDULUM, ACROBOT = "Pendulum-v1", "Acrobot-v1"
Own = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Trained:
    """A policy as its library leaves it; `own` is its deterministic call, of observations and where episodes begin.

    `forms` are the same policy and its normaliser in other objects, `refused` such as cannot be taken.
    """

    policy: Any
    own: Own
    env: str = PENDULUM
    forms: Sequence[tuple[Any, Any]] = ()
    refused: Sequence[tuple[Any, Any]] = ()


def environments(name: str, rows: int = ROWS) -> SyncVectorEnv:
    """`rows` of them, whose episodes end at different times, each at once followed by another."""

    def make(row: int) -> Callable[[], Any]:
        return lambda: gymnasium.make(name, max_episode_steps=40 + 17 * row)

    return SyncVectorEnv([make(row) for row in range(rows)], autoreset_mode=AutoresetMode.SAME_STEP)


def rsl_rl(older: bool = False) -> Trained:
    """A GRU that a runner trained for two iterations, and its normaliser; of an `older` release an untrained LSTM."""
    from rsl_rl.env import VecEnv
    from rsl_rl.runners import OnPolicyRunner
    from tensordict import TensorDict

    class Env(VecEnv):
        num_envs, num_actions, max_episode_length, device, cfg = ROWS, 1, 40, "cpu", {}

        def __init__(self) -> None:
            self.envs, self.episode_length_buf = environments(PENDULUM), torch.zeros(ROWS, dtype=torch.long)
            self.obs = self.envs.reset(seed=0)[0]

        def get_observations(self) -> TensorDict:
            obs = torch.from_numpy(self.obs)
            return TensorDict({"joints": obs[:, :2], "speed": obs[:, 2:]}, batch_size=[ROWS])

        def step(self, actions: torch.Tensor) -> Any:
            self.obs, reward, terminated, truncated, _ = self.envs.step(actions.numpy())
            done = torch.from_numpy(terminated | truncated)
            return self.get_observations(), torch.from_numpy(reward).float(), done.long(), {}

    net: dict[str, Any] = {
        "class_name": "RNNModel",
        "hidden_dims": [32],
        "obs_normalization": True,
        "rnn_num_layers": 1,
    }
    net |= {"rnn_type": "gru", "rnn_hidden_dim": UNITS}
    gaussian = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
    cfg = {
        "num_steps_per_env": 32, "save_interval": 100,
        "obs_groups": {"actor": ["joints", "speed"], "critic": ["joints", "speed"]},
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 1, "num_mini_batches": 2},
        "actor": {**net, "distribution_cfg": gaussian}, "critic": dict(net),
    }  # fmt: skip
    if older:
        policy = {"class_name": "ActorCriticRecurrent", "actor_obs_normalization": True, "rnn_hidden_dim": UNITS}
        cfg |= {"policy": policy, "obs_groups": {"policy": ["joints", "speed"], "critic": ["joints", "speed"]}}
    runner = OnPolicyRunner(Env(), cfg)
    model = runner.alg.policy if older else runner.alg.get_policy()
    if older:
        # Its `learn` wants a folder for its logs, and a git repository.
        with torch.inference_mode():
            for _ in range(32):
                model.update_normalization(runner.env.step(model.act(runner.env.get_observations()))[0])
    else:
        runner.learn(2)
    (model.actor if older else model.mlp)[-1].weight.data *= 10
    act = runner.get_inference_policy()
    model.reset()

    def own(obs: Array, begins: Array) -> Array:
        with torch.inference_mode():
            model.reset(torch.from_numpy(begins).long())
            x = torch.from_numpy(obs)
            return act({"joints": x[:, :2], "speed": x[:, 2:]}).numpy()  # type: ignore[no-any-return]

    forms = ((runner.alg, None), (model, None))
    if older:
        return Trained(runner, own, forms=forms)

    class Another(type(model)):  # type: ignore[misc]
        """A user's own, that does more than its parts."""

        def forward(self, *args: Any, **options: Any) -> torch.Tensor:
            return super().forward(*args, **options) + 1  # type: ignore[no-any-return]

    another = copy.copy(model)
    another.__class__ = Another
    return Trained(runner, own, forms=forms, refused=((another, None), (runner.env, None), (model, model)))


def rsl_rl_3() -> Trained:
    """The release that Isaac Lab 2 pins, in a folder of its own."""
    folder = str(Path(sys.prefix, "older"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "rsl_rl"]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    try:
        trained = rsl_rl(older=True)
        assert sys.modules["rsl_rl"].__file__.startswith(folder)  # type: ignore[union-attr]
        return trained
    finally:
        sys.path.remove(folder)


def sb3(env: str = PENDULUM, squashed: bool = False) -> Trained:
    """RecurrentPPO inside of VecNormalize, trained for two rollouts."""
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    envs = VecNormalize(DummyVecEnv([lambda: gymnasium.make(env)] * ROWS))
    net = {"lstm_hidden_size": UNITS, "net_arch": [32], "squash_output": squashed}
    settings = {"n_steps": 32, "batch_size": 64, "n_epochs": 1, "seed": 0, "device": "cpu", "use_sde": squashed}
    model = RecurrentPPO("MlpLstmPolicy", envs, policy_kwargs=net, **settings)
    model.learn(2 * 32 * ROWS)
    # It begins with actions near zero: these reach the bounds.
    model.policy.action_net.weight.data *= 40 if squashed else 4000
    memory: list[Any] = [None]

    def own(obs: Array, begins: Array) -> Array:
        seen = envs.normalize_obs(obs)
        actions, memory[0] = model.predict(seen, memory[0], episode_start=begins, deterministic=True)
        return np.asarray(actions)

    refused = ((model.policy, model), (envs, None))
    return Trained(model, own, env, forms=((model.policy, envs),), refused=refused if env == PENDULUM else ())


def sb3_discrete() -> Trained:
    return sb3(ACROBOT)


def sb3_squashed() -> Trained:
    return sb3(squashed=True)


def skrl() -> Trained:
    """PPO_RNN with an LSTM and a scaler, trained for two rollouts; its evaluation takes the means."""
    from skrl.agents.torch.ppo.ppo_rnn import PPO_RNN
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.resources.preprocessors.torch import RunningStandardScaler
    from skrl.trainers.torch import SequentialTrainer

    class Net(Model):
        outputs = 1

        def build(self) -> None:
            self.lstm = nn.LSTM(self.num_observations, UNITS, batch_first=True)
            self.head = nn.Sequential(
                nn.Linear(UNITS, 32, bias=False), nn.ELU(), nn.Linear(32, self.outputs, bias=False)
            )

        def get_specification(self) -> dict[str, Any]:
            return {"rnn": {"sequence_length": 8, "sizes": [(1, ROWS, UNITS), (1, ROWS, UNITS)]}}

        def remembered(self, inputs: Any) -> tuple[torch.Tensor, dict[str, Any]]:
            x, (h, c) = inputs["observations"], inputs["rnn"]
            if not self.training:
                y, after = self.lstm(x[:, None], (h.contiguous(), c.contiguous()))
                return self.head(y[:, 0]), {"rnn": list(after)}
            xs = x.view(-1, 8, x.shape[-1])
            h, c = (s.view(1, -1, 8, UNITS)[:, :, 0].contiguous() for s in (h, c))
            y, after = self.lstm(xs, (h, c))
            return self.head(y.flatten(0, 1)), {"rnn": list(after)}

    class Gaussian(GaussianMixin, Net):
        def __init__(self, **spaces: Any) -> None:
            Net.__init__(self, **spaces)
            GaussianMixin.__init__(self, clip_mean_actions=True)
            self.build()
            self.log_std = nn.Parameter(torch.zeros(1))

        def compute(self, inputs: Any, role: str = "") -> Any:
            mean, outputs = self.remembered(inputs)
            return 60 * mean, {"log_std": self.log_std, **outputs}

    class Value(DeterministicMixin, Net):
        def __init__(self, **spaces: Any) -> None:
            Net.__init__(self, **spaces)
            DeterministicMixin.__init__(self)
            self.build()

        def compute(self, inputs: Any, role: str = "") -> Any:
            return self.remembered(inputs)

    env = wrap_env(environments(PENDULUM))
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    scaler = {"size": env.observation_space, "device": "cpu"}
    quiet = {"experiment": {"write_interval": 0, "checkpoint_interval": 0}}
    settings = {"rollouts": 16, "learning_epochs": 1, "mini_batches": 1, **quiet}
    settings |= {"observation_preprocessor": RunningStandardScaler, "observation_preprocessor_kwargs": scaler}
    models = {"policy": Gaussian(**spaces), "value": Value(**spaces)}
    memory = RandomMemory(memory_size=16, num_envs=ROWS, device="cpu")
    agent = PPO_RNN(models=models, memory=memory, cfg=settings, **spaces)
    SequentialTrainer(env=env, agents=agent, cfg={"timesteps": 32, "disable_progressbar": True}).train()
    agent.enable_models_training_mode(False)
    states = [torch.zeros(1, ROWS, UNITS)] * 2

    def own(obs: Array, begins: Array) -> Array:
        at_start = torch.from_numpy(begins)[:, None]
        agent._rnn_initial_states["policy"] = [torch.where(at_start, 0.0, state) for state in states]
        with torch.no_grad():
            _, outputs = agent.act(torch.from_numpy(obs), None, timestep=0, timesteps=1)
        states[:] = agent._rnn_final_states["policy"]
        return outputs["mean_actions"].numpy()  # type: ignore[no-any-return]

    scaling = agent._observation_preprocessor
    return Trained(agent, own, forms=((agent.policy, scaling),), refused=((memory, None),))


def rl_games(rnn: str = "lstm", separate: bool = False, env: str = PENDULUM) -> Trained:
    """A player whose normaliser saw observations; its actions are clipped and scaled to those of the environment."""
    from rl_games.torch_runner import Runner

    envs = environments(env)
    discrete = env == ACROBOT
    space = {"mu_activation": "None", "sigma_activation": "None", "fixed_sigma": True}
    space |= {"mu_init": {"name": "default"}, "sigma_init": {"name": "const_initializer", "val": 0}}
    info = {"observation_space": envs.single_observation_space, "action_space": envs.single_action_space}
    params = {
        "seed": 1, "torch_threads": 1,
        "algo": {"name": "a2c_discrete" if discrete else "a2c_continuous"},
        "model": {"name": "discrete_a2c" if discrete else "continuous_a2c_logstd"},
        "network": {
            "name": "actor_critic", "separate": separate,
            "space": {"discrete": {}} if discrete else {"continuous": space},
            "mlp": {"units": [32], "activation": "elu", "initializer": {"name": "default"}},
            "rnn": {"name": rnn, "units": UNITS, "layers": 1, "before_mlp": True, "layer_norm": True},
        },
        "config": {
            "env_name": "none", "env_info": info, "normalize_input": True, "device_name": "cpu", "reward_shaper": {},
        },
    }  # fmt: skip
    runner = Runner()
    runner.load({"params": params})
    player = runner.create_player()
    normaliser = player.model.running_mean_std.train()
    for _ in range(8):
        normaliser(torch.from_numpy(np.stack([envs.single_observation_space.sample() for _ in range(64)])) + 0.5)
    normaliser.eval()
    if not discrete:
        player.model.a2c_network.mu.weight.data *= 3
    player.batch_size, player.has_batch_dimension = ROWS, True
    player.reset()

    def own(obs: Array, begins: Array) -> Array:
        for state in player.states:
            state[:, torch.from_numpy(begins), :] *= 0.0
        return player.get_action(player.obs_to_torch(obs), is_deterministic=True).numpy()  # type: ignore[no-any-return]

    return Trained(player, own, env, refused=((runner, None), (player, normaliser)))


def rl_games_separate() -> Trained:
    return rl_games("gru", separate=True, env=ACROBOT)


MADE: Mapping[str, Callable[[], Trained]] = {
    "rsl_rl": rsl_rl, "sb3": sb3, "skrl": skrl, "rl_games": rl_games,
    "sb3_discrete": sb3_discrete, "sb3_squashed": sb3_squashed,
    "rl_games_separate": rl_games_separate, "rsl_rl_3": rsl_rl_3,
}  # fmt: skip


def episodes(trained: Trained, path: Path) -> dict[str, Any]:
    """The bundle's actions beside the library's own, which the environments are driven by."""
    streams = {backend: load(path, backend=backend).stream(batch=ROWS) for backend in ("onnxruntime", "native")}
    alone = load(path, backend="native").stream()
    envs = environments(trained.env)
    obs, begins = envs.reset(seed=1)[0], np.ones(ROWS, bool)
    error, ended, bound = dict.fromkeys((*streams, "alone"), 0.0), 0, list[float]()
    for _ in range(STEPS):
        want = trained.own(obs.astype(np.float32), begins)
        given = {name: stream.step(obs.astype(np.float32)) for name, stream in streams.items()}
        # The last row by itself, as it runs on a robot.
        given["alone"] = np.concatenate([want[:-1], alone.step(obs[-1].astype(np.float32))[None]])
        for name, actions in given.items():
            assert actions.shape == want.shape, (actions.shape, want.shape)
            error[name] = max(error[name], float(np.abs(actions.astype(float) - want).max()))
        bound.append(float(np.mean(np.abs(want) == 2)))
        obs, _, terminated, truncated, _ = envs.step(want)
        begins = terminated | truncated
        ended += int(begins.sum())
        for stream in streams.values():
            stream.reset(rows=begins)
        if begins[-1]:
            alone.reset()
    return {"steps": STEPS, "rows": ROWS, "episodes": ended, "at_bound": float(np.mean(bound)), "error": error}


def taken(trained: Trained) -> dict[str, Any]:
    """The number of other forms, their largest error, and the messages of refusals."""
    model, (example,) = policy_of(trained.policy)
    separate, messages = 0.0, []
    for policy, normalizer in trained.forms:
        model.reset()
        other, (same,) = policy_of(policy, normalizer=normalizer)
        assert torch.equal(same, example)
        for _ in range(3):
            separate = max(
                separate, float((other(example)["actions"] - model(example)["actions"]).detach().abs().max())
            )
    for policy, normalizer in trained.refused:
        try:
            policy_of(policy, normalizer=normalizer)
        except RnnExportError as error:
            messages.append(f"{type(error).__name__}: {error}")
        else:
            messages.append("")
    return {"forms": len(trained.forms), "apart": separate, "refused": messages}


def run(name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        # What libraries print is theirs.
        with contextlib.redirect_stdout(io.StringIO()):
            trained = MADE[name]()
        path = Path(folder, "policy.rnnx")
        bundle = export(*policy_of(trained.policy), path, targets=("onnx", "c"), steps=64)
        spec = bundle.spec
        states = {state.name: state.row for state in spec.states}
        leapp, others = differences(path), taken(trained)
        return {
            "name": name,
            "states": states,
            "output": spec.outputs[0].name,
            **episodes(trained, path),
            **others,
            "leapp": leapp,
        }


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        sys.stdout.write(json.dumps(run(asked)) + "\n")
        sys.stdout.flush()
