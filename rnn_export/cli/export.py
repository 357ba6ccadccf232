"""`rnn-export export`: from the model of a SOURCE to a verified bundle."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command
from rnn_export.cli.onnx_source import Words, file_options, is_onnx, onnx_options, refuse_file_options
from rnn_export.cli.options import (
    batch_range,
    calibrate_option,
    columns_option,
    export_keywords,
    source_options,
    with_columns,
)
from rnn_export.cli.voice import logged_notes, stages
from rnn_export.cli.words import PRECISION, TARGET

if TYPE_CHECKING:
    from rnn_export.bundle import Bundle

REPORT, STEP = "report.html", "step.onnx"


@command
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle to write, NAME.rnnx.")
@click.option(
    "--target",
    "targets",
    type=TARGET,
    multiple=True,
    help="As `rnn-export targets` lists them: onnx, torchscript (deprecated by torch), pt2, openvino, litert, "
    "executorch, coreml, c, tensorrt, tensorrt-rtx, jetson-orin-nano and so on; may be repeated.  [default: onnx]",
)
@click.option(
    "--precision",
    type=PRECISION,
    help="Precision: fp32; fp16, bf16 for TensorRT; bf16, int8 for C; fp16, int8 for OpenVINO; int8 for LiteRT; fp16 "
    "for Core ML.  [default: fp32]",
)
@click.option("--state-precision", type=PRECISION, help="Of the states between two steps, below fp32.  [default: fp32]")
@click.option(
    "--batch", type=batch_range, metavar="MIN:OPT:MAX", help="Streams in one step of an engine.  [default: 1:1:8]"
)
@source_options
@onnx_options
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A recording to verify on, beside what is tried in any case: .npy, .npz, .csv, .wav, .flac or .ogg.",
)
@calibrate_option
@columns_option
@click.option("--sample-rate", type=click.IntRange(1), help="Hz, where the input is a piece of a signal.")
@click.option("--max-frames", type=click.IntRange(1), help="Of one stream, where the model takes no more.")
@click.option("--max-context", type=click.IntRange(1), help="Frames that attention without a bound may look at.")
@click.option(
    "--steps", type=click.IntRange(1), help="How many steps to verify, of --chunk frames each.  [default: 256]"
)
@click.option("--atol", type=click.FloatRange(0), help="Absolute part of the tolerance.  [default: 1e-06 in fp32]")
@click.option(
    "--rtol", type=click.FloatRange(0), help="Part relative to each tensor's running scale.  [default: 2e-05 in fp32]"
)
@click.option(
    "--accept",
    metavar="FILE.py:FN",
    help="A function of the outputs of model and stream that gives figures of your task, or False to refuse.",
)
@click.option("--opset", type=int, help="Opset, where a target has ONNX.  [default: the target's own]")
@click.option(
    "--sequence-only", is_flag=True, help="For a model that needs whole sequences: the bundle cannot stream then."
)
@click.option("--pack-states", is_flag=True, help="Pack states into one tensor, for runtimes that want few.")
@click.option("--force", is_flag=True, help="Replace a bundle that is already there.")
@click.option("--report/--no-report", default=True, help="Write report.html into the bundle.  [default: --report]")
def export_command(
    source: str, output: Path, weights: Path | None, data: Path | None, calibrate: Path | None,
    columns: tuple[str, ...] | None, accept: str | None, fixed: Words, shapes: Words, initial: Words, as_json: bool,
    report: bool, **flags: Any,
) -> dict[str, Any]:  # fmt: skip
    """Lift the model of SOURCE into one step with named states, export it and verify it in a closed loop.

    SOURCE may be an ONNX file, model.onnx, that is a step already: it takes its states and gives the next ones. They
    are found by name and shape, or said: --state h=h_out, --state x=none. That needs no torch, and the bundle is held
    to what ONNX Runtime makes of the file.

    It is tried on noise or the recording, and on quiet, loud and constant input, single loud frames, steps and zeros.
    """
    from rnn_export.cli.functions import find_metric, stdout_kept
    from rnn_export.export.api import STAGES, export_with

    recorded, calibration = with_columns(columns, data, calibrate)
    judge = None if accept is None else find_metric(accept)
    keywords = export_keywords(**flags, data=recorded, calibrate=calibration, accept=judge)
    if not report:
        keywords["report"] = False
    with logged_notes() as notes, stdout_kept(), stages("export", 1 + STAGES) as stage:
        stage("source")
        if is_onnx(source):
            if weights is not None:
                raise click.UsageError("--weights is said of a PyTorch module: an ONNX file has its own.")
            bundle = export_with(source, None, output, file_options(keywords, fixed, shapes, initial), progress=stage)
        else:
            refuse_file_options(source, fix=fixed, shape=shapes, initial=initial)
            from rnn_export.cli.source import read_source

            model, example, options = read_source(source, weights, keywords)
            bundle = export_with(model, example, output, options, progress=stage)
    evidence = json.loads(bundle.read("parity.json"))
    if not as_json:
        console.contract(bundle.spec)
        console.parity(evidence)
        for summed_in_fp16 in evidence["fp16_accumulate"]:
            console.parity(summed_in_fp16)
    for note in notes:
        console.note(note)
    if not as_json:
        console.say(f"wrote {output} ({sum(row.bytes for row in bundle.files.values()):,} bytes)")
        console.verdict(evidence)
        for line in _next(bundle, output):
            console.say(line)
    return {"bundle": str(output), "spec": bundle.spec.to_json(), "parity": evidence}


def _next(bundle: Bundle, path: Path) -> Iterator[str]:
    """The commands that a user may want next, those that work with `bundle`."""
    name, inputs = shlex.quote(str(path)), bundle.spec.inputs
    if REPORT in bundle.files:
        yield f"report: {shlex.quote(str(path / REPORT))}"
    recording = "x.npz" if len(inputs) > 1 else "x.wav" if bundle.spec.sample_rate else "x.npy"
    yield f"run: rnn-export run {name} {recording}"
    if any(row.target == "c" for row in bundle.targets):
        yield f"time: rnn-export bench {name}"
    elif STEP in bundle.files:
        yield f"faster: rnn-export build {name} --target c"
