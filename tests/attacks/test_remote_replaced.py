"""A stream or pool gets no frame of another model when a server replaces its model, by either wire."""

from contextlib import suppress

import numpy as np
import pytest

from rnn_export.errors import StreamError
from rnn_export.runtime import load

from ..messages import raises  # noqa: TID252
from ..runtime.graphs import SUM, H, Model, X, Y, spec  # noqa: TID252
from ..runtime.triton_stand_in import StandIn  # noqa: TID252

ONE = np.ones(3, np.float32)
# Of the same wire, and other numbers.
OTHER = Model(spec("other", [X], [Y], [H]), [("Sub", ["h", "x"], ["y"], {}), ("Identity", ["y"], ["h.next"], {})])
REFUSED = ("remote-no-server-left", "127.0.0.1:", "it serves another model: its digest starts with")


@pytest.fixture(params=["bytes", "tensors"])
def serve(request):
    started = []

    def start(count=1):
        started.extend(StandIn(SUM, request.param).start() for _ in range(count))
        return started

    yield start
    for server in started:
        server.stop()


def reach(servers):
    at = ",".join(server.address for server in servers)
    return load(f"grpc://{at}/m?snapshot_every=16&deadline_ms=5000")


def test_a_new_stream_gets_no_frame_of_another_model(serve):
    (server,) = serve()
    engine = reach([server])
    assert engine.stream().step(ONE)[0] == 1
    server.replace(OTHER)
    stream = engine.stream()
    for _ in range(3):
        with raises(*REFUSED):
            stream.step(ONE)
    server.replace(SUM)
    assert [stream.step(ONE)[0] for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("again", ["reset", "restore"])
def test_a_stream_that_begins_again_gets_no_frame_of_another_model(serve, again):
    (server,) = serve()
    stream = reach([server]).stream()
    stream.step(ONE)
    snapshot = stream.snapshot()
    server.replace(OTHER)
    stream.reset() if again == "reset" else stream.restore(snapshot)
    with raises(*REFUSED):
        stream.step(ONE)
    server.replace(SUM)
    assert stream.step(ONE)[0] == (1 if again == "reset" else 2)


def test_a_stream_in_the_middle_goes_on_elsewhere(serve):
    one, other = serve(2)
    engine = reach([one, other])
    streams = [engine.stream() for _ in range(8)]
    for stream in streams:
        stream.step(ONE)
    one.replace(OTHER)
    for n in (2, 3):
        assert [stream.step(ONE)[0] for stream in streams] == [n] * 8
    assert not one.sequences


def test_a_pool_gets_no_frame_of_another_model(serve):
    one, other = serve(2)
    pool = reach([one, other]).pool()
    ids = [pool.open() for _ in range(8)]
    pool.step(ids, np.tile(ONE, (8, 1)))
    one.replace(OTHER)
    pool.reset(ids[:4])
    more = [pool.open() for _ in range(4)]
    given = pool.step([*ids, *more], np.tile(ONE, (12, 1)))
    assert given[:, 0].tolist() == [1] * 4 + [2] * 4 + [1] * 4
    other.replace(OTHER)
    for _ in range(2):
        with raises("remote-no-server-left", "it serves another model"):
            pool.step([*ids, *more, pool.open()], np.tile(ONE, (13, 1)))
        pool.close(pool.ids[-1])


def test_a_replacement_between_the_question_and_the_answer(serve):
    """The server's description from before the sequence does not count: it is asked again afterwards."""
    (server,) = serve()
    stream = reach([server]).stream()
    infer = server.infer

    def late(request):
        server.infer = infer
        server.replace(OTHER)
        return infer(request)

    server.infer = late
    with raises(*REFUSED):
        stream.step(ONE)


def test_another_version_is_another_beginning(serve):
    """A server that keeps the id of a sequence through a change of version is fed from the checkpoint again."""
    (server,) = serve()
    stream = reach([server]).stream()
    stream.step(ONE)
    server.version = "2"
    server.sequences = {sequence: {"h": -states["h"]} for sequence, states in server.sequences.items()}
    assert [stream.step(ONE)[0] for _ in range(2)] == [2, 3]


def test_under_replacements_all_frames_are_right_or_refused(serve):
    (server,) = serve()
    engine, random, given = reach([server]), np.random.default_rng(0), 0
    streams = {engine.stream(): 0 for _ in range(4)}
    for _ in range(150):
        if random.random() < 0.2:
            server.replace(SUM if server.model is OTHER else OTHER)
            for endpoint in engine._session.servers.endpoints.values():
                endpoint.down_until = 0.0
        for stream, fed in streams.items():
            if random.random() < 0.2:
                stream.reset()
                streams[stream] = fed = 0
            with suppress(StreamError):
                assert stream.step(ONE)[0] == fed + 1
                streams[stream] += 1
                given += 1
    assert given > 50
