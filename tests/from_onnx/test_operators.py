"""Stateful nets of ONNX's own test data, and the newest operators that are a step with a state."""

from __future__ import annotations

import logging
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from rnn_export.errors import RnnExportError
from rnn_export.export.api import export

WEIGHTS = ("W", "R", "B", "P", "sequence_lens", "weight", "bias")
OLD = ("test_gru", "test_lstm", "test_rnn", "test_simple_rnn")
NEW = ("test_linear_attention", "test_causal_conv_with_state")
# By how its message goes, why a net of the test data is no step.
REFUSED = {
    "starts from the same state at each call": 7,
    "cannot load the graph": 3,
    "is float16": 3,
    "by its name a state for the next step, but takes none": 17,
    "it is not clear which inputs are states": 2,
}


@cache
def cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Each of these modules adds its nets when it is imported.
        from onnx.backend.test.case import node
        from onnx.backend.test.case.node import causal_conv_with_state, gru, linear_attention, lstm, rnn

        assert all((causal_conv_with_state, gru, linear_attention, lstm, rnn))
    found = {case.name: case for case in node._NodeTestCases}
    return {n: c for n, c in found.items() if n.startswith((*OLD, *NEW)) and "_expanded" not in n}


def tried(name: str, folder: Path, **options: Any) -> str:
    """Empty where the net becomes a bundle, else why it does not."""
    case = cases()[name]
    onnx.save(case.model, folder / "net.onnx")
    given = dict(zip((value.name for value in case.model.graph.input), case.data_sets[0][0], strict=True))
    fixed = {key: value for key, value in given.items() if key in WEIGHTS}
    try:
        export(folder / "net.onnx", path=folder / "net.rnnx", fixed=fixed, steps=8, force=True, **options)
    except RnnExportError as error:
        return str(error)
    return ""


def test_each_net_is_taken_or_refused_with_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    told = {name: tried(name, tmp_path) for name in cases()}
    taken = sorted(name for name, why in told.items() if not why)
    reasons = {reason: sum(reason in why for why in told.values()) for reason in REFUSED}
    unknown = {name: why for name, why in told.items() if why and not any(reason in why for reason in REFUSED)}
    assert (unknown, reasons) == ({}, REFUSED), taken
    assert len(taken) + sum(reasons.values()) == len(told)
    # Both directions inside of a frame, and what has its state as input and output.
    assert {"test_lstm_bidirectional", "test_gru_reverse", "test_linear_attention_decode_step"} <= set(taken)
    assert "test_causal_conv_with_state_decode_step" in taken


@pytest.mark.parametrize(
    ("name", "target", "reasons"),
    [
        ("linear_attention", "tensorrt", ["LinearAttention", "cannot be lowered from opset 27 to 18"]),
        ("linear_attention", "c", ["(Scan) cannot be written in C"]),
        ("causal_conv_with_state", "c", []),
    ],
)
def test_a_target_takes_the_newest_or_refuses_it_by_name(
    name: str, target: str, reasons: list[str], tmp_path: Path
) -> None:
    why = tried(f"test_{name}_decode_step", tmp_path, targets=(target,))
    assert all(reason in why for reason in reasons)
    assert bool(why) is bool(reasons)


def with_states(name: str) -> onnx.ModelProto:
    """A recurrent net of the test data whose operator is given its state, and gives the next one, as a step does."""
    model = onnx.ModelProto()
    model.CopyFrom(cases()[name].model)
    graph, node = model.graph, model.graph.node[0]
    units = next(a.i for a in node.attribute if a.name == "hidden_size")
    batch = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    letters = "hc" if node.op_type == "LSTM" else "h"
    inputs, outputs = [*node.input, *[""] * 8][: 5 + len(letters)], [f"Y_{letter}" for letter in letters]
    inputs[5:] = [f"initial_{letter}" for letter in letters]
    del node.input[:], node.output[:], graph.output[:]
    node.input.extend(inputs)
    node.output.extend(["Y", *outputs])
    graph.input.extend(helper.make_tensor_value_info(n, 1, (1, batch, units)) for n in inputs[5:])
    graph.output.extend(helper.make_tensor_value_info(n, 1, (1, batch, units)) for n in outputs)
    # Some writers leave out even the rank of what is given.
    graph.output.append(helper.make_tensor_value_info("Y", 1, None))
    return model


@pytest.mark.parametrize(
    "name", ["gru_defaults", "gru_with_initial_bias", "lstm_defaults", "lstm_with_initial_bias", "simple_rnn_defaults"]
)
def test_the_same_with_their_states_are_steps(name: str, tmp_path: Path) -> None:
    model, case = with_states(f"test_{name}"), cases()[f"test_{name}"]
    onnx.save(model, tmp_path / "net.onnx")
    given = dict(zip((value.name for value in case.model.graph.input), case.data_sets[0][0], strict=True))
    states = {value.name: f"Y_{value.name[-1]}" for value in model.graph.input if value.name.startswith("initial")}
    bundle = export(
        tmp_path / "net.onnx", path=tmp_path / "net.rnnx", steps=8, targets=("onnx", "c"),
        fixed={n: v for n, v in given.items() if n in WEIGHTS}, states={**states, "X": None},
    )  # fmt: skip
    assert [s.input for s in bundle.spec.states] == list(states)
    assert {row.target for row in bundle.targets} == {"onnx", "c"}
