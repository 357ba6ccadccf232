"""Remote engines against local ones, on servers that stand in for Triton; tests/triton has the real ones."""

import gc
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import grpc
import numpy as np
import pytest

from rnn_export.errors import StreamError
from rnn_export.runtime import load
from rnn_export.runtime.backends.remote.endpoint import Endpoint

from ..messages import raises  # noqa: TID252
from .graphs import IDS, MODELS, START, SUM, frames
from .triton_stand_in import Fault, StandIn, inputs, same

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


def home(server_list, stream):
    """The servers' order for the only sequence of a stream."""
    (sequence,) = stream._buffers.slots.sequences
    by_address = {server.address: server for server in server_list}
    first = by_address[sequence.endpoint.address]
    return first, next(s for s in server_list if s is not first)


# Triton's onnxruntime and tensorrt backends keep no states of these.


# Triton's onnxruntime and tensorrt backends keep no states of these.
NARROW = {f"previous_{dtype}" for dtype in ("bool", "int8", "uint8", "int16")}
SERVED = [
    (n, w) for n, m in MODELS.items() for w in WIRES if not m.spec.sequence_only and (w == "bytes" or n not in NARROW)
]


@pytest.mark.parametrize(("name", "wire"), SERVED)
def test_a_stream_is_what_a_local_one_is(serve, bundle, name, wire):
    spec, remote = MODELS[name].spec, reach(serve(MODELS[name], wire))
    local, far = load(bundle(name), backend="onnxruntime").stream(batch=3), remote.stream(batch=3)
    for step, x in enumerate(inputs(spec, 3, 11)):
        same(far.step(x), local.step(x))
        if step in (2, 7):
            same(far.states, local.states)
            assert far.snapshot() == local.snapshot()
        if step == 7:
            far = remote.stream(batch=3)
            far.restore(local.snapshot())
    far.reset()
    local.reset()
    for x in inputs(spec, 3, 3, seed=1):
        same(far.step(x), local.step(x))
    same(far.states, local.states)


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
    xs, stream = frames(40, 3), reach(serve()).stream(states={"h": START})
    same(np.concatenate([stream.run(xs[:7]), stream.run(xs[7:])]), np.cumsum(xs, 0) + START)
    same(stream.states["h"], xs.sum(0, keepdims=True) + START)


def test_what_the_engine_says_of_itself(serve):
    servers = serve()
    engine = reach(servers)
    assert engine.spec == SUM.spec
    assert (engine.backend, engine.precision, engine.batches) == ("remote", "fp32", (1, None))
    assert engine.device == f"grpc://{servers[0].address},{servers[1].address}"
    assert load(f"{engine.device}/m", "remote", "fp32", engine.device, 1).spec == SUM.spec


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
@pytest.mark.parametrize(("name", "after"), [("sum", 1), ("delayed_chunked", 1), ("delayed_chunked", 6), ("stored", 4)])
def test_where_a_server_is_gone_the_stream_goes_on_at_the_other(serve, bundle, name, wire, after):
    spec, servers = MODELS[name].spec, serve(MODELS[name], wire)
    engine = reach(servers)
    local, far = load(bundle(name), backend="onnxruntime").stream(), engine.stream()
    for step, x in enumerate(inputs(spec, 1, 12)):
        if step == after:
            first, other = home(servers, far)
            first.stop()
        got, want = far.step(x[0]), local.step(x[0])
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
    ids, xs = [pool.open() for _ in range(30)], frames(20, 30, 3)
    for step, total in enumerate(xs.cumsum(0)):
        if step == 9:
            lost = servers[1]
            there = len(lost.sequences)
            before = [{r[0] for r in s.requests} for s in servers]
            lost.stop()
        same(pool.step(ids, xs[step]), total)
    assert 0 < there < 30
    assert engine.metrics()["moves"] == there
    moved = sum(len({r[0] for r in s.requests} - old) for s, old in zip(servers, before, strict=True))
    assert moved == there


def test_streams_of_one_engine_in_many_threads(serve):
    servers = serve()
    engine = reach(servers)

    def drive(seed):
        xs, stream = frames(40, 3, seed=seed), engine.stream()
        same(np.stack([stream.step(x) for x in xs]), xs.cumsum(0))

    with ThreadPoolExecutor(12) as threads:
        driven = [threads.submit(drive, seed) for seed in range(12)]
        time.sleep(0.05)
        servers[0].stop()
        for one in driven:
            one.result()
    assert engine.metrics()["frames"] == 12 * 40
    assert engine.metrics()["failures"] == 0


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
    given = []

    def served() -> bool:
        with suppress(StreamError):
            given.append(stream.step(xs[6]))
        return bool(given)

    wait_until(served)
    same(given[0], xs.sum(0))


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


@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "INTERNAL", "NOT_FOUND", "RESOURCE_EXHAUSTED", "CANCELLED", "lost twice"]
)
def test_any_failure_of_a_server_is_a_reason_to_move(serve, code):
    servers = serve()
    stream = reach(servers).stream()
    xs = frames(3, 3)
    stream.step(xs[0])
    first, _ = home(servers, stream)
    lost = Fault(grpc.StatusCode.INVALID_ARGUMENT, "... must specify the START flag ...")
    first.faults = [lost, lost] if code == "lost twice" else [Fault(grpc.StatusCode[code], "out of order")]
    same(stream.step(xs[1]), xs[:2].sum(0))
    assert home(servers, stream)[0] is not first
    same(stream.step(xs[2]), xs.sum(0))


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


OTHER = replace(SUM, spec=replace(SUM.spec, digest="ab" * 32))
TWO = "grpc://{0},{1}/m"
# What is served, at which address, with which options of `load`, and what is said.
UNUSABLE = {
    "a backend": ((SUM,), "grpc://{0}/m", {"backend": "onnxruntime"}, ("remote-option-refused", "'onnxruntime'")),
    "a precision": ((SUM,), "grpc://{0}/m", {"precision": "int8"}, ("remote-option-refused", "precision='int8'")),
    "a device": ((SUM,), "grpc://{0}/m", {"device": "cuda:1"}, ("remote-option-refused", "device='cuda:1'")),
    "threads": ((SUM,), "grpc://{0}/m", {"threads": 2}, ("remote-option-refused", "threads=2")),
    "no such model": (
        (SUM,),
        "grpc://{0}/vad",
        {},
        ("remote-servers-silent", "Request for unknown model: 'vad' is not found\n"),
    ),
    "silent servers": (
        (),
        "grpc://127.0.0.1:1,127.0.0.1:2/m",
        {},
        ("remote-servers-silent", "\n  127.0.0.1:2: UNAVAIL"),
    ),
    "other models": (
        (SUM, OTHER),
        TWO,
        {},
        ("remote-servers-differ", "{1}, it serves another model: its digest", "abab"),
    ),
    "other wires": ((SUM, None), TWO, {}, ("remote-servers-differ", "{1}, it serves this model as ('fp32', 'tensors'")),
}


@pytest.mark.parametrize(("models", "at", "options", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_servers_that_do_not_fit_are_refused(serve, models, at, options, message):
    started = [serve(model or SUM, "bytes" if model else "tensors", count=1)[0] for model in models]
    addresses = [server.address for server in started]
    with raises(*(text.format(*addresses) for text in message)):
        load(at.format(*addresses), **options)


def test_a_bundle_and_its_servers_must_be_of_one_model(serve, bundle):
    (server,) = serve(count=1)
    at = f"grpc://{server.address}/m"
    engine = load(bundle("sum"), backend=at)
    assert (engine.backend, engine.spec) == ("remote", SUM.spec)
    digests = (SUM.spec.digest[:12], MODELS["stored"].spec.digest[:12])
    with raises("remote-other-model", *digests):
        load(bundle("stored"), backend=at)


def test_a_model_of_someone_else_is_refused(serve):
    (server,) = serve(count=1)
    told = server.config.parameters
    for name, value, *message in (
        ("wire", "pigeons", "remote-protocol-unknown", "'pigeons'", "bytes, tensors"),
        ("wire", "tensors", "remote-value-count"),
        ("spec", "{}", "remote-parameters-unreadable", "'m'", "the stream contract must have"),
        ("initial_states", "!", "remote-parameters-unreadable", "'m'"),
        ("spec", None, "remote-not-ours", "its config has no parameter rnn_export.spec"),
    ):
        if value is None:
            del told[f"rnn_export.{name}"]
        else:
            told[f"rnn_export.{name}"].string_value = value
        if name == "initial_states":
            told["rnn_export.spec"].string_value = SUM.spec.dumps()
        with raises(*message):
            load(f"grpc://{server.address}/m")


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
