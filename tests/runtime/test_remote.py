"""Remote engines against local ones, on servers that stand in for Triton; tests/triton has the real ones."""

import gc
import subprocess
import sys
import threading
import time
from dataclasses import replace

import grpc
import numpy as np
import pytest

from rnn_export.contract.precision import Tolerance
from rnn_export.errors import StreamError
from rnn_export.runtime import load
from rnn_export.runtime.backends.remote.endpoint import Endpoint
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import Golden

from ..messages import raises  # noqa: TID252
from .graphs import IDS, MODELS, START, SUM, frames
from .triton_stand_in import Fault, StandIn

WIRES = ("bytes", "tensors")
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def serve():
    """Starts stand-ins, two unless asked for another number, and gives them; `load` them with `reach`."""
    started = []

    def start(model=SUM, wire="bytes", count=2):
        servers = [StandIn(model, wire).start() for _ in range(count)]
        started.extend(servers)
        return servers

    yield start
    for server in started:
        server.stop()


def reach(servers, every=4, deadline=5000):
    at = ",".join(server.address for server in servers)
    return load(f"grpc://{at}/m?snapshot_every={every}&deadline_ms={deadline}")


def inputs(spec, rows, steps, seed=0):
    """For each step, by name, (rows, chunk, ...): as a stream and a pool take them with several rows."""
    random = np.random.default_rng(seed)
    for _ in range(steps):
        given = {}
        for tensor in spec.inputs:
            shape = (rows, *(() if spec.chunk == 1 or tensor.axis("time") is None else (spec.chunk,)), *tensor.frame)
            high = IDS if tensor.dtype == "int64" else 10 if tensor.dtype != "bool" else 2
            low = -9 if tensor.dtype == "float32" else 0
            given[tensor.name] = random.integers(low, high, shape).astype(tensor.dtype)
        yield given if len(given) > 1 else next(iter(given.values()))


def same(got, want):
    if isinstance(want, dict):
        assert list(got) == list(want)
        for name in want:
            same(got[name], want[name])
    else:
        np.testing.assert_array_equal(got, want, strict=True)


def home(server_list, stream):
    """The servers' order for the only sequence of a stream."""
    (sequence,) = stream._buffers.slots.sequences
    by_address = {server.address: server for server in server_list}
    first = by_address[sequence.endpoint.address]
    return first, next(s for s in server_list if s is not first)


# Triton's onnxruntime and tensorrt backends keep no states of these.
NARROW = {f"previous_{dtype}" for dtype in ("bool", "int8", "uint8", "int16")}


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        (n, w)
        for n in MODELS
        for w in WIRES
        if not MODELS[n].spec.sequence_only and not (w == "tensors" and n in NARROW)
    ],
)
def test_a_stream_is_what_a_local_one_is(serve, bundle, name, wire):
    spec = MODELS[name].spec
    local = load(bundle(name), backend="onnxruntime").stream(batch=3)
    far = reach(serve(MODELS[name], wire)).stream(batch=3)
    for step, x in enumerate(inputs(spec, 3, 11)):
        same(far.step(x), local.step(x))
        if step in (2, 7):
            same(far.states, local.states)
            assert far.snapshot() == local.snapshot()
    far.reset()
    local.reset()
    for x in inputs(spec, 3, 3, seed=1):
        same(far.step(x), local.step(x))
    same(far.states, local.states)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", ["sum", "delayed_chunked", "time_major", "stored", "pair", "mixed_by_step"])
def test_snapshots_travel_both_ways(serve, bundle, name, wire):
    spec, engine = MODELS[name].spec, load(bundle(name), backend="onnxruntime")
    remote = reach(serve(MODELS[name], wire))
    steps = list(inputs(spec, 2, 12))
    whole, first, second, third = (e.stream(batch=2) for e in (engine, engine, remote, engine))
    want = [whole.step(x) for x in steps]
    got = [first.step(x) for x in steps[:5]]
    second.restore(first.snapshot())
    got += [second.step(x) for x in steps[5:8]]
    third.restore(second.snapshot())
    got += [third.step(x) for x in steps[8:]]
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            same(one, other)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", ["sum", "delayed", "time_major", "pair"])
def test_a_pool_is_what_a_local_one_is(serve, bundle, name, wire):
    spec = MODELS[name].spec
    pools = [e.pool(capacity=8) for e in (reach(serve(MODELS[name], wire)), load(bundle(name), backend="onnxruntime"))]
    far, local = pools
    ids = [[pool.open() for _ in range(5)] for pool in pools]
    random = np.random.default_rng(0)
    for x in inputs(spec, 5, 12):
        rows = random.permutation(5)[: random.integers(1, 6)]
        cut = {n: a[rows] for n, a in x.items()} if isinstance(x, dict) else x[rows]
        got, want = (pool.step([some[i] for i in rows], cut) for pool, some in zip(pools, ids, strict=True))
        same(got, want)
        assert far.snapshot(ids[0][0]) == local.snapshot(ids[1][0])
    again = [pool.open(snapshot=far.snapshot(ids[0][1])) for pool in pools]
    for x in inputs(spec, 1, 3, seed=2):
        same(*(pool.step([one], x) for pool, one in zip(pools, again, strict=True)))


def test_a_run_and_states_to_begin_from(serve):
    engine = reach(serve())
    xs = frames(40, 3)
    stream = engine.stream(states={"h": START})
    same(stream.run(xs[:7]), np.cumsum(xs[:7], 0) + START)
    same(stream.run(xs[7:]), np.cumsum(xs, 0)[7:] + START)
    same(stream.states["h"], xs.sum(0, keepdims=True) + START)


def test_what_the_engine_says_of_itself(serve):
    servers = serve()
    engine = reach(servers)
    assert engine.spec == SUM.spec
    assert (engine.backend, engine.precision, engine.batches) == ("remote", "fp32", (1, None))
    assert engine.device == f"grpc://{servers[0].address},{servers[1].address}"
    assert load(f"{engine.device}/m", "remote", "fp32", engine.device, 1).spec == SUM.spec


def test_golden_vectors_hold_for_a_server(serve):
    xs = np.stack([frames(24, 3, seed=n) for n in range(2)])
    sums = np.cumsum(xs, 1)
    at = np.array([8, 24])
    golden = Golden({"x": xs}, {"y": sums}, {"h": sums[:, at - 1]}, at, Tolerance(0, 0))
    report = replay_golden(reach(serve()), golden)
    report.raise_for_failure("no")
    assert report.backend == "remote"


# --- what is sent


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("name", "seeded"), [("sum", False), ("stored", False), ("delayed", True)])
def test_a_start_at_the_initial_states_needs_no_seed(serve, name, seeded, wire):
    (server,) = serve(MODELS[name], wire, count=1)
    stream = reach([server], every=3).stream()
    for x in inputs(MODELS[name].spec, 1, 7):
        stream.step(x[0])
    assert len({r[0] for r in server.requests}) == 1
    assert 0 < server.requests[0][0] < 2**63
    assert [r[1] for r in server.requests] == [True] + [False] * 6
    assert [r[3] for r in server.requests] == [seeded and wire == "bytes"] + [False] * 6
    assert [r[4] for r in server.requests] == [False, False, True] * 2 + [False]


def test_states_cost_the_frames_since_the_last_snapshot(serve):
    (server,) = serve(count=1)
    stream = reach([server], every=4).stream()
    for x in frames(6, 3):
        stream.step(x)
    _ = stream.states
    assert [r[1:] for r in server.requests[6:]] == [(True, False, True, False), (False, False, False, True)]
    _ = stream.states
    assert len(server.requests) == 8
    stream.step(frames(1, 3)[0])
    assert server.requests[8][1] is False


def test_sequences_end_with_their_streams(serve):
    (server,) = serve(count=1)
    engine = reach([server])
    stream = engine.stream(batch=2)
    pool = engine.pool()
    ids = [pool.open() for _ in range(3)]
    stream.step(frames(2, 3))
    pool.step(ids, frames(3, 3))
    assert len(server.sequences) == 5
    pool.close(ids[:2])
    wait_until(lambda: len(server.sequences) == 3)
    del stream
    gc.collect()
    wait_until(lambda: len(server.sequences) == 1)
    del pool, engine
    gc.collect()
    wait_until(lambda: not server.sequences)
    assert sum(r[2] for r in server.requests) == 5


def test_sequences_end_with_the_process(serve):
    (server,) = serve(count=1)
    code = (
        "from rnn_export.runtime import load; import numpy as np\n"
        f"stream = load('grpc://{server.address}/m').stream(); print(stream.step(np.ones(3, np.float32)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1. 1. 1.]\n", "")
    assert [r[1:3] for r in server.requests] == [(True, False), (False, True)]
    assert not server.sequences


def wait_until(true, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- a server that fails


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", ["sum", "delayed_chunked", "stored"])
@pytest.mark.parametrize("after", [1, 4, 6])
def test_where_a_server_is_gone_the_stream_goes_on_at_the_other(serve, bundle, name, wire, after):
    spec = MODELS[name].spec
    servers = serve(MODELS[name], wire)
    engine = reach(servers)
    local, far = load(bundle(name), backend="onnxruntime").stream(), engine.stream()
    for step, x in enumerate(inputs(spec, 1, 12)):
        if step == after:
            first, other = home(servers, far)
            first.stop()
        x = {n: a[0] for n, a in x.items()} if isinstance(x, dict) else x[0]
        got, want = far.step(x), local.step(x)
        assert (got is None) == (want is None)
        if want is not None:
            same(got, want)
    same(far.states, local.states)
    assert other.requests
    metrics = engine.metrics()
    assert (metrics["frames"], metrics["moves"], metrics["failures"]) == (12, 1, 0)
    assert metrics["replays"] >= after % 4
    assert 0 < metrics["gap_s"] < 5


def test_of_the_streams_of_a_pool_only_those_of_the_lost_server_move(serve):
    servers = serve(count=3)
    engine = reach(servers)
    pool = engine.pool()
    ids = [pool.open() for _ in range(30)]
    total = np.zeros((30, 3), np.float32)
    for step in range(20):
        if step == 9:
            lost = servers[1]
            there = len(lost.sequences)
            before = [{r[0] for r in s.requests} for s in servers]
            lost.stop()
        x = frames(30, 3, seed=step)
        total += x
        same(pool.step(ids, x), total)
    assert 0 < there < 30
    assert engine.metrics()["moves"] == there
    moved = sum(len({r[0] for r in s.requests} - old) for s, old in zip(servers, before, strict=True))
    assert moved == there


def test_a_deadline_moves_the_stream_under_another_id(serve):
    servers = serve()
    engine = reach(servers, deadline=500)
    stream = engine.stream()
    xs = frames(8, 3)
    for x in xs[:3]:
        stream.step(x)
    first, other = home(servers, stream)
    first.delay = 1.2
    same(stream.step(xs[3]), xs[:4].sum(0))
    first.delay = 0.0
    for n in range(4, 8):
        same(stream.step(xs[n]), xs[: n + 1].sum(0))
    assert [r[1] for r in other.requests] == [True] + [False] * 7
    assert {r[0] for r in other.requests}.isdisjoint({r[0] for r in first.requests})
    assert 0.4 <= engine.metrics()["gap_s"] < 5
    # The frame may have been fed there, so the sequence is ended.
    wait_until(lambda: not first.sequences)


def test_a_server_that_is_too_slow_is_said_to_be_and_the_frame_was_not_fed(serve):
    (server,) = serve(count=1)
    engine = reach([server], deadline=400)
    stream = engine.stream()
    xs = frames(3, 3)
    stream.step(xs[0])
    server.delay = 1.0
    with pytest.raises(StreamError) as caught:
        stream.step(xs[1])
    assert "no server could take the frame, and the stream is as before it." in str(caught.value)
    passed = "400 ms passed; is the server over capacity (--streams), or deadline_ms short?"
    assert f"{server.address}: {passed}" in str(caught.value)
    server.delay = 0.0
    # Late requests of the old sequence come in between, and must not count.
    time.sleep(1.1)
    same(stream.step(xs[2]), xs[0] + xs[2])
    assert engine.metrics()["failures"] == 1


def test_an_interrupt_in_the_making_of_a_call_hangs_nobody(serve, monkeypatch):
    """Ctrl-C then leaves gRPC with a call that no thread will ever complete, and a channel that never closes."""
    (server,) = serve(count=1)
    engine = reach([server])
    stream = engine.stream()
    xs = frames(3, 3)
    same(stream.step(xs[0]), xs[0])

    begin, interrupted = grpc._channel._run_channel_spin_thread, []

    def interrupt(state):
        if state in interrupted:
            interrupted.remove(state)
            raise KeyboardInterrupt
        begin(state)

    monkeypatch.setattr(grpc._channel, "_run_channel_spin_thread", interrupt)
    broken = Endpoint(server.address, "m", 1.0)
    of_stream = engine._session.servers.endpoints[server.address]
    for endpoint, call in ((of_stream, lambda: stream.step(xs[1])), (broken, lambda: broken.fetch_model(1.0))):
        state = endpoint.channels[-1]._call_state
        # The thread of the call before may still be there, and would take the next one.
        wait_until(lambda state=state: not state.managed_calls)
        interrupted.append(state)
        with pytest.raises(KeyboardInterrupt):
            call()
    same(stream.step(xs[1]), xs[0] + xs[1])
    broken.close(0.0)
    assert engine.metrics()["moves"] == 0


def test_where_no_server_is_left_each_is_named_and_a_later_step_goes_on(serve):
    servers = serve()
    stream = reach(servers).stream()
    xs = frames(7, 3)
    for x in xs[:6]:
        stream.step(x)
    for server in servers:
        server.stop()
    with pytest.raises(StreamError) as caught:
        stream.step(xs[0])
    for server in servers:
        assert f"\n  {server.address}: UNAVAILABLE: " in str(caught.value)
    with raises("remote-no-server-left"):
        stream.snapshot()
    servers[0].start()
    end, total = time.monotonic() + 5, None
    while total is None:
        try:
            total = stream.step(xs[6])
        except StreamError:
            assert time.monotonic() < end
            time.sleep(0.05)
    same(total, xs.sum(0))


def test_an_expired_sequence_begins_again_where_it_was(serve):
    (server,) = serve(count=1)
    engine = reach([server])
    stream = engine.stream()
    xs = frames(9, 3)
    for x in xs[:7]:
        stream.step(x)
    server.sequences.clear()
    same(stream.step(xs[7]), xs[:8].sum(0))
    same(stream.step(xs[8]), xs.sum(0))
    assert len({r[0] for r in server.requests}) == 1
    metrics = engine.metrics()
    assert (metrics["reseeds"], metrics["moves"], metrics["replays"]) == (1, 0, 3)


def test_a_server_that_loses_a_sequence_time_and_again_is_left(serve):
    servers = serve()
    stream = reach(servers).stream()
    xs = frames(3, 3)
    stream.step(xs[0])
    first, _ = home(servers, stream)
    lost = Fault(grpc.StatusCode.INVALID_ARGUMENT, "... must specify the START flag ...")
    first.faults = [lost, lost]
    same(stream.step(xs[1]), xs[:2].sum(0))
    assert home(servers, stream)[0] is not first
    same(stream.step(xs[2]), xs.sum(0))


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "NOT_FOUND", "RESOURCE_EXHAUSTED", "CANCELLED", "UNKNOWN"])
def test_any_failure_of_a_server_is_a_reason_to_move(serve, code):
    servers = serve()
    stream = reach(servers).stream()
    xs = frames(3, 3)
    stream.step(xs[0])
    first, _ = home(servers, stream)
    first.faults = [Fault(grpc.StatusCode[code], "out of order")]
    same(stream.step(xs[1]), xs[:2].sum(0))
    assert home(servers, stream)[0] is not first


def test_a_server_that_failed_is_asked_last_and_later_again(serve, monkeypatch):
    servers = serve()
    engine = reach(servers)
    monkeypatch.setattr("rnn_export.runtime.backends.remote.endpoint.DOWN", 0.3)
    stream = engine.stream()
    stream.step(frames(1, 3)[0])
    first, _ = home(servers, stream)
    first.faults = [Fault(UNAVAILABLE, "stopping")]
    stream.step(frames(1, 3)[0])
    for many in range(2):
        seen = len(first.requests)
        streams = [engine.stream() for _ in range(16)]
        for one in streams:
            one.step(frames(1, 3)[0])
        assert (len(first.requests) > seen) is bool(many)
        time.sleep(0.4)


# --- a frame that is refused


def test_a_refused_frame_moves_nobody(serve):
    servers = serve(MODELS["tokens"])
    engine = reach(servers)
    stream = engine.stream()
    stream.step(1)
    first, other = home(servers, stream)
    with raises("remote-frame-refused", first.address, "onnxruntime refused the frame"):
        stream.step(IDS)
    same(stream.step(2), MODELS["tokens"].constants["table"][[1, 2]].sum(0))
    assert not other.requests
    assert engine.metrics()["moves"] == 0


def test_where_one_row_fails_no_stream_of_the_pool_has_moved_on(serve):
    pool = reach(serve(MODELS["tokens"])).pool()
    ids = [pool.open() for _ in range(6)]
    table = MODELS["tokens"].constants["table"]
    same(pool.step(ids, np.arange(6) % IDS), table[np.arange(6) % IDS])
    with raises("remote-frame-refused", "row 3 of 6", "1 more failed"):
        pool.step(ids, np.array([0, 1, 2, IDS, 4, IDS + 1]))
    same(pool.step(ids, np.zeros(6, np.int64)), table[np.arange(6) % IDS] + table[0])


def test_a_nan_inside_is_told_to_the_pool(serve):
    """Frames are finite, but their product is Inf, and then there is Inf - Inf."""
    pool = reach(serve(MODELS["pair"])).pool(on_nan="reset")
    ids = [pool.open(), pool.open()]
    a, b = np.array([[1e30] * 2, [2] * 2], np.float32), np.array([[1e30] * 2, [3] * 2], np.float32)
    with np.errstate(over="ignore"):
        same(pool.step(ids, {"a": a, "b": b})["dot"], a * b)
    assert pool.metrics()["nan"] == 0
    same(pool.step(ids, {"a": a, "b": -b})["dot"], np.array([[np.nan] * 2, [0] * 2], np.float32))
    assert pool.metrics()["nan"] == 1
    same(pool.step(ids, {"a": b / b, "b": b / b})["dot"], np.ones((2, 2), np.float32))


def test_a_nan_in_a_state_is_told_when_the_states_are_fetched(serve):
    """Inf - Inf, in a state alone."""
    nodes = [
        ("Identity", ["x"], ["y"], {}),
        ("Mul", ["x", "x"], ["xx"], {}),
        ("Sub", ["xx", "xx"], ["zero"], {}),
        ("Add", ["zero", "h"], ["h.next"], {}),
    ]
    pool = reach(serve(replace(SUM, step=nodes)), every=2).pool(on_nan="close")
    ids = [pool.open(), pool.open()]
    x = np.array([[1e30] * 3, [1] * 3], np.float32)
    same(pool.step(ids, x), x)
    assert pool.ids == ids
    same(pool.step(ids, x), x)
    assert pool.ids == ids[1:]


# --- servers that cannot be used


def refused(address, *message, **how):
    with raises(*message):
        load(address, **how)


def test_what_does_not_fit_the_server_is_refused(serve):
    (server,) = serve(count=1)
    at = f"grpc://{server.address}/m"
    refused(at, "remote-option-refused", "backend='onnxruntime'", backend="onnxruntime")
    refused(at, "remote-option-refused", "precision='int8'", precision="int8")
    refused(at, "remote-option-refused", "device='cuda:1'", device="cuda:1")
    refused(at, "remote-option-refused", "threads=2", threads=2)
    refused(f"grpc://{server.address}/vad", "remote-servers-silent", "Request for unknown model: 'vad' is not found\n")


def test_where_no_server_answers_each_is_named(serve):
    servers = serve()
    for server in servers:
        server.stop()
    refused(
        f"grpc://{servers[0].address},{servers[1].address}/m",
        "remote-servers-silent",
        f"\n  {servers[1].address}: UNAVAILABLE",
    )


def test_a_server_that_is_down_at_first_is_used_when_it_is_there(serve):
    servers = serve()
    servers[0].stop()
    engine = reach(servers)
    stream = engine.stream()
    xs = frames(4, 3)
    same(stream.step(xs[0]), xs[0])
    servers[0].start()
    servers[1].stop()
    time.sleep(1.2)
    same(stream.step(xs[1]), xs[:2].sum(0))
    assert servers[0].requests


def test_a_model_of_someone_else_is_refused(serve):
    (server,) = serve(count=1)
    at = f"grpc://{server.address}/m"
    server.config.parameters["rnn_export.wire"].string_value = "pigeons"
    refused(at, "remote-protocol-unknown", "'pigeons'", "bytes, tensors")
    server.config.parameters["rnn_export.wire"].string_value = "tensors"
    refused(at, "remote-value-count")
    server.config.parameters["rnn_export.spec"].string_value = "{}"
    refused(at, "remote-parameters-unreadable", "'m'", "the stream contract must have")
    server.config.parameters["rnn_export.initial_states"].string_value = "!"
    server.config.parameters["rnn_export.spec"].string_value = SUM.spec.dumps()
    refused(at, "remote-parameters-unreadable", "'m'")
    del server.config.parameters["rnn_export.spec"]
    refused(at, "remote-not-ours", "its config has no parameter rnn_export.spec")


OTHER = replace(SUM, spec=replace(SUM.spec, digest="ab" * 32))


def test_servers_of_different_models_are_refused(serve):
    servers = [*serve(count=1), *serve(OTHER, count=1)]
    at = ",".join(server.address for server in servers)
    refused(
        f"grpc://{at}/m",
        "remote-servers-differ",
        f"{servers[1].address}, it serves another model: its digest starts with abab",
    )
    servers = [*serve(count=1), *serve(wire="tensors", count=1)]
    at = ",".join(server.address for server in servers)
    refused(
        f"grpc://{at}/m", "remote-servers-differ", f"{servers[1].address}, it serves this model as ('fp32', 'tensors'"
    )


def test_a_server_that_comes_back_with_another_model_is_not_used(serve):
    servers = serve()
    stream = reach(servers).stream()
    xs = frames(4, 3)
    stream.step(xs[0])
    first, other = home(servers, stream)
    first.stop()
    stream.step(xs[1])
    changed = StandIn(OTHER, "bytes")
    changed.port = first.port
    changed.start()
    try:
        other.stop()
        time.sleep(1.2)
        with raises("remote-no-server-left", f"{first.address}: it serves another model"):
            stream.step(xs[2])
        assert not changed.requests
    finally:
        changed.stop()


def test_a_server_whose_model_was_replaced_is_left(serve):
    """Its connection stands, and all that it says is that the sequence is not there."""
    servers = serve()
    stream = reach(servers).stream()
    xs = frames(2, 3)
    stream.step(xs[0])
    first, other = home(servers, stream)
    first.config.CopyFrom(StandIn(OTHER, "bytes").config)
    first.sequences.clear()
    same(stream.step(xs[1]), xs.sum(0))
    assert [r[1] for r in other.requests] == [True, False]
    assert not any(r[1] for r in first.requests[1:])


def test_a_bundle_and_its_servers_must_be_of_one_model(serve, bundle):
    (server,) = serve(count=1)
    at = f"grpc://{server.address}/m"
    engine = load(bundle("sum"), backend=at)
    assert (engine.backend, engine.spec) == ("remote", SUM.spec)
    with raises("remote-other-model"):
        load(bundle("stored"), backend=at)


# --- threads


def test_streams_of_one_engine_in_many_threads(serve):
    servers = serve()
    engine = reach(servers)
    wrong = []

    def drive(seed):
        xs = frames(40, 3, seed=seed)
        stream, total = engine.stream(), np.zeros(3, np.float32)
        for x in xs:
            total += x
            if not np.array_equal(stream.step(x), total):
                wrong.append(seed)

    threads = [threading.Thread(target=drive, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    servers[0].stop()
    for thread in threads:
        thread.join()
    assert not wrong
    assert engine.metrics()["frames"] == 12 * 40
    assert engine.metrics()["failures"] == 0
