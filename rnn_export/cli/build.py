"""`rnn-export build`: TensorRT engines, C compiled for a machine or to WebAssembly, other runtimes' files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command
from rnn_export.cli.options import (
    batch_range,
    calibrate_option,
    columns_option,
    compute_capabilities,
    trust_option,
    with_columns,
)
from rnn_export.cli.voice import stages
from rnn_export.cli.words import BUNDLE, PRECISION, TARGET, TRIPLE
from rnn_export.errors import BuildError

if TYPE_CHECKING:
    from rnn_export.cli.building import WrittenTarget
    from rnn_export.contract.choices import Precision
    from rnn_export.runtime.build.native.native_build import BuiltC
    from rnn_export.runtime.build.tensorrt.engine_build import BuiltEngine
    from rnn_export.runtime.build.wasm.wasm_build import BuiltWasm

STAGES = 9
# A target and a triple that are easily taken for each other.
WASI = "wasm32-wasi"
OF_JAVASCRIPT = "JavaScript, in browsers and Node, takes --target wasm"
OF_C = f"--target c --triple {WASI} makes a library to be linked with a program in C"


@command
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--target", type=TARGET, required=True, help="What to build for: c, wasm, tensorrt, jetson-orin-nano, openvino, ..."
)
@click.option(
    "--precision", type=PRECISION, help="Which precision, where the bundle has several, or one that it has not yet."
)
@click.option("--batch", type=batch_range, metavar="MIN:OPT:MAX", help="Streams in one step.  [default: as exported]")
@click.option(
    "--state-precision", type=PRECISION, help="Of the states, where the graph is written here.  [default: fp32]"
)
@click.option("--memory", type=click.IntRange(1), metavar="MIB", help="Memory that the builder may plan with.")
@click.option(
    "--compute",
    type=compute_capabilities,
    metavar="CC[,CC]|portable",
    help="Compute capabilities that TensorRT-RTX builds for.  [default: all of the target]",
)
@click.option(
    "--triple",
    type=TRIPLE,
    help="Machine that C is compiled for: aarch64-linux-gnu, cortex-m4, wasm32-wasi (for a program in C; JavaScript "
    "takes the target wasm), ...  [default: this one]",
)
@click.option("--cpu", help="CPU that C is compiled for, as gcc names it.  [default: this one, or the triple's least]")
@calibrate_option
@columns_option
@click.option("--rebuild", is_flag=True, help="Build again what is there already.")
@trust_option
def build_command(
    bundle: Path, target: str, precision: Precision | None, batch: tuple[int, int, int] | None,
    state_precision: Precision | None, memory: int | None, compute: tuple[str, ...] | None, triple: str | None,
    cpu: str | None, calibrate: Path | None, columns: tuple[str, ...] | None, rebuild: bool, trust: bool, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Build BUNDLE for a target, hold what comes out to the golden vectors, and record it in the bundle.

    An engine of TensorRT's is built on the machine that runs it; C is compiled for this machine, or for another one,
    or to WebAssembly, in a package for browsers and Node.
    Needs neither torch nor onnx, but for a target or precision that the bundle has no graph or sources for. Sources
    that nobody trusted has made or signed are not compiled, but written anew from step.onnx, which needs both.
    """
    from rnn_export.bundle import open_bundle
    from rnn_export.cli.building import build_c_target, build_engine_target, build_wasm_target, write_target
    from rnn_export.contract.target_table import find_target
    from rnn_export.runtime.build.native.native_build import Destination
    from rnn_export.runtime.build.tensorrt.engine_build import BuildOptions

    (recorded,) = with_columns(columns, calibrate)
    # C says itself which precisions a bundle has.
    complete = target not in ("c", "wasm") and find_target(target, precision or "fp32", None).library is None
    of_c = {"--triple": triple, "--cpu": cpu, "--calibrate": calibrate}
    of_engines = {"--batch": batch, "--state-precision": state_precision, "--memory": memory, "--compute": compute}
    of_machines = {**of_engines, "--triple": triple, "--cpu": cpu}
    unfit: dict[str, dict[str, Any]] = {"c": of_engines, "wasm": of_machines, "litert": of_machines}
    others = unfit.get(target, {**of_c, **of_engines} if complete else of_c)
    if wrong := [name for name, given in others.items() if given is not None]:
        verb, what = ("does", "it") if len(wrong) == 1 else ("do", "them")
        fix = f" {OF_C}." if target == "wasm" and triple else ""
        raise BuildError(
            f"{', '.join(wrong)} {verb} not go with --target {target}: leave {what} out.{fix}", id="build-option-unfit"
        )
    if calibrate is not None and precision != "int8":
        raise BuildError(
            f"--calibrate is for --precision int8, not for {precision or 'fp32'}: leave it out.",
            id="calibrate-build-without-int8",
        )
    options = BuildOptions(state_precision, batch, memory and memory * 2**20, compute, rebuild)
    with stages("build", STAGES) as stage:
        opened = open_bundle(bundle)
        if target == "c":
            compiled = build_c_target(opened, precision, Destination(triple, cpu), recorded, rebuild, stage, trust)
        elif target == "wasm":
            packed = build_wasm_target(opened, precision, recorded, rebuild, stage, trust)
        elif complete:
            written = write_target(opened, target, precision, recorded, rebuild, stage)
        else:
            engine = build_engine_target(opened, target, precision, options, stage, trust)
    if target == "wasm":
        return _of_wasm(packed, bundle, not as_json)
    if complete:
        return _of_written(written, not as_json)
    return _of_c(compiled, not as_json) if target == "c" else _of_engine(engine, bundle, not as_json)


def _show_notes(done: BuiltC | BuiltEngine | BuiltWasm | WrittenTarget) -> None:
    for note in done.notes:
        console.note(note)
    if done.report:
        console.parity(done.report.to_json())


def _show_verdict(done: BuiltC | BuiltEngine | BuiltWasm | WrittenTarget) -> None:
    if done.report:
        console.verdict(done.report.to_json())


def _of_c(done: BuiltC, show: bool) -> dict[str, Any]:
    row, test = done.row, done.selftest
    size = sum(len(data) for name, data in done.files.items() if not name.endswith(".json"))
    if show:
        _show_notes(done)
        measured = f"{size:,} bytes"
        if test and test.flash is not None:
            measured = f"flash {test.flash:,} bytes"
            if test.ram is not None:
                measured += f", RAM {test.ram:,} bytes (stack {test.stack:,})"
        proof = f"; self-test passed on {test.ran}" if test and test.passed else ""
        console.say(f"built c ({row.precision}) for {done.triple}: {measured}{proof}")
        if test and not test.passed:
            console.note(f"the self-test was {test.reason}")
        if done.triple == WASI:
            console.note(f"the library is to be linked with a program in C; {OF_JAVASCRIPT}")
        _show_verdict(done)
    return {
        "target": row.target,
        "precision": row.precision,
        "requires": dict(row.requires),
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


def _of_written(done: WrittenTarget, show: bool) -> dict[str, Any]:
    if show:
        _show_notes(done)
        console.say(f"wrote {done.row.target} ({done.row.precision}): {done.bytes:,} bytes")
        _show_verdict(done)
    return {
        "target": done.row.target,
        "precision": done.row.precision,
        "requires": dict(done.row.requires),
        "files": sorted(done.row.files),
        "bytes": done.bytes,
        "notes": list(done.notes),
        "parity": done.report.to_json(),
    }


def _of_wasm(done: BuiltWasm, bundle: Path, show: bool) -> dict[str, Any]:
    row, sizes = done.row, {path: len(data) for path, data in done.files.items()}
    modules = {path.rpartition("/")[2]: size for path, size in sizes.items() if path.endswith((".wasm", ".bin"))}
    if show:
        _show_notes(done)
        console.say(f"built wasm ({row.precision}): {', '.join(f'{n} {size:,} bytes' for n, size in modules.items())}")
        console.note(f"the package is {bundle}/targets/wasm-{row.precision}; its page: rnn-export serve-web {bundle}")
        _show_verdict(done)
    return {
        "target": row.target,
        "precision": row.precision,
        "requires": dict(row.requires),
        "files": sorted(sizes),
        "bytes": modules,
        "notes": list(done.notes),
        "parity": done.report.to_json(),
    }


def _of_engine(done: BuiltEngine, bundle: Path, show: bool) -> dict[str, Any]:
    row = done.row
    if show:
        _show_notes(done)
        if done.elsewhere:
            console.say(f"wrote graph and recipe for {row.target} ({row.precision}): {done.elsewhere}")
        else:
            console.say(f"built {row.target} ({row.precision}) in {done.seconds:.1f} s: {done.bytes:,} bytes")
            if not done.report:
                proof = f"rnn-export verify {bundle} --backend tensorrt --precision {row.precision}"
                console.note(f"not run on hardware, no such GPU is here; where one is, run {proof}")
        _show_verdict(done)
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
