"""`rnn-export targets`: the targets, and the devices of each."""

from typing import Any

from rnn_export.cli import console
from rnn_export.cli.main import command


@command
def targets_command(as_json: bool) -> dict[str, Any]:
    """List the targets that can be written, with device, opset and precisions."""
    from rnn_export.contract.target_table import table_rows

    rows = table_rows()
    if not as_json:
        console.targets(rows)
    return {"targets": rows}
