"""`rnn-export doctor`: what this machine can run and build."""

from typing import Any

from rnn_export.cli import tables
from rnn_export.cli.main import command


@command
def doctor_command(as_json: bool) -> dict[str, Any]:
    """What this machine can run and build, what is missing, and the command that mends it."""
    from rnn_export.cli.probes import examine

    findings = examine()
    if not as_json:
        rows = [(f.name, f.state, f.detail, f.fix or "") for f in findings]
        tables.table("This machine", ("", "", "found", "what mends it"), rows)
    return {"findings": [{"name": f.name, "state": f.state, "detail": f.detail, "mend": f.fix} for f in findings]}
