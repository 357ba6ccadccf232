"""Inputs of a file taken as states, and errors that ask for them."""

from __future__ import annotations

import pytest

from rnn_export.export.from_onnx.pairing import find_pairs
from rnn_export.export.from_onnx.ports import Port

from ..messages import raises  # noqa: TID252

X, Y = Port("x", "float32", ("batch", 4)), Port("y", "float32", ("batch", 2))


def state(*names: str, shape: tuple[int | str, ...] = ("batch", 8)) -> dict[str, Port]:
    return {name: Port(name, "float32", shape) for name in names}


@pytest.mark.parametrize(
    ("taken", "given"),
    [
        ("h", "h_out"), ("h_in", "h_out"), ("state", "stateN"), ("h c", "hn cn"), ("h0 c0", "hn cn"),
        ("h_0 c_0", "h_n c_n"), ("state0 state1", "new_state0 new_state1"),
        ("state0 state1", "next_state0 next_state1"),
        ("state_in_1 state_in_2", "state_out_1 state_out_2"),
        ("past_key_0 past_value_0", "present_key_0 present_value_0"),
        ("cached_len_0 cached_len_1", "new_cached_len_0 new_cached_len_1"), ("h.prev", "h"), ("h1 h2", "h1_out h2_out"),
        ("inputState", "outputState"), ("past_state", "present_state"),
    ],
)  # fmt: skip
def test_pairs_that_names_tell(taken: str, given: str) -> None:
    found = find_pairs({"x": X, **state(*taken.split())}, {"y": Y, **state(*given.split())}, None)
    assert [(pair.input, pair.output) for pair in found] == list(zip(taken.split(), given.split(), strict=True))


def test_the_order_of_outputs_says_nothing() -> None:
    found = find_pairs({"x": X, **state("h", "c")}, {**state("cn", "hn"), "y": Y}, None)
    assert [(pair.input, pair.output) for pair in found] == [("h", "hn"), ("c", "cn")]


@pytest.mark.parametrize("more", [{}, {"hidden_out": Port("hidden_out", "float32", (1, 8, 3))}], ids=["none", "shape"])
def test_what_sounds_like_a_state_and_does_not_come_back_is_asked(more: dict[str, Port]) -> None:
    """Another shape is no state, whatever its name."""
    with raises(
        "state-pairs-unclear", "'hidden' sounds like a state, but nothing comes back like it: --state hidden=none"
    ):
        find_pairs({"x": X, **state("hidden")}, {"y": Y, **more}, None)


def test_what_names_do_not_tell_is_asked_with_the_options() -> None:
    asked = "'a' may come back as 'b' or 'c': --state a=b, or --state a=c, or --state a=none"
    with raises("state-pairs-unclear", "'a' float32 (batch, 8)", asked):
        find_pairs({"x": X, **state("a")}, {"y": Y, **state("b", "c")}, None)


def test_what_two_inputs_claim_is_asked() -> None:
    with raises("state-pairs-unclear", "'h' may come back as 'h_out'", "'h_prev' may come back as 'h_out'"):
        find_pairs({"x": X, **state("h", "h_prev")}, {"y": Y, **state("h_out")}, None)


def test_a_state_that_is_given_and_never_taken_is_refused() -> None:
    with raises("state-output-unpaired", "'present_state'"):
        find_pairs({"x": X}, {"y": Y, **state("present_state")}, None)
    assert find_pairs({"x": X}, {"y": Y, **state("present_state")}, {}) == ()


def test_what_is_declared_is_taken() -> None:
    taken, given = {"x": X, **state("a", "b")}, {"y": Y, **state("c", "d")}
    found = find_pairs(taken, given, {"a": "d", "b": "c"})
    assert [(pair.input, pair.output, pair.why) for pair in found] == [("a", "d", "declared"), ("b", "c", "declared")]
    assert find_pairs(taken, given, {"a": None, "b": None}) == ()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"z": "c"}, ("no-such-state-input", "'z'", "'x' float32")),
        ({"a": "z"}, ("no-such-state-output", "'z'", "'a'", "'y' float32")),
        ({"a": "y"}, ("state-pair-differs", "'y' float32 (batch, 2)", "'a' float32 (batch, 8)")),
        ({"a": "c", "b": "c"}, ("state-output-doubled", "'c'")),
    ],
)
def test_what_is_declared_is_held_to_the_file(said: dict[str, str | None], message: tuple[str, ...]) -> None:
    with raises(*message):
        find_pairs({"x": X, **state("a", "b")}, {"y": Y, **state("c", "d")}, said)


def test_a_cache_that_grows_is_no_state() -> None:
    taken, given = {"x": X, **state("past", shape=(1, 7))}, {"y": Y, **state("present", shape=(1, 8))}
    with raises("state-pair-differs", "A cache that grows is none"):
        find_pairs(taken, given, {"past": "present"})


def test_data_that_comes_out_in_its_own_shape_is_not_asked_for() -> None:
    data = {"input": Port("input", "float32", ("batch", 8)), **state("h")}
    result = {"output": Port("output", "float32", ("batch", 8)), **state("hn")}
    assert [pair.input for pair in find_pairs(data, result, None)] == ["h"]


def test_a_batch_of_one_that_a_converter_forgot_is_asked_for() -> None:
    """As DTLN's second file has it, of tf2onnx: (1, 2, 128, 2) comes back as (N, 2, 128, 2)."""
    given = {"y": Y, "b": Port("b", "float32", ("N", 2, 8))}
    with raises("state-pairs-unclear", "'a' may come back as 'b': --state a=b, or --state a=none"):
        find_pairs({"x": X, **state("a", shape=(1, 2, 8))}, given, None)
    assert find_pairs({"x": X, **state("a", shape=(2, 2, 8))}, given, None) == ()
