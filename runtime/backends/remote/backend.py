"""Servers as a backend: the check of their model, and a session whose rows are each a sequence on one of them."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rnn_export.contract.layout import graph_layout
from rnn_export.contract.spec import StreamSpec, sized
from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.platform.arrays import Array, has_nan
from rnn_export.runtime.backends.remote.address import Address, parse
from rnn_export.runtime.backends.remote.codec import Answer
from rnn_export.runtime.backends.remote.endpoint import Endpoint, EndpointFailed
from rnn_export.runtime.backends.remote.failover import Delivery, Sequence, Servers
from rnn_export.runtime.backends.remote.server_config import ServedModel
from rnn_export.runtime.protocols import Session, StateStore, StreamBuffers, rows_with_nan

# Seconds for a server to say what it serves when an engine is loaded, and for sequences to end when a session does.
CONNECT, GRACE = 5.0, 0.5


def open_address(
    text: str, backend: str, precision: str | None, device: str | None, threads: int, spec: StreamSpec | None = None
) -> tuple[ServedModel, RemoteSession]:
    """The model served at an address, and a session on it; with `spec`, only if that is its contract."""
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
    fits: dict[str, Any] = {"backend": ("auto", "remote"), "precision": (None, model.precision), "threads": (1,)}
    fits["device"] = (None, address.device)
    for name, value in wanted.items():
        if value not in fits[name]:
            why = f"where {name} is {fits[name][-1]!r}: leave it out"
            raise BackendUnavailable(
                f"{name}={value!r} cannot be had from {address}, {why}.", id="remote-option-refused"
            )
    if model.spec.sequence_only:
        raise BackendUnavailable(
            f"{address} takes whole sequences only, and a server is fed frame by frame.", id="remote-sequence-only"
        )
    if spec is not None and spec != model.spec:
        raise BackendUnavailable(
            f"{address} serves another model than the bundle holds: its digest starts with {model.spec.digest[:12]}, "
            f"the bundle's with {spec.digest[:12]}. Write its repository from this bundle with rnn-export triton.",
            id="remote-other-model",
        )


def _model(address: Address, endpoints: dict[str, Endpoint]) -> ServedModel:
    """Model of all servers that answer."""
    found: ServedModel | None = None
    silent = []
    for endpoint in endpoints.values():
        try:
            model = endpoint.fetch_model(max(endpoint.seconds, CONNECT))
        except (EndpointFailed, StreamError) as error:
            silent.append(f"\n  {endpoint.address}: {error}")
            continue
        except BackendUnavailable as error:
            raise BackendUnavailable(f"{endpoint.address}: {error}", id=error.id) from error
        if difference := (found or model).difference(model):
            raise BackendUnavailable(
                f"the servers of {address} differ: of {endpoint.address}, {difference}.", id="remote-servers-differ"
            )
        found, endpoint.checked = model, True
    if found is None:
        check = "Is the model's name right, and each the port of gRPC?"
        raise BackendUnavailable(
            f"no server of {address} answers:{''.join(silent)}\n{check}", id="remote-servers-silent"
        )
    return found


class RemoteSession(Session):
    """Servers of one model; a sequence whose states were not fetched for `snapshot_every` frames brings them along."""

    steps_rows_independently = True

    def __init__(self, servers: Servers, device: str, snapshot_every: int) -> None:
        self.servers, self.device, self.snapshot_every = servers, device, snapshot_every
        self.spec, self.precision = servers.model.spec, servers.model.precision
        self.lock = threading.Lock()
        self.counts: dict[str, Any] = {"frames": 0, "moves": 0, "reseeds": 0, "replays": 0, "failures": 0, "gap_s": 0.0}
        self.ends = weakref.finalize(self, _close, servers)

    def after_fork(self) -> None:
        self.ends.detach()

    def metrics(self) -> dict[str, Any]:
        """Counts since it was loaded, of all its streams.

        frames: those to be fed. moves: frames that found their sequence's server gone and went on to another.
        reseeds: frames whose sequence the server had let go, idle for too long, and that began it again. replays:
        frames that were fed again, for a move or to fetch states. failures: frames that no server took. gap_s: the most
        seconds that a step with a move or a reseed took.
        """
        with self.lock:
            return dict(self.counts)

    def stream_buffers(self, batch: int) -> RemoteMemory:
        return RemoteMemory(self, batch)

    def state_store(self) -> RemoteSlots:
        return RemoteSlots(self)

    def deliver(self, deliveries: list[Delivery]) -> list[Answer]:
        """The answer to each, all on their way at once; they are to be committed. Raises StreamError."""
        begin, waiting = time.monotonic(), deliveries
        try:
            while waiting:
                for delivery in waiting:
                    delivery.send()
                for delivery in waiting:
                    delivery.receive()
                served = self._served([d.sequence.endpoint for d in waiting if d.begins])
                for delivery in waiting:
                    delivery.take(served)
                waiting = [delivery for delivery in waiting if not delivery.done]
        except BaseException:
            # Nobody knows what was fed.
            for endpoint in self.servers.endpoints.values():
                endpoint.connect()
            for delivery in deliveries:
                delivery.sequence.leave(self.servers.codec)
            raise
        failed = [(row, d.error) for row, d in enumerate(deliveries) if d.error is not None]
        self._count(deliveries, len(failed), time.monotonic() - begin)
        if failed:
            row, error = failed[0]
            where = f"row {row} of {len(deliveries)}: " if len(deliveries) > 1 else ""
            also = f" {len(failed) - 1} more failed." if len(failed) > 1 else ""
            raise StreamError(f"{where}{error}{also}", id=error.id) from error
        return [delivery.answer for delivery in deliveries if delivery.answer is not None]

    def _served(self, endpoints: Iterable[Endpoint | None]) -> dict[str, str]:
        """By address, why the model that a server now reports is another; empty where it is not."""
        asked = {endpoint: endpoint.ask(endpoint.seconds) for endpoint in set(endpoints) if endpoint is not None}
        return {e.address: e.difference(self.servers.model, future) for e, future in asked.items()}

    def _count(self, deliveries: Iterable[Delivery], failures: int, seconds: float) -> None:
        with self.lock:
            counts = self.counts
            counts["failures"] += failures
            for delivery in deliveries:
                counts["frames"] += delivery.frame is not None
                counts["replays"] += delivery.replayed
                counts["moves"] += bool(delivery.failed) and delivery.error is None
                counts["reseeds"] += delivery.reseeded
                if delivery.failed or delivery.reseeded:
                    counts["gap_s"] = max(counts["gap_s"], seconds)


class RemoteSlots(StateStore):
    """A sequence for each slot. Their states are fetched when someone asks, by replaying the frames since."""

    def __init__(self, session: RemoteSession) -> None:
        self.session, self.spec, self.servers = session, session.spec, session.servers
        self.initial = {name: row.tobytes() for name, row in self.servers.model.initial.items()}
        self.sequences: list[Sequence] = []
        # What is answered and not yet committed.
        self.answered: list[Delivery] = []
        # Holds the session, whose channels are to be closed after this.
        self.ends = weakref.finalize(self, _end, session, self.sequences)

    def after_fork(self) -> None:
        self.ends.detach()

    @property
    def nbytes(self) -> int:
        return sum(sequence.nbytes for sequence in self.sequences)

    def grow(self, count: int) -> None:
        self.sequences.extend(Sequence() for _ in range(count - len(self.sequences)))

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        frames = self.servers.codec.frames(inputs)
        deliveries = []
        for slot, frame in zip(slots, frames, strict=True):
            sequence = self.sequences[slot]
            due = len(sequence.replay_log) + 1 >= self.session.snapshot_every
            deliveries.append(Delivery(self.servers, sequence, frame, due))
        answers = self.session.deliver(deliveries)
        # From here on the round is done; an interrupt leaves the rest of it to the next call.
        self.answered = deliveries
        self.rounds += 1
        self.finish()
        rows = {t.name: np.concatenate([a.outputs[t.name] for a in answers]) for t in self.spec.outputs}
        outputs = {t.name: graph_layout(rows[t.name], t) for t in self.spec.outputs}
        nan_rows = rows_with_nan(self.spec, outputs, ())
        inside = np.array([any(map(has_nan, (a.states or {}).values())) for a in answers])
        if inside.any():
            nan_rows = inside if nan_rows is None else nan_rows | inside
        return outputs, nan_rows

    def finish(self) -> None:
        for delivery in self.answered:
            delivery.commit()
        self.answered = []

    def read(self, slots: Array) -> dict[str, Array]:
        self.finish()
        sequences = [self.sequences[slot] for slot in slots]
        deliveries = [Delivery(self.servers, s, None, True) for s in sequences if s.replay_log]
        self.session.deliver(deliveries)
        self.answered = deliveries
        self.finish()
        rows = {s.name: self.servers.model.initial[s.name][None] for s in self.spec.states}
        return {
            name: np.concatenate([row if s.checkpoint is None else s.checkpoint[name] for s in sequences])
            for name, row in rows.items()
        }

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        self.finish()
        may_be_none = self.servers.codec.state_codec.starts_without_seed
        for row, slot in enumerate(slots):
            seed = {s.name: np.array(states[s.name][row : row + 1], order="C") for s in self.spec.states}
            at_start = all(seed[name].tobytes() == initial for name, initial in self.initial.items())
            self.sequences[slot].set(None if at_start and may_be_none else seed)

    def release(self, slots: Array) -> None:
        for slot in slots:
            self.sequences[slot].leave(self.servers.codec)
            self.sequences[slot].set(None)


class RemoteMemory(StreamBuffers):
    """The rows of one stream, each a sequence."""

    def __init__(self, session: RemoteSession, batch: int) -> None:
        spec = session.spec
        self.spec, self.rows, self.slots = spec, np.arange(batch), session.state_store()
        self.slots.grow(batch)
        # Frames before the first round of `slots`.
        self.before = 0
        self.inputs = {t.name: np.zeros(sized(t.shape, batch, spec.chunk), t.dtype) for t in spec.inputs}
        self.outputs = {t.name: np.zeros(sized(t.shape, batch, spec.chunk), t.dtype) for t in spec.outputs}

    def after_fork(self) -> None:
        self.slots.after_fork()

    @property
    def frames(self) -> int:
        return self.before + self.slots.rounds * self.spec.chunk

    @frames.setter
    def frames(self, frames: int) -> None:
        self.before = frames - self.slots.rounds * self.spec.chunk

    def step(self) -> None:
        self.slots.finish()
        outputs, _ = self.slots.step(self.rows, self.inputs)
        for name, value in outputs.items():
            self.outputs[name][...] = value

    def read(self) -> dict[str, Array]:
        return self.slots.read(self.rows)

    def write(self, states: Mapping[str, Array]) -> None:
        self.slots.write(self.rows, states)


def _end(session: RemoteSession, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        sequence.leave(session.servers.codec)


def _close(servers: Servers) -> None:
    deadline = time.monotonic() + GRACE
    for endpoint in servers.endpoints.values():
        endpoint.close(deadline)
