"""Random architectures exported and streamed: how many are, and how far a stream is from the whole sequence.

python -m tests.properties.survey --count 2000 --jobs 2
python -m tests.properties.survey --planted 500

`--planted` plants into each an operator that mixes frames or rows behind a gate: it must be refused, or do no harm.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
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

from .architectures import Architecture, Plan, build, random_architecture, smallest
from .planted import planted_architecture
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
    """What became of an architecture; `error` is the largest relative one, `late` how late for no reason, in frames."""

    kind: str
    message: str = ""
    error: float = 0.0
    late: int = 0
    seconds: float = 0.0
    reason: str = ""
    trace: str = field(default="", repr=False)

    @property
    def good(self) -> bool:
        return self.kind in (EXACT, REFUSED)


def judge(architecture: Architecture, seed: int = 0) -> Verdict:
    """Export an architecture and stream it in every way, `seed` drawing the data and the pieces."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Said once by torch where nn.LSTM has a proj_size.
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN", UserWarning)
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
        error, late = check(architecture, load(path, backend="onnxruntime"), random)
    except AssertionError as wrong:
        return Verdict(WRONG, str(wrong))
    except Exception as failed:
        return Verdict(CRASH, f"streaming: {type(failed).__name__}: {failed}", trace=traceback.format_exc())
    if flawed:
        return Verdict(WRONG, "exported, and wrong on nothing that was tried", error, late)
    return Verdict(EXACT, "", error, late)


# --- the survey ---------------------------------------------------------------------------------------------------

Draw = Callable[[int], Architecture]


@dataclass(frozen=True)
class Case:
    """An architecture by its number, and what became of it."""

    number: int
    plan: Plan
    architecture: str
    verdict: Verdict


def survey(
    count: int,
    seed: int = 0,
    tell: Callable[[Case], None] | None = None,
    judged: Callable[[Architecture, int], Verdict] = judge,
    draw: Draw = random_architecture,
    jobs: int = 1,
) -> dict[str, Any]:
    """Architectures number `seed`, `seed` + 1, ...: how many are exact or refused rightly, and all that goes wrong.

    `draw`: `random_architecture` or `planted_architecture`. `jobs`: processes. `tell` is called after each.
    """
    figures: dict[str, Any] = {"drawn": 0, **dict.fromkeys((EXACT, REFUSED), 0)}
    figures |= {kind: [] for kind in (WRONG, REFUSED_FALSELY, LATE, VAGUE, CRASH)}
    reasons: Counter[str] = Counter()
    errors, seconds, late, wanted = [0.0], [], 0, 0
    for case in _cases(partial(_case, draw, judged), range(seed, seed + count), jobs):
        verdict = case.verdict
        figures["drawn"] += 1
        wanted += case.plan.refusal is None and case.plan.planted is None
        if verdict.good:
            figures[verdict.kind] += 1
        else:
            row = {"number": case.number, "architecture": case.architecture, "message": verdict.message}
            figures[verdict.kind].append({**row, "trace": verdict.trace} if verdict.trace else row)
        if verdict.kind == REFUSED:
            reasons[verdict.reason] += 1
        if verdict.kind == EXACT:
            errors.append(verdict.error)
            late += verdict.late > 0
        seconds.append((round(verdict.seconds, 2), case.number))
        if tell is not None:
            tell(case)
    refused = sum(reasons.values())
    rate = {"rate exact": figures[EXACT] / wanted} if wanted else {}
    return {
        **figures,
        **rate,
        "worst relative error": max(errors),
        "late for no reason": late,
        "reasons": {reason: n / refused for reason, n in reasons.most_common()},
        "seconds": round(sum(s for s, _ in seconds), 1),
        "seconds a case": round(sum(s for s, _ in seconds) / max(len(seconds), 1), 2),
        "slowest": sorted(seconds, reverse=True)[:5],
    }


def _case(draw: Draw, judged: Callable[[Architecture, int], Verdict], number: int) -> Case:
    architecture = draw(number)
    return Case(number, architecture.plan, str(architecture), judged(architecture, number))


def _cases(case: Callable[[int], Case], numbers: range, jobs: int) -> Iterator[Case]:
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
        if name == "reasons":
            continue
        text = str(len(value)) if isinstance(value, list) and name != "slowest" else str(value)
        text = f"{value:.1%}" if name.startswith("rate") else f"{value:.1e}" if name.startswith("worst") else text
        shown.add_row(name, text)
    for reason, share in figures["reasons"].items():
        shown.add_row(f"refused for {reason}", f"{share:.0%}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--count", type=int, default=200, help="how many (200)")
    which.add_argument("--planted", type=int, help="how many with a planted mix in place of them")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--shrink", action="store_true", help="look for the smallest of each that goes wrong")
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
                text += f"  smallest: build({shrunk(case.plan, case.verdict)})\n"
            said.print(text, markup=False, highlight=False, soft_wrap=True)

        figures = survey(count, arguments.seed, tell, draw=draw, jobs=arguments.jobs)
    if arguments.json:
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    else:
        Console().print(table(figures))


if __name__ == "__main__":
    main()
