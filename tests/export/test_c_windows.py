"""Windows over time: moved in place where nothing else is made of them, and joined otherwise."""

import re

import numpy as np
import pytest

from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import model, written
from .c_windows import CONV, ENDS, JOIN, MOVE, MOVE_2, follows, kernels, window

STEPS = 14
MOVED = "state->h[i] = state->h[i + "
KEEP_3 = ("Slice", ["all", "-3", "end", "last"], ["h.next"], {})
# Nodes; the shapes of x, h and y; the kernels; and whether h moves in its place.
FORMS = {
    "conv": ([JOIN, MOVE, CONV], (4, 1), (4, 2), (3, 1), kernels(3, 4, 3), True),
    "dilated": ([JOIN, MOVE, (*CONV[:3], {"dilations": [3]})], (4, 1), (4, 6), (3, 1), kernels(3, 4, 3), True),
    "groups": ([JOIN, MOVE, (*CONV[:3], {"group": 2})], (4, 1), (4, 2), (6, 1), kernels(6, 2, 3), True),
    "a channel a group": ([JOIN, MOVE, (*CONV[:3], {"group": 4})], (4, 1), (4, 3), (4, 1), kernels(4, 1, 4), True),
    "more outputs": ([JOIN, MOVE, (*CONV[:3], {"group": 4})], (4, 1), (4, 2), (8, 1), kernels(8, 1, 3), True),
    "many frames": ([JOIN, MOVE_2, (*CONV[:3], {"strides": [2]})], (4, 2), (4, 3), (3, 1), kernels(3, 4, 4), True),
    "several places": ([JOIN, MOVE_2, CONV], (4, 2), (4, 3), (3, 2), kernels(3, 4, 4), True),
    "padded": ([JOIN, MOVE, (*CONV[:3], {"pads": [0, 1]})], (4, 1), (4, 2), (3, 1), kernels(3, 4, 4), True),
    "kept from the end": ([JOIN, KEEP_3, CONV], (4, 1), (4, 3), (3, 1), kernels(3, 4, 4), True),
    "time first": (
        [
            ("Concat", ["h", "x"], ["all"], {"axis": 1}),
            ("Slice", ["all", "[1]", "end", "[1]"], ["h.next"], {}),
            ("ReduceMax", ["all", "[1]"], ["y"], {"keepdims": 1}),
        ],
        *((1, 4), (5, 4), (1, 4), None, True),
    ),
    "the old state is an output": (
        [JOIN, MOVE, CONV, ("Identity", ["h"], ["old"], {})],
        *((4, 1), (4, 2), (3, 1), kernels(3, 4, 3), True),
    ),
    "the next state is read": (
        [JOIN, MOVE, ("Conv", ["h.next", "w", "b"], ["y"], {})],
        *((4, 1), (4, 3), (3, 1), kernels(3, 4, 3), True),
    ),
    "all is new": ([JOIN, MOVE_2, CONV], (4, 2), (4, 1), (3, 1), kernels(3, 4, 3), False),
    "two frames are left out": ([JOIN, MOVE_2, CONV], (4, 2), (4, 2), (3, 1), kernels(3, 4, 4), False),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_window_is_what_onnx_runtime_has(form):
    nodes, x, h, y, w, moved = FORMS[form]
    made = window(nodes, x, h, y, w)
    text = written(made)["hand.c"].decode().partition("#ifdef HAND_ROWS")[0]
    assert (MOVED in text) is moved
    follows(made, STEPS)


def test_one_window_enters_the_next():
    """The frame that one state drops enters the other, and an output is read from a state."""
    nodes = [
        ("Slice", ["h", "[0]", "[1]", "two"], ["oldest"], {}),
        JOIN,
        MOVE,
        ("Concat", ["g", "oldest"], ["more"], {"axis": 2}),
        ("Slice", ["more", "[1]", "end", "two"], ["g.next"], {}),
        ("Conv", ["more", "w", "b"], ["y"], {}),
    ]
    made = model(
        nodes,
        [state("h", 1, 3), state("g", 1, 2)],
        [tensor("x", "batch", 1, 1)],
        [tensor("y", "batch", 3, 1)],
        w=kernels(3, 1, 3),
        b=kernels(3),
        **ENDS,
    )
    text = written(made)["hand.c"].decode()
    assert MOVED in text
    assert MOVED.replace("h", "g") in text
    follows(made, STEPS)


AT = {"four": np.array(4), "-2": np.array(-2), "[-1]": np.array([-1]), "[4]": np.array([4]), "[6]": np.array([6])}
PADDED, STRIDED = {"pads": [3, 3]}, {"pads": [3, 4], "strides": [2], "group": 4}
WHOLE, EACH = kernels(4, 4, 3), kernels(4, 1, 5)


@pytest.mark.parametrize(
    ("convolution", "w", "reader", "given", "shape", "read"),
    [
        (PADDED, WHOLE, "Gather", ["four"], (4, 1), 1),
        (PADDED, WHOLE, "Gather", ["-2"], (4, 1), 1),
        (PADDED, WHOLE, "Gather", ["[4]"], (4, 1), 7),
        (PADDED, WHOLE, "Slice", ["[1]", "[6]", "two", "[1]"], (4, 5), 5),
        (PADDED, WHOLE, "Slice", ["[1]", "[-1]", "two"], (4, 5), 5),
        (PADDED, WHOLE, "Slice", ["[1]", "[6]", "[1]"], (3, 7), 7),
        (STRIDED, EACH, "Slice", ["[1]", "[6]", "two"], (4, 2), 2),
        (STRIDED, EACH, "Slice", ["[0]", "[1]", "two"], (4, 1), 1),
    ],
)
def test_a_convolution_computes_the_places_that_are_read(convolution, w, reader, given, shape, read):
    """A window of 3 frames that the model keeps itself, in a convolution that pads it on both sides."""
    nodes = [
        JOIN,
        MOVE,
        ("Conv", ["all", "w", "b"], ["whole"], convolution),
        (reader, ["whole", *given], ["taken"], {"axis": 2} if reader == "Gather" else {}),
        ("Reshape", ["taken", "shape"], ["flat"], {}),
        ("Concat", ["flat", "flat"], ["y"], {"axis": 2}),
    ]
    made = model(
        nodes,
        [state("h", 4, 2)],
        [tensor("x", "batch", 4, 1)],
        [tensor("y", "batch", shape[0], 2 * shape[1])],
        w=w,
        b=kernels(4),
        shape=np.array([0, *shape]),
        **ENDS,
        **AT,
    )
    macs = re.search(r"#define HAND_MACS (\d+)", written(made)["hand.h"].decode())
    assert macs is not None
    assert int(macs[1]) == read * w.size
    follows(made, STEPS)
