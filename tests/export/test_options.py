"""Options of `lift` and `export`: one class each, the keywords of `export`, and odd values refused in one sentence."""

import inspect
import math
import re
from dataclasses import fields

import numpy as np
import pytest
import torch

from rnn_export.errors import ExportError, LiftError
from rnn_export.export import export
from rnn_export.export.api import CALL
from rnn_export.export.export_options import ONLY_OF, ExportOptions
from rnn_export.export.lift.options import LiftOptions

from ..messages import raises  # noqa: TID252

# Options that are checked where what they must fit is known.
ELSEWHERE = {"data", "calibrate"}
KEYWORDS = {name: p for name, p in inspect.signature(export).parameters.items() if name not in CALL}


def test_export_has_a_keyword_for_each_option():
    assert {name: p.default for name, p in KEYWORDS.items()} == {
        field.name: field.default for field in fields(ExportOptions) if field.name not in CALL
    }
    assert {name: p.kind for name, p in KEYWORDS.items()} == dict.fromkeys(KEYWORDS, inspect.Parameter.KEYWORD_ONLY)


def test_a_keyword_has_the_type_of_its_option():
    own = {field.name: field.type for field in fields(ExportOptions)}
    named = {name: str(p.annotation).replace("recording.Source", "Source") for name, p in KEYWORDS.items()}
    assert named == {name: own[name] for name in named}


def test_each_option_is_described():
    described = inspect.getdoc(export)
    entries = {n for line in re.findall(r"^    ([a-z_, ]+): ", described, re.M) for n in line.split(", ")}
    assert entries >= {field.name for field in fields(ExportOptions)}


def test_each_option_has_a_check():
    assert {field.name for field in fields(ExportOptions)} == {*ExportOptions.checks} | ELSEWHERE
    assert {*ONLY_OF["a PyTorch module"], *ONLY_OF["an ONNX file"]} < {*ExportOptions.checks}


FRAMES = "a step has a whole number of frames: give an int of at least 1"
ODD = {
    "a huge chunk": ({"chunk": 10**400}, f"chunk is an int of 1329 bits, but {FRAMES}"),
    "huge steps": ({"steps": 10**5000}, "steps is an int of 16610 bits, but may be 2147483647 at most"),
    "no steps": ({"steps": 0}, "steps is 0, but must be an int of at least 1"),
    "no chunk": ({"chunk": 0}, f"chunk is 0, but {FRAMES.partition(':')[0]}"),
    "a negative tolerance": ({"rtol": -1.0}, "rtol is -1.0, but must be a finite number of at least 0"),
    "a bool of steps": ({"steps": True}, "steps is True, but must be an int of at least 1"),
    "an array of steps": ({"steps": np.zeros(3)}, "steps is a numpy.ndarray, but must be an int of at least 1"),
    "a tensor for a flag": ({"force": torch.zeros(2)}, "force is a torch.Tensor, but must be True or False"),
    "a word for a flag": ({"pack_states": "yes"}, "pack_states is 'yes', but must be True or False"),
    "a number for a flag": ({"sequence_only": 1}, "sequence_only is 1, but must be True or False"),
    "one target": ({"targets": "onnx"}, "targets is 'onnx', but must be a list or tuple of names"),
    "one name": ({"input_names": "x"}, "input_names is 'x', but must be a list or tuple of names"),
    "a tensor of names": ({"output_names": torch.zeros(2)}, "output_names is a torch.Tensor, but must be a list or"),
    "a list of states": ({"states": ["h"]}, "states is ['h'], but must be a dict with names as keys"),
    "numbers as keys": ({"initial": {0: 1}}, "initial is {0: 1}, but must be a dict with names as keys"),
    "an axis of half": ({"time_axis": 1.5}, 'time_axis is 1.5, but must be "auto", None, an axis, or a dict'),
    "an array of axes": ({"time_axis": np.arange(2)}, "time_axis is a numpy.ndarray, but must be"),
    "true as an axis": ({"time_axis": True}, "time_axis is True, but must be"),
    "a rate of half": ({"sample_rate": 16e3}, "sample_rate is 16000.0, but must be an int of at least 1"),
    "a huge rate": ({"sample_rate": 10**12}, "sample_rate is 1000000000000, but may be 2147483648 at most"),
    "no frames": ({"max_frames": 0}, "max_frames is 0, but must be an int of at least 1"),
    "context as a word": ({"max_context": "64"}, "max_context is '64', but must be an int of at least 1"),
    "assume as a line": ({"assume": "net.py:3"}, "assume is 'net.py:3', but must be a dict with names as keys"),
    "not a number": ({"atol": math.nan}, "atol is nan, but must be a finite number of at least 0"),
    "an endless tolerance": ({"rtol": math.inf}, "rtol is inf, but must be a finite number of at least 0"),
    "a precision in bits": ({"precision": 16}, "precision is 16, but must be a word"),
    "an opset as a word": ({"opset": "18"}, "opset is '18', but must be an int of at least 1"),
    "accept as a word": ({"accept": "ok"}, "accept is 'ok', but must be a function"),
    "a list to fix": ({"fixed": [1]}, "fixed is [1], but must be a dict with names as keys"),
}


@pytest.mark.parametrize(("option", "message"), ODD.values(), ids=ODD)
def test_an_odd_value_is_refused_by_its_name(tmp_path, option, message):
    with raises("option-refused", message, kind=ExportError):
        export(torch.nn.LSTM(3, 4), (torch.zeros(2, 5, 3),), tmp_path / "m.rnnx", **option)
    if {*option} <= {field.name for field in fields(LiftOptions)}:
        with raises("option-refused", message, kind=LiftError):
            LiftOptions(**option)
    assert not [*tmp_path.iterdir()]


BATCHES = {"huge": (1, 1, 10**400), "one": 4, "words": ("1", "2", "3"), "array": np.ones(3, int)}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_an_odd_batch_is_refused(tmp_path, batch):
    with raises("option-refused", "batch", "must be three ints of at least 1 that rise", kind=ExportError):
        export(torch.nn.LSTM(3, 4), (torch.zeros(2, 5, 3),), tmp_path / "m.rnnx", targets=("tensorrt",), batch=batch)


def test_lift_calls_its_progress():
    with raises("option-refused", "progress is None, but must be a function", kind=LiftError):
        LiftOptions(progress=None)
