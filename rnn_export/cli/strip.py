"""`rnn-export strip`: the bundle that a device needs."""

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command
from rnn_export.cli.words import BUNDLE, TARGET, TRIPLE


@command
@click.argument("bundle", type=BUNDLE)
@click.option(
    "--keep", type=TARGET, required=True, multiple=True, metavar="TARGET", help="What stays: c, c-int8, onnx, ..."
)
@click.option(
    "--triple", "triples", type=TRIPLE, multiple=True, help="Of compiled C keep that for this machine.  [default: all]"
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="NAME.rnnx to write.  [default: BUNDLE itself]")
@click.option("--force", is_flag=True, help="Replace the bundle that stands there.")
def strip_command(
    bundle: Path, keep: tuple[str, ...], triples: tuple[str, ...], output: Path | None, force: bool, as_json: bool
) -> dict[str, Any]:
    """Write BUNDLE with the targets to --keep alone, and what `verify` needs on a device.

    Golden vectors, first states and the report of the verification stay, graphs and other targets go, the README with
    them. The manifest is another one, so a signature of BUNDLE does not hold for what is written: sign that again.
    """
    from rnn_export.bundle import open_bundle
    from rnn_export.bundle.stripping import strip_bundle

    opened = open_bundle(bundle)
    done = strip_bundle(opened, keep, triples, output, force)
    before, after = (sum(row.bytes for row in which.files.values()) for which in (opened, done.bundle))
    targets = [f"{row.target}-{row.precision}" for row in done.bundle.targets]
    if not as_json:
        for note in done.notes:
            console.note(note)
        console.say(f"wrote {done.bundle.path} with {', '.join(targets)}: {after:,} bytes, {before - after:,} less")
    return {
        "bundle": str(done.bundle.path),
        "targets": targets,
        "gone": list(done.gone),
        "bytes": after,
        "bytes_before": before,
        "signature": None if opened.signature is None else "does not hold",
        "notes": list(done.notes),
    }
