"""`rnn-export targets`: what can be written, and for which device."""

from typing import Any

from rnn_export.cli import tables
from rnn_export.cli.main import command


@command
def targets_command(as_json: bool) -> dict[str, Any]:
    """What can be written, for which device, at which opset and in which precisions."""
    from rnn_export.targets import table_rows

    rows = table_rows()
    if not as_json:
        tables.targets(rows)
    return {"targets": rows}
