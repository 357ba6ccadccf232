import re

import pytest

from rnn_export.errors import ExportError
from rnn_export.targets import TARGETS, find_target, find_targets


@pytest.mark.parametrize("name", TARGETS)
def test_every_row_can_be_asked_for_as_it_stands(name):
    row = TARGETS[name]
    assert row.name == name
    for precision in row.precisions:
        for opset in (None, row.opset, *(row.opsets or ())):
            assert find_target(name, precision, opset) is row
    assert (row.opset is None) == (row.opsets is None)
    if row.opsets is not None:
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


def test_an_opset_is_for_the_targets_that_have_one():
    assert [row.name for row in find_targets(("pt2", "onnx"), "fp32", 17)] == ["pt2", "onnx"]
    message = "opset 17 was asked for, but torchscript, pt2 holds no ONNX graph: leave the opset out, or add the target"
    with pytest.raises(ExportError, match=message):
        find_targets(("torchscript", "pt2"), "fp32", 17)


@pytest.mark.parametrize(
    ("names", "message"),
    [((), "targets is empty: name at least one"), (("onnx", "onnx"), "targets names one twice: onnx, onnx")],
)
def test_a_list_of_targets_that_cannot_be(names, message):
    with pytest.raises(ExportError, match=message):
        find_targets(names, "fp32", None)


def test_the_help_says_that_torchscript_is_deprecated():
    assert "deprecated" in TARGETS["torchscript"].summary
