"""`rnn-export triton`: a model repository for NVIDIA Triton, and the steps left to do with it."""

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command
from rnn_export.cli.options import finite, trust_option
from rnn_export.cli.words import BUNDLE, PRECISION
from rnn_export.contract.choices import Precision
from rnn_export.platform.installing import pip_install


@command
@click.argument("bundle", type=BUNDLE)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The model repository to write.")
@click.option(
    "--backend",
    type=click.Choice(["python", "onnxruntime", "tensorrt"]),
    default="python",
    show_default=True,
    help="Triton's backend: python runs rnn-export's own runtime.",
)
@click.option("--name", help="Of the model.  [default: that of BUNDLE]")
@click.option(
    "--precision",
    type=PRECISION,
    help="Which precision, where the bundle has several.  [default: fp32, or its only one]",
)
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
@trust_option
def triton_command(
    bundle: Path, output: Path, backend: str, name: str | None, precision: Precision | None, streams: int,
    batch: int | None, idle_s: float, delay_us: int, runtime_backend: str, force: bool, trust: bool, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Write a model repository for NVIDIA Triton: BUNDLE served to thousands of streams.

    Each sequence of the server is a stream with its own state, and the frames of several share a step. How it is
    started and called stands in its README.md; `rnn-export run grpc://HOST:PORT/NAME INPUT` streams through it. Code of
    BUNDLE that is trusted here is named in config.pbtxt, and the server runs it; what is not, it passes over.
    """
    from rnn_export.export.triton.repository import write_repository

    written = write_repository(
        bundle, output, backend=backend, name=name, precision=precision, streams=streams, batch=batch, idle_s=idle_s,
        delay_us=delay_us, runtime_backend=runtime_backend, force=force, trust=trust,
    )  # fmt: skip
    serving, wire = written.serving, written.wire
    if not as_json:
        ports = (*(("input", tensor) for tensor in wire.inputs), *(("output", tensor) for tensor in wire.outputs))
        rows = [(kind, tensor.name, tensor.dtype, tensor.dims) for kind, tensor in ports]
        title = f"{serving.name} on Triton's {serving.backend} backend ({serving.precision})"
        console.table(title, ("kind", "name", "dtype", "row"), rows)
        if not written.checked:
            extra = pip_install("remote")
            console.note(f"Triton's own definition did not read config.pbtxt: it comes with {extra}")
        for step in written.remaining:
            console.note(f"still to do: {step}")
        address = f"grpc://127.0.0.1:8001/{serving.name}"
        console.say(f"wrote {output}: start it with {output / 'launch'}, call it with {address}")
    return {
        "repository": str(output),
        **vars(serving),
        "wire": wire.kind,
        "inputs": [vars(tensor) for tensor in wire.inputs],
        "outputs": [vars(tensor) for tensor in wire.outputs],
        "config_checked": written.checked,
        "left": list(written.remaining),
    }
