"""Bundles served by a real Triton, called with NVIDIA's own client: every sequence equals a local stream."""

import queue
import time
from collections.abc import Callable

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from rnn_export.export.triton.repository import write_repository
from rnn_export.runtime import load

from ..runtime.graphs import MODELS, START, frames  # noqa: TID252
from .calls import Caller
from .server import Server

pytestmark = pytest.mark.slow
STARTED = r"must specify the START flag"


@pytest.fixture(scope="module")
def sums(serve_long: Callable[..., Server]) -> Server:
    """y = the sum of all x so far: small whole numbers, so every order of adding gives the same."""
    return serve_long("sum")


@pytest.fixture
def caller(sums: Server) -> Caller:
    with Caller(sums.grpc, "sum") as caller:
        yield caller


def code(error: pytest.ExceptionInfo[InferenceServerException]) -> str:
    return str(error.value.status()).removeprefix("StatusCode.")


def x(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# --- sequences


@pytest.mark.parametrize(("name", "backend"), [("lstm", "onnxruntime"), ("lstm_in_c", "native")])
def test_interleaved_sequences_are_local_streams(serve, bundle, name, backend):
    """64 sequences at once, in a changing order, equal streams of the same backend row for row.

    `auto` runs C where the server's machine is the one that it was compiled for.
    """
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((64, 30, 8)).astype(np.float32)
    engine = load(bundle(name), backend=backend)
    wanted = np.stack([engine.stream().run(one) for one in inputs])
    given = np.empty_like(wanted)
    server = serve(name)
    with Caller(server.grpc, name) as caller:
        for t in range(30):
            how = {"start": t == 0, "end": t == 29}
            sent = {i: caller.send(1000 + i, {"x": inputs[i, t][None, None]}, **how) for i in rng.permutation(64)}
            for i, answer in sent.items():
                given[i, t] = answer.result()["y"][0, 0]
    # A batch may add products up in another order.
    assert np.abs(given - wanted).max() <= 1e-6
    assert f"{name}: {backend} (fp32) on cpu" in server.log


@pytest.mark.parametrize(("where", "backend"), [("here", "native"), ("elsewhere", "onnxruntime")])
def test_a_server_without_a_record_runs_the_code_that_its_configuration_names(
    where, backend, bundle, tmp_path, monkeypatch
):
    """Written where the code was built, or where nobody knows who built it."""
    path = bundle("lstm_in_c")
    if where == "elsewhere":
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    write_repository(path, tmp_path / "repository")
    # A record of its own, which is empty.
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "server"))
    with Server(tmp_path / "repository") as server:
        assert f"lstm_in_c: {backend} (fp32) on cpu" in server.log
        assert ("lstm_in_c: passed over was native: the bundle's c (fp32) for " in server.log) == (where == "elsewhere")


def test_several_sequences_share_a_step(serve, bundle):
    """The server counts its steps: 32 sequences at once need fewer than one each."""
    server = serve("sum", delay_us=20_000)
    with Caller(server.grpc, "sum") as caller:
        for t in range(10):
            sent = [caller.send(1 + i, {"x": x(1, 2, 3)[None]}, start=t == 0) for i in range(32)]
            for answer in sent:
                answer.result()
        assert caller.counted(320) < 160


def test_start_and_end_are_heard_wherever_they_come(caller):
    """A start in the middle resets, an end steps and then frees, and without a start nothing goes."""
    controls = [
        (1, "start", 1),
        (1, "", 2),
        (5, "start", 5),
        (1, "", 6),
        (1, "end", 7),
        (1, "", None),
        (2, "start end", 2),
    ]
    for value, words, wanted in [*controls, (1, "", None)]:
        how = dict.fromkeys(words.split(), True)
        if wanted is not None:
            assert caller.step(7, x(value, 0, 0), **how).tolist() == [wanted, 0, 0]
            continue
        with pytest.raises(InferenceServerException, match=STARTED) as error:
            caller.step(7, x(value, 0, 0))
        assert code(error) == "INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="must specify a non-zero"):
        caller.step(0, x(1, 2, 3))


@pytest.mark.parametrize(
    ("name", "inputs", "wanted"),
    [
        ("stored", {"x": x(0, 1, 2)[None]}, {"y": START + x(0, 1, 2)}),
        ("tokens", {"id": np.array([[3]])}, {"y": [6, 7]}),
        ("time_major", {"x": frames(2, 3)[None]}, {"y": frames(2, 3).cumsum(0)}),
        ("fewer", {"x": frames(4, 3)[None]}, {"y": frames(4, 3).cumsum(0)[1::2], "total": frames(4, 3).sum(0)}),
        ("previous_bool", {"x": np.array([[True]])}, {"y": [False]}),
        ("previous_float16", {"x": np.array([[2]], np.float16)}, {"y": [0]}),
    ],
)
def test_models_of_every_shape(serve, name, inputs, wanted):
    """Stored initial states, scalars, time before batch, chunks, fewer outputs than inputs, other dtypes."""
    with Caller(serve(name).grpc, name) as caller:
        for _ in range(2):
            given = caller.send(5, inputs, start=True, outputs=tuple(wanted)).result()
            for output, value in wanted.items():
                np.testing.assert_array_equal(given[output][0], value)
                assert given[output].dtype == next(t.dtype for t in MODELS[name].spec.outputs if t.name == output)


def test_one_id_ends_and_begins_in_one_step(serve):
    """Sent without waiting, in order: the end of a sequence and the start of the next one share a batch.

    Triton gives the next one the first slot that is free, which must be another one: its own is still in use.
    """
    server = serve("sum", delay_us=300_000)
    with Caller(server.grpc, "sum") as caller:
        caller.step(9, x(0, 0, 0), start=True)
        caller.step(1, x(1, 0, 0), start=True)
        caller.step(9, x(0, 0, 0), end=True)
        answers: queue.Queue = queue.Queue()
        caller.client.start_stream(lambda result, error: answers.put(error or result.as_numpy("y")[0, 0]))
        for value, controls in ((1, {"sequence_end": True}), (5, {"sequence_start": True}), (1, {})):
            inputs = caller.tensors({"x": x(value, 0, 0)[None]})
            caller.client.async_stream_infer("sum", inputs, sequence_id=1, **controls)
        assert [answers.get(timeout=30) for _ in range(3)] == [2, 5, 6]
        assert caller.counted(6) == 5
        caller.client.stop_stream()


# --- what is wrong with one request


def test_a_bad_frame_fails_alone(serve):
    """Half of a full batch is bad; nobody else notices, and the sequence goes on as if the frame had not come."""
    server = serve("sum", delay_us=20_000)
    inputs = frames(6, 16, 3)
    with Caller(server.grpc, "sum") as caller:
        for t in range(6):
            fed = inputs[t].copy()
            if t == 3:
                fed[::2, 1] = np.nan
            sent = [caller.send(1 + i, {"x": fed[i][None]}, start=t == 0) for i in range(16)]
            for i, answer in enumerate(sent):
                if t == 3 and i % 2 == 0:
                    with pytest.raises(InferenceServerException, match="NaN or Inf") as error:
                        answer.result()
                    assert code(error) == "INVALID_ARGUMENT"
                    continue
                heard = inputs[: t + 1, i]
                if t > 3 and i % 2 == 0:
                    heard = np.delete(heard, 3, axis=0)
                np.testing.assert_array_equal(answer.result()["y"][0], heard.sum(0))


def test_a_frame_that_the_backend_refuses_fails_alone(serve):
    """A token beyond the embedding is known to the graph alone, which fails the whole step."""
    server = serve("tokens", delay_us=20_000)
    with Caller(server.grpc, "tokens") as caller:
        sent = [caller.send(1 + i, {"id": np.array([[i]])}, start=True) for i in range(7)]
        for i, answer in enumerate(sent):
            if i < 5:
                assert answer.result()["y"][0].tolist() == [2 * i, 2 * i + 1]
            else:
                with pytest.raises(InferenceServerException, match=r"refused .*out of data bounds") as error:
                    answer.result()
                assert code(error) == "INVALID_ARGUMENT"


def test_a_misshapen_frame_is_refused_and_controls_count_with_a_bad_one(caller):
    with pytest.raises(InferenceServerException, match="NaN or Inf"):
        caller.step(21, x(np.nan, 0, 0), start=True)
    assert caller.step(21, x(1, 2, 3)).tolist() == [1, 2, 3]
    with pytest.raises(InferenceServerException, match="unexpected shape") as error:
        caller.step(21, x(1, 2))
    assert code(error) == "INVALID_ARGUMENT"
    assert caller.step(21, x(1, 1, 1)).tolist() == [2, 3, 4]
    with pytest.raises(InferenceServerException, match="NaN or Inf"):
        caller.step(21, x(np.nan, 0, 0), end=True)
    with pytest.raises(InferenceServerException, match=STARTED):
        caller.step(21, x(1, 1, 1))


# --- moving


def test_a_stream_moves_to_a_server_and_back(caller, bundle):
    stream = load(bundle("sum")).stream()
    stream.step(x(1, 2, 3))
    assert caller.step(32, x(1, 1, 1), start=True, seed=stream.snapshot()).tolist() == [2, 3, 4]
    # And again in the middle of a sequence.
    assert caller.step(32, x(2, 2, 2), start=True, seed=stream.snapshot()).tolist() == [3, 4, 5]
    stream.restore(caller.snapshot(32, x(1, 1, 1)))
    assert stream.step(x(0, 0, 0)).tolist() == [4, 5, 6]


# --- limits


def test_idle_sequences_expire(serve):
    server = serve("sum", idle_s=0.5)
    with Caller(server.grpc, "sum") as caller:
        caller.step(1, x(1, 2, 3), start=True)
        _wait_until_expired(caller, 1)
        assert caller.step(1, x(1, 1, 1), start=True).tolist() == [1, 1, 1]


def _wait_until_expired(caller: Caller, sequence: int) -> None:
    """Ask after it less often than it expires."""
    for _ in range(20):
        time.sleep(1.0)
        if error := caller.send(sequence, {"x": x(0, 0, 0)[None]}).exception():
            assert "must specify the START flag" in str(error)
            return
    pytest.fail("it never expired")


def test_slots_do_not_leak_over_short_sequences(serve):
    """A thousand sequences begin and end on a server of eight; it says at its own end how many are still open."""
    server = serve("sum", streams=8)
    with Caller(server.grpc, "sum") as caller:
        for begin in range(1, 1000, 8):
            ids = range(begin, begin + 8)
            answers = [caller.send(i, {"x": x(i, 0, 0)[None]}, start=True) for i in ids]
            assert [answer.result()["y"][0, 0] for answer in answers] == list(ids)
            answers = [caller.send(i, {"x": x(1, 0, 0)[None]}, end=True) for i in ids]
            assert [answer.result()["y"][0, 0] for answer in answers] == [i + 1 for i in ids]
    assert "0 of 16 streams open, 1000 opened, 1000 closed" in _last_words(server)


def test_what_never_ends_is_displaced_and_a_living_sequence_is_not(serve):
    """On a server of two, sequences expire one after the other while one lives on."""
    server = serve("sum", streams=2, idle_s=2)
    with Caller(server.grpc, "sum") as caller:
        caller.step(1, x(0, 0, 0), start=True)
        steps = 0
        for sequence in range(2, 7):
            begun = caller.send(sequence, {"x": x(sequence, 0, 0)[None]}, start=True)
            while not begun.done():
                steps += 1
                assert caller.step(1, x(1, 0, 0))[0] == steps
            assert begun.result()["y"][0, 0] == sequence
    assert "4 of 4 streams open, 6 opened, 2 closed" in _last_words(server)


def _last_words(server: Server) -> str:
    server.drain()
    assert server.process is not None
    server.process.wait(timeout=60)
    return server.log


def test_a_drain_lets_open_sequences_end(serve):
    server = serve("sum", exit_timeout_s=60)
    with Caller(server.grpc, "sum") as caller:
        caller.step(1, x(1, 1, 1), start=True)
        server.drain()
        _wait_until_draining(caller)
        assert caller.step(1, x(1, 1, 1)).tolist() == [2, 2, 2]
        assert caller.step(1, x(1, 1, 1), end=True).tolist() == [3, 3, 3]
    assert "0 of 512 streams open" in _last_words(server)


def _wait_until_draining(caller: Caller) -> None:
    """New sequences are refused from some moment on."""
    for sequence in range(100, 600):
        if error := caller.send(sequence, {"x": x(0, 0, 0)[None]}, start=True, end=True).exception():
            assert str(error.status()) == "StatusCode.UNAVAILABLE"
            return
    pytest.fail("new sequences are still welcome")
