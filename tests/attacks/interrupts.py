"""Many interrupts at random moments: `python -m tests.attacks.interrupts --count 10000`.

A timer's signal raises an exception while a stream or a pool is stepped without end. Afterwards it must not be locked,
and its state must be that of whole calls only.
"""

import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import click
import numpy as np

from rnn_export.runtime import Engine

from .engines import engines
from .interrupting import Interrupt, inside

ONE = np.ones(3, np.float32)
# Seconds to the signal, as a share of what all calls take.
LATEST, WARM = 1.5, 20


@dataclass
class Tally:
    interrupts: int = 0
    inside: int = 0
    locked: int = 0
    torn: int = 0
    fired: bool = False

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        self.fired = True
        self.inside += inside(frame)
        raise Interrupt


@dataclass(frozen=True)
class Target:
    """The interrupted object: calls with the frames of each, the possible counts of fed frames, its lock."""

    calls: Sequence[tuple[int, Callable[[], Any]]]
    fed: Callable[[], set[int]]
    locked: Callable[[], bool]


def stream_of(engine: Engine) -> Target:
    stream, out = engine.stream(), np.zeros(3, np.float32)
    calls = [(1, lambda: stream.step(ONE)), (1, lambda: stream.step(ONE, out)), (1, lambda: stream.step([1, 1, 1]))]
    calls += [(4, lambda: stream.run(np.ones((4, 3), np.float32)))]
    return Target(calls, lambda: set(stream.states["h"].ravel().tolist()) | {stream._frames}, lambda: stream._locked())


def pool_of(engine: Engine) -> Target:
    pool = engine.pool()
    ids = [pool.open() for _ in range(5)]
    x = np.ones((5, 3), np.float32)
    calls = [(1, lambda: pool.step(ids, x)), (0, lambda: pool.close(pool.open()))]

    def fed() -> set[int]:
        # Those whose id an interrupt took on its way to the caller.
        pool.close([i for i in pool.ids if i not in ids])
        return {v for i in ids for v in pool.states(i)["h"].ravel().tolist()} | set(pool.frames(ids).tolist())

    return Target(calls, fed, pool._lock.locked)


def interrupt(target: Target, count: int, seed: int, progress: Callable[[int], None]) -> Tally:
    tally, probability = Tally(), random.Random(seed)
    took, done = 1.0, 0
    for _ in range(WARM):
        begin = time.perf_counter()
        for frames, call in target.calls:
            call()
            done += frames
        took = min(took, time.perf_counter() - begin)
    before = signal.signal(signal.SIGALRM, tally.interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        while tally.interrupts < count:
            tally.fired, frames = False, 0
            try:
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, probability.uniform(0, LATEST) * took))
                # In a finalizer what is raised is lost.
                while not tally.fired:
                    for frames, call in target.calls:
                        call()
                        done += frames
                continue
            except Interrupt:
                tally.interrupts += 1
            if target.locked():
                tally.locked += 1
                break
            found = target.fed()
            if len(found) > 1 or not found <= {done, done + frames}:
                tally.torn += 1
            (done, *_) = found
            progress(1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook
    return tally


@click.command()
@click.option("--count", default=10_000, show_default=True, help="Interrupts of each.")
@click.option("--seed", default=0, show_default=True)
@click.option("--backend", multiple=True, help="Only these.")
def main(count: int, seed: int, backend: tuple[str, ...]) -> None:
    """Interrupt streams and pools of every backend at random moments, and say what came of it."""
    failed = False
    with engines(backend) as known:
        for name, open_engine in known.items():
            for what, make in (("stream", stream_of), ("pool", pool_of)):
                target = make(open_engine())
                with click.progressbar(length=count, label=f"{name}, {what}", file=sys.stderr) as bar:
                    tally = interrupt(target, count, seed, bar.update)
                shown = f"{tally.interrupts:,} interrupts, {tally.inside:,} of them inside the runtime"
                click.echo(f"{name}, {what}: {shown}, locked {tally.locked}, half done {tally.torn} (seed {seed})")
                failed |= bool(tally.locked or tally.torn)
    sys.exit(failed)


if __name__ == "__main__":
    main()
