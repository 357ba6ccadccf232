"""What the command `triton` does and shows: a model repository, and what is still to be done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import tables
from rnn_export.export.triton.repository import write_repository


def serve(bundle: Path, output: Path, show: bool, **given: Any) -> dict[str, Any]:
    """Write the repository, show it, and give it as plain data; `given` are options of `write_repository`."""
    written = write_repository(bundle, output, **given)
    serving, wire = written.serving, written.wire
    if show:
        rows = [("input", p.name, p.dtype, p.dims) for p in wire.inputs]
        rows += [("output", p.name, p.dtype, p.dims) for p in wire.outputs]
        tables.table(
            f"{serving.name} on Triton's {serving.backend} backend ({serving.precision})",
            ("kind", "name", "dtype", "row"),
            rows,
        )
        if not written.checked:
            unread = "Triton's own definition did not read config.pbtxt: it comes with pip install 'rnn-export[remote]'"
            click.echo(f"note: {unread}", err=True)
        for left in written.left:
            click.echo(f"note: still to do: {left}", err=True)
        click.echo(
            f"wrote {output}: start it with {output / 'launch'}, call it with grpc://127.0.0.1:8001/{serving.name}"
        )
    return {
        "repository": str(output),
        **vars(serving),
        "wire": wire.kind,
        "inputs": [vars(port) for port in wire.inputs],
        "outputs": [vars(port) for port in wire.outputs],
        "config_checked": written.checked,
        "left": list(written.left),
    }
