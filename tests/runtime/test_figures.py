"""Figures of a task: the values that a user's function may give, and the errors for others."""

import json
import re

import numpy as np
import pytest

from rnn_export.contract.parity_json import is_report
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.figures import figures_text, task_figures

from ..messages import raises  # noqa: TID252
from .graphs import CHUNKED, DELAYED, MIXED, SUM, TIMED
from .test_golden import EXACT, engine_of, golden_of, mixed_golden


def agreement(model, stream):
    return (model.argmax(-1) == stream.argmax(-1)).mean()


GIVEN = {
    "a number of numpy's": (agreement, {"agreement": 1.0}),
    "a number without a name": (lambda model, stream: 0.5, {"accept": 0.5}),
    "several": (lambda m, s: {"SNR": np.float32(61.5), "segments": np.array(3)}, {"SNR": 61.5, "segments": 3.0}),
    "nothing": (lambda model, stream: None, {}),
    "yes": (lambda model, stream: np.bool_(True), {}),
}


@pytest.mark.parametrize(("accept", "figures"), GIVEN.values(), ids=GIVEN)
def test_what_a_function_may_give(accept, figures):
    found = task_figures(engine_of(TIMED), golden_of(TIMED), accept)
    assert found == figures
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("model", [SUM, TIMED, CHUNKED, DELAYED], ids=["sum", "timed", "chunked", "delayed"])
def test_it_sees_what_the_model_gave_and_what_the_stream_gives(model):
    golden, seen = golden_of(model), {}

    def look(model_outputs, stream_outputs):
        seen["model"], seen["stream"] = model_outputs.copy(), stream_outputs.copy()
        model_outputs[:], stream_outputs[:] = 0, 1

    before = golden.outputs["y"].copy()
    task_figures(engine_of(model), golden, look)
    np.testing.assert_array_equal(seen["model"], before)
    np.testing.assert_allclose(seen["stream"], before, rtol=1e-6)
    # What it does to them stays with it.
    np.testing.assert_array_equal(golden.outputs["y"], before)


def test_several_outputs_come_by_name():
    def shapes(model, stream):
        assert model["y"].shape == stream["y"].shape == (2, 9, 3)
        return {f"{name} off": np.abs(model[name] - stream[name]).max() for name in model}

    assert task_figures(engine_of(MIXED), mixed_golden(), shapes) == {"y off": 0.0, "total off": 0.0}


def off_by(model, stream):
    assert np.abs(model - stream).max() > 1, "the stream is as good as the model"


def bare(model, stream):
    assert model is stream


def breaks(model, stream):
    return model["y"]


REFUSED = {
    "false": (lambda m, s: False, ("metric-returned-false", "accept", "onnxruntime")),
    "an assert": (off_by, ("metric-refuses-result", "off_by", "onnxruntime", "the stream is as good as the model")),
    "a bare assert": (bare, ("metric-refuses-result", "bare", "onnxruntime")),
    "an exception": (breaks, ("metric-raised", "breaks", "IndexError", "test_figures.py")),
    "a text": (lambda m, s: "good", ("metric-returned-other", "accept", "str 'good'")),
    "an array": (lambda m, s: m, ("metric-returned-other", "accept", "ndarray")),
    "a bool by name": (lambda m, s: {"ok": True}, ("metric-returned-other", "accept", "bool 'True' for 'ok'")),
    "a name that is none": (lambda m, s: {3: 1.0}, ("metric-returned-other", "accept", "float '1.0' for 3")),
}


@pytest.mark.parametrize(("accept", "message"), REFUSED.values(), ids=REFUSED)
def test_what_refuses_and_what_is_no_answer(accept, message):
    with raises(*message):
        task_figures(engine_of(TIMED), golden_of(TIMED), accept)


def test_figures_stand_in_the_report():
    report = ParityReport("c", "cpu", 4, 1, EXACT, (), figures={"SNR dB": float("inf"), "accuracy": 0.98765432})
    data = json.loads(json.dumps(report.to_json()))
    assert data["figures"] == {"SNR dB": None, "accuracy": 0.98765432}
    assert figures_text(data["figures"]) == "SNR dB not finite, accuracy 0.987654"
    assert is_report(data)
    for wrong in ({"SNR": "high"}, {"SNR": True}, [1.0]):
        assert not is_report({**data, "figures": wrong}), re.escape(str(wrong))
