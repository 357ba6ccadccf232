"""`rnn-export bench`: the time of a step on every backend that runs here."""

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console, plots
from rnn_export.cli.main import command, refuse_address
from rnn_export.cli.options import finite, trust_option
from rnn_export.cli.voice import stages
from rnn_export.cli.words import BACKEND, BUNDLE_OR_ADDRESS

STAGES = 5


@command
@click.argument("bundle", type=BUNDLE_OR_ADDRESS)
@click.option(
    "--backend", "backends", type=BACKEND, multiple=True, help="Only this one; may be repeated.  [default: all]"
)
@click.option("--steps", type=click.IntRange(1), help="Steps of each engine.  [default: as many as fit into --seconds]")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    callback=finite,
    default=2.0,
    show_default=True,
    help="Of each engine, once with warm and once with cold caches.",
)
@click.option("--core", type=click.IntRange(0), help="The core to run on.  [default: the last that may be used]")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the figures as well.")
@click.option("--profile", is_flag=True, help="Time each operator of a step, on native and onnxruntime.")
@trust_option
def bench_command(
    bundle: str, backends: tuple[str, ...], steps: int | None, seconds: float, core: int | None, plot: Path | None,
    profile: bool, trust: bool, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Time a step of BUNDLE on every backend and precision that runs here, in turn, on one core.

    Each engine is held to the golden vectors first, and then steps on their frames. Beside them stand ONNX Runtime's
    own run(None, {...}), and the time in which this core reads every weight once: no step is faster.
    """
    from rnn_export.runtime.bench.measure import bench

    refuse_address(bundle)
    if profile:
        return _profile(bundle, backends, steps, seconds, core, plot, trust, as_json)
    if plot is not None:
        plots.check(plot)
    with stages("bench", STAGES, lines=False) as stage:
        result = bench(Path(bundle), backends, steps=steps, seconds=seconds, core=core, progress=stage, trust=trust)
    if plot is not None:
        plots.bench(plot, result)
    if not as_json:
        console.bench(result)
    return result


def _profile(
    bundle: str, backends: tuple[str, ...], steps: int | None, seconds: float, core: int | None, plot: Path | None,
    trust: bool, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    from rnn_export.runtime.bench.profile import PROFILED, profile

    if plot is not None:
        raise click.UsageError("--profile draws no picture: leave --plot out.")
    with stages("profile", len(PROFILED), lines=False) as stage:
        result = profile(Path(bundle), backends, steps, seconds, core, stage, trust)
    if not as_json:
        console.profile(result)
    return result
