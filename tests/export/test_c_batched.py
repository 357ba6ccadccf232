"""A step of several streams at once equals the step of each alone, whatever the other streams do."""

import re
import subprocess
from functools import cache

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.contract.spec import StreamSpec
from rnn_export.export.targets.c import batch_step as batch_step_module
from rnn_export.export.targets.c.batch_step import ROWS, write_batch_step
from rnn_export.export.targets.c.code import constants as weights_module
from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.constants import CACHE_LINE, Weights
from rnn_export.export.targets.c.int8_calibration import scales
from rnn_export.export.targets.c.operator_table import write_step
from rnn_export.export.targets.c.static_graph import static_graph
from rnn_export.runtime.build.glue import FILE, glue

from ..native.models import MODELS  # noqa: TID252
from ..native.needs import need  # noqa: TID252
from ..native.quality import FAST, STRICT, lay_out, run, symbols  # noqa: TID252
from ..runtime.graphs import state, tensor  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .c_models import X, Y, model, written
from .c_sheet import lanes_of_this_cpu
from .c_streams import ALONE, MAIN, POOL, Streams, main_of, sources_of

STEPS = 4
# Of the largest value: sums of rows that share their weights are made in another order. The longest are of 704 values.
NEAR = 1e-6
LONG = {"large": 2e-6}
# In blocks of units and not, both resets, other cells, stacked, bidirectional over another axis, convolutions with
# strides, groups and pads, norms, ids, batches that are not axis 0, several frames, starts that were learned.
WORDS = """
    lstm gru lstm-of-40 gru-of-40 large CustomGRU-2-before CustomGRU-3-after SimpleRNN-relu nn.LSTM-2-batch-first
    dual-path called-twice strided-valid-then-gru valid-chunk-of-4 causal-grouped
    causal-2d-then-gru causal-dilated-residual norm-and-softmax-over-features ids time-on-different-axes
    hidden-time-major several-inputs-and-outputs chunk-of-3 learned-h-and-c own-loop-chunk-of-4 counter last-frame nam
    rnnoise
"""
NAMES = WORDS.split()


@pytest.fixture(autouse=True, scope="module")
def _compiler():
    need("gcc|clang")


@cache
def files_of(name, precision="fp32"):
    return sources_of(in_zoo(name), precision)


def in_zoo(name):
    return f"{name}-in-c" if name in MODELS else name


@cache
def streams_of(name, precision="fp32", lanes=None):
    files, spec = files_of(name, precision)
    assert b"There is no net_rows" not in files["net.h"]
    return Streams(files, "net", spec, lanes)


def compare(streams, near=NEAR, loud=1.0):
    """All rows, one row less, and one, in a closed loop."""
    random = np.random.default_rng(0)
    for count in (ROWS, ROWS - 1, 1):
        alone, together = streams.start(count), streams.start(count)
        for _ in range(STEPS):
            x = [a if a.dtype != np.float32 else a * np.float32(loud) for a in streams.draw(random, count)]
            want = [*streams.step(alone, x), *streams.values(alone)]
            got = [*streams.rows(together, x), *streams.values(together)]
            for a, b in zip(want, got, strict=True):
                assert np.isfinite(a).all()
                np.testing.assert_allclose(b, a, rtol=0, atol=near * max(1, np.abs(a).max()))


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_as_each_alone(name):
    compare(streams_of(name), LONG.get(name, NEAR))


def test_what_hears_speech():
    """Noise as loud as its inputs are, through a root of squares and five layers, each of which rounds."""
    compare(streams_of("silero"), 4 * NEAR, loud=0.1)


@pytest.mark.parametrize("lanes", lanes_of_this_cpu())
@pytest.mark.parametrize("name", ["lstm-of-40", "gru"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_every_width_and_precision(name, precision, lanes):
    """Sums of whole numbers have no order."""
    compare(streams_of(name, precision, lanes), 0 if precision == "int8" and lanes != 1 else NEAR)


@pytest.mark.parametrize("name", ["strided-valid-then-gru", "dual-path", "ids"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_narrow_weights_of_more_than_a_cell(name, precision):
    compare(streams_of(name, precision))


@pytest.mark.parametrize("name", ["lstm", "strided-valid-then-gru"])
def test_scales_that_were_calibrated(name):
    bundle = open_bundle(store.bundle(in_zoo(name)))
    heard = {
        t.name: np.random.default_rng(0).standard_normal((2, 40, *t.frame)).astype(np.float32)
        for t in bundle.spec.inputs
    }
    known = scales(bundle.read("step.onnx"), bundle.spec, bundle.initial_states(), heard)
    files, spec = sources_of(in_zoo(name), "int8", known)
    streams = Streams(files, "net", spec)
    # Each is a constant in both.
    alone, together = files["net.c"].decode().split("#ifdef NET_ROWS")
    given = [[line.split(",")[4] for line in text.splitlines() if "rnn_rows_i" in line] for text in (alone, together)]
    assert given[0] == given[1]
    assert any(scale.strip() != "0.0f" for scale in given[0])
    compare(streams)


# --- rows do not see each other


CELLS = [("lstm", "fp32"), ("lstm-of-40", "int8"), ("gru-of-40", "bf16")]


@pytest.mark.parametrize(("name", "precision"), [*CELLS, ("dual-path", "fp32"), ("causal-grouped", "int8")])
def test_a_nan_stays_in_its_row(name, precision):
    streams, random = streams_of(name, precision), np.random.default_rng(1)
    clean, spoiled = streams.start(ROWS), streams.start(ROWS)
    for row in range(ROWS):
        frames = streams.draw(random, ROWS)
        bad = [array.copy() for array in frames]
        if row == 5:
            bad[0][5] = np.nan
        want, got = streams.rows(clean, frames), streams.rows(spoiled, bad)
        for a, b in zip([*want, *streams.values(clean)], [*got, *streams.values(spoiled)], strict=True):
            keep = np.arange(ROWS) != 5
            np.testing.assert_array_equal(b[keep].view(np.uint8), a[keep].view(np.uint8))
        assert np.isnan(got[0][5]).any() == (row >= 5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_row_is_the_same_in_any_place(precision):
    """But for what a compiler rounds in another way where it unrolls a loop."""
    streams, random = streams_of("lstm-of-40", precision), np.random.default_rng(2)
    states, moved = streams.start(ROWS), streams.start(ROWS)
    for _ in range(STEPS):
        order, frames = random.permutation(ROWS), streams.draw(random, ROWS)
        want = streams.rows(states, frames)
        got = streams.rows([moved[i] for i in order], [a[order] for a in frames])
        for a, b in zip(want, got, strict=True):
            np.testing.assert_allclose(b, a[order], rtol=0, atol=NEAR)
    for a, b in zip(streams.values(states), streams.values(moved), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=NEAR)


# --- what stands in the sources


@pytest.mark.parametrize("name", ["lstm", "dual-path", "silero", "rnnoise"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_all_weights_are_shared(name, precision):
    together = files_of(name, precision)[0]["net.c"].decode().split("#ifdef NET_ROWS")[1]
    assert "static const" not in together
    assert "rnn_dense" in together


def grown():
    """A constant that follows the batch: y = x w + h, h' = y, from w on."""
    nodes = [
        ("Shape", ["x"], ["shape"], {}),
        ("Expand", ["row", "shape"], ["rows"], {}),
        ("MatMul", ["x", "w"], ["xw"], {}),
        ("Mul", ["xw", "rows"], ["scaled"], {}),
        ("Add", ["scaled", "h"], ["y"], {}),
        ("Identity", ["y"], ["h.next"], {}),
    ]
    row, w = np.array([[1, 2, 3]], np.float32), np.eye(3, dtype=np.float32)
    made = model(nodes, [state("h", 3)], row=row, w=w)
    return made, written(made)


@pytest.mark.parametrize("large", [False, True], ids=["inside", "extra"])
def test_a_constant_of_the_batch_is_compiled_with_it_alone(large, monkeypatch):
    monkeypatch.setattr(weights_module, "EMBEDDED", 0 if large else weights_module.EMBEDDED)
    made, files = grown()
    alone, together = files["hand.c"].decode().split("#ifdef HAND_ROWS")
    assert f"[{3 * ROWS}] RNN_ALIGNED" in together
    assert f"[{3 * ROWS}]" not in alone
    assert ("hand.bin" in files) is large
    compare(Streams(files, "hand", made.spec))
    monkeypatch.setattr(batch_step_module, "MAX_BYTES", 0)
    without = written(made)
    refused(without)
    assert without.get("hand.bin") == files.get("hand.bin")
    assert alone == without["hand.c"].decode() + "\n"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(("name", "precision"), [("lstm", "fp32"), ("rnnoise", "int8"), ("dual-path", "bf16")])
def test_with_and_without(compiler, name, precision, tmp_path):
    """With every warning an error; without the define there is nothing of it."""
    need(compiler)
    files, spec = files_of(name, precision)
    lay_out(files, tmp_path)
    (tmp_path / FILE).write_text(glue("net", spec))
    own = {"net_init", "net_step", "net_run"}
    for flags, wanted in (((), own), (("-DNET_ROWS",), {*own, "net_rows"})):
        quick = [flag if flag != "-O3" else "-O1" for flag in FAST]
        run([compiler, *STRICT, *quick, *flags, "-c", "net.c", "-o", "net.o"], tmp_path)
        run([compiler, *STRICT, *quick, *flags, "-Wno-long-long", "-c", FILE, "-o", "glue.o"], tmp_path)
        found = symbols(tmp_path / "net.o")
        assert {symbol for symbol, letter in found.items() if letter == "T"} == wanted
        assert {symbol for symbol, letter in found.items() if letter in "DdBb"} == set()
        assert ("net_rows" in symbols(tmp_path / "glue.o")) is bool(flags)


def many() -> tuple[dict[str, bytes], StreamSpec]:
    """One node of many kinds, each beside what other streams hear."""
    random = np.random.default_rng(0)
    nodes = [
        ("Reshape", ["x", "image shape"], ["image"], {}),
        ("ConvTranspose", ["image", "kernels"], ["up"], {"group": 2, "strides": [2], "pads": [1, 0]}),
        ("InstanceNormalization", ["image", "fours", "fours"], ["normed"], {}),
        ("Einsum", ["image", "cube"], ["mixed"], {"equation": "bct,cdt->bcd"}),
        ("Einsum", ["image", "normed"], ["scores"], {"equation": "bct,bdt->bcd"}),
        ("Unsqueeze", ["x", "last"], ["signal"], {}),
        ("DFT", ["signal"], ["spectrum"], {"onesided": 1, "axis": 1}),
        ("CumSum", ["x", "one axis"], ["sums"], {}),
        ("TopK", ["x", "three"], ["most", "places"], {}),
        ("GatherElements", ["sums", "places"], ["picked"], {"axis": 1}),
        ("ScatterElements", ["x", "places", "most"], ["put"], {"axis": 1, "reduction": "add"}),
        ("ArgMax", ["x"], ["best"], {"axis": 1, "keepdims": 0}),
        ("OneHot", ["best", "sixteen", "off and on"], ["hot"], {}),
        ("Gather", ["table", "best"], ["row"], {}),
        ("Mod", ["places", "three"], ["rest"], {}),
        ("Cast", ["rest"], ["rests"], {"to": 1}),
        ("Resize", ["image", "", "twice"], ["wide"], {"mode": "linear"}),
        ("AveragePool", ["image"], ["means"], {"kernel_shape": [3], "strides": [2], "pads": [1, 0], "ceil_mode": 1}),
        ("Pad", ["image", "around"], ["mirrored"], {"mode": "reflect"}),
        ("Trilu", ["image"], ["upper"], {}),
        ("ReduceLogSumExp", ["image", "last"], ["loud"], {}),
        ("IsNaN", ["x"], ["bad"], {}),
        ("Where", ["bad", "zero", "h"], ["kept"], {}),
    ]
    names = ["up", "normed", "mixed", "scores", "spectrum", "wide", "means", "mirrored", "upper", "loud"]
    nodes += [("Flatten", [name], [f"flat {name}"], {}) for name in names]
    flat = [f"flat {name}" for name in names] + ["sums", "most", "picked", "put", "hot", "row", "rests", "kept"]
    nodes += [("Concat", flat, ["y"], {"axis": 1}), ("Identity", ["put"], ["h.next"], {})]
    made = model(
        nodes,
        [state("h", 16)],
        [tensor("x", "batch", 16)],
        [tensor("y", "batch", 266)],
        kernels=random.standard_normal((4, 2, 3)).astype(np.float32),
        fours=np.arange(1, 5, dtype=np.float32),
        cube=random.standard_normal((4, 5, 4)).astype(np.float32),
        table=random.standard_normal((16, 3)).astype(np.float32),
        twice=np.array([1, 1, 2], np.float32),
        around=np.array([0, 0, 2, 0, 0, 1]),
        three=np.array([3]),
        last=np.array([-1]),
        sixteen=np.array(16),
        zero=np.float32(0),
        **{"image shape": np.array([-1, 4, 4]), "one axis": np.array(1), "off and on": np.array([0, 1], np.float32)},
    )
    return written(made, name="net"), made.spec


def test_rows_of_many_operators():
    files, spec = many()
    compare(Streams(files, "net", spec))


def ran(place, files, spec, program, compiler, *flags, emulator=()) -> str:
    """The output of a user's `program`; one that steps a pool is compiled with the glue."""
    glued = {FILE: glue("net", spec).encode()} if program is POOL else {}
    lay_out({**files, **glued, "user.c": main_of(program, spec)}, place)
    run([compiler, *STRICT, *flags, "-DNET_ROWS", "net.c", *glued, "user.c", "-o", "user", "-lm"], place)
    return run([*emulator, "./user"], place)


SANITIZED = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
STRIDED = ("strided-valid-then-gru", "int8")
PROGRAMS = [
    *((MAIN, name) for name in (("lstm", "fp32"), STRIDED, None)),
    *((POOL, name) for name in (*CELLS, STRIDED)),
]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(("program", "name"), PROGRAMS)
def test_sanitized(compiler, program, name, tmp_path):
    """Nets, one node of many kinds, and nets through the glue."""
    need(compiler)
    files, spec = many() if name is None else files_of(*name)
    native = ["-march=native"] if program is POOL else []
    lines = ran(tmp_path, files, spec, program, compiler, *SANITIZED, *native).splitlines()
    assert lines == ["right"] if program is POOL else lines[ROWS:] == ["same"]


@pytest.mark.parametrize("march", ["armv8-a", "armv8.2-a+dotprod"])
@pytest.mark.parametrize(("name", "precision"), CELLS)
def test_on_another_machine(name, precision, march, tmp_path):
    """Emulated."""
    gcc, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64"
    need(gcc, emulator)
    flags = (*FAST, f"-march={march}", "-static")
    said = ran(tmp_path, *files_of(name, precision), MAIN, gcc, *flags, emulator=[emulator])
    assert said.endswith(f"{ROWS} rows\nsame\n")


def test_the_sanitizers_see_a_row_too_many(tmp_path):
    need("gcc")
    files, spec = files_of("lstm")
    text = files["net.c"].decode()
    assert text.count("r < rows; r++") == 1
    lay_out({**files, "net.c": text.replace("r < rows; r++", "r <= rows; r++").encode()}, tmp_path)
    lay_out({"user.c": main_of(MAIN, spec)}, tmp_path)
    run(["gcc", *SANITIZED, "-DNET_ROWS", "net.c", "user.c", "-o", "user", "-lm"], tmp_path)
    done = subprocess.run(["./user"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "AddressSanitizer" in done.stderr


# --- where there is none


def refused(files) -> str:
    header, source = files["hand.h"].decode(), files["hand.c"].decode()
    assert "hand_rows" not in source
    assert "HAND_ROWS" not in header
    (line,) = [line for line in header.splitlines() if "There is no hand_rows" in line]
    assert line.startswith("/* ")
    assert line.endswith(" */")
    return line


def test_a_graph_of_one_stream_alone():
    made = model(
        [("Reshape", ["x", "one row"], ["row"], {}), ("Tanh", ["row"], ["t"], {}), ("Identity", ["t"], ["y"], {})],
        **{"one row": np.array([1, 3])},
    )
    said = refused(written(made))
    assert f"of {3 * ROWS} values" in said or f"batch of {ROWS}" in said


def test_outputs_that_do_not_follow_the_batch():
    made = model([("Slice", ["x", "zero", "first", "zero"], ["y"], {})], zero=np.array([0]), first=np.array([1]))
    assert f"batch of {ROWS}" in refused(written(made))


def test_each_array_of_a_file_of_weights_begins_a_cache_line(monkeypatch):
    monkeypatch.setattr(weights_module, "EMBEDDED", 0)
    weights = Weights()
    arrays = [np.arange(n, dtype=kind) for n, kind in ((3, np.int8), (20, np.float32), (5, np.int32))]
    weights.arrays.extend(arrays)
    places = [int(n) for n in re.findall(r"weights \+ (\d+)", weights.definitions())]
    assert places == [0, CACHE_LINE, 3 * CACHE_LINE]
    for place, array in zip(places, arrays, strict=True):
        assert weights.blob()[place:].startswith(array.tobytes())


def test_frames_that_come_before_the_batch():
    """A call takes several, row after row for each of them."""
    given, out = (tensor(name, "time", "batch", 3) for name in "xy")
    nodes = [
        ("Add", ["x", "h"], ["y"], {}),
        ("Slice", ["y", "last", "end", "zero"], ["z"], {}),
        ("Squeeze", ["z", "zero"], ["h.next"], {}),
    ]
    places = {"last": np.array([-1]), "end": np.array([2**62]), "zero": np.array([0])}
    made = model(nodes, [state("h", 3)], [given], [out], chunk=2, **places)
    compare(Streams(written(made), "hand", made.spec))


def test_too_much_stack(monkeypatch):
    monkeypatch.setattr(batch_step_module, "MAX_BYTES", 64)
    said = refused(grown()[1])
    assert f"a batch of {ROWS} takes " in said
    assert "each may be 64 at most" in said


def test_scales_that_the_batch_would_not_have():
    made = model([("MatMul", ["x", "w"], ["y"], {})], [], [X], [Y], w=np.ones((3, 3), np.float32))
    graph = made.graph(made.step, 1)
    alone = CodeBuilder(Weights(), "int8")
    write_step(static_graph(graph), alone, {"x": "in0"})
    alone.scales_used.append(0.5)
    reason = f"the calibrated scales of a batch of {ROWS} are not those of one stream"
    assert write_batch_step(graph, made.spec, alone) == reason


def test_inputs_that_have_the_names_of_parameters():
    nodes = [("Add", ["rows", "states"], ["y"], {}), ("Identity", ["y"], ["row.next"], {})]
    made = model(nodes, [state("row", 3)], [tensor(name, "batch", 3) for name in ("rows", "states")])
    compare(Streams(written(made), "hand", made.spec))
    assert ALONE.format(name="hand") in written(made)["hand.h"].decode()
