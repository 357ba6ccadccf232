"""The command with the address of servers, on one that stands in for Triton; tests/triton has a real one."""

import json

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from rnn_export.cli.main import main
from rnn_export.contract.precision import Tolerance
from rnn_export.runtime.replay.golden import FILE, Golden

from .graphs import SUM, frames
from .triton_stand_in import Fault, StandIn


@pytest.fixture
def server():
    server = StandIn(SUM, "bytes").start()
    yield server
    server.stop()


def invoke(*arguments, **more):
    return CliRunner().invoke(main, [str(a) for a in arguments], **more)


def with_golden(path, off=0.0):
    """The bundle of SUM with golden vectors; `off` is what its outputs are wrong by."""
    xs = np.stack([frames(12, 3, seed=n) for n in range(2)])
    sums = np.cumsum(xs, 1) + off
    at = np.array([4, 12])
    golden = Golden({"x": xs}, {"y": sums}, {"h": sums[:, at - 1]}, at, Tolerance(1e-6, 0))
    return SUM.write(path, **{FILE: golden.to_npz()})


def test_run_streams_a_recording_through_a_server(server, tmp_path):
    xs = frames(20, 3)
    np.save(tmp_path / "x.npy", xs)
    done = invoke("run", f"grpc://{server.address}/m", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert done.exit_code == 0, done.output
    assert "20 frames in" in done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.cumsum(xs, 0))
    assert len({r[0] for r in server.requests}) == 1


def test_run_streams_raw_values_through_a_server(server):
    xs = frames(3, 3)
    done = invoke("run", "--json", f"grpc://{server.address}/m", "-", input=xs.tobytes())
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["outputs"] == [{"y": row.tolist()} for row in np.cumsum(xs, 0)]
    assert (result["backend"], result["device"]) == ("remote", f"grpc://{server.address}")


def test_run_says_that_the_stream_went_to_another_server(server, tmp_path, monkeypatch):
    monkeypatch.setattr("rnn_export.runtime.backends.remote.failover.rendezvous", lambda endpoints, sequence: endpoints)
    xs = frames(20, 3)
    np.save(tmp_path / "x.npy", xs)
    other = StandIn(SUM, "bytes").start()
    try:
        server.faults = [Fault(grpc.StatusCode.UNAVAILABLE, "lost")]
        address = f"grpc://{server.address},{other.address}/m"
        done = invoke("run", address, tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    finally:
        other.stop()
    assert done.exit_code == 0, done.output
    assert (
        "note: once a server was lost or too slow, and the stream went on at another; the longest took" in done.stderr
    )
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), np.cumsum(xs, 0))


def test_verify_holds_a_server_to_the_golden_vectors(server, tmp_path):
    address = f"grpc://{server.address}/m"
    good = with_golden(tmp_path / "good.rnnx")
    done = invoke("verify", "--json", good, "--backend", address)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["backend"] == "remote"
    assert {drift["tensor"] for drift in report["drifts"]} == {"y", "h"}
    assert len(server.requests) > 100

    bad = with_golden(tmp_path / "bad.rnnx", off=1e-3)
    done = invoke("verify", bad, "--backend", address)
    assert done.exit_code == 3
    assert "do not use it on this backend" in done.stderr


@pytest.mark.parametrize("command", ["verify", "bench", "inspect"])
def test_what_needs_the_bundle_says_so(command):
    done = invoke(command, "grpc://a/vad")
    assert done.exit_code == 1
    hint = " rnn-export verify NAME.rnnx --backend grpc://a/vad holds the servers to its golden vectors."
    assert done.stderr == (
        "error: grpc://a/vad is the address of servers, but this needs the bundle NAME.rnnx."
        f"{hint if command == 'verify' else ''}\n"
    )
