"""Servers as a backend: what they serve, and whether it fits what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.runtime.backends.remote.address import Address, parse
from rnn_export.runtime.backends.remote.endpoint import Endpoint, EndpointFailed
from rnn_export.runtime.backends.remote.failover import Servers
from rnn_export.runtime.backends.remote.server_config import ServedModel
from rnn_export.runtime.backends.remote.session import RemoteSession
from rnn_export.spec import StreamSpec

# Seconds that a server may take to say what it serves when an engine is loaded.
CONNECT = 5.0


def open_address(
    text: str, backend: str, precision: str | None, device: str | None, threads: int, spec: StreamSpec | None = None
) -> tuple[ServedModel, RemoteSession]:
    """What is served at an address, and a session on it; with `spec`, only if that is what is served there."""
    address = parse(text)
    endpoints = {e: Endpoint(e, address.name, address.deadline_ms / 1e3) for e in address.endpoints}
    try:
        model = _model(address, endpoints)
        wanted = {"backend": backend, "precision": precision, "device": device, "threads": threads}
        _check(address, model, wanted, spec)
    except BaseException:
        for endpoint in endpoints.values():
            endpoint.close(0.0)
        raise
    servers = Servers(model, model.codec(address.name), endpoints)
    return model, RemoteSession(servers, address.device, address.snapshot_every)


def _check(address: Address, model: ServedModel, wanted: Mapping[str, Any], spec: StreamSpec | None) -> None:
    fits = {
        "backend": ("auto", "remote"),
        "precision": (None, model.precision),
        "device": (None, address.device),
        "threads": (1,),
    }
    for name, value in wanted.items():
        if value not in fits[name]:
            raise BackendUnavailable(
                f"{name}={value!r} cannot be had from {address}, where {name} is {fits[name][-1]!r}: leave it out."
            )
    if model.spec.sequence_only:
        raise BackendUnavailable(f"{address} takes whole sequences only, and a server is fed frame by frame.")
    if spec is not None and spec != model.spec:
        raise BackendUnavailable(
            f"{address} serves another model than the bundle holds: its digest starts with {model.spec.digest[:12]}, "
            f"the bundle's with {spec.digest[:12]}. Write its repository from this bundle with rnn-export triton."
        )


def _model(address: Address, endpoints: dict[str, Endpoint]) -> ServedModel:
    """What all servers that answer serve."""
    found: ServedModel | None = None
    silent = []
    for endpoint in endpoints.values():
        try:
            model = endpoint.fetch_model(max(endpoint.seconds, CONNECT))
        except (EndpointFailed, StreamError) as error:
            silent.append(f"\n  {endpoint.address}: {error}")
            continue
        except BackendUnavailable as error:
            raise BackendUnavailable(f"{endpoint.address}: {error}") from error
        if difference := (found or model).difference(model):
            raise BackendUnavailable(f"the servers of {address} differ: of {endpoint.address}, {difference}.")
        found, endpoint.checked = model, True
    if found is None:
        raise BackendUnavailable(
            f"no server of {address} answers:{''.join(silent)}\nIs the model's name right, and each the port of gRPC?"
        )
    return found
