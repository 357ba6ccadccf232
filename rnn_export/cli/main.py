"""The `rnn-export` command. Every command is thin; what it needs is imported when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from rnn_export import __version__
from rnn_export.cli.options import batch, calibrate_option, compute, finite, number, pair, source_options
from rnn_export.errors import ParityError, RnnExportError

EXPORT_STAGES = 12
VERIFY_STAGES = 7
BENCH_STAGES = 5
EXPORT_PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rnn-export")
def main() -> None:
    """Recurrent networks from PyTorch to the edge: exported, verified, streamed step by step.

    SOURCE is file.py:factory or package.module:factory, a function that returns (model, example_inputs) or
    (model, example_inputs, options), where options are keywords of rnn_export.export.export.

    Exit codes: 0 good, 1 a clear error, 2 usage, 3 the result is not what the model does.
    """


def command(function: Callable[..., dict[str, Any]]) -> click.Command:
    """A command with --json: `function(..., as_json)` shows its result unless as_json, and returns it as plain data."""

    @click.option(
        "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout; all else goes to stderr."
    )
    @wraps(function)
    def run(as_json: bool, **arguments: Any) -> None:
        try:
            result = function(as_json=as_json, **arguments)
            if as_json:
                click.echo(json.dumps(result))
        except (RnnExportError, ModuleNotFoundError) as error:
            message = str(error)
            if isinstance(error, ModuleNotFoundError):
                if (error.name or "").partition(".")[0] not in EXPORT_PACKAGES:
                    raise
                message = f"this needs {error.name}, which is not here: pip install 'rnn-export[export,cpu]'."
            if as_json:
                click.echo(json.dumps({"error": type(error).__name__, "message": message}))
            click.echo(f"error: {message}", err=True)
            sys.exit(3 if isinstance(error, ParityError) else 1)

    return main.command(name=function.__name__.removesuffix("_command"))(run)


def _source(source: str, weights: Path | None, given: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The model with its weights, its example, and its options overridden by those of the command line."""
    from rnn_export.cli.source import load_source
    from rnn_export.models.weights import load_weights

    model, example, options = load_source(source)
    if weights is not None:
        load_weights(model, weights)
    if states := given.pop("states"):
        if len(dict(states)) < len(states):
            raise click.BadParameter("a state is declared twice.", param_hint="--state")
        options["states"] = dict(states)
    if time_axis := given.pop("time_axis"):
        options["time_axis"] = _time_axis(time_axis)
    options.update({key: value for key, value in given.items() if value is not None})
    return model, example, options


def _time_axis(values: tuple[str, ...]) -> Any:
    if len(values) == 1 and "=" not in values[0]:
        return number(values[0])
    return dict(map(pair, values))


@command
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle to write, NAME.rnnx.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="As `rnn-export targets` lists them: onnx, torchscript (deprecated by torch), pt2, c, tensorrt, tensorrt-rtx, "
    "jetson-orin-nano and so on; may be repeated.  [default: onnx]",
)
@click.option(
    "--precision", help="Precision: fp32, or fp16 or bf16 for TensorRT, or bf16 or int8 for C.  [default: fp32]"
)
@click.option("--state-precision", help="Of the states between two steps, below fp32.  [default: fp32]")
@click.option("--batch", type=batch, metavar="MIN:OPT:MAX", help="Streams in one step of an engine.  [default: 1:1:8]")
@source_options
@click.option("--data", type=click.Path(path_type=Path), help="A recording to verify on: .npy, .npz, .csv or .wav.")
@calibrate_option
@click.option("--sample-rate", type=click.IntRange(1), help="Hz, where the input is a piece of a signal.")
@click.option("--steps", type=click.IntRange(1), help="Frames of the closed loop.  [default: 256]")
@click.option("--atol", type=click.FloatRange(0), help="Absolute part of the tolerance.  [default: 1e-06 in fp32]")
@click.option(
    "--rtol", type=click.FloatRange(0), help="Part relative to each tensor's running scale.  [default: 2e-05 in fp32]"
)
@click.option("--opset", type=int, help="Opset, where a target has ONNX.  [default: the target's own]")
@click.option(
    "--sequence-only", is_flag=True, help="For a model that needs whole sequences: the bundle cannot stream then."
)
@click.option("--force", is_flag=True, help="Replace a bundle that is already there.")
def export_command(
    source: str, output: Path, weights: Path | None, force: bool, as_json: bool, **given: Any
) -> dict[str, Any]:
    """Lift the model of SOURCE into one step with named states, export it and verify it in a closed loop."""
    from rnn_export.cli import tables
    from rnn_export.export import export

    with tables.progress("export", EXPORT_STAGES, not as_json) as stage:
        given["targets"] = given["targets"] or None
        given["sequence_only"] = given["sequence_only"] or None
        model, example, options = _source(source, weights, given)
        _refuse_unknown(source, options, export)
        bundle = export(model, example, output, force=force, progress=stage, **options)
    evidence = json.loads(bundle.read("parity.json"))
    if not as_json:
        tables.contract(bundle.spec)
        tables.parity(evidence)
        for rough in evidence["rough"]:
            tables.parity(rough)
        if evidence["rough"]:
            click.echo(
                "note: a GPU may add up in fp16 as well; an engine is held to the model where it is built", err=True
            )
        for note in evidence["notes"]:
            click.echo(f"note: {note}", err=True)
        click.echo(f"wrote {output} ({sum(row.bytes for row in bundle.files.values()):,} bytes)")
    return {"bundle": str(output), "spec": bundle.spec.to_json(), "parity": evidence}


def _refuse_unknown(source: str, options: dict[str, Any], export: Callable[..., Any]) -> None:
    import inspect

    from rnn_export.errors import SourceError

    known = set(inspect.signature(export).parameters) - {"model", "example_inputs", "path", "force", "progress"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise SourceError(f"{source} gives the options {unknown}, but export knows {sorted(known)}.")


@command
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="What to build for: c, tensorrt, tensorrt-rtx, jetson-orin-nano, ...")
@click.option("--precision", help="Which precision, where the bundle has several, or one that it has not yet.")
@click.option("--batch", type=batch, metavar="MIN:OPT:MAX", help="Streams in one step.  [default: as exported]")
@click.option("--state-precision", help="Of the states, where the graph is written here.  [default: fp32]")
@click.option("--memory", type=click.IntRange(1), metavar="MIB", help="Memory that the builder may plan with.")
@click.option(
    "--compute",
    type=compute,
    metavar="CC[,CC]|portable",
    help="Compute capabilities that TensorRT-RTX builds for.  [default: all of the target]",
)
@click.option("--triple", help="Machine that C is compiled for: aarch64-linux-gnu, cortex-m4, ...  [default: this one]")
@click.option("--cpu", help="CPU that C is compiled for, as gcc names it.  [default: this one, or the triple's least]")
@calibrate_option
@click.option("--rebuild", is_flag=True, help="Build again what is there already.")
def build_command(bundle: Path, target: str, precision: str | None, as_json: bool, **given: Any) -> dict[str, Any]:
    """Build BUNDLE for a target, hold what comes out to the golden vectors, and record it in the bundle.

    An engine of TensorRT's is built on the machine that runs it; C is compiled for this machine, or for another one.
    Needs neither torch nor onnx, but for a target or precision that the bundle has no graph or sources for.
    """
    from rnn_export.cli import build, building

    return build.build(bundle, target, precision, not as_json, building.BuildChoices(**given))


@command
@click.argument("bundle", type=click.Path())
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="Which backend to hold to the golden vectors; or servers that run BUNDLE, grpc://HOST:PORT/NAME.",
)
@click.option("--precision", help="Which precision, where the bundle has several.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: that of the backend]")
def verify_command(
    bundle: str, backend: str, precision: str | None, device: str | None, as_json: bool
) -> dict[str, Any]:
    """Replay the golden vectors of BUNDLE on this machine: the proof that it does here what the model did.

    With the address of servers as --backend, the proof that they do.
    """
    from rnn_export.bundle import open_bundle
    from rnn_export.cli import tables
    from rnn_export.runtime.engine import Engine
    from rnn_export.runtime.replay.golden import FILE, Golden, replay

    _refuse_server(bundle, f" rnn-export verify NAME.rnnx --backend {bundle} holds the servers to its golden vectors.")
    opened = open_bundle(bundle)
    engine = Engine.of(opened, backend, precision, device)
    _say_passed_over(engine)
    with tables.progress("verify", VERIFY_STAGES, not as_json) as stage:
        report = replay(engine, Golden.from_arrays(opened.arrays(FILE), opened.spec), stage)
    if not as_json:
        tables.parity(report.to_json())
    report.raise_for_failure("This bundle does not do here what the model did: do not use it on this backend.")
    return report.to_json()


def _refuse_server(what: str, instead: str = "") -> None:
    from rnn_export.errors import BackendUnavailable
    from rnn_export.runtime.backends.remote.address import is_address

    if is_address(what):
        raise BackendUnavailable(f"{what} is the address of servers, but this needs the bundle NAME.rnnx.{instead}")


@command
@click.argument("bundle", metavar="BUNDLE|ADDRESS", type=click.Path())
@click.argument("recording", metavar="INPUT")
@click.option("-o", "--output", type=click.Path(path_type=Path), help=".npy, .npz or .csv; without it, CSV on stdout.")
@click.option("--backend", default="auto", show_default=True, help="Which backend to run on.")
@click.option("--precision", help="Which precision, where the bundle has several.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: that of the backend]")
def run_command(bundle: str, recording: str, output: Path | None, as_json: bool, **chosen: Any) -> dict[str, Any]:
    """Stream INPUT through BUNDLE with the state kept: a .npy, .npz, .csv or .wav file, or - for raw values on stdin.

    ADDRESS is grpc://HOST:PORT,HOST:PORT/NAME, a model that `rnn-export triton` wrote, on one or several servers. The
    stream goes on at another server when one fails or takes too long: behind NAME, ?deadline_ms=1000&snapshot_every=16
    are the milliseconds that a frame may take, and the frames after which the states are fetched for that.

    Raw values are little-endian, in the dtype of the input, one frame after the other; each output is printed as soon
    as its frame is there.
    """
    from rnn_export.cli import tables
    from rnn_export.cli.run_io import run_file, run_raw
    from rnn_export.runtime import load

    engine = load(bundle, **chosen)
    _say_passed_over(engine)
    try:
        if recording == "-":
            return run_raw(engine, sys.stdin.buffer, output, as_json)
        with tables.progress("run", 1, not as_json) as stage:
            stage(recording)
            result = run_file(engine, recording, output, as_json)
        if not as_json:
            click.echo(tables.speed(result), err=True)
        return result
    finally:
        if moved := tables.moved(engine):
            click.echo(f"note: {moved}", err=True)


def _say_passed_over(engine: Any) -> None:
    for reason in engine.passed_over:
        click.echo(f"note: {engine.backend} ({engine.precision}) runs, passed over was {reason}", err=True)


@command
@click.argument("bundle", type=click.Path())
@click.option("--backend", "backends", multiple=True, help="Only this one; may be repeated.  [default: all]")
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
def bench_command(
    bundle: str, backends: tuple[str, ...], plot: Path | None, as_json: bool, **how: Any
) -> dict[str, Any]:
    """Time a step of BUNDLE on every backend and precision that runs here, in turn, on one core.

    Each engine is held to the golden vectors first, and then steps on their frames. Beside them stand ONNX Runtime's
    own run(None, {...}), and the time in which this core reads every weight once: no step is faster.
    """
    from rnn_export.cli import plots, tables
    from rnn_export.runtime.bench.measure import bench

    _refuse_server(bundle)
    if plot is not None:
        plots.check(plot)
    with tables.progress("bench", BENCH_STAGES, not as_json) as stage:
        result = bench(Path(bundle), backends, progress=stage, **how)
    if plot is not None:
        plots.bench(plot, result)
    if not as_json:
        tables.bench(result)
    return result


@command
@click.argument("what", metavar="BUNDLE|SOURCE")
@source_options
@click.option("--sequence-only", is_flag=True, help="Look at it as a model of whole sequences.")
def inspect_command(what: str, weights: Path | None, as_json: bool, **given: Any) -> dict[str, Any]:
    """Show what is in a bundle, or what lifting finds in the model of a SOURCE before any export.

    Of a model: inputs and outputs with their axes, every state with its module path, kind, shape, first value and why
    it is one, the delay, parameters and bytes.
    """
    from rnn_export.cli import inspect

    _refuse_server(what)
    if Path(what, "manifest.json").exists() or (":" not in what and not what.endswith(".py")):
        return inspect.of_bundle(Path(what), not as_json)
    from rnn_export.export import export

    given["sequence_only"] = given["sequence_only"] or None
    model, example, options = _source(what, weights, given)
    _refuse_unknown(what, options, export)
    return inspect.of_model(model, example, options, not as_json)


@command
def targets_command(as_json: bool) -> dict[str, Any]:
    """What can be written, for which device, at which opset and in which precisions."""
    from rnn_export.cli import tables
    from rnn_export.targets import table_rows

    rows = table_rows()
    if not as_json:
        tables.targets(rows)
    return {"targets": rows}


@command
def doctor_command(as_json: bool) -> dict[str, Any]:
    """What this machine can run and build, what is missing, and the command that mends it."""
    from rnn_export.cli import tables
    from rnn_export.cli.doctor import examine

    found = examine()
    if not as_json:
        tables.table(
            "This machine",
            ("", "", "found", "what mends it"),
            [(f.name, f.state, f.detail, f.mend or "") for f in found],
        )
    return {"findings": [vars(f) for f in found]}


@command
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The model repository to write.")
@click.option(
    "--backend",
    type=click.Choice(["python", "onnxruntime", "tensorrt"]),
    default="python",
    show_default=True,
    help="Triton's backend: python runs rnn-export's own runtime.",
)
@click.option("--name", help="Of the model.  [default: that of BUNDLE]")
@click.option("--precision", help="Which precision, where the bundle has several.  [default: fp32, or its only one]")
@click.option("--streams", type=click.IntRange(1), default=256, show_default=True, help="The most streams at a time.")
@click.option("--batch", type=click.IntRange(1), help="The most of them in one step.  [default: 64, at most --streams]")
@click.option(
    "--idle",
    "idle_s",
    type=click.FloatRange(0.001),
    callback=finite,
    default=60.0,
    show_default=True,
    help="Seconds without a frame after which a stream is over.",
)
@click.option(
    "--delay-us",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Microseconds that a frame waits for others to share its step.",
)
@click.option("--runtime-backend", default="auto", show_default=True, help="Which of ours the python backend runs.")
@click.option("--force", is_flag=True, help="Replace a repository of this model that is already there.")
def triton_command(bundle: Path, output: Path, as_json: bool, **given: Any) -> dict[str, Any]:
    """Write a model repository for NVIDIA Triton: BUNDLE served to thousands of streams.

    Each sequence of the server is a stream with its own state, and the frames of several share a step. How it is
    started and called stands in its README.md; `rnn-export run grpc://HOST:PORT/NAME INPUT` streams through it.
    """
    from rnn_export.cli import triton

    return triton.serve(bundle, output, not as_json, **given)
