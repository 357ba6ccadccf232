import re

import pytest

from rnn_export.errors import ExportError
from rnn_export.targets import TARGETS, find_target


@pytest.mark.parametrize("name", TARGETS)
def test_every_row_can_be_asked_for_as_it_stands(name):
    row = TARGETS[name]
    assert row.name == name
    for precision in row.precisions:
        for opset in (None, row.opset, *row.opsets):
            assert find_target(name, precision, opset) is row
    assert row.opsets[0] <= row.opset <= row.opsets[1]
    assert row.summary
    assert row.checked


@pytest.mark.parametrize(
    ("name", "precision", "opset", "message"),
    [
        ("abacus", "fp32", None, f"there is no target 'abacus': choose from {', '.join(TARGETS)}"),
        ("onnx", "int3", None, f"target 'onnx' is not written in 'int3': choose from {TARGETS['onnx'].precisions[0]}"),
        ("onnx", "fp32", 12, "opset 12 is not supported for 'onnx': choose one from 13 to"),
        ("onnx", "fp32", 99, "opset 99 is not supported for 'onnx': choose one from 13 to"),
    ],
)
def test_what_there_is_not(name, precision, opset, message):
    with pytest.raises(ExportError, match=re.escape(message)):
        find_target(name, precision, opset)
