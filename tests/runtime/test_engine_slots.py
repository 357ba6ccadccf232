"""The states of many streams on a device, without a GPU: against numpy, and the order of their calls.

TensorRT's on a device in host memory and on the stand-in for CUDA, and ONNX Runtime's on the former. The conformance of
a pool runs on TensorRT's as well, by the fixture `engine`.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from rnn_export.contract.spec import TIME
from rnn_export.errors import BackendUnavailable, RoundBroken
from rnn_export.runtime import load
from rnn_export.runtime.backends.onnxruntime.backend import OrtSession, graph_session
from rnn_export.runtime.backends.onnxruntime.cuda_state_store import OrtCudaStateStore
from rnn_export.runtime.device.cuda import CudaDevice
from rnn_export.runtime.device.state_store import TRANSFERRED, DeviceStateStore

from ..messages import raises  # noqa: TID252
from .graphs import IDS, PAIR, SUM, TABLE, TIME_MAJOR, TOKENS, H, Model, X, Y, frames, previous, spec
from .host_device import HostDevice
from .host_engine import HostEngine, engine_in, host_session

# Neither bound is a power of two, and a round of the lowest is padded too.
PROFILE = (3, 4, 11)
Values = dict[str, np.ndarray]
Opens = Callable[..., DeviceStateStore]


def open_slots(kind: str, model: Model, batch: tuple[int, int, int] = PROFILE) -> DeviceStateStore:
    graph = model.files()["step.onnx"]
    if kind == "onnxruntime":
        return OrtCudaStateStore(graph_session(model.spec, {"step.onnx": graph}).graphs, HostDevice(), "cpu", 0)
    open_device = HostDevice if kind == "host" else CudaDevice
    return host_session(model.spec, HostEngine(graph, batch), open_device).state_store()


@pytest.fixture(params=["host", "cuda", "onnxruntime"])
def opens(request: pytest.FixtureRequest) -> Opens:
    """Slots of a model, on TensorRT's engine in host memory, on the stand-in for CUDA, or of ONNX Runtime."""
    if request.param == "cuda":
        request.getfixturevalue("cuda")
    return lambda model, *batch: open_slots(request.param, model, *batch)


def host_slots(model: Model, batch: tuple[int, int, int] = PROFILE) -> tuple[DeviceStateStore, HostEngine, HostDevice]:
    engine, device = HostEngine(model.files()["step.onnx"], batch), HostDevice()
    return host_session(model.spec, engine, lambda: device).state_store(), engine, device


def zeros(model: Model, n: int) -> Values:
    return {s.name: np.zeros((n, *s.row), s.dtype) for s in model.spec.states}


def filled(slots: DeviceStateStore, count: int) -> DeviceStateStore:
    """With room for `count` streams, whose states are all zeros."""
    slots.grow(count)
    slots.write(np.arange(count), {s.name: np.zeros((count, *s.row), s.dtype) for s in slots.spec.states})
    return slots


# --- against numpy


def summed(y: np.ndarray) -> tuple[Values, Values]:
    return {"y": y}, {"h": y}


def pair_truth(x: Values, h: Values) -> tuple[Values, Values]:
    s, p = x["a"] + h["s"], x["a"] * x["b"] + h["p"]
    return {"sum": s, "dot": p}, {"s": s, "p": p}


def time_major_truth(x: Values, h: Values) -> tuple[Values, Values]:
    y = x["x"].cumsum(0) + h["h"]
    return {"y": y}, {"h": y[-1]}


def previous_truth(x: Values, h: Values) -> tuple[Values, Values]:
    return {"y": h["h"]}, {"h": x["x"]}


TRUTHS = {
    "sum": (SUM, lambda x, h: summed(x["x"] + h["h"])),
    "pair": (PAIR, pair_truth),
    "time major": (TIME_MAJOR, time_major_truth),
    "tokens": (TOKENS, lambda x, h: summed(TABLE[x["id"]] + h["h"])),
    # Rows of one byte and of eight.
    "bytes": (previous("int8"), previous_truth),
    "ids": (previous("int64"), previous_truth),
}


def random_inputs(random: np.random.Generator, model: Model, n: int) -> Values:
    shapes = {
        t.name: [n if d == "batch" else model.spec.chunk if d == TIME else d for d in t.shape]
        for t in model.spec.inputs
    }
    return {t.name: random.integers(0, IDS, shapes[t.name]).astype(t.dtype) for t in model.spec.inputs}


@pytest.mark.parametrize("name", TRUTHS)
def test_ragged_rounds_are_what_numpy_says(opens, name):
    model, truth = TRUTHS[name]
    random, slots = np.random.default_rng(5), opens(model)
    count, want = 5, zeros(model, 5)
    filled(slots, count)
    for turn in range(60):
        if turn % 20 == 19:
            # The room that is new is unset, so what is there has to be kept, and what comes has to be written.
            fresh, count = np.arange(count, count + 9), count + 9
            slots.grow(count)
            values = {n: random.integers(-9, 9, (9, *a.shape[1:])).astype(a.dtype) for n, a in want.items()}
            slots.write(fresh, values)
            want = {n: np.concatenate([a, values[n]]) for n, a in want.items()}
        if turn % 7 == 6:
            reset = random.permutation(count)[:2]
            slots.write(reset, zeros(model, 2))
            for array in want.values():
                array[reset] = 0
        # Up to three pieces of the highest batch.
        ids = random.permutation(count)[: random.integers(1, count + 1)]
        inputs = random_inputs(random, model, len(ids))
        outputs, turned = slots.step(ids, inputs)
        expected, after = truth(inputs, {n: a[ids] for n, a in want.items()})
        for each, array in after.items():
            want[each][ids] = array
        assert turned is None
        assert set(outputs) == set(expected)
        for each, array in outputs.items():
            np.testing.assert_array_equal(array, expected[each], strict=True)
        for each, array in slots.read(np.arange(count)).items():
            np.testing.assert_array_equal(array, want[each], strict=True)


def test_no_stream_is_no_step(opens):
    slots, none = filled(opens(TIME_MAJOR), 4), np.arange(0)
    outputs, turned = slots.step(none, {"x": np.zeros((2, 0, 3), np.float32)})
    assert (outputs["y"].shape, turned) == ((2, 0, 3), None)
    assert slots.read(none)["h"].shape == (0, 3)
    slots.write(none, {"h": np.zeros((0, 3), np.float32)})


def test_many_states_are_moved_in_pieces(opens):
    slots, count = opens(SUM), 2 * TRANSFERRED + 88
    slots.grow(count)
    values, order = frames(count, 3), np.random.default_rng(0).permutation(count)
    slots.write(order, {"h": values})
    np.testing.assert_array_equal(slots.read(order[::-1])["h"], values[::-1])
    assert slots.nbytes == count * 3 * 4


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_states(kind):
    engine = engine_in(SUM, kind)
    slots = filled(host_session(SUM.spec, engine).state_store(), 5)
    assert slots.nbytes == 5 * 3 * 2
    x = np.full((3, 3), 1 + 2**-9, np.float32)
    ids = np.array([4, 0, 2])
    y, _ = slots.step(ids, {"x": x})
    np.testing.assert_array_equal(y["y"], x)
    kept = np.float32(1 + 2**-9 if kind == "float16" else 1)
    np.testing.assert_array_equal(slots.read(np.arange(5))["h"][:, 0], [kept, 0, kept, 0, kept])
    with raises("frame-value-lost", "'h'", "3.39", "e+38", kind):
        slots.write(ids[:1], {"h": np.full((1, 3), 3.4e38, np.float32)})
    np.testing.assert_array_equal(slots.read(ids)["h"], np.full((3, 3), kept))
    if kind == "float16":
        # Infinite is not NaN, until it meets its opposite.
        for value, turned in ((1e38, None), (-1e38, None), (-np.inf, [False, True, False])):
            x[1, 0] = value
            found = slots.step(ids, {"x": x})[1]
            assert (found if found is None else found.tolist()) == turned


# --- what fills a bucket up

NUMBER = {"dtype": "int64", "shape": ("batch",)}
# y = table[h], h' = h + x: a state that is not in the table is an error.
WITHIN = Model(
    spec("within", [replace(X, **NUMBER)], [replace(Y, shape=("batch", 2))], [replace(H, **NUMBER)]),
    [("Gather", ["table", "h"], ["y"], {}), ("Add", ["h", "x"], ["h.next"], {})],
    constants={"table": TABLE},
)


def test_padding_is_a_row_that_is_fed_and_touches_no_stream(opens):
    slots, others = opens(WITHIN), np.array([0, 2, 4])
    slots.grow(6)
    # Those are never set, as a closed stream's.
    unset = slots.read(others)["h"]
    for _ in range(2 * IDS):
        for n in (1, 2, 3):
            ids, start = np.array([5, 3, 1])[:n], np.array([0, 1, 2])[:n]
            slots.write(ids, {"h": start})
            y, _ = slots.step(ids, {"x": np.ones(n, np.int64)})
            np.testing.assert_array_equal(y["y"], TABLE[start])
            np.testing.assert_array_equal(slots.read(ids)["h"], start + 1)
    np.testing.assert_array_equal(slots.read(others)["h"], unset)


def test_padding_is_put_where_no_stream_is(opens):
    """Not where its row is put: a GPU may compute the same row twice and not bit for bit the same."""
    slots = filled(opens(SUM), 9)
    slots.step(np.array([7, 2, 5]), {"x": np.ones((3, 3), np.float32)})
    assert slots.batches[4].take.tolist() == [7, 2, 5, 7]
    assert slots.batches[4].put.tolist() == [7, 2, 5, 9]


# --- NaN

# y = x + 0 h, and h' = h + the root of x; and the reverse.
STATE_NAN = Model(
    spec("state nan", [X], [Y], [H]),
    [("Identity", ["x"], ["y"], {}), ("Sqrt", ["x"], ["root"], {}), ("Add", ["h", "root"], ["h.next"], {})],
)
OUTPUT_NAN = Model(spec("output nan", [X], [Y], [H]), [("Sqrt", ["x"], ["y"], {}), ("Add", ["h", "x"], ["h.next"], {})])


@pytest.mark.parametrize("model", [STATE_NAN, OUTPUT_NAN], ids=["state", "output"])
@pytest.mark.parametrize("bad", [[0], [3], [0, 4, 11], []])
def test_rows_that_turn_nan_are_told_and_their_neighbours_are_not(opens, model, bad):
    slots, x = filled(opens(model), 14), np.ones((13, 3), np.float32)
    x[bad, 1] = -1
    ids = np.random.default_rng(1).permutation(14)[:13]
    y, turned = slots.step(ids, {"x": x})
    assert (turned is None) if not bad else np.flatnonzero(turned).tolist() == bad
    with np.errstate(invalid="ignore"):
        root = np.sqrt(x)
    np.testing.assert_array_equal(y["y"], x if model is STATE_NAN else root)
    np.testing.assert_array_equal(slots.read(ids)["h"], root if model is STATE_NAN else x)
    # What was told once is not told again.
    slots.write(ids, zeros(model, 13))
    assert slots.step(ids, {"x": np.ones((13, 3), np.float32)})[1] is None


# --- the order of its calls


def captured(device: HostDevice) -> list[tuple]:
    return [call[2] for call in device.calls if call[0] == "capture"]


def test_a_steady_round_is_one_launch_and_one_wait():
    slots, engine, device = host_slots(PAIR)
    filled(slots, 9)
    for n in (3, 7):
        inputs = {"a": np.ones((n, 2), np.float32), "b": np.ones((n, 2), np.float32)}
        slots.step(np.arange(n), inputs)
        for _ in range(3):
            device.calls.clear()
            slots.step(np.arange(n), inputs)
            assert device.calls == [("launch", {3: 0, 7: 1}[n]), ("synchronize",)]
    assert engine.contexts == 2


def test_rounds_of_a_size_share_a_bucket():
    slots, engine, device = host_slots(SUM, (3, 4, 11))
    filled(slots, 40)
    sizes = {1: [3], 2: [3], 3: [4], 4: [4], 5: [8], 8: [8], 9: [11], 11: [11], 12: [3, 11], 26: [4, 11]}
    for n, buckets in sizes.items():
        slots.batches.clear()
        slots.step(np.arange(n), {"x": np.zeros((n, 3), np.float32)})
        assert sorted(slots.batches) == buckets
        device.calls.clear()
        slots.step(np.arange(n), {"x": np.zeros((n, 3), np.float32)})
        assert [call[0] for call in device.calls] == ["launch", "synchronize"] * -(-n // 11)
    assert engine.contexts == sum(map(len, sizes.values()))


def test_more_capacity_takes_new_graphs_and_no_new_contexts():
    slots, engine, device = host_slots(SUM)
    filled(slots, 4)
    x = {"x": np.ones((4, 3), np.float32)}
    slots.step(np.arange(4), x)
    device.calls.clear()
    slots.grow(20)
    assert not captured(device)
    np.testing.assert_array_equal(slots.step(np.arange(4), x)[0]["y"], 2 * x["x"])
    np.testing.assert_array_equal(slots.step(np.arange(4), x)[0]["y"], 3 * x["x"])
    assert len(captured(device)) == 1
    assert engine.contexts == 1


def test_states_do_not_pass_the_host_in_a_round_of_onnxruntime():
    slots = filled(open_slots("onnxruntime", SUM), 9)
    slots.step(np.arange(3), {"x": np.ones((3, 3), np.float32)})
    slots.device.calls.clear()
    slots.step(np.arange(3), {"x": np.ones((3, 3), np.float32)})
    kinds = [call[0] for call in slots.device.calls]
    # Its own queue has the step, between the two waits.
    before = ["upload"] * 4 + ["gather", "synchronize"]
    assert kinds == [*before, "flag_nan", "scatter", "download", "download", "synchronize"]


# --- errors


def test_an_error_in_a_first_piece_leaves_every_state(opens):
    slots = filled(opens(TOKENS, (1, 2, 4)), 9)
    ids = np.arange(4)
    slots.step(ids, {"id": np.array([1, 2, 3, 4])})
    before = slots.read(np.arange(9))["h"]
    with raises("device-round-refused", slots.backend, "indices element out of data bounds") as refused:
        slots.step(ids, {"id": np.array([1, 2, 3, IDS])})
    assert not isinstance(refused.value, RoundBroken)
    np.testing.assert_array_equal(slots.read(np.arange(9))["h"], before)
    # In the same bucket; what was refused does not fill it up.
    y, _ = slots.step(ids[:3], {"id": np.array([1, 1, 1])})
    np.testing.assert_array_equal(y["y"], before[:3] + TABLE[1])


def test_an_error_in_a_later_piece_says_how_far_the_round_came():
    slots, _, _ = host_slots(TOKENS, (1, 2, 4))
    filled(slots, 11)
    ids, good = np.arange(10)[::-1], np.arange(10) % IDS
    slots.step(ids, {"id": good})
    before, bad = slots.read(ids)["h"], good.copy()
    bad[5] = IDS
    with raises("round-broken", "tensorrt", "4", "10", "out of data bounds"):
        slots.step(ids, {"id": bad})
    after = before.copy()
    after[:4] += TABLE[good[:4]]
    np.testing.assert_array_equal(slots.read(ids)["h"], after)


def test_what_can_be_refused_is_refused_before_the_first_piece():
    engine = HostEngine(previous("int32").files()["step.onnx"], (1, 2, 4))
    slots = filled(host_session(previous("int64").spec, engine).state_store(), 10)
    x = np.arange(10)
    slots.step(np.arange(10), {"x": x})
    with raises("frame-value-lost", "'x'", 2**40, "int32"):
        slots.step(np.arange(10), {"x": np.where(x == 9, 2**40, 5)})
    np.testing.assert_array_equal(slots.read(np.arange(10))["h"], x)
    # A bucket that cannot be had, of the second piece.
    engine.refuses = True
    with raises("device-call-failed", "tensorrt cannot step 1 streams at once: TensorRT refused the step"):
        slots.step(np.arange(5), {"x": x[:5] + 100})
    np.testing.assert_array_equal(slots.read(np.arange(10))["h"], x)


def test_what_the_gpu_refuses(cuda):
    slots, x = filled(open_slots("cuda", SUM), 4), {"x": np.ones((4, 3), np.float32)}
    slots.step(np.arange(4), x)
    memory = {"cudaMalloc": "cudaErrorMemoryAllocation"}
    launch = {"cuLaunchKernel": "CUDA_ERROR_LAUNCH_FAILED"}
    lost = "cuLaunchKernel gave CUDA_ERROR_LAUNCH_FAILED"
    for fails, call, *said in (
        (memory, lambda: slots.grow(4096), "make room for 4096 streams: cudaMalloc gave", "no memory"),
        (
            memory,
            lambda: slots.step(np.arange(2), {"x": x["x"][:2]}),
            "step 3 streams at once: cudaMalloc",
            "no memory",
        ),
        (memory, lambda: slots.read(np.arange(2)), "move the states of 2 streams: cudaMalloc gave", "no memory"),
        (memory, lambda: open_slots("cuda", SUM), "open a pool: cudaMalloc gave", "no memory"),
        (launch, lambda: slots.read(np.arange(4)), f"read the states: {lost}"),
        (launch, lambda: slots.write(np.arange(4), {"h": x["x"]}), f"set the states: {lost}"),
    ):
        if fails is launch:
            cuda.fails = {}
            slots.read(np.arange(4))
        cuda.fails = fails
        with raises("device-call-failed", f"tensorrt cannot {said[0]}", *said[1:]):
            call()
    cuda.fails = memory
    y, _ = slots.step(np.arange(4), x)
    np.testing.assert_array_equal(y["y"], np.full((4, 3), 2))
    cuda.fails = {}
    slots.grow(4096)
    np.testing.assert_array_equal(slots.read(np.arange(4))["h"], y["y"])


def test_slots_on_cuda_give_back_all_they_held(cuda):
    slots = filled(open_slots("cuda", SUM), 4)
    for n in (1, 4):
        slots.step(np.arange(n), {"x": np.ones((n, 3), np.float32)})
    slots.grow(9)
    y, _ = slots.step(np.arange(4), {"x": np.ones((4, 3), np.float32)})
    assert cuda.calls.count("cudaGraphInstantiate") == 3
    del slots
    assert not cuda.handles
    assert not cuda.memory
    np.testing.assert_array_equal(y["y"][0], [3, 3, 3])


# --- ONNX Runtime on CUDA


def cuda_session() -> OrtSession:
    """A CPU session that claims to be on CUDA."""
    graphs = graph_session(SUM.spec, {"step.onnx": SUM.files()["step.onnx"]}).graphs
    return OrtSession(replace(graphs, device="cuda:0"))


def test_a_session_on_cuda_keeps_its_slots_there(cuda, monkeypatch):
    slots = cuda_session().state_store()
    assert isinstance(slots, OrtCudaStateStore)
    assert (slots.memory, slots.number, slots.device.name) == ("cuda", 0, "cuda:0")
    on_cpu = graph_session(SUM.spec, {"step.onnx": SUM.files()["step.onnx"]}).state_store()
    assert not isinstance(on_cpu, DeviceStateStore)
    cuda.fails = {"cudaStreamCreateWithFlags": "cudaErrorMemoryAllocation"}
    with raises("device-call-failed", "onnxruntime cannot open a pool: cudaStreamCreateWithFlags gave"):
        cuda_session().state_store()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with raises("cuda-python-missing"):
        cuda_session().state_store()


@pytest.mark.gpu
def test_a_pool_of_onnxruntime_on_a_gpu(bundle):
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("gpu: this onnxruntime has no CUDA: pip install 'rnn-export[gpu]'")
    try:
        pool = load(bundle("sum"), backend="onnxruntime", device="cuda").pool(capacity=300)
    except BackendUnavailable as error:
        pytest.skip(f"gpu: {error}")
    random, ids = np.random.default_rng(0), np.array([pool.open() for _ in range(300)])
    want = np.zeros((300, 3), np.float32)
    for _ in range(50):
        chosen = random.permutation(300)[: random.integers(1, 301)]
        x = random.integers(-9, 9, (len(chosen), 3)).astype(np.float32)
        want[chosen] += x
        np.testing.assert_array_equal(pool.step(ids[chosen], x), want[chosen])
