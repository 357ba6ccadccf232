"""Robot policies of four libraries: the bundle's actions are the library's own, episode after episode."""

import json
import os
import re
import subprocess

import pytest

from .test_published import ROOT, published_python

# Each library's usual one, then other heads and networks of the same.
LIBRARIES = ("rsl_rl", "sb3", "skrl", "rl_games")
OTHERS = ("sb3_discrete", "sb3_squashed", "rl_games_separate", "rsl_rl_3")
ONE_STATE, DISCRETE = ("rsl_rl", "rl_games_separate"), ("sb3_discrete", "rl_games_separate")
ERROR = 2e-5
# Of each library what is refused, in the order of `robots`.
REFUSED = {
    "rsl_rl": (
        r"ParityError: .*Another of rsl_rl, taken apart, gives actions that differ by up to 1 from its own",
        r"SourceError: Env of rsl_rl has no policy as rsl_rl 5 and 3 have: give the runner, runner\.alg, or its policy",
        r"SourceError: a policy of rsl_rl has its normaliser inside: leave normalizer= out",
    ),
    "sb3": (
        r"SourceError: normalizer= is a RecurrentPPO, and must be the VecNormalize of the training",
        r"SourceError: VecNormalize has no policy: give the algorithm \(model\), or model\.policy",
    ),
    "skrl": (r"SourceError: RandomMemory of skrl has no policy: give an agent \(runner\.agent\), or agent\.policy",),
    "rl_games": (
        r"SourceError: Runner of rl_games is no player of an actor-critic: give runner\.create_player\(\), restored",
        r"SourceError: a policy of rl_games has its normaliser inside: leave normalizer= out",
    ),
}
FORMS = {"rsl_rl": 2, "sb3": 1, "skrl": 1, "rl_games": 0}


@pytest.mark.slow
def test_episodes_are_the_libraries_own_and_leapp_runs_them():
    """One test, since it takes a process that imports and exports all of them."""
    command = [published_python(), "-m", "tests.published.robots", *LIBRARIES, *OTHERS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {row["name"]: row for row in map(json.loads, done.stdout.splitlines()[-8:])}
    assert tuple(found) == (*LIBRARIES, *OTHERS)
    for name, row in found.items():
        assert (row["steps"], row["rows"], row["output"]) == (1000, 4, "actions")
        assert list(row["states"]) == (["h"] if name in ONE_STATE else ["h", "c"]), name
        assert row["episodes"] > 40
        assert all(error <= (0 if name in DISCRETE else ERROR) for error in row["error"].values()), row
        # Some actions are clipped, and some are not.
        assert name not in ("sb3", "skrl", "rl_games") or 0.01 < row["at_bound"] < 0.9, row
        assert row["leapp"] == 0, row
    for name in LIBRARIES:
        row = found[name]
        assert (row["forms"], row["apart"]) == (FORMS[name], 0)
        assert len(row["refused"]) == len(REFUSED[name])
        assert all(re.match(*pair) for pair in zip(REFUSED[name], row["refused"], strict=True)), row["refused"]
