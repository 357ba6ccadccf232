"""`rnn-export loadtest`: how many live streams one core holds, or servers do."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnn_export.cli import console, plots
from rnn_export.cli.main import command
from rnn_export.cli.options import columns_option, finite, trust_option, with_columns
from rnn_export.cli.voice import stages
from rnn_export.cli.words import BACKEND, BUNDLE_OR_ADDRESS, PRECISION
from rnn_export.contract.choices import BackendName, Precision, ServerAddress

if TYPE_CHECKING:
    from rnn_export.contract.spec import StreamSpec
    from rnn_export.platform.arrays import Arrays
    from rnn_export.runtime.engine import Engine
    from rnn_export.runtime.recording import Source


def _numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> list[int]:
    if text is None:
        return []
    from rnn_export.runtime.bench.live import MOST

    numbers = {int(part) if part.strip().isdecimal() else 0 for part in text.split(",")}
    if not 0 < min(numbers) <= max(numbers) <= MOST:
        raise click.BadParameter(f"{text!r}: give whole numbers from 1 to {MOST} with commas between them.")
    return sorted(numbers)


@command
@click.argument("bundle", metavar="BUNDLE|ADDRESS", type=BUNDLE_OR_ADDRESS)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1e6, min_open=True),
    callback=finite,
    help="Frames a second of each stream.  [default: the model's]",
)
@click.option(
    "--streams", callback=_numbers, help="Numbers of streams, 64,128 and so on.  [default: search for the most]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.2, 3600),
    callback=finite,
    default=4.0,
    show_default=True,
    help="Of each number of streams.",
)
@click.option("--backend", type=BACKEND, default="auto", show_default=True, help="Which backend to run on.")
@click.option("--precision", type=PRECISION, help="Which precision, where the bundle has several.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A recording to take frames from: .npy, .npz, .csv, .wav, .flac, .ogg.",
)
@columns_option
@click.option("--core", type=click.IntRange(0), help="The core to run on.  [default: the last that may be used]")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw latency over load as well.")
@trust_option
def loadtest_command(
    bundle: str, rate: float | None, streams: list[int], seconds: float, backend: BackendName | ServerAddress,
    precision: Precision | None, data: Path | None, columns: tuple[str, ...] | None,
    core: int | None, plot: Path | None, trust: bool, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Find how many live streams of BUNDLE one core holds, or the servers of ADDRESS do.

    Each stream sends frames at its own times, and whatever is due is stepped as one round of a pool. A frame's latency
    counts from when it was due, so that an engine that falls behind cannot hide it. Streams are held where 99 % of the
    frames are done within a frame's time.
    """
    from rnn_export.runtime.bench.live import frames_of, load_test
    from rnn_export.runtime.bench.this_machine import describe, pinned, preemptions
    from rnn_export.runtime.engine import load

    if plot is not None:
        plots.check(plot)
    (recorded,) = with_columns(columns, data)
    engine = load(bundle, backend, precision, trust=trust)
    console.skipped_backends(engine)
    steps = _rate(engine.spec, rate)
    if seconds * steps < 1:
        raise click.BadParameter(
            f"{seconds:g} s is less than a step of a stream takes, {1 / steps:g} s.", param_hint="--seconds"
        )
    frames = frames_of(_frames(bundle, engine.spec, recorded), engine.spec)
    with pinned(core) as chosen, stages("loadtest", len(streams) or None, lines=False) as stage:
        before = preemptions()
        points, ended = load_test(
            engine, frames, 1 / steps, seconds, streams, lambda number: stage(f"{number:,} streams")
        )
        preempted = preemptions() - before
        machine = describe(chosen)
    if ended:
        console.note(ended)
    result = {
        "source": bundle,
        "held_by": _holder(engine),
        "backend": engine.backend,
        "precision": engine.precision,
        "device": engine.device,
        "machine": machine,
        "preempted": preempted,
        "frames_per_second": steps * engine.spec.chunk,
        "frame_ms": 1e3 / steps,
        "points": [asdict(point) for point in points],
        "held": max((point.streams for point in points if point.held), default=0),
        "at_least": points[-1].held,
    }
    if not as_json:
        console.load_test(result)
    if plot is not None:
        from rnn_export.cli.load_picture import draw

        draw(plot, result)
    return result


def _rate(spec: "StreamSpec", rate: float | None) -> float:
    """Steps a second of one stream."""
    if rate is None:
        timed = [t for t in spec.inputs if spec.timed(t)]
        if spec.sample_rate is None or len(timed) != 1:
            raise click.UsageError("this model has no sample rate: give --rate, frames a second of each stream.")
        rate = spec.sample_rate / (timed[0].frame[0] if timed[0].frame else 1)
    return rate / spec.chunk


def _frames(bundle: str, spec: "StreamSpec", data: "Source | None") -> "Arrays":
    """Frames (rows, frames, ...) of a recording, else those that the bundle was verified with, else noise."""
    import numpy as np

    from rnn_export.bundle import open_bundle
    from rnn_export.errors import SourceError
    from rnn_export.runtime import recording
    from rnn_export.runtime.backends.remote.address import is_address
    from rnn_export.runtime.replay.golden import FILE, Golden

    if data is not None:
        return recording.read(data, spec)
    if not is_address(bundle):
        return Golden.from_arrays(open_bundle(bundle).arrays(FILE), spec).inputs
    if any(np.dtype(t.dtype).kind != "f" for t in spec.inputs):
        raise SourceError(
            "an input is no float, and its range is unknown: give frames with --data.", id="loadtest-range-unknown"
        )
    rng = np.random.default_rng(0)
    shapes = {t.name: ((1, 64 * spec.chunk) if spec.timed(t) else (1,)) + t.frame for t in spec.inputs}
    return {t.name: rng.standard_normal(shapes[t.name]).astype(t.dtype) for t in spec.inputs}


def _holder(engine: "Engine") -> str:
    servers = engine.device.count(",") + 1
    return "one core" if engine.backend != "remote" else "one server" if servers == 1 else f"{servers} servers"
