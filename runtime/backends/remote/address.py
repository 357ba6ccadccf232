"""Addresses of models on servers: `grpc://HOST:PORT,HOST:PORT/NAME?deadline_ms=1000&snapshot_every=16`."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl, unquote

from rnn_export.errors import BackendUnavailable

FORM = "grpc://HOST:PORT,HOST:PORT/NAME?deadline_ms=1000&snapshot_every=16"
PORT = 8001


@dataclass(frozen=True)
class Address:
    """Servers of the model `name`, each "host:port", and what a sequence may cost.

    A server may take `deadline_ms` for a frame. A sequence's states are fetched after `snapshot_every` frames, so a
    move feeds at most that many again.
    """

    endpoints: tuple[str, ...]
    name: str
    deadline_ms: int = 1000
    snapshot_every: int = 16

    def __str__(self) -> str:
        return f"{self.device}/{self.name}"

    @property
    def device(self) -> str:
        """The address without the model."""
        return f"grpc://{','.join(self.endpoints)}"


def is_address(path: str | os.PathLike[str]) -> bool:
    """True if `path` names a model on a server rather than a bundle."""
    return isinstance(path, str) and "://" in path


def parse(text: str) -> Address:
    """Read an address; raises BackendUnavailable that says what does not fit."""
    scheme, _, rest = text.partition("://")
    if scheme != "grpc":
        raise BackendUnavailable(
            f"{text!r} starts with {scheme}://, but servers are reached by gRPC only: {FORM}.",
            id="address-scheme-unknown",
        )
    rest, _, query = rest.partition("?")
    hosts, _, name = rest.partition("/")
    name = unquote(name)
    if not name or "/" in name:
        found = f"the name {name!r}" if name else "no model"
        raise BackendUnavailable(
            f"{text!r} has {found} after the servers: give the name of one model, as in {FORM}.",
            id="address-model-name",
        )
    endpoints = tuple(_endpoint(text, host) for host in hosts.split(","))
    if doubled := sorted({e for e in endpoints if endpoints.count(e) > 1}):
        raise BackendUnavailable(
            f"{text!r} names {', '.join(doubled)} twice: name each server once.", id="address-server-twice"
        )
    return Address(endpoints, name, **_options(text, query))


def _endpoint(text: str, host: str) -> str:
    named = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]@]+)(?::([0-9]{1,5}))?", host)
    port = int(named[2] or PORT) if named else 0
    if named is None or not 0 < port < 2**16:
        raise BackendUnavailable(
            f"{text!r} has the server {host!r}, which is no HOST or HOST:PORT: write {FORM}.",
            id="address-server-malformed",
        )
    return f"{named[1]}:{port}"


def _options(text: str, query: str) -> dict[str, int]:
    known = ("deadline_ms", "snapshot_every")
    options: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise BackendUnavailable(
                f"{text!r} asks for {key!r}, but only {' and '.join(known)} are known.", id="address-option-unknown"
            )
        if key in options or not re.fullmatch("[0-9]{1,9}", value) or int(value) < 1:
            again = "twice" if key in options else f"as {value!r}"
            raise BackendUnavailable(
                f"{text!r} gives {key} {again}: give one whole number of at least 1.", id="address-option-value"
            )
        options[key] = int(value)
    return options


def rendezvous(endpoints: Sequence[str], sequence: int) -> list[str]:
    """`endpoints` in the order in which a sequence prefers them, by its id: where one is gone, only its sequences move.

    Highest random weight (Thaler and Ravishankar, 1998).
    """
    weigh = partial(hashlib.blake2b, digest_size=8)
    return sorted(endpoints, key=lambda endpoint: weigh(f"{endpoint} {sequence}".encode()).digest(), reverse=True)
