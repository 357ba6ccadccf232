"""Windows cached as `cat([cache[1:], x])`, read with the frame that leaves or as the next state."""

from unittest import mock

import pytest

from .c_models import written
from .c_windows import CONV, JOIN, follows, kernels, window

STEPS = 70
CUT = ("Slice", ["h", "[1]", "end", "two"], ["rest"], {})
CUT_2 = ("Slice", ["h", "two", "end", "last"], ["rest"], {})
NEXT = ("Concat", ["rest", "x"], ["h.next"], {"axis": 2})
OF_NEXT = ("Conv", ["h.next", "w", "b"], ["y"], {})
NEWEST = ("Slice", ["h.next", "last", "end", "two"], ["newest"], {})
CUT_2_OF_ALL = ("Slice", ["h", "two", "end", "two"], ["rest"], {})
# Nodes; the shapes of x, h and y; the kernels; and how often a step copies the state as a whole.
FORMS = {
    "next": ([CUT, NEXT, OF_NEXT], (4, 1), (4, 3), (3, 1), kernels(3, 4, 3), 0),
    "next, large": ([CUT, NEXT, OF_NEXT], (4, 1), (4, 20), (3, 1), kernels(3, 4, 20), 0),
    "next, many frames": ([CUT_2, NEXT, OF_NEXT], (4, 2), (4, 20), (3, 1), kernels(3, 4, 20), 0),
    "with what leaves": ([CUT, NEXT, JOIN, CONV], (4, 1), (4, 2), (3, 1), kernels(3, 4, 3), 0),
    "with what leaves, before": ([JOIN, CONV, CUT, NEXT], (4, 1), (4, 20), (3, 1), kernels(3, 4, 21), 0),
    "with what leaves, large": ([CUT, NEXT, JOIN, CONV], (4, 1), (4, 20), (3, 1), kernels(3, 4, 21), 0),
    "both": (
        [CUT, NEXT, JOIN, ("Conv", ["all", "w", "b"], ["z"], {}), NEWEST, ("Add", ["z", "newest"], ["y"], {})],
        *((3, 1), (3, 30), (3, 1), kernels(3, 3, 31), 1),
    ),
    "old and next": (
        [CUT, NEXT, ("Sub", ["h.next", "h"], ["apart"], {}), ("Conv", ["apart", "w", "b"], ["y"], {})],
        *((4, 1), (4, 20), (3, 1), kernels(3, 4, 20), 1),
    ),
    "the next state is an output": (
        [CUT, NEXT, OF_NEXT, ("Neg", ["h.next"], ["-h"], {}), ("Neg", ["-h"], ["old"], {})],
        *((4, 1), (4, 20), (3, 1), kernels(3, 4, 20), 0),
    ),
    "part of the next state is an output": (
        [CUT, NEXT, ("Slice", ["h.next", "-3", "end", "two"], ["y"], {})],
        *((1, 1), (1, 80), (1, 3), None, 0),
    ),
    "not its own frames": (
        [CUT_2_OF_ALL, ("Concat", ["rest", "x", "x"], ["h.next"], {"axis": 2}), OF_NEXT],
        *((4, 1), (4, 20), (3, 1), kernels(3, 4, 20), 1),
    ),
}


@pytest.fixture(autouse=True, scope="module")
def small_ones_slide():
    with mock.patch("rnn_export.export.targets.c.operators.sliding_states.LEAST", 64):
        yield


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_is_what_onnx_runtime_has(form):
    nodes, x, h, y, w, copies = FORMS[form]
    made = window(nodes, x, h, y, w)
    text = written(made)["hand.c"].decode().partition("#ifdef HAND_ROWS")[0]
    kept = text[text.index("outputs and states") :] if "outputs and states" in text else text
    assert kept.count("memcpy(state->h, ") + kept.count("memcpy(s0, ") - ("memcpy(state->h, W" in text) == copies
    follows(made, STEPS)
