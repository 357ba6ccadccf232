"""Products of two computed matrices, each read in place: transposed, with axes of size 1, of a window."""

import re
from itertools import product

import numpy as np
import onnxruntime as ort
import pytest

from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import model, step_of, written

SIZES = [(1, 7, 1), (1, 16, 20), (20, 16, 1), (5, 33, 6), (4, 3, 70), (1, 40, 16), (1, 64, 17)]
W, ROWS, WIDTH = 9, 3, 20
FRAMES = {"[0]": np.array([0]), "end": np.array([2**63 - 1]), "2": np.array([2]), "[2]": np.array([2])}


def test_each_may_be_transposed():
    """In one graph: every size with every choice of what is transposed, and the same with a stack that is repeated."""
    nodes, inputs, outputs, feed = [], [], [], {}
    random = np.random.default_rng(0)
    for number, ((row, along, column), of_a, of_b) in enumerate(product(SIZES, (False, True), (False, True))):
        names = f"a{number}", f"b{number}", f"y{number}"
        shapes = ([along, row] if of_a else [row, along]), ([column, along] if of_b else [along, column])
        stack = [1, 3] if number % 3 == 0 else [2, 3]
        read = []
        for name, shape, first, turned in zip(names, shapes, ([2, 1], stack), (of_a, of_b), strict=False):
            inputs.append(tensor(name, "batch", *first, *shape))
            feed[name] = random.standard_normal((1, *first, *shape)).astype(np.float32)
            if turned:
                nodes.append(("Transpose", [name], [f"{name} turned"], {"perm": [0, 1, 2, 4, 3]}))
            read.append(f"{name} turned" if turned else name)
        nodes.append(("MatMul", read, [names[2]], {}))
        outputs.append(tensor(names[2], "batch", 2, 3, row, column))
    nodes.append(("Identity", ["h"], ["h.next"], {}))
    made = model(nodes, [state("h", 1)], inputs, outputs)
    given = step_of(made)(feed)
    session = ort.InferenceSession(made.graph(made.step, 1), providers=["CPUExecutionProvider"])
    want = session.run(list(given), {**feed, "h": np.zeros((1, 1), np.float32)})
    for (name, got), expected in zip(given.items(), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5, err_msg=name)


# Scores of a query over the frames of a window, and the frames summed by them, where frames lie in rows or in columns.
KEYS = ("Transpose", ["all"], ["keys"], {"perm": [0, 1, 3, 2]})
ATTEND = [
    ("MatMul", ["query", "keys"], ["scores"], {}),
    ("Softmax", ["scores"], ["weights"], {"axis": -1}),
    ("MatMul", ["weights", "values"], ["y"], {}),
]


@pytest.mark.parametrize(
    ("nodes", "joined"),
    [
        ([KEYS, *ATTEND[:2], ("MatMul", ["weights", "all"], ["y"], {})], False),
        (
            [
                ("Unsqueeze", ["all", "2"], ["five"], {}),
                ("Transpose", ["five"], ["keys five"], {"perm": [0, 1, 2, 4, 3]}),
                ("Squeeze", ["keys five", "2"], ["keys"], {}),
                ("Transpose", ["keys"], ["values"], {"perm": [0, 1, 3, 2]}),
                *ATTEND,
            ],
            False,
        ),
        (
            [KEYS, *ATTEND[:2], ("MatMul", ["weights", "all"], ["most"], {}), ("Add", ["most", "keys 0"], ["y"], {})],
            True,
        ),
        ([("Transpose", ["all"], ["turned"], {"perm": [0, 1, 3, 2]}), ("MatMul", ["turned", "all"], ["y"], {})], True),
    ],
)
@pytest.mark.parametrize("new", [1, 2])
def test_of_a_window(nodes, joined, new):
    """Written as one array only where something else than a product reads it."""
    before = [
        ("Concat", ["h", "x"], ["all"], {"axis": 2}),
        ("Slice", ["all", f"[{new}]", "end", "2"], ["h.next"], {}),
        ("Slice", ["x", "[0]", "[1]", "2"], ["query"], {}),
    ]
    if nodes[-1][1][-1] == "keys 0":
        before.append(("Gather", ["all", "0"], ["frame"], {"axis": 2}))
        before.append(("Unsqueeze", ["frame", "2"], ["keys 0"], {}))
    square = nodes[-1][1] == ["turned", "all"]
    made = model(
        [*before, *nodes],
        [state("h", ROWS, W, WIDTH)],
        [tensor("x", "batch", ROWS, new, WIDTH)],
        [tensor("y", "batch", ROWS, WIDTH if square else 1, WIDTH)],
        **FRAMES,
    )
    text = written(made)["hand.c"].decode().partition("#ifdef HAND_ROWS")[0]
    assert (re.search(rf"{(W + new) * WIDTH} \+ 0, (state->h|s0)", text) is not None) is joined
    session = ort.InferenceSession(made.graph(made.step, 1), providers=["CPUExecutionProvider"])
    step, random, h = step_of(made), np.random.default_rng(1), np.zeros((1, ROWS, W, WIDTH), np.float32)
    for _ in range(W + 3):
        x = random.standard_normal((1, ROWS, new, WIDTH)).astype(np.float32)
        given = step({"x": x})
        want, h = session.run(["y", "h.next"], {"x": x, "h": h})
        np.testing.assert_allclose(given["y"], want, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(step.states()["h"], h[0])
