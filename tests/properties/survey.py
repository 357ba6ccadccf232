"""Random architectures exported and streamed: how many are, and how far a stream is from the whole sequence.

python -m tests.properties.survey --count 2000 --jobs 2
python -m tests.properties.survey --planted 500

`--planted` plants into each an operator that mixes frames or rows behind a gate: it must be refused, or do no harm.
`--store FILE` keeps a line of JSON for each, and goes on where a survey was stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rnn_export.errors import ExportError, LiftError, ParityError
from rnn_export.export import export
from rnn_export.runtime import load

from .architectures import Architecture, build, random_architecture
from .features import features, measured
from .plans import Plan
from .planted import planted_architecture
from .shrinking import smallest
from .streaming import check

# Frames of the closed loop of export(), which looks at twice as many chunks as needed anyway.
STEPS = 8
# What an error message can name: something quoted, a module path or file, an operator or option, a layer.
NAMES = re.compile(r"'[^']+'|\w+\.\w+|\(\w+\)|\w+=\S|\b[A-Z]\w+[A-Z]\w*")
# Where a planted mix stands, or an operator.
PLACES = re.compile(r"\w+\.py:\d+|\bparts\.\d+|\baten\.\w+")
# A process of several forgets what torch kept, after so many.
CASES = 50

EXACT, REFUSED, REFUSED_FALSELY, WRONG = "exact", "refused rightly", "refused falsely", "wrong"
LATE, VAGUE, CRASH = "refused by parity alone", "refused without a place", "crash"


@dataclass
class Verdict:
    """The outcome of an architecture.

    `error` is the largest relative one, `late` a delay for no reason, in frames, `found` its `features.measured`.
    """

    kind: str
    message: str = ""
    error: float = 0.0
    late: int = 0
    seconds: float = 0.0
    reason: str = ""
    found: list[str] = field(default_factory=list)
    trace: str = field(default="", repr=False)

    @property
    def good(self) -> bool:
        return self.kind in (EXACT, REFUSED)


def judge(architecture: Architecture, seed: int = 0) -> Verdict:
    """Export an architecture and stream it in every way, `seed` drawing the data and the pieces."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Said once by torch where nn.LSTM has a proj_size, and an even kernel "same" frames.
        for said in ("LSTM with projections is not supported with oneDNN", "Using padding='same' with even kernel"):
            warnings.filterwarnings("ignore", said, UserWarning)
        verdict = _judge(architecture, Path(folder) / "it.rnnx", Random(seed))
    verdict.seconds = time.perf_counter() - begun
    verdict.reason = architecture.refusal or architecture.plan.planted or ""
    return verdict


def _judge(architecture: Architecture, path: Path, random: Random) -> Verdict:
    flawed = architecture.refusal is not None
    refusable = flawed or architecture.plan.planted is not None
    try:
        export(architecture.model, architecture.example, path, steps=STEPS, **architecture.options)
    except (LiftError, ExportError) as error:
        message = f"{type(error).__name__}: {error}"
        if not (PLACES if architecture.plan.planted else NAMES).search(str(error)):
            return Verdict(VAGUE, message)
        return Verdict(REFUSED if refusable else REFUSED_FALSELY, message)
    except ParityError as error:
        return Verdict(LATE if refusable else REFUSED_FALSELY, f"ParityError: {error}")
    except Exception as error:
        return Verdict(CRASH, f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    try:
        engine = load(path, backend="onnxruntime")
        error, late = check(architecture, engine, random)
    except AssertionError as wrong:
        return Verdict(WRONG, str(wrong))
    except Exception as failed:
        return Verdict(CRASH, f"streaming: {type(failed).__name__}: {failed}", trace=traceback.format_exc())
    if flawed:
        return Verdict(WRONG, "exported, and wrong on nothing that was tried", error, late)
    return Verdict(EXACT, "", error, late, found=measured(engine.spec))


# --- the survey ---------------------------------------------------------------------------------------------------

Draw = Callable[[int], Architecture]


@dataclass(frozen=True)
class Case:
    """An architecture by its number, what it has, and what became of it. `wanted`: whether a stream can have it."""

    number: int
    architecture: str
    wanted: bool
    features: list[str]
    verdict: Verdict

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def loads(line: str) -> Case:
        data = json.loads(line)
        return Case(**{**data, "verdict": Verdict(**data["verdict"])})

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """Pairs of its and its contract's features."""
        return combinations(sorted([*self.features, *self.verdict.found]), 2)


def survey(
    count: int,
    seed: int = 0,
    tell: Callable[[Case], None] | None = None,
    judged: Callable[[Architecture, int], Verdict] = judge,
    draw: Draw = random_architecture,
    jobs: int = 1,
    store: Path | None = None,
) -> dict[str, Any]:
    """Architectures number `seed`, `seed` + 1, ...: how many are exact or refused rightly, and all that goes wrong.

    `draw`: `random_architecture` or `planted_architecture`. `jobs`: processes. `tell` is called after each. `store`: a
    file of cases, to which each is added; what it has is not done again.
    """
    numbers = range(seed, seed + count)
    lines = store.read_text().splitlines() if store is not None and store.exists() else []
    cases = [case for case in map(Case.loads, lines) if case.number in numbers]
    done = {case.number for case in cases}
    for case in _cases(partial(_case, draw, judged), [n for n in numbers if n not in done], jobs):
        cases.append(case)
        if store is not None:
            with store.open("a") as file:
                file.write(f"{case.dumps()}\n")
        if tell is not None:
            tell(case)
    return figures_of(cases)


def figures_of(cases: list[Case]) -> dict[str, Any]:
    """The figures of a survey's cases."""
    figures: dict[str, Any] = {"drawn": len(cases), **dict.fromkeys((EXACT, REFUSED), 0)}
    figures |= {kind: [] for kind in (WRONG, REFUSED_FALSELY, LATE, VAGUE, CRASH)}
    for case in cases:
        verdict = case.verdict
        if verdict.good:
            figures[verdict.kind] += 1
        else:
            row = {"number": case.number, "architecture": case.architecture, "message": verdict.message}
            figures[verdict.kind].append({**row, "trace": verdict.trace} if verdict.trace else row)
    exact = [case for case in cases if case.verdict.kind == EXACT]
    reasons = Counter(case.verdict.reason for case in cases if case.verdict.kind == REFUSED)
    named = Counter(name for case in exact for name in (*case.features, *case.verdict.found))
    wanted = sum(case.wanted for case in cases)
    seconds = [(round(case.verdict.seconds, 2), case.number) for case in cases]
    return {
        **figures,
        **({"rate exact": figures[EXACT] / wanted} if wanted else {}),
        "worst relative error": max([0.0, *(case.verdict.error for case in exact)]),
        "late for no reason": sum(case.verdict.late > 0 for case in exact),
        "reasons": {reason: n / reasons.total() for reason, n in reasons.most_common()},
        "features": dict(named.most_common()),
        "pairs": {f"{a} + {b}": n for (a, b), n in Counter(pair for c in exact for pair in c.pairs).most_common()},
        "seconds": round(sum(s for s, _ in seconds), 1),
        "seconds a case": round(sum(s for s, _ in seconds) / max(len(seconds), 1), 2),
        "slowest": sorted(seconds, reverse=True)[:5],
    }


def _case(draw: Draw, judged: Callable[[Architecture, int], Verdict], number: int) -> Case:
    architecture = draw(number)
    plan = architecture.plan
    wanted = plan.refusal is None and plan.planted is None
    return Case(number, str(architecture), wanted, features(plan), judged(architecture, number))


def _cases(case: Callable[[int], Case], numbers: Sequence[int], jobs: int) -> Iterator[Case]:
    if jobs == 1:
        yield from map(case, numbers)
        return
    spawn, some = multiprocessing.get_context("spawn"), CASES * jobs
    for start in range(0, len(numbers), some):
        # A process that dies, or cannot read its task, ends this one too.
        with ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, (1,)) as pool:
            yield from pool.map(case, numbers[start : start + some])


def shrunk(plan: Plan, verdict: Verdict) -> Plan:
    """The smallest plan to which the same happens."""
    start = _alike(verdict.message)

    def fails(less: Plan) -> bool:
        other = judge(build(less))
        return other.kind == verdict.kind and _alike(other.message) == start

    return smallest(plan, fails)


def _alike(message: str) -> str:
    """A message without its names and numbers."""
    return re.sub(r"'[^']*'|\d+|\S*[./]\S*", "", message)[:60]


def table(figures: dict[str, Any]) -> Table:
    shown = Table("", "", title="Random architectures, streamed against the whole sequence", title_justify="left")
    for name, value in figures.items():
        if name in ("reasons", "features", "pairs"):
            continue
        text = str(len(value)) if isinstance(value, list) and name != "slowest" else str(value)
        text = f"{value:.1%}" if name.startswith("rate") else f"{value:.1e}" if name.startswith("worst") else text
        shown.add_row(name, text)
    for reason, share in figures["reasons"].items():
        shown.add_row(f"refused for {reason}", f"{share:.0%}")
    for name, count in figures["features"].items():
        shown.add_row(f"exact with {name}", str(count))
    shown.add_row("pairs of features that are exact", str(len(figures["pairs"])))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--count", type=int, default=200, help="how many (200)")
    which.add_argument("--planted", type=int, help="how many with a planted mix in place of them")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--shrink", action="store_true", help="look for the smallest of each that goes wrong")
    parser.add_argument("--store", type=Path, help="a file that keeps each case, and from which a survey goes on")
    parser.add_argument("--json", action="store_true", help="print all on stdout as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    said = Console(stderr=True)
    count = arguments.planted or arguments.count
    draw = planted_architecture if arguments.planted else random_architecture
    with Progress(console=said) as progress:
        task = progress.add_task("architectures", total=count)

        def tell(case: Case) -> None:
            progress.advance(task)
            if case.verdict.good:
                return
            text = f"{case.number}: {case.verdict.kind}: {case.architecture}\n  {case.verdict.message}\n"
            if arguments.shrink:
                text += f"  smallest: build({shrunk(draw(case.number).plan, case.verdict)})\n"
            said.print(text, markup=False, highlight=False, soft_wrap=True)

        figures = survey(count, arguments.seed, tell, draw=draw, jobs=arguments.jobs, store=arguments.store)
    if arguments.json:
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    else:
        Console().print(table(figures))


if __name__ == "__main__":
    main()
