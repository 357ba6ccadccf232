"""Remote engines on real servers: no frame is lost or wrong, whatever becomes of a server."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from rnn_export.cli.main import main
from rnn_export.errors import StreamError
from rnn_export.export import export
from rnn_export.export.triton.repository import write_repository
from rnn_export.runtime import Engine, load

from ..messages import raises  # noqa: TID252
from .server import Server

IN, OUT = 8, 4
SESSIONS, STEPS = 32, 90
# A server adds up in another order when others share the step.
CLOSE = 1e-6


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(IN, 32, batch_first=True)
        self.head = nn.Linear(32, OUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundle") / "net.rnnx"
    export(Net().eval(), (torch.randn(1, 5, IN),), path, steps=32)
    return path


@pytest.fixture(scope="module")
def local(bundle: Path) -> Engine:
    return load(bundle, backend="onnxruntime")


Serve = Callable[..., Server]


@pytest.fixture
def serve(bundle: Path, tmp_path: Path) -> Iterator[Serve]:
    """Starts servers of the bundle; the keywords are those of `write_repository`, and `exit_timeout_s` of Server."""
    with ExitStack() as stack:

        def start(exit_timeout_s: int = 5, **how: object) -> Server:
            name = "-".join(["repository", *(f"{key}={value}" for key, value in how.items())])
            if not (tmp_path / name).exists():
                write_repository(bundle, tmp_path / name, **how)
            return stack.enter_context(Server(tmp_path / name, exit_timeout_s=exit_timeout_s))

        yield start


def address(*servers: Server, **options: int) -> str:
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return f"grpc://{','.join(server.grpc for server in servers)}/net?{query}"


def signal(session: int, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(session).standard_normal((steps, IN)).astype(np.float32)


def wrong(local: Engine, session: int, got: np.ndarray) -> float:
    return float(np.abs(got - local.stream().run(signal(session, len(got)))).max())


def drive(engine: Engine, disaster: Callable[[], None], at: int, pause: float = 0.0) -> list[np.ndarray]:
    """32 sessions at once, one thread each; `disaster` comes when the first of them has made `at` steps.

    The others rest for `pause` seconds after each step.
    """

    def session(number: int) -> np.ndarray:
        stream, given = engine.stream(), []
        for step, x in enumerate(signal(number)):
            if number == 0 and step == at:
                disaster()
            given.append(stream.step(x))
            time.sleep(pause if number else 0)
        return np.stack(given)

    with ThreadPoolExecutor(SESSIONS) as threads:
        return list(threads.map(session, range(SESSIONS)))


def test_run_and_verify_through_a_server(serve: Serve, bundle: Path, local: Engine, tmp_path: Path) -> None:
    server = serve()
    np.save(tmp_path / "x.npy", signal(0))
    command = ["run", address(server), str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert wrong(local, 0, np.load(tmp_path / "y.npy")) <= CLOSE
    done = CliRunner().invoke(main, ["verify", "--json", str(bundle), "--backend", address(server)])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["ok"], report["backend"], report["device"]) == (True, "remote", f"grpc://{server.grpc}")


def test_where_a_server_is_killed_its_sessions_go_on_at_the_other(serve: Serve, local: Engine) -> None:
    servers = [serve(), serve()]
    engine = load(address(*servers, deadline_ms=5000))
    results = drive(engine, servers[0].kill, STEPS // 3)
    assert max(wrong(local, n, got) for n, got in enumerate(results)) <= CLOSE
    metrics = engine.metrics()
    assert (metrics["frames"], metrics["failures"]) == (SESSIONS * STEPS, 0)
    assert 0 < metrics["moves"] < SESSIONS
    # Less than the deadline: that a server is gone shows at once.
    assert 0 < metrics["gap_s"] < 5


def test_a_server_that_drains_gives_its_sessions_away(serve: Serve, local: Engine) -> None:
    servers = [serve(exit_timeout_s=1), serve(exit_timeout_s=1)]
    engine = load(address(*servers, deadline_ms=5000))
    first = servers[0]

    def drain() -> None:
        first.drain()
        # Sequences that are open go on meanwhile, new ones are refused there.
        late = [engine.stream() for _ in range(16)]
        for number, stream in enumerate(late):
            assert wrong(local, number, stream.step(signal(number, 1)[0])[None]) <= CLOSE
        # What is left of its process may hang after this, but it answers nobody.
        end = time.monotonic() + 20
        while "Exit timeout expired" not in first.log:
            assert time.monotonic() < end
            time.sleep(0.05)

    results = drive(engine, drain, STEPS // 3, pause=0.04)
    assert max(wrong(local, n, got) for n, got in enumerate(results)) <= CLOSE
    metrics = engine.metrics()
    assert (metrics["frames"], metrics["failures"]) == (SESSIONS * STEPS + 16, 0)
    assert metrics["moves"] >= 4


def until_served(call: Callable[[], np.ndarray]) -> np.ndarray:
    """The result of the call, as soon as a server takes it."""
    end = time.monotonic() + 10
    while True:
        try:
            return call()
        except StreamError:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_server_that_comes_back_is_used_again(serve: Serve, local: Engine) -> None:
    server = serve()
    engine = load(address(server))
    stream, xs = engine.stream(), signal(0)
    given = [stream.step(x) for x in xs[:20]]
    server.kill()
    with raises("remote-no-server-left", f"{server.grpc}: UNAVAILABLE"):
        stream.step(xs[20])
    server.start()
    given += [until_served(lambda: stream.step(xs[20])), *(stream.step(x) for x in xs[21:])]
    assert wrong(local, 0, np.stack(given)) <= CLOSE


def test_an_idle_sequence_goes_on_where_it_was(serve: Serve, local: Engine) -> None:
    engine = load(address(serve(idle_s=0.5)))
    stream, xs = engine.stream(), signal(0, 40)
    given = [stream.step(x) for x in xs[:21]]
    time.sleep(2.5)
    given += [stream.step(x) for x in xs[21:]]
    assert wrong(local, 0, np.stack(given)) <= CLOSE
    metrics = engine.metrics()
    assert (metrics["reseeds"], metrics["moves"], metrics["failures"]) == (1, 0, 0)


def test_over_capacity_the_deadline_says_so_and_a_free_place_is_taken(serve: Serve, local: Engine) -> None:
    server = serve(streams=2)
    engine = load(address(server, deadline_ms=600))
    streams = [engine.stream() for _ in range(3)]
    xs = signal(0, 12)
    for stream in streams[:2]:
        stream.step(xs[0])
    begin = time.monotonic()
    with raises("remote-no-server-left", f"{server.grpc}: 600 ms passed; is the server over capacity (--streams)"):
        streams[2].step(xs[0])
    assert 0.5 < time.monotonic() - begin < 3
    streams[0].step(xs[1])
    del stream, streams[0]
    given = [until_served(lambda: streams[1].step(xs[0]))]
    given += [streams[1].step(x) for x in xs[1:]]
    assert wrong(local, 0, np.stack(given)) <= CLOSE
