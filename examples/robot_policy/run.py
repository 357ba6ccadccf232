"""Train a policy with a memory, export it, and let it act for robots whose episodes end one by one."""

import sys
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rnn_export import export, load
from rnn_export.bundle.leapp import write_leapp
from rnn_export.policies import policy_of

ROBOTS, STEPS = 8, 1000


class WithoutSpeed(gymnasium.ObservationWrapper):
    """A pendulum whose speed is not measured: the policy has to remember where it was."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[:2]


def pendulum(frames: int = 200) -> gymnasium.Env:
    return WithoutSpeed(gymnasium.make("Pendulum-v1", max_episode_steps=frames))


def train(frames: int) -> RecurrentPPO:
    envs = VecNormalize(DummyVecEnv([pendulum] * ROBOTS))
    model = RecurrentPPO("MlpLstmPolicy", envs, n_steps=64, policy_kwargs={"lstm_hidden_size": 64}, seed=0)
    return model.learn(frames)


def main(out: Path, frames: int) -> None:
    model = train(frames)
    bundle = export(*policy_of(model), out / "pendulum.rnnx", force=True)

    envs = SyncVectorEnv(
        [lambda robot=robot: pendulum(60 + 20 * robot) for robot in range(ROBOTS)],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    stream = load(bundle.path).stream(batch=ROBOTS)
    observations, _ = envs.reset(seed=0)
    done, episodes, memory, error = np.ones(ROBOTS, bool), 0, None, 0.0
    for _ in range(STEPS):
        actions = stream.step(observations)
        seen = model.get_vec_normalize_env().normalize_obs(observations)
        own, memory = model.predict(seen, memory, episode_start=done, deterministic=True)
        error = max(error, float(np.abs(actions - own).max()))
        observations, _, terminated, truncated, _ = envs.step(actions)
        done = terminated | truncated
        stream.reset(rows=done)
        episodes += int(done.sum())
    print(f"{STEPS} steps of {ROBOTS} robots, {episodes} episodes: of model.predict off by at most {error:.1e}")

    description, *_ = write_leapp(bundle, force=True)
    print(f"{description.name} is what LEAPP runs it by")


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
    place.mkdir(parents=True, exist_ok=True)
    main(place, int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
