"""`rnn-export strip`: of a bundle what a device needs."""

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import tables
from rnn_export.cli.main import command


@command
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--keep", required=True, multiple=True, metavar="TARGET", help="A target that stays; may be repeated.")
@click.option("--precision", help="Only this precision of them.  [default: all]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The bundle to write.  [default: NAME-TARGET.rnnx]"
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
def strip_command(
    bundle: Path, keep: tuple[str, ...], precision: str | None, output: Path | None, force: bool, as_json: bool
) -> dict[str, Any]:
    """Write a bundle with some targets of BUNDLE alone, and the golden vectors that prove them on the device.

    A signature is of a whole bundle, so the new one has none: sign it again. Code in it is the same, and runs here if
    it ran in BUNDLE.
    """
    from rnn_export.bundle import open_bundle
    from rnn_export.bundle.code import record
    from rnn_export.bundle.judgement import judge
    from rnn_export.bundle.stripping import strip_bundle

    opened = open_bundle(bundle)
    path = output or bundle.with_name(f"{bundle.name.removesuffix('.rnnx')}-{'-'.join(keep)}.rnnx")
    stripped = strip_bundle(opened, path, keep, precision, force)
    notes = []
    if opened.signature:
        # What a trusted key vouched for is trusted by itself from now on, as after a build.
        why = record(judge(opened).trusted)
        notes.append(
            f"the signature is of {bundle} as a whole, and not of {path}: before it goes elsewhere, rnn-export sign "
            f"{path} --key KEY" + (f"; its code is not on record here either: {why}" if why else "")
        )
    if untrusted := judge(stripped).untrusted:
        notes.append(f"code in it is not trusted here: {', '.join(code.title for code in untrusted)}")
    sizes = [sum(row.bytes for row in b.files.values()) for b in (opened, stripped)]
    for note in notes:
        tables.note(note)
    if not as_json:
        kept = ", ".join(f"{row.target} ({row.precision})" for row in stripped.targets)
        tables.say(f"wrote {path}: {kept}; {sizes[1]:,} of {sizes[0]:,} bytes")
    return {"bundle": str(path), "files": sorted(stripped.files), "bytes": sizes[1], "signed": False, "notes": notes}
