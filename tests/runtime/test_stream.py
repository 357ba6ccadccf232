"""Streams: step, run in any pieces, batches, delay, scalars, out=, states and reset."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

from rnn_export.contract.spec import DTYPES
from rnn_export.runtime import stream as stream_module

from ..messages import raises  # noqa: TID252
from .graphs import START, TABLE, frames

every_sum = pytest.mark.parametrize("name", ["sum", "timed", "chunked", "by_step", "time_major"])


@pytest.mark.contract
@every_sum
@pytest.mark.parametrize("batch", [1, 4])
def test_steps_keep_the_state(engine, name, batch):
    stream, xs = engine(name).stream(batch=batch), frames(batch, 12, 3)
    for start in range(0, 12, stream.spec.chunk):
        x = xs[:, start] if stream.spec.chunk == 1 else xs[:, start : start + stream.spec.chunk]
        y = stream.step(x if batch > 1 else x[0])
        assert y.shape == (x if batch > 1 else x[0]).shape
    np.testing.assert_array_equal(y, xs.cumsum(1)[:, 12 - stream.spec.chunk :].reshape(y.shape))
    np.testing.assert_array_equal(stream.states["h"], xs.sum(1))


@pytest.mark.contract
def test_time_major_graphs_take_frames_in_the_same_form(engine):
    stream, xs = engine("time_major").stream(batch=4), frames(4, 2, 3)
    np.testing.assert_array_equal(stream.step(xs), xs.cumsum(1))
    assert stream.states["h"].shape == (4, 3)


@pytest.mark.contract
@every_sum
@pytest.mark.parametrize("sizes", [[5, 0, 7], [12], [1] * 12, [2, 2, 8], [11, 1]], ids=str)
@pytest.mark.parametrize("batch", [3, 1])
def test_any_pieces_of_a_sequence_give_the_whole(engine, name, sizes, batch):
    stream, xs = engine(name).stream(batch=batch), frames(batch, 12, 3)
    pieces = [stream.run(piece) for piece in np.split(xs, np.cumsum(sizes)[:-1], 1)]
    np.testing.assert_array_equal(np.concatenate(pieces, 1), xs.cumsum(1))
    np.testing.assert_array_equal(stream.states["h"], xs.sum(1))


@every_sum
def test_one_row_needs_no_batch_axis(engine, name):
    xs = frames(6, 3)
    np.testing.assert_array_equal(engine(name).stream().run(xs), xs.cumsum(0))
    np.testing.assert_array_equal(engine(name).stream().run(xs[None]), xs.cumsum(0)[None])
    np.testing.assert_array_equal(engine(name).stream().run(xs.tolist()), xs.cumsum(0))


@pytest.mark.contract
@pytest.mark.parametrize("name", ["chunked", "by_step"])
def test_a_rest_below_a_chunk_waits(engine, name):
    stream, xs = engine(name).stream(), frames(7, 3)
    assert stream.run(xs[:2]).shape == (0, 3)
    np.testing.assert_array_equal(stream.states["h"], np.zeros((1, 3)))
    assert stream.run(xs[2:5]).shape == (3, 3)
    with raises("run-frames-waiting", "2"):
        stream.step(xs[:3])
    np.testing.assert_array_equal(stream.run(xs[5:]), xs.cumsum(0)[3:6])
    stream.reset()
    np.testing.assert_array_equal(stream.step(xs[:3]), xs[:3].cumsum(0))


def test_what_waits_is_a_copy(engine):
    stream, xs = engine("chunked").stream(), np.ones((2, 3), np.float32)
    stream.run(xs)
    xs[:] = 100
    np.testing.assert_array_equal(stream.run(np.ones((1, 3), np.float32))[-1], [3, 3, 3])


@pytest.mark.contract
@pytest.mark.parametrize("name", ["timed", "time_major", "by_step"])
def test_a_run_longer_than_a_block_and_steps_after_it(engine, name, monkeypatch):
    monkeypatch.setattr(stream_module, "BLOCK", 4)
    stream, xs = engine(name).stream(), frames(36, 3)
    chunk = stream.spec.chunk
    step = stream.step(xs[:chunk] if chunk > 1 else xs[0]).reshape(chunk, 3)
    np.testing.assert_array_equal(np.concatenate([step, stream.run(xs[chunk:])]), xs.cumsum(0))


@pytest.mark.contract
def test_pieces_may_have_any_strides(engine):
    xs = frames(12, 3)
    wide = np.full((24, 6), np.nan, np.float32)
    wide[::2, ::-2] = xs
    np.testing.assert_array_equal(engine("timed").stream().run(wide[::2, ::-2]), xs.cumsum(0))
    np.testing.assert_array_equal(engine("timed").stream().step(wide[0, ::-2]), xs[0])


@pytest.mark.contract
def test_outputs_and_inputs_are_not_shared(engine):
    stream, x = engine("sum").stream(), np.ones(3, np.float32)
    first = stream.step(x)
    x[:] = 50
    second = stream.step(np.ones(3, np.float32))
    first[:] = 70
    np.testing.assert_array_equal(second, [2, 2, 2])
    np.testing.assert_array_equal(stream.step(np.ones(3, np.float32)), [3, 3, 3])
    stream.states["h"][:] = 100
    np.testing.assert_array_equal(stream.states["h"], [[3, 3, 3]])


# --- several inputs and outputs


@pytest.mark.contract
def test_dicts_in_and_out(engine):
    stream, a, b = engine("pair").stream(batch=2), frames(4, 2, 2), frames(4, 2, 2, seed=1)
    for i in range(4):
        given = stream.step({"b": b[i], "a": a[i]})
        assert list(given) == ["sum", "dot"]
        np.testing.assert_array_equal(given["sum"], a[: i + 1].sum(0))
        np.testing.assert_array_equal(given["dot"], (a * b)[: i + 1].sum(0))


@pytest.mark.contract
@pytest.mark.parametrize("name", ["mixed", "mixed_by_step"])
@pytest.mark.parametrize("batch", [1, 2])
def test_inputs_and_outputs_without_a_time_axis(engine, name, batch):
    model = engine(name)
    x, z = frames(batch, 7, 3), frames(batch, 7, 1, seed=1)
    gain = np.full((batch, 3), 2, np.float32)
    sums = (x + z).cumsum(1)
    stream, late = model.stream(batch=batch), model.spec.delay
    first = stream.run({"x": x[:, :2], "z": z[:, :2], "gain": gain})
    assert first["y"].shape == (batch, 0, 3)
    assert first["total"] is None
    rest = stream.run({"x": x[:, 2:], "z": z[:, 2:], "gain": gain})
    np.testing.assert_array_equal(rest["y"], 2 * sums[:, late:6])
    np.testing.assert_array_equal(rest["total"], 2 * sums[:, 5])


@pytest.mark.contract
@pytest.mark.parametrize("batch", [1, 2])
def test_a_delay_cuts_only_the_outputs_with_a_time_axis(engine, batch):
    x, z, gain = frames(batch, 6, 3), frames(batch, 6, 1, seed=1), frames(batch, 3, seed=2)
    stream, sums = engine("mixed_by_step").stream(batch=batch), (x + z).cumsum(1)

    def step(start: int) -> dict | None:
        frame = {"x": x[:, start : start + 3], "z": z[:, start : start + 3], "gain": gain}
        return stream.step(frame if batch > 1 else {name: a[0] for name, a in frame.items()})

    assert step(0) is None
    given = {name: a if batch > 1 else a[None] for name, a in step(3).items()}
    np.testing.assert_array_equal(given["y"], sums[:, 4:] * gain[:, None])
    np.testing.assert_array_equal(given["total"], sums[:, 5] * gain)


# --- scalar frames


@pytest.mark.parametrize("token", [3, np.int64(3), np.int32(3), np.array(3), np.array(3, np.uint8)], ids=repr)
def test_a_token_id_of_any_integer_kind(engine, token):
    y = engine("tokens").stream().step(token)
    np.testing.assert_array_equal(y, TABLE[3])


@pytest.mark.contract
def test_a_run_of_token_ids(engine):
    ids = [1, 0, 4, 4]
    for name in ("tokens", "tokens_timed"):
        np.testing.assert_array_equal(engine(name).stream().run(ids), TABLE[ids].cumsum(0))
        np.testing.assert_array_equal(engine(name).stream(batch=2).run([ids, ids])[1], TABLE[ids].cumsum(0))


@pytest.mark.contract
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_as_scalar_frames(engine, dtype):
    stream, values = engine(f"previous_{dtype}").stream(), np.array([1, 0, 1], dtype)
    given = [stream.step(v) for v in (values[0], values[1].item(), np.asarray(values[2]))]
    assert all(y.shape == () and y.dtype == dtype for y in given)
    assert [y.item() for y in given] == [0, 1, 0]
    np.testing.assert_array_equal(stream.run(values), [1, 1, 0])
    assert stream.states["h"].dtype == dtype


# --- out=


@pytest.mark.contract
@pytest.mark.parametrize(("name", "shape"), [("sum", (3,)), ("chunked", (3, 3)), ("timed", (3,))])
def test_out_is_filled_and_returned(engine, name, shape):
    stream, out, x = engine(name).stream(), np.empty(shape, np.float32), np.ones(shape, np.float32)
    for n in (1, 2):
        assert stream.step(x, out=out) is out
        np.testing.assert_array_equal(out.reshape(-1, 3)[-1], [n * len(out.reshape(-1, 3))] * 3)


@pytest.mark.contract
def test_out_may_be_the_input(engine):
    stream, x = engine("sum").stream(), np.ones(3, np.float32)
    assert [stream.step(x, out=x)[0] for _ in range(4)] == [1, 2, 4, 8]


def test_out_for_several_outputs_is_a_dict(engine):
    stream, a = engine("pair").stream(), np.ones(2, np.float32)
    out = {"sum": np.empty(2, np.float32), "dot": np.empty(2, np.float32)}
    held = dict(out)
    assert stream.step({"a": a, "b": 3 * a}, out=out) is out
    assert all(out[name] is held[name] for name in held)
    np.testing.assert_array_equal([held["sum"], held["dot"]], [[1, 1], [3, 3]])


@pytest.mark.contract
@pytest.mark.parametrize(("with_out", "outputs"), [(True, 0), (False, 1)])
def test_a_step_allocates_nothing_but_its_output(engine, with_out, outputs):
    rows = 4096
    stream, x = engine("sum").stream(batch=rows), np.ones((rows, 3), np.float32)
    if engine("sum").backend in ("openvino", "litert", "executorch", "wasm"):
        pytest.skip("so many rows go in pieces, or through the module's memory: states are arrays of their own")
    out = np.empty_like(x) if with_out else None
    stream.step(x, out=out)
    tracemalloc.start()
    try:
        for _ in range(50):
            stream.step(x, out=out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outputs * x.nbytes <= peak < (outputs + 0.2) * x.nbytes


# --- states


@pytest.mark.contract
@pytest.mark.parametrize("name", ["sum", "pair"])
def test_a_closed_stream_gives_its_memory_back_at_once(engine, name):
    stream = engine(name).stream()
    memory = weakref.ref(stream._buffers)
    gc.disable()
    try:
        del stream
        assert memory() is None
    finally:
        gc.enable()


@pytest.mark.contract
@pytest.mark.parametrize("steps", [1, 2], ids=["odd", "even"])
def test_reset_returns_to_the_states_at_open(engine, steps):
    given = np.array([5, 6, 7], np.float32)
    model = engine("stored")
    for stream, start in ((model.stream(), START), (model.stream(states={"h": given}), given)):
        for _ in range(steps):
            stream.step(np.ones(3, np.float32))
        stream.reset()
        np.testing.assert_array_equal(stream.states["h"], start[None])
        np.testing.assert_array_equal(stream.step(np.ones(3, np.float32)), start + 1)
