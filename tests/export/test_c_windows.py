"""Windows over time in C: moved in their place, sliding over a longer memory, or cached; joined where they must be."""

import re
from unittest import mock

import numpy as np
import pytest

from ..native.needs import need  # noqa: TID252
from ..native.quality import FAST, lay_out, run  # noqa: TID252
from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import model, written
from .c_streams import Streams, main_of
from .c_windows import CONV, ENDS, JOIN, MOVE, MOVE_2, follows, kernels, window
from .test_c_team import MAIN

MOVED = "state->h[i] = state->h[i + "
KEEP_3 = ("Slice", ["all", "-3", "end", "last"], ["h.next"], {})
FIRST = [
    ("Concat", ["h", "x"], ["all"], {"axis": 1}),
    ("Slice", ["all", "[1]", "end", "[1]"], ["h.next"], {}),
    ("ReduceMax", ["all", "[1]"], ["y"], {"keepdims": 1}),
]
BETWEEN = [JOIN, MOVE, ("ReduceMax", ["all", "two"], ["y"], {"keepdims": 1})]
OLD = [JOIN, MOVE, CONV, ("Identity", ["h"], ["old"], {})]
OF_NEXT = ("Conv", ["h.next", "w", "b"], ["y"], {})


def conv(move=MOVE, **attributes):
    return [JOIN, move, (*CONV[:3], attributes)]


@pytest.fixture
def small_ones_slide():
    with mock.patch("rnn_export.export.targets.c.operators.sliding_states.LEAST", 64):
        yield


def alone(made) -> str:
    """The C of one stream."""
    return written(made)["hand.c"].decode().partition("#ifdef HAND_ROWS")[0]


# --- small ones: nodes; the shapes of x, h and y; the kernels; and whether h moves in its place

PLACES = {
    "conv": (conv(), (4, 1), (4, 2), (3, 1), kernels(3, 4, 3), True),
    "time first": (FIRST, (1, 4), (5, 4), (1, 4), None, True),
    "dilated": (conv(dilations=[3]), (4, 1), (4, 6), (3, 1), kernels(3, 4, 3), True),
    "groups": (conv(group=2), (4, 1), (4, 2), (6, 1), kernels(6, 2, 3), True),
    "a channel a group": (conv(group=4), (4, 1), (4, 3), (4, 1), kernels(4, 1, 4), True),
    "more outputs": (conv(group=4), (4, 1), (4, 2), (8, 1), kernels(8, 1, 3), True),
    "many frames": (conv(MOVE_2, strides=[2]), (4, 2), (4, 3), (3, 1), kernels(3, 4, 4), True),
    "several places": (conv(MOVE_2), (4, 2), (4, 3), (3, 2), kernels(3, 4, 4), True),
    "padded": (conv(pads=[0, 1]), (4, 1), (4, 2), (3, 1), kernels(3, 4, 4), True),
    "kept from the end": (conv(KEEP_3), (4, 1), (4, 3), (3, 1), kernels(3, 4, 4), True),
    "the old state is an output": (OLD, (4, 1), (4, 2), (3, 1), kernels(3, 4, 3), True),
    "the next state is read": ([JOIN, MOVE, OF_NEXT], (4, 1), (4, 3), (3, 1), kernels(3, 4, 3), True),
    "all is new": (conv(MOVE_2), (4, 2), (4, 1), (3, 1), kernels(3, 4, 3), False),
    "two frames are left out": (conv(MOVE_2), (4, 2), (4, 2), (3, 1), kernels(3, 4, 4), False),
}


@pytest.mark.parametrize("form", PLACES)
def test_a_window_that_moves_is_what_onnx_runtime_has(form):
    *given, moved = PLACES[form]
    made = window(*given)
    assert (MOVED in alone(made)) is moved
    follows(made, 14)


# --- long ones, with memory to slide over: and for how many steps there is room

SLIDING = {
    "conv": (conv(), (4, 1), (4, 20), (3, 1), kernels(3, 4, 21), 10),
    "time between": (BETWEEN, (3, 1, 5), (3, 20, 5), (3, 1, 5), None, 7),
    "dilated": (conv(dilations=[10]), (4, 1), (4, 20), (3, 1), kernels(3, 4, 3), 10),
    "a channel a group": (conv(group=4), (4, 1), (4, 40), (4, 1), kernels(4, 1, 41), 20),
    "many frames": (conv(MOVE_2, strides=[2]), (4, 2), (4, 20), (3, 1), kernels(3, 4, 21), 5),
    "several places": (conv(MOVE_2), (4, 2), (4, 20), (3, 2), kernels(3, 4, 21), 5),
    "time first": (FIRST, (1, 4), (40, 4), (1, 4), None, 5),
    "of many steps": (conv(dilations=[20]), (32, 1), (32, 40), (3, 1), kernels(3, 32, 3), 64),
    "the old state is an output": (OLD, (4, 1), (4, 20), (3, 1), kernels(3, 4, 21), 10),
    "small": (conv(), (4, 1), (4, 15), (3, 1), kernels(3, 4, 16), 0),
    "few frames": ([("Neg", ["x"], ["x-"], {}), *FIRST], (1, 4), (16, 4), (1, 4), None, 0),
}
# Long enough to move back several times.
STEPS = 70


@pytest.mark.parametrize("form", SLIDING)
def test_a_window_that_slides_is_what_onnx_runtime_has(form, small_ones_slide):
    *given, steps = SLIDING[form]
    made, x, h = window(*given), given[1], given[2]
    size, entering = int(np.prod(h)), int(np.prod(x)) // (h[0] if len(h) == len(x) and h[0] == x[0] else 1)
    memory = f"float h[{size} + {steps * entering}];" if steps else f"float h[{size}];"
    assert memory in written(made)["hand.h"].decode()
    follows(made, STEPS)


@pytest.mark.parametrize("form", ["the old state is an output", "time between", "dilated"])
def test_a_step_in_parts(form, small_ones_slide):
    """Each part finds the window where the step did."""
    with mock.patch("rnn_export.export.targets.c.function_split.LINES", 2):
        made = window(*SLIDING[form][:-1])
        assert "rnn_part0(state, " in alone(made)
        follows(made, STEPS)


# The channels, the frames of both windows, dilations, the steps, and what must stand in the code.
ENTERING = {
    "small": (1, 3, 2, 1, 14, [MOVED, MOVED.replace("h", "g")]),
    "sliding": (8, 64, 64, 32, 2 * STEPS, ["float h[512 + 64];", "float g[512 + 63];"]),
}


@pytest.mark.parametrize("name", ENTERING)
def test_a_frame_lost_by_one_window_enters_the_next(name, small_ones_slide):
    """Long ones move back at different steps."""
    channels, h, g, dilation, steps, said = ENTERING[name]
    nodes = [
        ("Slice", ["h", "[0]", "[1]", "two"], ["oldest"], {}),
        JOIN,
        MOVE,
        ("Concat", ["g", "oldest"], ["more"], {"axis": 2}),
        ("Slice", ["more", "[1]", "end", "two"], ["g.next"], {}),
        ("Conv", ["more", "w", "b"], ["y"], {"dilations": [dilation]}),
    ]
    states, x, y = [state("h", channels, h), state("g", channels, g)], tensor("x", "batch", channels, 1), (3, 1)
    made = model(nodes, states, [x], [tensor("y", "batch", *y)], w=kernels(3, channels, 3), b=kernels(3), **ENDS)
    files = written(made)
    assert all(part in (files["hand.h"] + files["hand.c"]).decode() for part in said)
    follows(made, steps)


def test_streams_together_and_alone_in_turn(small_ones_slide):
    """Each at another place of its memory; together they stay where they are in it."""
    made = window(*SLIDING["dilated"][:-1])
    made.initial["h"] = kernels(4, 20)
    streams, random = Streams(written(made), "hand", made.spec), np.random.default_rng(0)
    mine, others = streams.start(8), streams.start(8)
    for _ in range(STEPS):
        rows = random.permutation(8)[: random.integers(1, 9)]
        frames = streams.draw(random, len(rows))
        step = streams.rows if random.random() < 0.3 else streams.step
        got, want = (f([s[i] for i in rows], frames) for f, s in ((step, mine), (streams.step, others)))
        np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-5)
    for got, want in zip(streams.values(mine), streams.values(others), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_team_reads_a_window_where_it_is(tmp_path, small_ones_slide):
    need("gcc")
    nodes = [JOIN, MOVE, ("Reshape", ["h", "flat"], ["row"], {}), ("Gemm", ["row", "m"], ["y"], {})]
    y, constants = [tensor("y", "batch", 128)], {"flat": np.array([0, -1]), "m": kernels(80, 128)}
    made = model(nodes, [state("h", 4, 20)], [tensor("x", "batch", 4, 1)], y, **constants, **ENDS)
    with mock.patch("rnn_export.export.targets.c.code.code_builder.SHARED_BYTES", 1):
        files = written(made, name="net")
    assert b"seen->s0;" in files["net.c"]
    lay_out({**files, "user.c": main_of(MAIN, made.spec)}, tmp_path)
    run(["gcc", *FAST, "-DNET_THREADS", "-DSTEPS=100", "net.c", "user.c", "-o", "user", "-pthread", "-lm"], tmp_path)
    assert run(["./user"], tmp_path) == "same\n"


# --- cached as `cat([cache[1:], x])`, read with the frame that leaves or as the next state; and how often a step copies
# the state as a whole

CUT = ("Slice", ["h", "[1]", "end", "two"], ["rest"], {})
CUT_2 = ("Slice", ["h", "two", "end", "last"], ["rest"], {})
CUT_2_OF_ALL = ("Slice", ["h", "two", "end", "two"], ["rest"], {})
NEXT = ("Concat", ["rest", "x"], ["h.next"], {"axis": 2})
TWICE = ("Concat", ["rest", "x", "x"], ["h.next"], {"axis": 2})
NEWEST = ("Slice", ["h.next", "last", "end", "two"], ["newest"], {})
LAST_3 = ("Slice", ["h.next", "-3", "end", "two"], ["y"], {})
BOTH = [CUT, NEXT, JOIN, ("Conv", ["all", "w", "b"], ["z"], {}), NEWEST, ("Add", ["z", "newest"], ["y"], {})]
CHANGE = [CUT, NEXT, ("Sub", ["h.next", "h"], ["apart"], {}), ("Conv", ["apart", "w", "b"], ["y"], {})]
GIVEN = [CUT, NEXT, OF_NEXT, ("Neg", ["h.next"], ["-h"], {}), ("Neg", ["-h"], ["old"], {})]
CACHED = {
    "next, large": ([CUT, NEXT, OF_NEXT], (4, 1), (4, 20), (3, 1), kernels(3, 4, 20), 0),
    "both": (BOTH, (3, 1), (3, 30), (3, 1), kernels(3, 3, 31), 1),
    "next": ([CUT, NEXT, OF_NEXT], (4, 1), (4, 3), (3, 1), kernels(3, 4, 3), 0),
    "next, many frames": ([CUT_2, NEXT, OF_NEXT], (4, 2), (4, 20), (3, 1), kernels(3, 4, 20), 0),
    "with what leaves": ([CUT, NEXT, JOIN, CONV], (4, 1), (4, 2), (3, 1), kernels(3, 4, 3), 0),
    "with what leaves, before": ([JOIN, CONV, CUT, NEXT], (4, 1), (4, 20), (3, 1), kernels(3, 4, 21), 0),
    "with what leaves, large": ([CUT, NEXT, JOIN, CONV], (4, 1), (4, 20), (3, 1), kernels(3, 4, 21), 0),
    "old and next": (CHANGE, (4, 1), (4, 20), (3, 1), kernels(3, 4, 20), 1),
    "the next state is an output": (GIVEN, (4, 1), (4, 20), (3, 1), kernels(3, 4, 20), 0),
    "part of the next state is an output": ([CUT, NEXT, LAST_3], (1, 1), (1, 80), (1, 3), None, 0),
    "not its own frames": ([CUT_2_OF_ALL, TWICE, OF_NEXT], (4, 1), (4, 20), (3, 1), kernels(3, 4, 20), 1),
}


@pytest.mark.parametrize("form", CACHED)
def test_a_cache_is_what_onnx_runtime_has(form, small_ones_slide):
    *given, copies = CACHED[form]
    made = window(*given)
    text = alone(made)
    kept = text[text.index("outputs and states") :] if "outputs and states" in text else text
    assert kept.count("memcpy(state->h, ") + kept.count("memcpy(s0, ") - ("memcpy(state->h, W" in text) == copies
    follows(made, STEPS)


# --- a convolution of which some places are read

AT = {"four": np.array(4), "-2": np.array(-2), "[-1]": np.array([-1]), "[4]": np.array([4]), "[6]": np.array([6])}
PADDED, STRIDED = {"pads": [3, 3]}, {"pads": [3, 4], "strides": [2], "group": 4}
WHOLE, EACH = kernels(4, 4, 3), kernels(4, 1, 5)


@pytest.mark.parametrize(
    ("convolution", "w", "reader", "given", "shape", "read"),
    [
        (PADDED, WHOLE, "Gather", ["-2"], (4, 1), 1),
        (STRIDED, EACH, "Slice", ["[1]", "[6]", "two"], (4, 2), 2),
        (PADDED, WHOLE, "Gather", ["four"], (4, 1), 1),
        (PADDED, WHOLE, "Gather", ["[4]"], (4, 1), 7),
        (PADDED, WHOLE, "Slice", ["[1]", "[6]", "two", "[1]"], (4, 5), 5),
        (PADDED, WHOLE, "Slice", ["[1]", "[-1]", "two"], (4, 5), 5),
        (PADDED, WHOLE, "Slice", ["[1]", "[6]", "[1]"], (3, 7), 7),
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
    x, y = [tensor("x", "batch", 4, 1)], [tensor("y", "batch", shape[0], 2 * shape[1])]
    constants = {"w": w, "b": kernels(4), "shape": np.array([0, *shape]), **ENDS, **AT}
    made = model(nodes, [state("h", 4, 2)], x, y, **constants)
    macs = re.search(r"#define HAND_MACS (\d+)", written(made)["hand.h"].decode())
    assert macs is not None
    assert int(macs[1]) == read * w.size
    follows(made, 14)
