"""`rnn-export leapp`: the description by which NVIDIA's LEAPP runs a bundle's step."""

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command


@command
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="NAME.yaml to write.  [default: beside BUNDLE]")
@click.option("--force", is_flag=True, help="Replace what stands there.")
def leapp_command(bundle: Path, output: Path | None, force: bool, as_json: bool) -> dict[str, Any]:
    """Write a description of BUNDLE's step as LEAPP reads it, beside BUNDLE.

    The package `leapp` 0.7 runs the step by it: leapp.InferenceManager("NAME.yaml"). States are connections from an
    output back to an input. It names BUNDLE's step.onnx by its place and its hash: carry both, and write it again
    where BUNDLE is exported again.
    """
    from rnn_export.bundle import open_bundle
    from rnn_export.bundle.leapp import write_leapp

    opened = open_bundle(bundle)
    written = write_leapp(opened, output, force)
    notes = [f"{opened.spec.delay_note}; LEAPP gives them all the same."] if opened.spec.has_delay else []
    if not as_json:
        console.say(f"wrote {', '.join(map(str, written))}")
        for note in notes:
            console.note(note)
    return {"bundle": str(opened.path), "files": [str(path) for path in written], "notes": notes}
