"""How many live streams a model holds: each sends frames at its own times, whatever becomes of those before.

A frame's latency counts from when it was due, so that a server that falls behind cannot hide it. Whatever is due is
stepped as one round of a pool, here or behind an endpoint. Streams are held where 99 % of the frames are done within a
frame's time.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import load_picture  # noqa: E402

from rnn_export.bundle import open_bundle  # noqa: E402
from rnn_export.cli import plots  # noqa: E402
from rnn_export.cli.options import finite  # noqa: E402
from rnn_export.errors import RnnExportError, SourceError, StreamError  # noqa: E402
from rnn_export.runtime import Engine, load  # noqa: E402
from rnn_export.runtime.bench.this_machine import describe, pinned  # noqa: E402
from rnn_export.runtime.recording import read  # noqa: E402
from rnn_export.runtime.replay.golden import FILE, Golden  # noqa: E402
from rnn_export.spec import StreamSpec  # noqa: E402

MOST = 2**20
# How near to the highest number that is held the search comes.
STEP = 1.05
WARM = 0.5  # s
TRIES = 2


@dataclass(frozen=True)
class Point:
    """`streams` at a rate: rounds a second and their mean size, latency in ms, and whether all are held."""

    streams: int
    rounds: float
    batch: float
    p50: float
    p99: float
    worst: float
    held: bool


class Traffic:
    """`streams` open ones, each with a frame every `period` seconds, at phases of its own."""

    def __init__(self, engine: Engine, frames: dict[str, np.ndarray], period: float, streams: int) -> None:
        self.pool, self.frames, self.period = engine.pool(capacity=streams), frames, period
        self.ids = np.array([self.pool.open() for _ in range(streams)])
        self.length = len(next(iter(frames.values())))
        rng = np.random.default_rng(0)
        self.phase, self.at = rng.random(streams) * period, rng.integers(self.length, size=streams)

    def run(self, seconds: float) -> Point:
        """Frames for so long, after a while that does not count."""
        clock = time.perf_counter
        begin = clock()
        end, counts_from = begin + WARM + seconds, begin + WARM
        due, taken, sizes = begin + self.phase, [], []
        while (now := clock()) < end:
            rows = np.flatnonzero(due <= now)
            if not len(rows):
                _wait(float(due.min()) - now)
                continue
            x = {name: values[self.at[rows]] for name, values in self.frames.items()}
            self.pool.step(self.ids[rows], x if len(x) > 1 else next(iter(x.values())))
            if (done := clock()) >= counts_from:
                taken.append(done - due[rows])
                sizes.append(len(rows))
            due[rows] += self.period
            self.at[rows] = (self.at[rows] + 1) % self.length
        # Frames that nobody came to are as late as they are by now.
        late = clock() - due
        taken.append(late[late > self.period])
        latency = np.concatenate(taken) * 1e3
        p50, p99 = np.percentile(latency, (50, 99))
        held = bool(p99 < self.period * 1e3)
        return Point(
            len(self.ids),
            len(sizes) / seconds,
            float(np.mean(sizes)),
            float(p50),
            float(p99),
            float(latency.max()),
            held,
        )

    def close(self) -> None:
        self.pool.close(self.ids)


def _wait(seconds: float) -> None:
    """To the point: a sleep ends late."""
    until = time.perf_counter() + seconds
    if seconds > 3e-4:
        time.sleep(seconds - 2e-4)
    while time.perf_counter() < until:
        pass


def search(first: int) -> Iterator[int]:
    """Numbers of streams to try, each time told by `send` whether they are held: double, then halve what is between."""
    low, high, count = 0, None, first
    while high is None or (high > low * STEP and high - low > 1):
        held = yield count
        low, high = (count, high) if held else (low, count)
        if high is None:
            if low >= MOST:
                return
            count = 2 * low
        else:
            count = max((low + high) // 2, 1)


def frames_of(source: str, spec: StreamSpec, data: Path | None) -> dict[str, np.ndarray]:
    """Frames as a round takes them: of a recording, else those that the bundle was verified with, else noise."""
    if data is not None:
        rows = read(data, spec)
    elif not source.startswith("grpc://"):
        rows = Golden.from_arrays(open_bundle(source).arrays(FILE), spec).inputs
    elif any(np.dtype(t.dtype).kind != "f" for t in spec.inputs):
        raise SourceError("an input is no float, and its range is unknown: give frames with --data.")
    else:
        rng = np.random.default_rng(0)
        shapes = {t.name: ((1, 64 * spec.chunk) if spec.timed(t) else (1,)) + t.frame for t in spec.inputs}
        rows = {t.name: rng.standard_normal(shapes[t.name]).astype(t.dtype) for t in spec.inputs}
    timed = {t.name for t in spec.inputs if spec.timed(t)}
    steps = min(rows[name].shape[1] for name in timed) // spec.chunk
    if not steps:
        raise SourceError(f"the recording has fewer frames than one step takes, {spec.chunk}.")
    chunk = (spec.chunk,) if spec.chunk > 1 else ()
    return {
        t.name: rows[t.name][0, : steps * spec.chunk].reshape(steps, *chunk, *t.frame)
        if t.name in timed
        else np.repeat(rows[t.name][:1], steps, 0)
        for t in spec.inputs
    }


def rate_of(spec: StreamSpec, rate: float | None) -> float:
    """Steps a second of one stream."""
    if rate is None:
        timed = [t for t in spec.inputs if spec.timed(t)]
        if spec.sample_rate is None or len(timed) != 1:
            raise click.UsageError("this model has no sample rate: give --rate, frames a second of each stream.")
        rate = spec.sample_rate / (timed[0].frame[0] if timed[0].frame else 1)
    return rate / spec.chunk


@click.command(help=__doc__)
@click.argument("source", metavar="NAME.rnnx|grpc://HOST:PORT/NAME")
@click.option(
    "--rate",
    type=click.FloatRange(0, 1e6, min_open=True),
    callback=finite,
    help="Frames a second of each stream.  [default: the model's]",
)
@click.option("--streams", help="Numbers of streams to try, 64,128 and so on.  [default: search for the most]")
@click.option(
    "--seconds",
    type=click.FloatRange(0.2, 3600),
    callback=finite,
    default=4.0,
    show_default=True,
    help="Of each number of streams.",
)
@click.option("--backend", default="auto", show_default=True)
@click.option("--precision")
@click.option(
    "--data", type=click.Path(path_type=Path), help="A recording to take frames from: .npy, .npz, .csv, .wav."
)
@click.option("--core", type=int, help="The core to run on.  [default: the last one]")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw latency over load as a .png.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout; all else goes to stderr.")
def main(
    source: str, rate: float | None, streams: str | None, seconds: float, backend: str, precision: str | None,
    data: Path | None, core: int | None, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    try:
        if plot is not None:
            plots.check(plot)
        engine = load(source, backend=backend, precision=precision)
        steps = rate_of(engine.spec, rate)
        if seconds * steps < 1:
            raise click.BadParameter(
                f"{seconds:g} s is less than a step of a stream takes, {1 / steps:g} s.", param_hint="--seconds"
            )
        frames = frames_of(source, engine.spec, data)
        numbers = _numbers(streams)
        with pinned(core) as chosen:
            result = {
                "source": source,
                "held_by": _holder(engine),
                "backend": engine.backend,
                "precision": engine.precision,
                "device": engine.device,
                "machine": describe(chosen),
                "frames_per_second": steps * engine.spec.chunk,
                "frame_ms": 1e3 / steps,
            }
            points = measured(engine, frames, 1 / steps, numbers, seconds)
    except RnnExportError as error:
        raise SystemExit(f"error: {error}") from error
    result["points"] = [asdict(point) for point in points]
    result["held"] = max((point.streams for point in points if point.held), default=0)
    result["at_least"] = points[-1].held
    show(result, as_json)
    if plot is not None:
        load_picture.draw(plot, result)


def _holder(engine: Engine) -> str:
    servers = engine.device.count(",") + 1
    return "one core" if engine.backend != "remote" else "one server" if servers == 1 else f"{servers} servers"


def _numbers(streams: str | None) -> list[int] | None:
    if streams is None:
        return None
    numbers = {int(part) if part.strip().isdecimal() else 0 for part in streams.split(",")}
    if not 0 < min(numbers) <= max(numbers) <= MOST:
        raise click.BadParameter(
            f"{streams!r}: give whole numbers from 1 to {MOST} with commas between them.", param_hint="--streams"
        )
    return sorted(numbers)


def measured(
    engine: Engine, frames: dict[str, np.ndarray], period: float, numbers: list[int] | None, seconds: float
) -> list[Point]:
    """A point for each number of streams, in order."""
    points: dict[int, Point] = {}
    tries = search(16)
    count = numbers[0] if numbers else next(tries)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=len(numbers) if numbers else None)
        while True:
            progress.update(task, description=f"{count} streams")
            try:
                points[count] = attempt(engine, frames, period, count, seconds)
            except StreamError as error:  # a server has so many streams and no more
                if numbers or not points:
                    raise
                click.echo(f"note: the search ends before {count} streams: {error}", err=True)
                break
            progress.advance(task)
            if numbers:
                if len(points) == len(numbers):
                    break
                count = numbers[len(points)]
                continue
            try:
                count = tries.send(points[count].held)
            except StopIteration:
                break
    return [points[count] for count in sorted(points)]


def attempt(engine: Engine, frames: dict[str, np.ndarray], period: float, count: int, seconds: float) -> Point:
    """A point; one that is not held is tried again, since the machine may have been busy with something else."""
    for _ in range(TRIES):
        traffic = Traffic(engine, frames, period, count)
        gc.collect()
        gc.disable()
        try:
            point = traffic.run(seconds)
        finally:
            gc.enable()
        traffic.close()
        if point.held:
            break
    return point


def show(result: dict[str, Any], as_json: bool) -> None:
    """As a table, or as JSON on stdout."""
    if as_json:
        click.echo(json.dumps(result))
        return
    table = Table(
        "streams", "rounds/s", "rows a round", "p50 ms", "p99 ms", "worst ms", "held", box=None, padding=(0, 2, 0, 0)
    )
    for p in result["points"]:
        values = (
            f"{p[key]:.{digits}f}"
            for key, digits in (("rounds", 0), ("batch", 1), ("p50", 2), ("p99", 2), ("worst", 1))
        )
        table.add_row(str(p["streams"]), *values, "yes" if p["held"] else "no")
    console = Console()
    console.print(table)
    frames, time = f"{result['frames_per_second']:g} frames/s", plots.duration(result["frame_ms"] * 1e3)
    where = f"{result['backend']} {result['precision']} on {result['device']}"
    verdict = f"{load_picture.holds(result)} of {frames} (p99 < {time}), {where}"
    console.print(f"\n{verdict}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
