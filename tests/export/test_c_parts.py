"""Long steps are split into several functions: equal up to a compiler's rounding, and no warning."""

import re
from contextlib import ExitStack
from itertools import chain
from unittest import mock

import numpy as np
import pytest

from rnn_export.export.targets.c import function_split
from rnn_export.export.targets.c.code import code_builder
from rnn_export.export.targets.c.code import constants as weights_module

from ..native.quality import CPP, STRICT, lay_out, run  # noqa: TID252
from .c_streams import Streams, sources_of

FORMS = ((), ("-DNET_ROWS",), ("-DRNN_PROFILE",), ("-DNET_THREADS",))


def written(name, lines, extra):
    """Its step in parts of so many lines, its larger products shared by a team, its weights inside or beside."""
    with ExitStack() as stack:
        for module, constant, value in ((function_split, "LINES", lines), (code_builder, "SHARED_BYTES", 2**13)):
            stack.enter_context(mock.patch.object(module, constant, value))
        if extra:
            stack.enter_context(mock.patch.object(weights_module, "EMBEDDED", 0))
        return sources_of(name)


@pytest.mark.parametrize("extra", [False, True], ids=["inside", "extra"])
@pytest.mark.parametrize("name", ["many-cells", "rnnoise", "denoised-sound", "cumulative-norm"])
def test_what_one_function_gives(name, extra, tmp_path):
    files, spec = written(name, 6, extra)
    text = files["net.c"].decode()
    functions = re.findall(r"^static RNN_PIECE void (rnn_(?:rows_)?part\d+)\(", text, re.MULTILINE)
    assert len(functions) == len(set(functions)) >= 4
    whole = written(name, 10**9, extra)[0]
    assert "rnn_part" not in whole["net.c"].decode()
    lay_out(files, tmp_path)
    for form in FORMS:
        run(["gcc", *STRICT, "-O1", *form, "-c", "net.c", "-o", "net.o"], tmp_path)
    run([CPP["gcc"], "-O1", "-Wall", "-Wextra", "-Werror", "-x", "c++", "-c", "net.c", "-o", "net.o"], tmp_path)
    one, more = Streams(whole, "net", spec), Streams(files, "net", spec)
    for step in ("step", "rows"):
        random, a, b = np.random.default_rng(0), one.start(3), more.start(3)
        for _ in range(5):
            frames = one.draw(random, 3)
            for was, now in zip(getattr(one, step)(a, frames), getattr(more, step)(b, frames), strict=True):
                np.testing.assert_allclose(now, was, rtol=0, atol=1e-6)
        for was, now in zip(one.values(a), more.values(b), strict=True):
            np.testing.assert_allclose(now, was, rtol=0, atol=1e-6)


def test_each_is_as_long_as_it_must_be():
    """A part ends with the operator that makes it long enough; one that a team shares stays in the step."""
    declarations = ["RNN_ALIGNED float scratch[8];", "float *const t0 = scratch + 4;", "int64_t t1[2];"]
    operators = [[f"    t0[0] = in0[{i}];"] * 30 for i in range(20)]
    operators[10] = ["    RNN_PHASE(0, 2, 0, 0)", "    t1[0] = 1;"]
    made = function_split.Parts("part{}(", declarations, operators, {"in0": "const float *"}, weights_module.Weights())
    assert made.statements == [
        "    part0(scratch, in0);",
        "    part1(scratch, in0);",
        "    part2(scratch, in0);",
        *operators[10],
        "    part3(scratch, in0);",
        "    part4(scratch, in0);",
        *operators[19],
    ]
    assert made.declarations == declarations
    assert made.functions[1] == {
        "number": 1,
        "parameters": "float *RNN_APART scratch, const float *in0",
        "text": "\n".join(["    float *const t0 = scratch + 4;", *chain.from_iterable(operators[4:8])]),
    }
    short = function_split.Parts(
        "part{}(", declarations, operators[:6], {"in0": "const float *"}, weights_module.Weights()
    )
    assert not short.functions
    assert short.declarations == declarations[:2]


def test_what_goes_from_state_to_state_stays():
    """A function of it would be given nothing."""
    moves = [["    state->a[0] = state->b[0];"]] * (3 * function_split.LINES)
    made = function_split.Parts("part{}(", [], moves, {}, weights_module.Weights())
    assert not made.functions
    assert made.statements == list(chain.from_iterable(moves))
