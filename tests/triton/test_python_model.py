"""The model in Triton's python backend, in this process: today's, and that of a repository of release 0.1."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rnn_export.errors import BundleError
from rnn_export.export.triton.repository import write_repository
from rnn_export.runtime import load

from ..messages import raises  # noqa: TID252
from .python_backend import Host, Request
from .server import Server

# Written by `rnn-export triton --streams 8` of release 0.1: a GRU 3 -> 4 with a learned first state.
RELEASE_0_1 = Path(__file__).parent.parent / "data" / "triton" / "repository_0_1"
BUNDLE = RELEASE_0_1 / "models" / "gru" / "1" / "gru.rnnx"
X = np.random.default_rng(0).standard_normal((12, 1, 3)).astype(np.float32)


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Host]:
    """Starts the model of a repository; its module of utilities is gone at the end."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", None)
    return lambda repository, name="gru": Host(repository, name).start()


@pytest.fixture(params=["today", "0.1"])
def host(request, hosted, tmp_path) -> Host:
    if request.param == "0.1":
        return hosted(RELEASE_0_1)
    write_repository(BUNDLE, tmp_path / "repository", streams=8)
    return hosted(tmp_path / "repository")


@pytest.fixture
def wanted() -> np.ndarray:
    return load(BUNDLE, "onnxruntime").stream().run(X[:, 0])


def outputs(responses) -> list[np.ndarray]:
    assert [response.error for response in responses] == [None] * len(responses)
    return [response.outputs["y"][0] for response in responses]


def refusal(responses) -> str:
    (response,) = responses
    assert response.outputs == {}
    assert response.error.code == response.error.INVALID_ARG
    return response.error.message


def test_sequences_are_streams(host, wanted):
    """The second one begins four frames later, and shares the steps of the first."""
    first, second = [], []
    for t in range(12):
        requests = [Request(7, X[t], start=t == 0, end=t == 11)]
        if t >= 4:
            requests.append(Request(9, X[t - 4], start=t == 4))
        y, *others = outputs(host.step(*requests))
        first.append(y)
        second += others
    np.testing.assert_allclose(np.concatenate(first), wanted, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(second), wanted[:8], atol=1e-6)
    host.model.finalize()
    started, ended = host.log
    assert started == "gru: onnxruntime (fp32) on cpu"
    assert ended == "gru: 1 of 16 streams open, 2 opened, 1 closed, 20 frames in 12 steps"


def test_a_snapshot_goes_on_elsewhere(host, wanted):
    for t in range(5):
        (response,) = host.step(Request(1, X[t], start=t == 0, outputs=("y", "rnn_snapshot")))
    snapshot = response.outputs["rnn_snapshot"].item()
    (y,) = outputs(host.step(Request(2, X[5], start=True, seed=snapshot)))
    np.testing.assert_allclose(y, wanted[5:6], atol=1e-6)
    stream = load(BUNDLE, "onnxruntime").stream()
    stream.restore(snapshot)
    np.testing.assert_allclose(stream.step(X[5, 0]), wanted[5], atol=1e-6)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Request(2, X[0]), "sequence 2 is not, or no longer, known here: the next request must specify the START flag"),
        (Request(1, X[0], seed=b"a"), "rnn_seed goes with the START flag alone"),
        (Request(1, X[0], start=True, seed=b"a"), "this is not a snapshot"),
        (Request(1, X[0] * np.nan), "holds NaN or Inf"),
    ],
)
def test_what_is_wrong_is_answered_to_that_request_alone(host, wanted, second, message):
    host.step(Request(1, X[0], start=True), Request(3, X[0], start=True))
    refused, fine = host.step(second, Request(3, X[1]))
    assert message in refusal([refused])
    np.testing.assert_allclose(fine.outputs["y"][0], wanted[1:2], atol=1e-6)


def test_the_end_frees_even_with_a_bad_frame_and_an_id_ends_and_begins_in_one_call(host, wanted):
    host.step(Request(1, X[0], start=True))
    assert "NaN or Inf" in refusal(host.step(Request(1, X[0] * np.nan, end=True)))
    assert "must specify the START flag" in refusal(host.step(Request(1, X[1])))
    (response,) = host.step(Request(1, X[0], start=True, outputs=()))
    # Only what is asked for is given.
    assert (response.error, response.outputs) == (None, {})
    given = outputs(host.step(Request(1, X[1], end=True), Request(1, X[0], start=True), Request(1, X[1])))
    np.testing.assert_allclose(np.concatenate(given), wanted[[1, 0, 1]], atol=1e-6)


def test_the_longest_idle_sequence_is_evicted(host):
    """Triton says nothing of sequences that it dropped: in a pool of 16, of 8 at a time, the oldest one is dead."""
    host.step(Request(100, X[0], start=True))
    for sequence in range(1, 17):
        host.step(Request(sequence, X[0], start=True))
    assert "sequence 100 is not, or no longer, known here" in refusal(host.step(Request(100, X[1])))
    outputs(host.step(Request(1, X[1])))


def test_a_config_of_another_model(hosted, tmp_path):
    repository = shutil.copytree(RELEASE_0_1, tmp_path / "repository")
    write_repository(BUNDLE, tmp_path / "today", streams=8)
    for place in (repository, tmp_path / "today"):
        config = place / "models" / "gru" / "config.pbtxt"
        config.write_text(config.read_text().replace(r"\"digest\":\"f5", r"\"digest\":\"00"))
        with pytest.raises(BundleError, match=r"gru\.rnnx is of another model than config\.pbtxt: write"):
            hosted(place)


def test_an_engine_for_fewer_streams_than_a_step_may_have(hosted, tmp_path, monkeypatch):
    write_repository(BUNDLE, tmp_path / "repository", streams=8)
    engine = load(BUNDLE)
    engine.batches = (1, 4)
    monkeypatch.setattr("rnn_export.runtime.serve.triton_model.load", lambda *arguments, trust: engine)
    with raises("triton-batch-over-engine", "1 to 4", "8"):
        hosted(tmp_path / "repository")


# --- the real one


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(shutil.copytree(RELEASE_0_1, tmp_path / "repository")) as server:
        yield server


@pytest.mark.slow
def test_a_repository_of_release_0_1_is_served(server, wanted):
    """With the server's Python and the client of today; a stream moves there from here and back."""
    stream, local = load(f"grpc://{server.grpc}/gru").stream(), load(BUNDLE, "onnxruntime").stream()
    given = [stream.step(x) for x in X[:6, 0]]
    np.testing.assert_allclose(np.stack(given), wanted[:6], atol=1e-6)
    local.restore(stream.snapshot())
    np.testing.assert_allclose(local.run(X[6:9, 0]), wanted[6:9], atol=1e-6)
    stream.restore(local.snapshot())
    np.testing.assert_allclose(stream.step(X[9, 0]), wanted[9], atol=1e-6)
