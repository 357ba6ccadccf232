"""`rnn-export build`: an engine of TensorRT's, or C compiled for a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnn_export.bundle import Bundle, TargetRow, open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.choices import Precision
from rnn_export.cli import tables
from rnn_export.cli.command import EXPORT_PACKAGES, command
from rnn_export.cli.options import batch_range, calibrate_option, compute_capabilities
from rnn_export.errors import BuildError

if TYPE_CHECKING:
    from rnn_export.runtime.build.native.build import BuiltC
    from rnn_export.runtime.build.tensorrt.engine import BuiltEngine

STAGES = 9
# Options that one kind of target has and the other has not.
OF_C = ("triple", "cpu", "calibrate")
OF_ENGINES = ("batch", "state_precision", "memory", "compute")


@dataclass(frozen=True)
class BuildChoices:
    """Options of the command as they were given; None are those that were not. `memory` is in MiB."""

    batch: tuple[int, int, int] | None
    state_precision: Precision | None
    memory: int | None
    compute: tuple[str, ...] | None
    triple: str | None
    cpu: str | None
    calibrate: Path | None
    rebuild: bool


@command
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="What to build for: c, tensorrt, tensorrt-rtx, jetson-orin-nano, ...")
@click.option("--precision", help="Which precision, where the bundle has several, or one that it has not yet.")
@click.option("--batch", type=batch_range, metavar="MIN:OPT:MAX", help="Streams in one step.  [default: as exported]")
@click.option("--state-precision", help="Of the states, where the graph is written here.  [default: fp32]")
@click.option("--memory", type=click.IntRange(1), metavar="MIB", help="Memory that the builder may plan with.")
@click.option(
    "--compute",
    type=compute_capabilities,
    metavar="CC[,CC]|portable",
    help="Compute capabilities that TensorRT-RTX builds for.  [default: all of the target]",
)
@click.option("--triple", help="Machine that C is compiled for: aarch64-linux-gnu, cortex-m4, ...  [default: this one]")
@click.option("--cpu", help="CPU that C is compiled for, as gcc names it.  [default: this one, or the triple's least]")
@calibrate_option
@click.option("--rebuild", is_flag=True, help="Build again what is there already.")
def build_command(
    bundle: Path, target: str, precision: Precision | None, batch: tuple[int, int, int] | None,
    state_precision: Precision | None, memory: int | None, compute: tuple[str, ...] | None, triple: str | None,
    cpu: str | None, calibrate: Path | None, rebuild: bool, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Build BUNDLE for a target, hold what comes out to the golden vectors, and record it in the bundle.

    An engine of TensorRT's is built on the machine that runs it; C is compiled for this machine, or for another one.
    Needs neither torch nor onnx, but for a target or precision that the bundle has no graph or sources for.
    """
    choices = BuildChoices(batch, state_precision, memory, compute, triple, cpu, calibrate, rebuild)
    return build(bundle, target, precision, not as_json, choices)


def build(bundle: Path, target: str, precision: Precision | None, show: bool, choices: BuildChoices) -> dict[str, Any]:
    """Build, show it, and give it as plain data."""
    foreign = OF_ENGINES if target == "c" else OF_C
    if wrong := [name for name in foreign if getattr(choices, name) is not None]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        verb, what = ("does", "it") if len(wrong) == 1 else ("do", "them")
        raise BuildError(f"{flags} {verb} not go with --target {target}: leave {what} out.")
    if choices.calibrate is not None and precision != "int8":
        raise BuildError(f"--calibrate is for --precision int8, not for {precision or 'fp32'}: leave it out.")
    with tables.progress("build", STAGES, show) as stage:
        if target == "c":
            compiled = _c(open_bundle(bundle), precision, choices, stage)
        else:
            engine = _engine(open_bundle(bundle), target, precision, choices, stage)
    return _of_c(compiled, show) if target == "c" else _of_engine(engine, bundle, show)


def _c(bundle: Bundle, precision: str | None, choices: BuildChoices, stage: Callable[[str], None]) -> BuiltC:
    """With the sources written first where there are none, or where they are calibrated again."""
    from rnn_export.runtime.build.native.build import Destination, build_c
    from rnn_export.runtime.build.origin import find_row

    row, destination = find_row(bundle, "c", precision), Destination(choices.triple, choices.cpu)
    origin: Bundle | Draft = bundle
    if row is not None and choices.calibrate is not None:
        destination.find()
        _check_rewrite(bundle, row, choices.rebuild)
    if (row is None or choices.calibrate is not None) and _can_write():
        # What is missing is said before anything that takes long.
        destination.find()
        origin = _added(bundle, "c", precision, choices, stage)
    return build_c(origin, precision, destination, choices.rebuild, stage)


def _engine(
    bundle: Bundle, target: str, precision: str | None, choices: BuildChoices, stage: Callable[[str], None]
) -> BuiltEngine:
    """With the graph written first where there is none."""
    from rnn_export.runtime.build.origin import find_row
    from rnn_export.runtime.build.tensorrt.builder import engine_target, find_builder
    from rnn_export.runtime.build.tensorrt.engine import BuildOptions, build_engine

    found = engine_target(target, precision)
    origin: Bundle | Draft = bundle
    if find_row(bundle, target, precision) is None and _can_write():
        # What is missing is said before anything that takes long.
        find_builder(found, choices.compute)
        origin = _added(bundle, target, precision, choices, stage)
    limit = choices.memory and choices.memory * 2**20
    options = BuildOptions(choices.state_precision, choices.batch, limit, choices.compute, choices.rebuild)
    return build_engine(origin, target, precision, options, stage)


def _can_write() -> bool:
    """Whether the export extra is here."""
    return all(map(find_spec, EXPORT_PACKAGES))


def _check_rewrite(bundle: Bundle, row: TargetRow, rebuild: bool) -> None:
    if not _can_write():
        raise BuildError(
            f"{bundle.path} has c ({row.precision}), and its sources are written again only where the export extra is: "
            "pip install 'rnn-export[export,cpu]'."
        )
    if not rebuild:
        raise BuildError(
            f"{bundle.path} has c ({row.precision}): give --rebuild to write it again; what is compiled for other "
            "machines is dropped then."
        )


def _added(
    bundle: Bundle, target: str, precision: str | None, choices: BuildChoices, stage: Callable[[str], None]
) -> Draft:
    """The graph or the sources that the bundle lacks."""
    from rnn_export.export.add_target import add_target
    from rnn_export.runtime.build.native.names import source_name
    from rnn_export.runtime.recording import read
    from rnn_export.target_options import TargetOptions

    order = TargetOptions(
        precision or "fp32",
        choices.state_precision or "fp32",
        batch=choices.batch or TargetOptions.batch,
        # A bundle that was renamed keeps the name that its C has.
        name=next((str(row.requires["name"]) for row in bundle.targets if row.target == "c"), None)
        or source_name(bundle.path.name.removesuffix(".rnnx")),
        calibration=None if choices.calibrate is None else read(choices.calibrate, bundle.spec),
    )
    return add_target(bundle, target, order, stage)


def _of_c(done: BuiltC, show: bool) -> dict[str, Any]:
    test = done.selftest
    size = sum(len(data) for name, data in done.files.items() if not name.endswith(".json"))
    if show:
        for note in done.notes:
            click.echo(f"note: {note}", err=True)
        if done.report:
            tables.parity(done.report.to_json())
        measured = f"{size:,} bytes"
        if test and test.flash is not None:
            measured = f"flash {test.flash:,} bytes"
            if test.ram is not None:
                measured += f", RAM {test.ram:,} bytes (stack {test.stack:,})"
        proof = f"; self-test passed on {test.ran}" if test and test.passed else ""
        click.echo(f"built c ({done.row.precision}) for {done.triple}: {measured}{proof}")
        if test and not test.passed:
            click.echo(f"note: the self-test was {test.reason}", err=True)
    return {
        "target": done.row.target,
        "precision": done.row.precision,
        "requires": dict(done.row.requires),
        "triple": done.triple,
        "files": sorted(done.files),
        "bytes": size,
        "compiler": done.record.compiler,
        "flags": list(done.record.flags),
        "features": list(done.record.features),
        "notes": list(done.notes),
        "selftest": test and {**asdict(test), "passed": test.passed},
        "parity": done.report and done.report.to_json(),
    }


def _of_engine(done: BuiltEngine, bundle: Path, show: bool) -> dict[str, Any]:
    row = done.row
    if show:
        for note in done.notes:
            click.echo(f"note: {note}", err=True)
        if done.report:
            tables.parity(done.report.to_json())
        if done.elsewhere:
            click.echo(f"wrote graph and recipe for {row.target} ({row.precision}): {done.elsewhere}")
        else:
            click.echo(f"built {row.target} ({row.precision}) in {done.seconds:.1f} s: {done.bytes:,} bytes")
            if not done.report:
                proof = f"rnn-export verify {bundle} --backend tensorrt --precision {row.precision}"
                click.echo(f"note: not run on hardware, no such GPU is here; where one is, run {proof}", err=True)
    return {
        "target": row.target,
        "precision": row.precision,
        "requires": dict(row.requires),
        "bytes": done.bytes,
        "seconds": done.seconds,
        "elsewhere": done.elsewhere or None,
        "notes": list(done.notes),
        "parity": done.report and done.report.to_json(),
    }
