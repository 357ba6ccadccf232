"""`rnn-export doctor`: what this machine can run and build."""

from itertools import groupby
from typing import Any

import click

from rnn_export.cli import console
from rnn_export.cli.main import command
from rnn_export.errors import BackendUnavailable


@command
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--strict", is_flag=True, help="Exit code 1 where one of them is not installed or broken.")
def doctor_command(names: tuple[str, ...], strict: bool, as_json: bool) -> dict[str, Any]:
    """Show what this machine can run and build, what is not installed, and the command that mends it.

    Other machines that C is compiled for are named by their triple. NAME is one of the first column: with names, only
    these are shown, and held to --strict. No machine has all.
    """
    from rnn_export.cli.probes import examine

    findings = examine()
    known = [f.name for f in findings]
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(known)}.", param_hint="NAME")
    shown = [f for f in findings if f.name in names or not names]
    if not as_json:
        alike = groupby(shown, lambda f: (f.state, f.detail, f.fix or ""))
        rows = [(", ".join(f.name for f in those), *cells) for cells, those in alike]
        console.table("This machine", ("", "", "found", "what mends it"), rows)
    if strict and (wrong := [f"{f.name} is {f.state} ({f.detail}): {f.fix}" for f in shown if f.state != "ok"]):
        raise BackendUnavailable("; ".join(wrong), id="doctor-not-ready")
    return {"findings": [{"name": f.name, "state": f.state, "detail": f.detail, "mend": f.fix} for f in shown]}
