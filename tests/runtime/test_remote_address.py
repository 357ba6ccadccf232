"""The address of servers: its parts, each way in which one does not fit, and which server a sequence has."""

from collections import Counter
from pathlib import Path

import pytest

from rnn_export.errors import BackendUnavailable
from rnn_export.runtime import load
from rnn_export.runtime.backends.remote.address import is_address, parse, rendezvous


def test_every_part_is_read():
    address = parse("grpc://a:8001,b.example.org,[::1]:9,[fe80::2]/my%20model?deadline_ms=250&snapshot_every=4")
    assert address.endpoints == ("a:8001", "b.example.org:8001", "[::1]:9", "[fe80::2]:8001")
    assert (address.name, address.deadline_ms, address.snapshot_every) == ("my model", 250, 4)
    assert address.device == "grpc://a:8001,b.example.org:8001,[::1]:9,[fe80::2]:8001"


def test_the_rest_has_defaults_and_a_path_is_no_address(tmp_path):
    address = parse("grpc://a/vad")
    assert (address.endpoints, address.name) == (("a:8001",), "vad")
    assert (address.deadline_ms, address.snapshot_every) == (1000, 16)
    assert is_address("grpc://a/vad")
    assert is_address("http://a/vad")
    for path in ("grpc/vad.rnnx", Path("grpc://a/vad"), str(tmp_path)):
        assert not is_address(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://a:8000/vad", "starts with http://, but servers are reached by gRPC only"),
        ("grpcs://a/vad", "starts with grpcs://"),
        ("grpc://a:8001", "has no model after the servers"),
        ("grpc://a:8001/", "has no model after the servers"),
        ("grpc://a/vad/1", "has the name 'vad/1' after the servers"),
        ("grpc:///vad", "has the server ''"),
        ("grpc://a,/vad", "has the server ''"),
        ("grpc://a:0/vad", "has the server 'a:0'"),
        ("grpc://a:65536/vad", "has the server 'a:65536'"),
        ("grpc://a:b/vad", "has the server 'a:b'"),
        ("grpc://me@a/vad", "has the server 'me@a'"),
        ("grpc://::1/vad", "has the server '::1'"),
        ("grpc://a,a:8001/vad", "names a:8001 twice"),
        ("grpc://a/vad?deadline=5", "asks for 'deadline', but only deadline_ms and snapshot_every are known"),
        ("grpc://a/vad?deadline_ms=0", "gives deadline_ms as '0'"),
        ("grpc://a/vad?deadline_ms=1.5", "gives deadline_ms as '1.5'"),
        ("grpc://a/vad?deadline_ms=", "gives deadline_ms as ''"),
        ("grpc://a/vad?snapshot_every=-1", "gives snapshot_every as '-1'"),
        ("grpc://a/vad?deadline_ms=1&deadline_ms=2", "gives deadline_ms twice"),
    ],
)
def test_what_does_not_fit_is_named(text, message):
    with pytest.raises(BackendUnavailable) as caught:
        load(text)
    assert message in str(caught.value)


def test_sequences_spread_over_the_servers():
    servers = [f"10.0.0.{n}:8001" for n in range(4)]
    firsts = Counter(rendezvous(servers, sequence)[0] for sequence in range(1, 2001))
    assert set(firsts) == set(servers)
    assert min(firsts.values()) > 400


def test_where_a_server_is_gone_only_its_sequences_move():
    servers = ["a:8001", "b:8001", "c:8001"]
    for sequence in range(1, 500):
        order = rendezvous(servers, sequence)
        assert sorted(order) == servers
        assert rendezvous(servers[::-1], sequence) == order
        gone = order[0]
        assert rendezvous([s for s in servers if s != gone], sequence) == order[1:]
        assert rendezvous([s for s in servers if s != order[2]], sequence)[0] == gone
