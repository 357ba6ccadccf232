"""Random architectures exported and streamed: how many are, and how far a stream is from the whole sequence.

python -m tests.properties.survey --count 200
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rnn_export.errors import ExportError, LiftError, ParityError
from rnn_export.export import export
from rnn_export.runtime import load
from rnn_export.runtime.stream import Stream
from rnn_export.spec import StreamSpec

from .architectures import Architecture, Plan, build, random_architecture, smallest

Array = npt.NDArray[Any]
Outputs = list[Array]

# An error relative to the largest magnitude of its output.
TOLERANCE = 2e-5
# Chunks that are streamed after those in which nothing comes out.
CHUNKS = 12
# Frames of the closed loop of export(), which looks at twice as many chunks as needed anyway.
STEPS = 8
# What an error message can name: something quoted, a module path or file, an operator or option, a layer.
NAMES = re.compile(r"'[^']+'|\w+\.\w+|\(\w+\)|\w+=\S|\b[A-Z]\w+[A-Z]\w*")

EXPORTED, REFUSED, REFUSED_WRONGLY, ACCEPTED = "exported", "refused rightly", "refused wrongly", "accepted wrongly"
MISMATCH, LATE, CRASH = "mismatch", "refused by parity alone", "crash"


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
        return self.kind in (EXPORTED, REFUSED)


def judge(architecture: Architecture, seed: int = 0) -> Verdict:
    """Export an architecture and stream it in every way, `seed` drawing the data and the pieces."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Said once by torch where nn.LSTM has a proj_size.
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN", UserWarning)
        verdict = _judge(architecture, Path(folder) / "it.rnnx", Random(seed))
    verdict.seconds = time.perf_counter() - begun
    verdict.reason = architecture.refusal or ""
    return verdict


def _judge(architecture: Architecture, path: Path, random: Random) -> Verdict:
    flawed = architecture.refusal is not None
    try:
        export(architecture.model, architecture.example, path, steps=STEPS, **architecture.options)
    except (LiftError, ExportError) as error:
        message = f"{type(error).__name__}: {error}"
        if not NAMES.search(str(error)):
            return Verdict(CRASH, f"a refusal that names nothing: {message}")
        return Verdict(REFUSED if flawed else REFUSED_WRONGLY, message)
    except ParityError as error:
        return Verdict(LATE if flawed else MISMATCH, f"ParityError: {error}")
    except Exception as error:
        return Verdict(CRASH, f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    try:
        checks = _Checks(architecture, path, random)
        error, late = checks.worst(), checks.late
    except AssertionError as wrong:
        return Verdict(MISMATCH, str(wrong))
    except Exception as failed:
        return Verdict(CRASH, f"streaming: {type(failed).__name__}: {failed}", trace=traceback.format_exc())
    return Verdict(ACCEPTED if flawed else EXPORTED, "", error, late)


# --- streaming ----------------------------------------------------------------------------------------------------


class _Checks:
    """Streams of one bundle against one call of the untouched model for the whole sequence."""

    def __init__(self, architecture: Architecture, path: Path, random: Random) -> None:
        self.engine, self.random = load(path, backend="onnxruntime"), random
        self.spec: StreamSpec = self.engine.spec
        self.rows = random.randint(1, 4)
        self.frames = (CHUNKS + -(-self.spec.delay // self.spec.chunk)) * self.spec.chunk
        drawn = architecture.draw(self.rows, self.frames, random.randrange(1000))
        self.inputs = [x.numpy() for x in drawn]
        self.true = [y.numpy() for y in architecture.truth([x.clone() for x in drawn])]
        self.late = self.spec.delay - self._due()

    def _due(self) -> int:
        """The delay that the model itself has, whole steps of it as soon as a step is more than a frame."""
        lost = [self.frames - y.shape[1] * t.every for y, t in self._outputs() if self.spec.timed(t)]
        return max([0, *(-(-n // t.every) * t.every for n in lost for t in self.spec.outputs)])

    def _outputs(self) -> Iterator[tuple[Array, Any]]:
        return zip(self.true, self.spec.outputs, strict=True)

    def worst(self) -> float:
        """The largest relative error of all ways; AssertionError above the tolerance."""
        ways: dict[str, Callable[[], float]] = {
            "run in one piece": lambda: self.error(self.joined([self.run(self.stream(), 0, self.frames)])),
            "run in pieces": lambda: self.error(self.joined(self.pieces(self.stream()))),
            "step": lambda: self.error(self.joined(self.steps(self.stream(), self.frames))),
            "reset": lambda: self.error(self.joined(self.after_reset())),
            "each row alone": self.alone,
        }
        errors = {}
        for name, way in ways.items():
            try:
                errors[name] = way()
            except AssertionError as wrong:
                raise AssertionError(f"{name}: {wrong}") from None
            assert errors[name] <= TOLERANCE, f"{name}: relative error {errors[name]:.2g}"
        return max(errors.values())

    def stream(self) -> Stream:
        return self.engine.stream(batch=self.rows)

    # --- feeding

    def fed(self, start: int, stop: int, row: int | None = None) -> Any:
        given = {}
        for tensor, x in zip(self.spec.inputs, self.inputs, strict=True):
            x = x if row is None else x[row : row + 1]
            given[tensor.name] = x[:, start:stop] if self.spec.timed(tensor) else x
        return given if len(given) > 1 else next(iter(given.values()))

    def bare(self, given: Any) -> Outputs:
        return list(given.values()) if isinstance(given, dict) else [given]

    def run(self, stream: Stream, start: int, stop: int, row: int | None = None) -> Outputs:
        return self.bare(stream.run(self.fed(start, stop, row)))

    def pieces(self, stream: Stream) -> list[Outputs]:
        given, at = [], 0
        while at < self.frames:
            stop = min(at + self.random.randint(1, 2 * self.spec.chunk + 3), self.frames)
            given.append(self.run(stream, at, stop))
            at = stop
        return given

    def steps(self, stream: Stream, frames: int) -> list[Outputs]:
        chunk, given = self.spec.chunk, []
        for start in range(0, frames, chunk):
            feed = self.fed(start, start + chunk)
            feed = feed if isinstance(feed, dict) else {self.spec.inputs[0].name: feed}
            for tensor in self.spec.inputs:
                if self.spec.timed(tensor) and chunk == 1:
                    feed[tensor.name] = feed[tensor.name][:, 0]
                if self.rows == 1:
                    feed[tensor.name] = feed[tensor.name][0]
            result = stream.step(feed if len(feed) > 1 else next(iter(feed.values())))
            if start + chunk <= self.spec.delay:
                assert result is None, f"frame {start} came before the delay was over"
                continue
            outputs = self.bare(result)
            given.append(
                [
                    y.reshape(self.rows, -1 if self.spec.timed(t) else 1, *t.frame)
                    if self.spec.timed(t)
                    else y.reshape(self.rows, *t.frame)
                    for y, t in zip(outputs, self.spec.outputs, strict=True)
                ]
            )
        return given

    def after_reset(self) -> list[Outputs]:
        stream = self.stream()
        # Below a whole chunk too, so that some frames wait when the reset comes.
        self.run(stream, 0, self.random.randint(1, self.frames - 1))
        stream.reset()
        return self.pieces(stream)

    def alone(self) -> float:
        errors = []
        for row in range(self.rows):
            stream, cut = self.engine.stream(), self.random.randint(1, self.frames - 1)
            both = [self.run(stream, 0, cut, row), self.run(stream, cut, self.frames, row)]
            errors.append(self.error(self.joined(both), row))
        return max(errors)

    # --- comparing

    def joined(self, pieces: list[Outputs]) -> Outputs:
        return [
            np.concatenate([p[i] for p in pieces], 1) if self.spec.timed(t) else pieces[-1][i]
            for i, t in enumerate(self.spec.outputs)
        ]

    def error(self, got: Outputs, row: int | None = None) -> float:
        worst = 0.0
        for given, (true, tensor) in zip(got, self._outputs(), strict=True):
            # Only what is over time comes late.
            due = (self.frames - self.spec.delay) // tensor.every
            want = true[:, :due] if self.spec.timed(tensor) else true
            scale = max(float(np.abs(true).max()), 1e-3)
            want = want if row is None else want[row : row + 1]
            assert given.shape == want.shape, f"{tensor.name} is {given.shape} in place of {want.shape}"
            worst = max(worst, float(np.abs(given - want).max()) / scale)
        return worst


# --- the survey ---------------------------------------------------------------------------------------------------


Tell = Callable[[int, Architecture, Verdict], None]


def survey(
    count: int, seed: int = 0, tell: Tell | None = None, judged: Callable[[Architecture, int], Verdict] = judge
) -> dict[str, Any]:
    """Architectures number `seed`, `seed` + 1, ...: how many are exported and how well, and all that goes wrong.

    `tell` is called after each.
    """
    figures: dict[str, Any] = {"drawn": 0, **dict.fromkeys((EXPORTED, REFUSED), 0)}
    figures |= {kind: [] for kind in (REFUSED_WRONGLY, ACCEPTED, MISMATCH, LATE, CRASH)}
    reasons: Counter[str] = Counter()
    errors, seconds, late, wanted = [0.0], [], 0, 0
    for number in range(seed, seed + count):
        architecture = random_architecture(number)
        verdict = judged(architecture, number)
        figures["drawn"] += 1
        wanted += architecture.refusal is None
        if verdict.good:
            figures[verdict.kind] += 1
        else:
            row = {"number": number, "architecture": str(architecture), "message": verdict.message}
            figures[verdict.kind].append({**row, "trace": verdict.trace} if verdict.trace else row)
        if verdict.kind == REFUSED:
            reasons[verdict.reason] += 1
        if verdict.kind == EXPORTED:
            errors.append(verdict.error)
            late += verdict.late > 0
        seconds.append((round(verdict.seconds, 2), number))
        if tell is not None:
            tell(number, architecture, verdict)
    refused = sum(reasons.values())
    return {
        **figures,
        "rate exported": figures[EXPORTED] / max(wanted, 1),
        "worst relative error": max(errors),
        "late for no reason": late,
        "reasons": {reason: n / refused for reason, n in reasons.most_common()},
        "seconds": round(sum(s for s, _ in seconds), 1),
        "slowest": sorted(seconds, reverse=True)[:5],
    }


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
    parser.add_argument("--count", type=int, default=200, help="how many (200)")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first (0)")
    parser.add_argument("--shrink", action="store_true", help="look for the smallest of each that goes wrong")
    parser.add_argument("--json", action="store_true", help="print all on stdout as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    said = Console(stderr=True)
    with Progress(console=said) as progress:
        task = progress.add_task("architectures", total=arguments.count)

        def tell(number: int, architecture: Architecture, verdict: Verdict) -> None:
            progress.advance(task)
            if verdict.good:
                return
            text = f"{number}: {verdict.kind}: {architecture}\n  {verdict.message}\n"
            if arguments.shrink:
                text += f"  smallest: build({shrunk(architecture.plan, verdict)})\n"
            said.print(text, markup=False, highlight=False, soft_wrap=True)

        figures = survey(arguments.count, arguments.seed, tell)
    if arguments.json:
        sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    else:
        Console().print(table(figures))


if __name__ == "__main__":
    sys.exit(main())
