"""Windows over time that slide over their memory, long enough to move back several times."""

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

STEPS = 70
BETWEEN = [
    JOIN,
    MOVE,
    ("ReduceMax", ["all", "two"], ["y"], {"keepdims": 1}),
]
FIRST = [
    ("Concat", ["h", "x"], ["all"], {"axis": 1}),
    ("Slice", ["all", "[1]", "end", "[1]"], ["h.next"], {}),
    ("ReduceMax", ["all", "[1]"], ["y"], {"keepdims": 1}),
]
# Nodes; the shapes of x, h and y; the kernels; and for how many steps there is room.
FORMS = {
    "conv": ([JOIN, MOVE, CONV], (4, 1), (4, 20), (3, 1), kernels(3, 4, 21), 10),
    "dilated": ([JOIN, MOVE, (*CONV[:3], {"dilations": [10]})], (4, 1), (4, 20), (3, 1), kernels(3, 4, 3), 10),
    "a channel a group": ([JOIN, MOVE, (*CONV[:3], {"group": 4})], (4, 1), (4, 40), (4, 1), kernels(4, 1, 41), 20),
    "many frames": ([JOIN, MOVE_2, (*CONV[:3], {"strides": [2]})], (4, 2), (4, 20), (3, 1), kernels(3, 4, 21), 5),
    "several places": ([JOIN, MOVE_2, CONV], (4, 2), (4, 20), (3, 2), kernels(3, 4, 21), 5),
    "time first": (FIRST, (1, 4), (40, 4), (1, 4), None, 5),
    "time between": (BETWEEN, (3, 1, 5), (3, 20, 5), (3, 1, 5), None, 7),
    "of many steps": ([JOIN, MOVE, (*CONV[:3], {"dilations": [20]})], (32, 1), (32, 40), (3, 1), kernels(3, 32, 3), 64),
    "the old state is an output": (
        [JOIN, MOVE, CONV, ("Identity", ["h"], ["old"], {})],
        *((4, 1), (4, 20), (3, 1), kernels(3, 4, 21), 10),
    ),
    "small": ([JOIN, MOVE, CONV], (4, 1), (4, 15), (3, 1), kernels(3, 4, 16), 0),
    "few frames": ([("Neg", ["x"], ["x-"], {}), *FIRST], (1, 4), (16, 4), (1, 4), None, 0),
}


@pytest.fixture(autouse=True, scope="module")
def small_ones_slide():
    with mock.patch("rnn_export.export.targets.c.operators.sliding_states.LEAST", 64):
        yield


def formed(form):
    return window(*FORMS[form][:-1])


@pytest.mark.parametrize("form", FORMS)
def test_a_window_is_what_onnx_runtime_has(form):
    made, (_, x, h, _, _, steps) = formed(form), FORMS[form]
    size, entering = int(np.prod(h)), int(np.prod(x)) // (h[0] if len(h) == len(x) and h[0] == x[0] else 1)
    memory = f"float h[{size} + {steps * entering}];" if steps else f"float h[{size}];"
    assert memory in written(made)["hand.h"].decode()
    follows(made, STEPS)


@pytest.mark.parametrize("form", ["dilated", "time between", "the old state is an output"])
def test_a_step_in_parts(form):
    """Each part finds the window where the step did."""
    with mock.patch("rnn_export.export.targets.c.function_split.LINES", 2):
        made = formed(form)
        assert "rnn_part0(state, " in written(made)["hand.c"].decode()
        follows(made, STEPS)


def test_several_move_back_at_different_steps():
    """A frame lost by one enters the next."""
    nodes = [
        ("Slice", ["h", "[0]", "[1]", "two"], ["oldest"], {}),
        JOIN,
        MOVE,
        ("Concat", ["g", "oldest"], ["more"], {"axis": 2}),
        ("Slice", ["more", "[1]", "end", "two"], ["g.next"], {}),
        ("Conv", ["more", "w", "b"], ["y"], {"dilations": [32]}),
    ]
    states, x, y = [state("h", 8, 64), state("g", 8, 64)], [tensor("x", "batch", 8, 1)], [tensor("y", "batch", 3, 1)]
    made = model(nodes, states, x, y, w=kernels(3, 8, 3), b=kernels(3), **ENDS)
    header = written(made)["hand.h"].decode()
    assert "float h[512 + 64];" in header
    assert "float g[512 + 63];" in header
    follows(made, 2 * STEPS)


def test_streams_together_and_alone_in_turn():
    """Each at another place of its memory; together they stay where they are in it."""
    made = formed("dilated")
    made.initial["h"] = kernels(4, 20)
    streams, random = Streams(written(made), "hand", made.spec), np.random.default_rng(0)
    mine, alone = streams.start(8), streams.start(8)
    for _ in range(STEPS):
        rows = random.permutation(8)[: random.integers(1, 9)]
        frames = streams.draw(random, len(rows))
        step = streams.rows if random.random() < 0.3 else streams.step
        got, want = (f([s[i] for i in rows], frames) for f, s in ((step, mine), (streams.step, alone)))
        np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-5)
    for got, want in zip(streams.values(mine), streams.values(alone), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_team_reads_a_window_where_it_is(tmp_path):
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
