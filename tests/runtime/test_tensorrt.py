"""The memory of a TensorRT stream, without a GPU: the order of its calls, its states, its errors and its dtypes.

The whole conformance suite runs on it as well, by the fixture `engine`.
"""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from rnn_export.runtime import Stream
from rnn_export.runtime.device.values import decode, encode, storage

from ..messages import raises  # noqa: TID252
from .graphs import PAIR, SUM, H, Model, X, Y, previous, spec, state, tensor
from .host_device import HostDevice
from .host_engine import BUILD, HostEngine, engine_in, host_session

# y = x + h, h' = h + 1: a step changes the state whatever it is fed.
COUNT = Model(
    spec("count", [X], [Y], [H]),
    [("Add", ["x", "h"], ["y"], {}), ("Add", ["h", "one"], ["h.next"], {})],
    constants={"one": np.float32(1)},
)


def opened(model: Model, batch: int = 1):
    """Engine, memory and device of one stream."""
    engine, device = HostEngine(model.files()["step.onnx"]), HostDevice()
    return engine, host_session(model.spec, engine, lambda: device).stream_buffers(batch), device


def stream_of(model: Model, engine: HostEngine, batch: int = 1) -> Stream:
    rows = {s.name: np.zeros((batch, *s.row), s.dtype) for s in model.spec.states}
    return Stream(model.spec, host_session(model.spec, engine), batch, rows, {n: a[0] for n, a in rows.items()})


def names(memory, calls: list[tuple]) -> list[tuple]:
    """Calls with names for addresses: a tensor's, or a state's and the number of its set."""
    known = {t.buffer.pointer: t.name for t in (*memory.staged_inputs, *memory.staged_outputs)}
    known |= {b.pointer: f"{name}{i}" for i, each in enumerate(memory.sets) for name, b in each.items()}

    def named(part: object) -> object:
        if isinstance(part, tuple):
            return tuple(named(p) for p in part)
        return known.get(part, "saved") if isinstance(part, int) and part > 9 else part

    return [named(call) for call in calls]


EVEN = (("upload", "x"), ("enqueue", "x", "y", "h0", "h1"), ("download", "y"))
ODD = (("upload", "x"), ("enqueue", "x", "y", "h1", "h0"), ("download", "y"))


# --- the order of its calls


def test_the_order_of_a_capture():
    _, memory, device = opened(COUNT)
    memory.write({"h": np.full((1, 3), 5, np.float32)})
    assert names(memory, device.calls) == [
        ("upload", "h0"),
        ("synchronize",),
        ("copy", "saved", "h0"),
        *EVEN,
        *ODD,
        ("synchronize",),
        ("capture", 0, EVEN),
        ("capture", 1, ODD),
        ("copy", "h0", "saved"),
        ("synchronize",),
    ]


def test_the_states_outlive_the_capture(monkeypatch):
    """Without the copy back they would not."""
    for copy, want in ((HostDevice.copy, 5), (lambda *_: None, 7)):
        monkeypatch.setattr(HostDevice, "copy", copy)
        _, memory, _ = opened(COUNT)
        memory.write({"h": np.full((1, 3), 5, np.float32)})
        np.testing.assert_array_equal(memory.read()["h"], [[want] * 3])


def test_steps_replay_the_pair_and_nothing_else():
    engine, memory, device = opened(COUNT)
    memory.write({"h": np.zeros((1, 3), np.float32)})
    device.calls.clear()
    for step in range(5):
        memory.inputs["x"][...] = 10
        memory.step()
        np.testing.assert_array_equal(memory.outputs["y"], [[10 + step] * 3])
    assert device.calls == [call for n in (0, 1, 0, 1, 0) for call in (("launch", n), ("synchronize",))]
    assert engine.contexts == 2


def test_states_pass_the_host_only_in_read_and_write():
    _, memory, device = opened(PAIR, batch=2)
    memory.write({name: np.zeros((2, 2), np.float32) for name in ("s", "p")})
    captured = [call for calls in device.calls if calls[0] == "capture" for call in calls[2]]
    moved = {call[:2] for call in names(memory, captured) if call[0] != "enqueue"}
    assert moved == {("upload", "a"), ("upload", "b"), ("download", "sum"), ("download", "dot")}
    device.calls.clear()
    memory.step()
    memory.read()
    assert names(memory, device.calls)[2:] == [("download", "s1"), ("download", "p1"), ("synchronize",)]
    device.calls.clear()
    memory.write({name: np.ones((2, 2), np.float32) for name in ("s", "p")})
    # Into the set that is not read: an error half-way would leave the states.
    assert names(memory, device.calls) == [("upload", "s0"), ("upload", "p0"), ("synchronize",)]


def test_each_stream_has_a_queue_of_its_own():
    devices: list[HostDevice] = []
    engine = HostEngine(SUM.files()["step.onnx"])
    session = host_session(SUM.spec, engine, lambda: devices.append(HostDevice()) or devices[-1])
    assert [session.stream_buffers(rows).device for rows in (1, 4)] == devices
    assert len(set(map(id, devices))) == 2


@pytest.mark.parametrize("taken", range(4))
@pytest.mark.parametrize("put", range(4))
def test_snapshot_restore_and_reset_in_even_and_odd_positions(taken, put):
    engine = HostEngine(COUNT.files()["step.onnx"])
    first, second, x = stream_of(COUNT, engine), stream_of(COUNT, engine), np.zeros(3, np.float32)
    for stream, steps in ((first, taken), (second, put)):
        for _ in range(steps):
            stream.step(x)
    second.restore(first.snapshot())
    assert [second.step(x)[0] for _ in range(3)] == [taken, taken + 1, taken + 2]
    second.reset()
    assert [second.step(x)[0] for _ in range(2)] == [0, 1]
    assert first.step(x)[0] == taken


# --- errors in a step


@pytest.mark.parametrize("steps", [2, 3], ids=["even", "odd"])
def test_an_error_in_a_step_leaves_the_state(steps):
    engine = HostEngine(SUM.files()["step.onnx"])
    stream, x = stream_of(SUM, engine), np.ones(3, np.float32)
    for _ in range(steps):
        stream.step(x)
    before, engine.fails = stream.snapshot(), True
    for _ in range(2):
        with raises("tensorrt-frame-refused", "cudaGraphLaunch gave cudaErrorLaunchFailure"):
            stream.step(x)
    engine.fails = False
    assert stream.snapshot() == before
    np.testing.assert_array_equal(stream.step(x), [steps + 1] * 3)


def test_an_engine_that_refuses_to_enqueue():
    engine = HostEngine(SUM.files()["step.onnx"])
    engine.refuses = True
    with raises("device-call-failed", "tensorrt cannot capture the step as a CUDA graph: TensorRT refused the step"):
        stream_of(SUM, engine)


# --- dtypes of the engine


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_states_convert(kind):
    engine, dtype = engine_in(SUM, kind), np.dtype(kind if kind == "float16" else ml_dtypes.bfloat16)
    stream, rounded = stream_of(SUM, engine, batch=2), np.float32(1.001).astype(dtype).astype(np.float32)
    assert rounded != np.float32(1.001)
    xs = np.full((2, 3), 1.001, np.float32)
    np.testing.assert_array_equal(stream.step(xs), xs)
    assert stream.states["h"].dtype == np.float32
    np.testing.assert_array_equal(stream.states["h"], np.full((2, 3), rounded))
    other = stream_of(SUM, engine, batch=2)
    other.restore(stream.snapshot())
    assert other.snapshot() == stream.snapshot()
    np.testing.assert_array_equal(other.step(xs), stream.step(xs))


def test_a_state_beyond_half_precision_is_refused_and_changes_nothing():
    half, full = stream_of(SUM, engine_in(SUM, "float16")), stream_of(SUM, HostEngine(SUM.files()["step.onnx"]))
    half.step(np.ones(3, np.float32))
    full.step(np.full(3, 70000, np.float32))
    with raises("frame-value-lost", "'h'", "70000.0", "float16"):
        half.restore(full.snapshot())
    np.testing.assert_array_equal(half.states["h"], [[1, 1, 1]])


def test_bfloat16_rounds_as_others_do():
    random = np.random.default_rng(0)
    values = random.integers(0, 2**32, 20000, np.uint32).view(np.float32)
    ties = (random.integers(0, 2**16, 2000, np.uint32) << 16 | 0x8000).view(np.float32)
    values = np.concatenate([values, ties, np.float32([0, -0.0, np.inf, -np.inf, 1e-45])])
    with np.errstate(all="ignore"):
        want = values.astype(ml_dtypes.bfloat16)
    within = np.isfinite(want.astype(np.float32)) | ~np.isfinite(values)
    bits = encode("h", values[within], "bfloat16")
    assert bits.dtype == storage("bfloat16")
    np.testing.assert_array_equal(decode(bits, "bfloat16", np.dtype(np.float32)), want[within].astype(np.float32))
    with raises("frame-value-lost", "bfloat16"):
        encode("h", np.float32([3.4e38]), "bfloat16")


def test_int32_stands_for_int64_where_tensorrt_has_none():
    engine = HostEngine(previous("int32").files()["step.onnx"])
    stream = stream_of(previous("int64"), engine)
    given = [stream.step(v) for v in (7, -8, 9)]
    assert [y.item() for y in given] == [0, 7, -8]
    assert {y.dtype for y in given} == {stream.states["h"].dtype} == {np.dtype(np.int64)}
    with raises("frame-value-lost", "'x'", 2**40, "int32"):
        stream.step(2**40)
    assert stream.step(0) == 9


ENGINE = SUM.spec
OTHERS = {
    "names": (replace(ENGINE, states=(state("c", 3),)), "names", "takes ['h', 'x']", "['c', 'x'"),
    "outputs": (replace(ENGINE, outputs=(tensor("z", "batch", 3),)), "names", "gives ['h.next', 'y']"),
    "shape": (replace(ENGINE, inputs=(tensor("x", "batch", 4),)), "ports", "'x' as float32 (-1, 3)", "float32 (-1, 4"),
    "rank": (replace(ENGINE, outputs=(tensor("y", "batch"),)), "ports", "'y' as float32 (-1, 3)", "float32 (-1,)"),
    "dtype": (
        replace(ENGINE, inputs=(tensor("x", "batch", 3, dtype="float16"),)), "ports", "takes 'x' as float32", "float16",
    ),
    "state": (replace(ENGINE, states=(state("h", 3, dtype="int64"),)), "ports", "takes 'h' as float32", "int64"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_an_engine_of_another_contract(case):
    other, kind, *values = OTHERS[case]
    with raises(f"tensorrt-engine-{kind}", *values, f"{BUILD} --rebuild"):
        host_session(other, HostEngine(SUM.files()["step.onnx"]))
