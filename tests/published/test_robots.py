"""Robot policies of four libraries: the bundle's actions are the library's own, episode after episode."""

import json
import os
import subprocess

import pytest

from .test_published import ROOT, published_python

# Each library's usual one, then other heads and networks of the same.
LIBRARIES = ("rsl_rl", "sb3", "skrl", "rl_games")
OTHERS = ("sb3_discrete", "sb3_squashed", "rl_games_separate")
ONE_STATE, DISCRETE = ("rsl_rl", "rl_games_separate"), ("sb3_discrete", "rl_games_separate")
ERROR = 2e-5


@pytest.mark.slow
def test_episodes_are_the_libraries_own_and_leapp_runs_them():
    """One test, since it takes a process that imports and exports all of them."""
    command = [published_python(), "-m", "tests.published.robots", *LIBRARIES, *OTHERS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {row["name"]: row for row in map(json.loads, done.stdout.splitlines()[-7:])}
    assert tuple(found) == (*LIBRARIES, *OTHERS)
    for name, row in found.items():
        assert (row["steps"], row["rows"], row["output"]) == (1000, 4, "actions")
        assert list(row["states"]) == (["h"] if name in ONE_STATE else ["h", "c"]), name
        assert row["episodes"] > 40
        assert all(error <= (0 if name in DISCRETE else ERROR) for error in row["error"].values()), row
        # Some actions are clipped, and some are not.
        assert name not in ("sb3", "skrl", "rl_games") or 0.01 < row["at_bound"] < 0.9, row
        assert row["leapp"] == 0, row
