"""Checks of ids that index a table, since the converter silently cuts ids of 64 bits to 32."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.litert.model import operator_name

_PASSED_ON = ("CAST", "EXPAND_DIMS", "RESHAPE", "SQUEEZE", "TRANSPOSE")


def table_rows(model: Any, inputs: Sequence[tuple[str, int]]) -> dict[str, int]:
    """The rows of the smallest table that each input of ids looks rows up in; `inputs` are names and tensors."""
    (graph,) = model.subgraphs
    names, found = {number: name for name, number in inputs}, dict[str, int]()
    origin: dict[int, int] = {}
    for operator in graph.operators or ():
        kind = operator_name(model, operator)
        fed = [origin.get(int(number), int(number)) for number in operator.inputs]
        if kind in _PASSED_ON:
            origin[int(operator.outputs[0])] = fed[0]
        elif kind in ("GATHER", "EMBEDDING_LOOKUP"):
            ids, table = fed[:2] if kind == "EMBEDDING_LOOKUP" else fed[1::-1]
            axis = 0 if kind == "EMBEDDING_LOOKUP" else operator.builtinOptions.axis
            shape = graph.tensors[table].shape
            if ids in names and -len(shape) <= axis < len(shape):
                name, rows = names[ids], int(shape[axis])
                found[name] = min(rows, found.get(name, rows))
    return found


def check_ids(tables: Mapping[str, int], inputs: Mapping[str, Array]) -> None:
    """Raise StreamError where an input is beyond the rows of its table."""
    for name, rows in tables.items():
        wrong = np.asarray((inputs[name] < 0) | (inputs[name] >= rows))
        if wrong.any():
            why = f"idx={inputs[name][wrong][0]} must be within the inclusive range [0,{rows - 1}]"
            raise StreamError(
                f"litert refused the frame: {name!r} is out of its table, {why}.", id="litert-index-beyond-table"
            )
