"""The slots of the backend native: many streams in one call, each as if it were alone, in any order and number."""

from unittest import mock

import numpy as np
import pytest

from rnn_export.contract.spec import BATCH, DTYPES, sized
from rnn_export.export.targets.c.batch_step import ROWS
from rnn_export.export.targets.c.code import constants
from rnn_export.runtime import load
from rnn_export.runtime.backends.native.backend import open_session
from rnn_export.runtime.backends.native.session import ALIGNED
from rnn_export.runtime.build.native import compilation as compile_module
from rnn_export.runtime.protocols.c_step import StatePlace

from ..export.c_models import model, written  # noqa: TID252
from ..export.c_windows import JOIN, MOVE, window  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .graphs import IDS, MODELS, START, SUM, state
from .native_toys import by_hand, draft

# Fewer than are stepped at once, as many, and what leaves a rest that is padded and one that is not.
COUNTS = (1, 3, 5, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 7)
STREAMS = max(COUNTS) + 2


@pytest.fixture(scope="session")
def session(native_bundle):
    return lambda name: load(native_bundle(name), backend="native")._session


def frames_of(session, count, random):
    """In the layout of the graph, finite whole numbers."""
    fed = {}
    for t in session.spec.inputs:
        high = IDS if t.name == "id" else 2
        shape = sized(t.shape, count, session.spec.chunk)
        fed[t.name] = random.integers(0 if t.name == "id" else -2, high, shape).astype(t.dtype)
    return fed


def rows_of(tensor, array, row):
    """One row, the batch on axis 0."""
    return np.moveaxis(array, tensor.axis(BATCH), 0)[row]


@pytest.mark.parametrize("name", MODELS)
def test_each_is_as_if_alone(session, name):
    """Many at once where the writer knows their operators, one after the other where they are by hand."""
    its, random = session(name), np.random.default_rng(0)
    spec, slots = its.spec, its.state_store()
    slots.grow(STREAMS)
    alone = [its.stream_buffers(1) for _ in range(STREAMS)]
    for count in COUNTS:
        chosen = random.permutation(STREAMS)[:count].astype(np.intp)
        fed = frames_of(its, count, random)
        given, turned = slots.step(chosen, fed)
        assert turned is None
        for row, slot in enumerate(chosen):
            for t in spec.inputs:
                np.moveaxis(alone[slot].inputs[t.name], t.axis(BATCH), 0)[0] = rows_of(t, fed[t.name], row)
            alone[slot].step()
            for t in spec.outputs:
                assert given[t.name].shape == sized(t.shape, count, spec.chunk)
                np.testing.assert_array_equal(
                    rows_of(t, given[t.name], row), rows_of(t, alone[slot].outputs[t.name], 0), err_msg=t.name
                )
    for name, values in slots.read(np.arange(STREAMS)).items():
        np.testing.assert_array_equal(values, np.concatenate([memory.read()[name] for memory in alone]))


def test_a_window_that_moves_begins_as_many_values_further():
    structs = np.zeros((2, 48), np.uint8)
    structs[:, :32].view(np.float32)[:] = [range(8), range(10, 18)]
    structs[:, 32:36].view(np.uint32)[:] = [[0], [3]]
    views = StatePlace(state("h", 4), 0, 32).views(structs)
    assert [v.tolist() for v in views] == [[0, 1, 2, 3], [13, 14, 15, 16]]


# --- room


def test_slots_keep_their_values_as_capacity_grows(session):
    slots = session("stored").state_store()
    slots.grow(3)
    np.testing.assert_array_equal(slots.read(np.arange(3))["h"], [START] * 3)
    slots.write(np.array([2, 0]), {"h": np.array([[7, 8, 9], [4, 5, 6]], np.float32)})
    slots.grow(20)
    found = slots.read(np.arange(20))["h"]
    np.testing.assert_array_equal(found[:3], [[4, 5, 6], START, [7, 8, 9]])
    np.testing.assert_array_equal(found[3:], [START] * 17)
    given, _ = slots.step(np.array([2, 19]), {"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(given["y"], [[8, 9, 10], START + 1])


@pytest.mark.parametrize("name", ["sum", "pair", "previous_bool"])
def test_a_stream_takes_its_state_and_little_more(session, name):
    its = session(name)
    slots, size = its.state_store(), sum(np.dtype(s.dtype).itemsize * int(np.prod(s.row)) for s in its.spec.states)
    before = slots.nbytes
    slots.grow(1000)
    assert size * 1000 <= slots.nbytes - before <= (size + ALIGNED) * 1000


# --- what turns NaN, and what is refused


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.startswith("float")])
@pytest.mark.parametrize("count", [1, ROWS - 1, 2 * ROWS + 7])
def test_which_rows_turned_nan(session, dtype, count):
    """The state of a stream that hears NaN is one at once, its output a step later."""
    slots = session(f"previous_{dtype}").state_store()
    slots.grow(STREAMS)
    chosen = np.arange(STREAMS)[::-1][:count].astype(np.intp)
    x = np.arange(count).astype(dtype)
    for finite in (np.where(x == 0, np.inf, x).astype(dtype), x):
        assert slots.step(chosen, {"x": finite})[1] is None
    bad = x.copy()
    bad[count // 2] = np.nan
    wanted = np.arange(count) == count // 2
    given, turned = slots.step(chosen, {"x": bad})
    np.testing.assert_array_equal(given["y"], x)
    np.testing.assert_array_equal(turned, wanted)
    assert turned.dtype == bool
    given, turned = slots.step(chosen, {"x": x})
    np.testing.assert_array_equal(np.isnan(given["y"]), wanted)
    np.testing.assert_array_equal(turned, wanted)
    assert slots.step(chosen, {"x": x})[1] is None


@pytest.mark.parametrize("least", [64, 10**6], ids=["that slides", "that is moved"])
def test_a_nan_in_a_window_is_found_as_it_enters(compiler, least):
    """And as long as it is there: the output is the oldest of 21 frames of 4 channels. Then all is as before."""
    nodes = [JOIN, MOVE, ("Slice", ["all", "[0]", "[1]", "two"], ["y"], {})]
    with mock.patch("rnn_export.export.targets.c.operators.sliding_states.LEAST", least):
        made = window(nodes, (4, 1), (4, 20), (4, 1), None)
        files = written(made)
    assert (b"uint32_t front" in files["hand.h"]) is (least == 64)
    assert b"#define HAND_H_NEW 1\n#define HAND_H_ROW 20\n" in files["hand.h"]
    files |= compile_module.compile_native(files, "hand", made.spec, compiler, extension=False)
    slots = open_session(draft(files, made.spec, name="hand"), None, None, 1).state_store()
    slots.grow(STREAMS)
    for chosen in (np.arange(2), np.arange(2, STREAMS)):
        for step in range(40):
            x = np.ones((len(chosen), 4, 1), np.float32)
            x[1, 2] = np.nan if step == 7 else 1
            given, turned = slots.step(chosen, {"x": x})
            assert np.isnan(given["y"]).any() == (step == 27)
            assert (None if turned is None else np.flatnonzero(turned).tolist()) == ([1] if 7 <= step <= 27 else None)
        assert not slots.suspicious


@pytest.mark.parametrize("name", ["tokens", "tokens_timed"])
def test_an_index_out_of_its_table_feeds_nobody(session, name):
    its, random = session(name), np.random.default_rng(0)
    slots = its.state_store()
    slots.grow(9)
    fed = frames_of(its, 9, random)
    slots.step(np.arange(9), fed)
    before = slots.read(np.arange(9))
    fed["id"][8] = IDS
    with raises("index-beyond-table", "native", "frame: 'id'", "5"):
        slots.step(np.arange(9), fed)
    np.testing.assert_array_equal(slots.read(np.arange(9))["h"], before["h"])


def test_a_library_of_before(compiler, monkeypatch):
    own = compile_module.glue
    monkeypatch.setattr(compile_module, "glue", lambda *a: own(*a).replace("rnn_pool", "rnn_of_old"))
    session = open_session(draft(by_hand("sum", SUM), SUM.spec, name="sum"), None, None, 1)
    session.stream_buffers(1).step()
    with raises("native-pool-missing", "fp32"):
        session.state_store()


# --- large weights


def test_weights_next_to_the_code(compiler, monkeypatch):
    """Every slot knows where they are, those of later growth too."""
    monkeypatch.setattr(constants, "EMBEDDED", 0)
    w = np.arange(9, dtype=np.float32).reshape(3, 3)
    nodes = [("MatMul", ["x", "w"], ["xw"], {}), ("Add", ["xw", "h"], ["y"], {}), ("Identity", ["y"], ["h.next"], {})]
    made = model(nodes, [state("h", 3)], w=w)
    files = written(made)
    assert "hand.bin" in files
    slots = open_session(draft(files, made.spec, name="hand"), None, None, 1).state_store()
    slots.grow(2)
    slots.grow(30)
    x = np.random.default_rng(0).integers(-3, 4, (30, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(30)
    for k in (1, 2):
        given, turned = slots.step(order, {"x": x})
        assert turned is None
        np.testing.assert_array_equal(given["y"], k * (x @ w))
