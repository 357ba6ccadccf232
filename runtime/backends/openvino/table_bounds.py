"""Checks of ids that index a table, since OpenVINO silently gives zeros beyond it."""

from collections.abc import Mapping
from typing import Any

from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array

_PASSED_ON = ("Convert", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def table_rows(model: Any) -> dict[str, int]:
    """The rows of the smallest table that each input of ids looks rows up in, by a name of the input."""
    found: dict[str, int] = {}
    for node in model.get_ops():
        if node.get_type_name() == "Gather":
            ids, axis = node.input_value(1), node.input_value(2).get_node()
            while ids.get_node().get_type_name() in _PASSED_ON:
                ids = ids.get_node().input_value(0)
            if ids.get_node().get_type_name() == "Parameter" and axis.get_type_name() == "Constant":
                rows = node.input_value(0).get_shape()[int(axis.data.reshape(-1)[0])]
                for name in ids.get_names():
                    found[name] = min(rows, found.get(name, rows))
    return found


def check_ids(tables: Mapping[str, int], inputs: Mapping[str, Array]) -> None:
    """Raise StreamError where an input is beyond the rows of its table."""
    for name, rows in tables.items():
        wrong = (inputs[name] < -rows) | (inputs[name] >= rows)
        if wrong.any():
            why = f"idx={inputs[name][wrong][0]} must be within the inclusive range [{-rows},{rows - 1}]"
            raise StreamError(
                f"openvino refused the frame: {name!r} is out of its table, {why}.", id="openvino-index-beyond-table"
            )
