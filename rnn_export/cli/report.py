"""`rnn-export report`: what a bundle is and how it was verified, on one page."""

from pathlib import Path
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command, refuse_address
from rnn_export.cli.words import BUNDLE_OR_ADDRESS


@command
@click.argument("bundle", type=BUNDLE_OR_ADDRESS)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The page to write, report.html.")
@click.option(
    "--bench",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="What `rnn-export bench BUNDLE --json` printed, to show what a step takes.",
)
def report_command(bundle: str, output: Path, bench: Path | None, as_json: bool) -> dict[str, Any]:
    """Write the report of BUNDLE as one HTML file that needs no network and runs nothing.

    It shows the contract as a picture, every check with its drift and tolerance, each build with its size, its machine
    and its own parity, latencies where there is a bench, what is not proven, and all hashes. The page is made of what
    stands in the bundle: who made that is what a signature says.
    """
    from rnn_export.bundle.reporting import read_bench, report

    refuse_address(bundle)
    made = report(bundle, None if bench is None else read_bench(bench))
    made.write(output)
    size = output.stat().st_size
    if not as_json:
        console.say(f"wrote {output} ({size:,} bytes)")
    return {"report": str(output), "bytes": size, **made.to_json()}
