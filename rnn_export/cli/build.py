"""What the command `build` does and shows: an engine of TensorRT's, or C compiled for a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from rnn_export.cli import tables
from rnn_export.errors import BuildError
from rnn_export.runtime.build.native.build import BuiltC, build_c
from rnn_export.runtime.build.tensorrt.engine import BuiltEngine, build_engine

STAGES = 9
WRITING = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors")
# Options that one kind of target has and the other has not.
OF_C = ("triple", "cpu", "calibrate")
OF_ENGINES = ("batch", "state_precision", "memory", "compute")


def build(bundle: Path, target: str, precision: str | None, show: bool, **given: Any) -> dict[str, Any]:
    """Build, show it, and give it as plain data."""
    foreign = OF_ENGINES if target == "c" else OF_C
    if wrong := [name for name in foreign if given[name] is not None]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        verb, what = ("does", "it") if len(wrong) == 1 else ("do", "them")
        raise BuildError(f"{flags} {verb} not go with --target {target}: leave {what} out.")
    if given["calibrate"] is not None and precision != "int8":
        raise BuildError(f"--calibrate is for --precision int8, not for {precision or 'fp32'}: leave it out.")
    with tables.progress("build", STAGES, show) as stage:
        add = _adding(target, precision or "fp32", given, stage)
        if target == "c":
            compiled = build_c(
                bundle,
                precision,
                triple=given["triple"],
                cpu=given["cpu"],
                rebuild=given["rebuild"],
                rewrite=given["calibrate"] is not None,
                add=add,
                progress=stage,
            )
        else:
            limit = given["memory"] and given["memory"] * 2**20
            engine = build_engine(
                bundle,
                target,
                precision,
                state_precision=given["state_precision"],
                batch=given["batch"],
                compute=given["compute"],
                rebuild=given["rebuild"],
                memory=limit,
                add=add,
                progress=stage,
            )
    return _of_c(compiled, show) if target == "c" else _of_engine(engine, bundle, show)


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


def _adding(
    target: str, precision: str, given: dict[str, Any], stage: Callable[[str], None]
) -> Callable[[Any], Any] | None:
    """What writes the graph or the sources that a bundle lacks, where the export extra is."""
    if not all(map(find_spec, WRITING)):
        return None

    def add(opened: Any) -> Any:
        from rnn_export.export.add_target import graph_of
        from rnn_export.runtime.build.native.names import source_name
        from rnn_export.runtime.recording import read
        from rnn_export.target_options import TargetOptions

        order = TargetOptions(
            precision,
            given["state_precision"] or "fp32",
            batch=given["batch"] or TargetOptions.batch,
            # A bundle that was renamed keeps the name that its C has.
            name=next((str(row.requires["name"]) for row in opened.targets if row.target == "c"), None)
            or source_name(opened.path.name.removesuffix(".rnnx")),
            calibration=None if given["calibrate"] is None else read(given["calibrate"], opened.spec),
        )
        return graph_of(opened, target, order, stage)

    return add
