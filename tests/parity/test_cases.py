"""A family of lifting cases in ONNX and C: its first model that streams, exported and verified."""

import pytest

from rnn_export.export import export

from ..zoo.case import Streams  # noqa: TID252
from ..zoo.families import FAMILIES  # noqa: TID252


def first_that_streams(module):
    rows = (row for cases in module.TABLE.values() for row in cases.values())
    return next((row for row in rows if isinstance(row.expected, Streams)), None)


FIRST = {name: row for name, module in FAMILIES.items() if (row := first_that_streams(module))}


@pytest.mark.parametrize("row", FIRST.values(), ids=FIRST)
def test_a_family_of_cases_is_the_same_in_onnx_and_c(row, tmp_path):
    """The export compares both with the model, and raises ParityError where they differ."""
    export(row.built(), row.example, tmp_path / "net.rnnx", targets=("onnx", "c"), steps=16, **row.options)
