"""Steps in C as a whole: their states, their names, their weights."""

import re
from dataclasses import replace

import numpy as np
import pytest

from rnn_export.export.targets.c.code import constants as weights_module

from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import Y, model, step_of, written
from .c_sheet import compiled


def x_of(*values):
    return np.array([values], np.float32)


# --- states ----------------------------------------------------------------------------------------------------------


def test_a_state_that_becomes_another_is_read_before_it_is_written():
    """Swapped, handed on, and doubled: a' = b, b' = a, c' = b, first' = x, second' = first."""
    names = ("a", "b", "c", "first", "second")
    moves = {"a": "b", "b": "a", "c": "b", "first": "x", "second": "first"}
    nodes = [("Identity", [source], [f"{name}.next"], {}) for name, source in moves.items()]
    start = {name: np.arange(3, dtype=np.float32) + 10 * i for i, name in enumerate(names)}
    made = model(
        [*nodes, ("Identity", ["second"], ["y"], {})], [state(n, 3, initial="stored") for n in names], initial=start
    )
    step, known = step_of(made), dict(start)
    for k in range(4):
        x = x_of(k, k + 100, k + 200)
        np.testing.assert_array_equal(step({"x": x})["y"][0], known["second"])
        known = {name: {**known, "x": x[0]}[source] for name, source in moves.items()}
        for name, value in step.states().items():
            np.testing.assert_array_equal(value, known[name], err_msg=name)


def test_a_state_may_move_within_itself():
    """A row of the last seven values, which is a part of itself and what was heard."""
    cut = {"start": np.array([3]), "end": np.array([10]), "two": np.array([2])}
    made = model(
        [
            ("Slice", ["h", "start", "end", "last"], ["kept"], {}),
            ("Slice", ["h", "start", "end", "last"], ["y"], {}),
            ("Concat", ["kept", "x"], ["h.next"], {"axis": 1}),
            ("Slice", ["g", "zero", "two", "last"], ["g.next"], {}),
        ],
        [state("h", 7), state("g", 2)],
        outputs=[tensor("y", "batch", 4)],
        last=np.array([1]),
        zero=np.array([0]),
        **cut,
    )
    step, row = step_of(made), np.zeros(7, np.float32)
    for k in range(4):
        x = x_of(k, k + 0.25, k + 0.5)
        np.testing.assert_array_equal(step({"x": x})["y"][0], row[3:])
        row = np.concatenate([row[3:], x[0]])
        np.testing.assert_array_equal(step.states()["h"], row)


def test_an_output_may_lie_where_an_input_does():
    """y = x + 1 over x; z and the state still get x itself."""
    made = model(
        [("Add", ["x", "one"], ["y"], {}), ("Identity", ["x"], ["z"], {}), ("Identity", ["x"], ["h.next"], {})],
        [state("h", 3)],
        outputs=[Y, tensor("z", "batch", 3)],
    )
    step = step_of(made)
    shared, z = x_of(1, 2, 3), np.zeros((1, 3), np.float32)
    step.run([shared], [shared, z])
    np.testing.assert_array_equal(shared, [[2, 3, 4]])
    np.testing.assert_array_equal(z, [[1, 2, 3]])
    np.testing.assert_array_equal(step.states()["h"], [1, 2, 3])


def test_states_start_as_they_are_stored():
    kinds = {
        "float32": [0.1, -0.0, np.inf],
        "int64": [-(2**63), 2**63 - 1, 0],
        "int32": [-(2**31), 5, 0],
        "bool": [1, 0, 1],
    }
    states = [state(kind, 3, dtype=kind, initial="stored") for kind in kinds]
    nodes = [("Identity", [kind], [f"{kind}.next"], {}) for kind in kinds]
    initial = {kind: np.array(value, kind) for kind, value in kinds.items()}
    made = model([*nodes, ("Identity", ["x"], ["y"], {})], states, initial=initial)
    step = step_of(made)
    for _ in range(2):
        for kind, value in step.states().items():
            np.testing.assert_array_equal(value, initial[kind], err_msg=kind)
        step({"x": x_of(1, 2, 3)})


def test_what_a_product_is_added_to_may_come_later():
    weight = np.arange(9, dtype=np.float32).reshape(3, 3)
    made = model(
        [("MatMul", ["x", "w"], ["a"], {}), ("Neg", ["x"], ["b"], {}), ("Add", ["a", "b"], ["y"], {})], w=weight
    )
    x = x_of(1, 2, 3)
    np.testing.assert_array_equal(step_of(made)({"x": x})["y"], x @ weight - x)


@pytest.mark.parametrize("bias", [(3,), (1, 3), (1,), ()], ids=str)
def test_a_bias_after_a_product(bias):
    weight, added = np.eye(3, dtype=np.float32), np.full(bias, 5, np.float32)
    made = model(
        [("MatMul", ["x", "w"], ["a"], {}), ("Add", ["bias", "a"], ["y"], {}), ("Identity", ["y"], ["h.next"], {})],
        [state("h", 3)],
        w=weight,
        bias=added,
    )
    step = step_of(made)
    np.testing.assert_array_equal(step({"x": x_of(1, 2, 3)})["y"], [[6, 7, 8]])
    np.testing.assert_array_equal(step.states()["h"], [6, 7, 8])


# --- names -----------------------------------------------------------------------------------------------------------

WORDS = """
    r i m in0 out0 t0 scratch double x.y x_y X.Y state states rows weights größe 2x memcpy int64_t hand hand_state rnn_v
"""
NAMES = WORDS.split()


@pytest.mark.parametrize("large", [False, True], ids=["inside", "extra"])
def test_any_name_will_do(large, monkeypatch):
    """Inputs and states by names that mean something in C, or in what is written; `large`: with a file of weights."""
    monkeypatch.setattr(weights_module, "EMBEDDED", 0 if large else weights_module.EMBEDDED)
    inputs = [tensor(name, "batch", 3) for name in NAMES]
    states = [
        replace(state(f"{name}", 3), input=f"{name}.before", output=f"{name}.after")
        for name in (*NAMES, "W0", "W1", "RNN_LANES")
    ]
    nodes = [("Add", [a, b], [c], {}) for a, b, c in _chain([*NAMES, *(s.input for s in states)], "sum of all")]
    nodes += [("Add", ["sum of all", "three"], ["y"], {})]
    nodes += [("Add", [s.input, "one"], [s.output], {}) for s in states]
    made = model(nodes, states, inputs, three=np.array([1, 2, 3], np.float32))
    files = written(made)
    assert ("hand.bin" in files) is large
    texts = [data for file, data in files.items() if file != "hand.bin"]
    assert re.findall(rb"(?://|#)@\w+|\b(?:name|NAME)_|\$\w+", b"".join(texts)) == []
    step = compiled(files, "hand", made.spec)
    feed = {name: np.full((1, 3), k, np.float32) for k, name in enumerate(NAMES)}
    for k in range(2):
        want = sum(range(len(NAMES))) + k * len(states) + np.array([1, 2, 3])
        np.testing.assert_array_equal(step(feed)["y"][0], want)
    assert {name: value.tolist() for name, value in step.states().items()} == {s.name: [2, 2, 2] for s in states}


def _chain(names, last):
    total = names[0]
    for k, name in enumerate(names[1:], 1):
        result = last if k == len(names) - 1 else f"sum of {k}"
        yield total, name, result
        total = result


# --- weights ---------------------------------------------------------------------------------------------------------


def test_large_weights_are_a_file_next_to_the_source():
    size = 1030
    assert size * size * 4 > weights_module.EMBEDDED
    weight = (np.random.default_rng(0).standard_normal((size, size)) / 32).astype(np.float32)
    made = model(
        [("MatMul", ["x", "w"], ["y"], {})],
        inputs=[tensor("x", "batch", size)],
        outputs=[tensor("y", "batch", size)],
        w=weight,
    )
    files = written(made)
    blob = files["hand.bin"]
    assert len(blob) >= weight.nbytes
    assert f"#define HAND_WEIGHTS_BYTES {len(blob)}\n".encode() in files["hand.h"]
    assert len(files["hand.c"]) < 10000
    step = compiled(files, "hand", made.spec)
    x = np.random.default_rng(1).standard_normal((1, size)).astype(np.float32)
    np.testing.assert_allclose(step({"x": x})["y"], x @ weight, rtol=0, atol=2e-5)
    place, check = step.weights.ctypes.data, step.call.rnn_check
    assert check(place, len(blob)) == 0
    assert [check(place, n) for n in (0, len(blob) - 1, len(blob) + 1)] == [1, 1, 1]
    assert check(place + 4, len(blob)) == 3
    for at in (0, len(blob) // 2, weight.nbytes - 1):
        step.weights[at] ^= 4
        assert check(place, len(blob)) == 2
        step.weights[at] ^= 4
    assert check(place, len(blob)) == 0


def test_small_weights_lie_inside():
    files = written(model([("Add", ["x", "one"], ["y"], {})]))
    read_by_builds = [
        "library.properties",
        "idf_component.yml",
        *(f"zephyr/{n}" for n in ("module.yml", "Kconfig", "CMakeLists.txt")),
    ]
    sources = ["CMakeLists.txt", "hand.c", "hand.h", "hand.hpp", "kernels.h", "main.c", "selftest.c"]
    assert sorted(files) == sorted([*sources, *read_by_builds])
    assert b"WEIGHTS_BYTES" not in files["hand.h"]


def test_a_weight_that_is_used_twice_is_written_once():
    table = np.arange(300, dtype=np.float32).reshape(3, 100)
    made = model(
        [("MatMul", ["x", "w"], ["a"], {}), ("MatMul", ["x", "w2"], ["b"], {}), ("Add", ["a", "b"], ["y"], {})],
        outputs=[tensor("y", "batch", 100)],
        w=table,
        w2=table.copy(),
    )
    assert written(made)["hand.c"].count(b"299.0f") == 1


def test_kconfig_asks_for_the_library_that_the_source_calls():
    """Zephyr's smallest C library has no functions of mathematics."""
    for op, asked in (("Atan", True), ("Tanh", False)):
        files = written(model([(op, ["x"], ["y"], {})]))
        assert (b"#include <math.h>" in files["hand.c"]) is asked
        assert (b"\tselect REQUIRES_FULL_LIBC\n" in files["zephyr/Kconfig"]) is asked


def test_both_sides_of_a_choice_are_read_first():
    """GCC 12 with -O3 and AVX-512BW reads one of them alone by a wrong mask: other rows of a batch got it."""
    nodes = [("Greater", ["x", "low"], ["is"], {}), ("Where", ["is", "x", "low"], ["y"], {})]
    files = written(model(nodes, low=x_of(1, 2, 3)))
    both = r"const float yes = \S+;\n\s*const float no = \S+;\n\s*\S+ = \S+ \? yes : no;"
    assert re.search(both, files["hand.c"].decode())
    np.testing.assert_array_equal(compiled(files, "hand", model(nodes).spec)({"x": x_of(0, 5, 3)})["y"], x_of(1, 5, 3))
