"""`rnn-export run`: a recording or a pipe streamed through a bundle, or through servers."""

import sys
from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command
from rnn_export.cli.options import columns_option, trust_option, with_columns
from rnn_export.cli.voice import stages
from rnn_export.cli.words import BACKEND, BUNDLE_OR_ADDRESS, PRECISION
from rnn_export.contract.choices import BackendName, Precision, ServerAddress


@command
@click.argument("bundle", metavar="BUNDLE|ADDRESS", type=BUNDLE_OR_ADDRESS)
@click.argument("recording", metavar="INPUT")
@click.option("-o", "--output", type=click.Path(path_type=Path), help=".npy, .npz or .csv; without it, CSV on stdout.")
@click.option("--backend", type=BACKEND, default="auto", show_default=True, help="Which backend to run on.")
@click.option("--precision", type=PRECISION, help="Which precision, where the bundle has several.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: that of the backend]")
@columns_option
@trust_option
def run_command(
    bundle: str, recording: str, output: Path | None, backend: BackendName | ServerAddress, precision: Precision | None,
    device: str | None, columns: tuple[str, ...] | None, trust: bool, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Stream INPUT through BUNDLE with the state kept: a .npy, .npz, .csv, .wav, .flac or .ogg file, or - for raw
    values on stdin.

    ADDRESS is grpc://HOST:PORT,HOST:PORT/NAME, a model that `rnn-export triton` wrote, on one or several servers. The
    stream goes on at another server when one fails or takes too long: behind NAME, ?deadline_ms=1000&snapshot_every=16
    are the milliseconds that a frame may take, and the frames after which the states are fetched for that.

    Raw values are little-endian, in the dtype of the input, one frame after the other; each output is printed as soon
    as its frame is there.
    """
    from rnn_export.cli.run_io import run_file, run_raw
    from rnn_export.runtime.engine import load

    file = with_columns(columns, Path(recording))[0] or recording
    engine = load(bundle, backend, precision, device, trust=trust)
    console.skipped_backends(engine)
    try:
        if recording == "-":
            return run_raw(engine, sys.stdin.buffer, output, as_json)
        with stages("run", 1, lines=False) as stage:
            stage(recording)
            result = run_file(engine, file, output, as_json)
        if not as_json:
            console.say(console.speed(result), err=True)
        return result
    finally:
        console.moves(engine)
