"""The fuzz as a program: `python -m tests.attacks.fuzz --cases 100000 --jobs 4 --seed 1`.

Each case is a bundle with one field changed, opened and stepped on every backend; every fifth is followed by a
snapshot. A case is its number and the seed: `--seed S --only N` does that one again, in this process. Cases run in
worker processes with a limit of memory, which go on from case to case; one that crashes, or takes over 5 s for a case,
is replaced.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

# Seconds of a process for a case, and of the clock: where a machine is shared a case waits, and a lock waits for ever.
HANG, CLOCK = 5.0, 60.0
MEMORY = 12 * 2**30
# Cases with TorchScript, whose files are slow to load.
TORCHSCRIPT = 2000
SNAPSHOT_EVERY = 5
AT_ONCE = 20

Tables = dict[str, Counter[str]]


def one(seed: int, number: int) -> tuple[str, dict[str, str]]:
    """Case `number`: its field and what came of it; raises what is no error of ours."""
    from .drive import BACKENDS, drive, restore
    from .mutations import FIELDS, bundle_case
    from .mutations import TORCHSCRIPT as SCRIPTS

    rng = random.Random(f"{seed}/{number}")
    names, backends = sorted(FIELDS), BACKENDS
    if number < TORCHSCRIPT:
        names, backends = [*names, *sorted(SCRIPTS) * 8], (*BACKENDS, "torchscript")
    # In turn, so that all fields come as often.
    name = names[number % len(names)]
    outcomes = drive(bundle_case(name, rng), backends)
    if number % SNAPSHOT_EVERY == 0:
        outcomes["snapshot"] = restore(rng)
    return name, outcomes


def work(pipe: Connection, seed: int, memory: int) -> None:
    """Do the cases that come, and say before each which it is."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What is imported and compiled once is no case's time.
    from .drive import BACKENDS, drive
    from .mutations import sound

    drive(sound(), (*BACKENDS, "torchscript"))
    pipe.send(("ready", None))
    while (numbers := pipe.recv()) is not None:
        for number in numbers:
            pipe.send(("begin", number))
            try:
                pipe.send(("done", one(seed, number)))
            except BaseException as error:  # what the fuzz is for
                pipe.send(("other", (number, type(error).__name__, traceback.format_exc(limit=-6))))
        pipe.send(("ready", None))


@dataclass
class Worker:
    """A process, the case that it is at since `since` (None before its first), and those that it has `left` to do."""

    seed: int
    memory: int
    at: int | None = None
    left: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, self.seed, self.memory), daemon=True)
        self.process.start()
        other.close()
        self.begin()

    def begin(self) -> None:
        """Here a case starts, or the process itself, which may take as long as it likes."""
        self.since, self.before = time.monotonic(), self._seconds()

    @property
    def hangs(self) -> bool:
        late = time.monotonic() - self.since > CLOCK or self._seconds() - self.before > HANG
        return self.at is not None and late

    def _seconds(self) -> float:
        """That the process has computed, all its threads (proc(5), /proc/PID/stat)."""
        try:
            numbers = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass
class Findings:
    """The outcomes by field, and each unexpected error, crash and hang with its case number."""

    tables: Tables = field(default_factory=dict)
    other: list[tuple[int, str, str]] = field(default_factory=list)
    crashes: list[int] = field(default_factory=list)
    hangs: list[int] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return len(self.other) + len(self.crashes) + len(self.hangs)


def fuzz(cases: range, seed: int, jobs: int, memory: int, progress: Any) -> Findings:
    """Run the cases in workers; `progress(done)` is called after each."""
    findings, numbers = Findings(), iter(cases)
    workers = [Worker(seed, memory) for _ in range(jobs)]
    while workers:
        for pipe in wait([w.pipe for w in workers], timeout=1.0):
            worker = next(w for w in workers if w.pipe is pipe)
            try:
                said, what = worker.pipe.recv()
            except (EOFError, ConnectionError):
                _replace(workers, worker, findings.crashes, progress)
                continue
            worker.begin()
            if said == "begin":
                worker.at = what
                worker.left.remove(what)
            elif said == "ready":
                _feed(workers, worker, numbers)
            else:
                _note(findings, said, what)
                progress(1)
        for worker in [w for w in workers if w.hangs]:
            _replace(workers, worker, findings.hangs, progress)
    return findings


def _feed(workers: list[Worker], worker: Worker, numbers: Iterator[int]) -> None:
    worker.left = worker.left or list(islice(numbers, AT_ONCE))
    if not worker.left:
        worker.pipe.send(None)
        worker.process.join(10)
        worker.end()
        workers.remove(worker)
        return
    worker.pipe.send(list(worker.left))


def _replace(workers: list[Worker], worker: Worker, found: list[int], progress: Any) -> None:
    """Another one goes on behind the case that ended it."""
    if worker.at is None:
        raise SystemExit("a worker does not start: run one case with --only to see why.")
    found.append(worker.at)
    progress(1)
    worker.end()
    workers[workers.index(worker)] = Worker(worker.seed, worker.memory, left=worker.left)


def _note(findings: Findings, said: str, what: Any) -> None:
    from .drive import count

    if said == "other":
        findings.other.append(what)
    else:
        count(findings.tables, *what)


def show(findings: Findings, console: Console) -> None:
    """The table by field and backend, and everything that must not be."""
    backends = ("onnxruntime", "native", "torchscript", "snapshot")
    table = Table("field", "cases", "opened", *backends, title="stepped + refused by the backend")
    for name, counts in sorted(findings.tables.items()):
        cells = (f"{counts[f'{b} stepped']} + {counts[f'{b} refused']}" for b in backends)
        table.add_row(name, str(counts["cases"]), str(counts["open opened"]), *cells)
    console.print(table)
    for number, kind, text in findings.other[:10]:
        console.print(f"case {number}: {kind}\n{text}", markup=False)
    console.print(
        f"exceptions of other kinds {len(findings.other)}, crashes {len(findings.crashes)} {findings.crashes[:9]}, "
        f"over {HANG:g} s {len(findings.hangs)} {findings.hangs[:9]}",
        markup=False,
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None, help="another one each time if left out")
    parser.add_argument("--only", type=int, help="this case alone, in this process")
    parser.add_argument("--memory", type=int, default=MEMORY, help="bytes of address space of a worker")
    given = parser.parse_args(arguments)
    console = Console(width=140)
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    console.print(f"seed {seed}")
    if given.only is not None:
        console.print(one(seed, given.only))
        return 0
    cases = range(given.first, given.first + given.cases)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("cases", total=given.cases)
        findings = fuzz(cases, seed, given.jobs, given.memory, lambda n: bar.advance(task, n))
    show(findings, console)
    return 1 if findings.bad else 0


if __name__ == "__main__":
    sys.exit(main())
