"""`rnn-export serve-web`: the page of a model as WebAssembly, for the browsers of this machine."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command, refuse_address
from rnn_export.cli.options import trust_option
from rnn_export.cli.words import BUNDLE_OR_ADDRESS, PRECISION
from rnn_export.contract.choices import Precision


@command
@click.argument("bundle", type=BUNDLE_OR_ADDRESS)
@click.option("--precision", type=PRECISION, help="Which precision, where the bundle has several.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@trust_option
def serve_web_command(
    bundle: str, precision: Precision | None, port: int, trust: bool, as_json: bool
) -> dict[str, Any]:
    """Serve the page of BUNDLE's target wasm at http://127.0.0.1:PORT/ until Ctrl-C.

    The page runs the model on the microphone, on a file or on its golden vectors, and draws the outputs as they come.
    Only browsers on this machine reach it. The page is code: it is served where the bundle's code may run.
    """
    from rnn_export.bundle import open_bundle
    from rnn_export.runtime.gate import behind_gate
    from rnn_export.runtime.serve.web import PackageServer, read_package

    refuse_address(bundle)
    files = read_package(behind_gate(open_bundle(Path(bundle)), trust), precision)
    with PackageServer(files, port) as server:
        console.say(f"{server.url} (Ctrl-C ends it)", err=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)
        return {"url": server.url, "files": sorted(files)}
