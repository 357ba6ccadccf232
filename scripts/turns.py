"""Calls timed side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def in_turn(calls: dict[str, Callable[[], Any]], rounds: int = 101, number: int = 200) -> dict[str, np.ndarray]:
    """µs of each call in each round; the calls take turns, so that a slow moment of the machine meets them all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(number):
                call()
            times[name].append((time.perf_counter() - begin) / number * 1e6)
    return {name: np.array(values) for name, values in times.items()}
