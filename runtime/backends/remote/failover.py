"""One stream as a sequence on a server, and delivery of its frames: at once, or after a move to another server."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rnn_export.errors import StreamError
from rnn_export.runtime.backends.remote.address import rendezvous
from rnn_export.runtime.backends.remote.codec import Answer, Codec, Frame, States
from rnn_export.runtime.backends.remote.endpoint import Endpoint, EndpointFailed, SequenceLost
from rnn_export.runtime.backends.remote.server_config import ServedModel


def fresh_id() -> int:
    """Above 0 and of 63 bits, so that no two clients ever meet in one."""
    return 1 + secrets.randbelow(2**63 - 1)


@dataclass
class Sequence:
    """A stream as its client knows it: the states last fetched, (1, ...) by name, and the frames since.

    Without a `checkpoint` they are the model's initial ones. `opened` tells whether `endpoint` may hold something under
    this id, `in_step` whether that is surely `checkpoint` and `replay_log`, `version` the server's of the model there.
    """

    checkpoint: States | None = None
    replay_log: list[Frame] = field(default_factory=list)
    id: int = field(default_factory=fresh_id)
    endpoint: Endpoint | None = None
    opened: bool = False
    in_step: bool = False
    version: str = ""

    @property
    def nbytes(self) -> int:
        states = sum(state.nbytes for state in (self.checkpoint or {}).values())
        return states + sum(len(raw) for frame in self.replay_log for raw in frame)

    def leave(self, codec: Codec) -> None:
        """End it on its server. A request that is still under way there meets no stream: the next id is another."""
        if self.opened and self.endpoint is not None:
            self.endpoint.end(codec.request(self.id, codec.silence, start=False, end=True))
        self.id, self.endpoint, self.opened, self.in_step = fresh_id(), None, False, False

    def set(self, checkpoint: States | None) -> None:
        self.checkpoint, self.replay_log, self.in_step = checkpoint, [], False


@dataclass(frozen=True)
class Servers:
    """The servers of one model, all alike."""

    model: ServedModel
    codec: Codec
    endpoints: dict[str, Endpoint]

    def choose(self, sequence: int, failed: dict[str, str]) -> Endpoint | None:
        """The server for a sequence, by its id, among those not `failed`; one that is down if there is no other."""
        order = [self.endpoints[a] for a in rendezvous(list(self.endpoints), sequence) if a not in failed]
        return min(order, key=lambda endpoint: endpoint.down, default=None)


class Delivery:
    """The next frame of one sequence on its way, after those that its server has to be fed again.

    Without a frame the sequence stays where it is, and only its states are asked for. `position` is the index in
    `frames` of the next to feed; that request begins the sequence, from its checkpoint, where `starts`. `failed` tells
    by address why a server did not take the frame, `reseeded` whether one had lost the sequence, which began there
    again, and `replayed` how many frames were fed again. It ends with `answer` or `error`.

    A sequence is bound to its model where it begins: the answer then is a `response`, and is taken only when the server
    has said once more, after it, what it serves.
    """

    def __init__(self, servers: Servers, sequence: Sequence, frame: Frame | None, wants_states: bool) -> None:
        self.servers, self.sequence, self.frame, self.wants_states = servers, sequence, frame, wants_states
        self.frames = sequence.replay_log if frame is None else [*sequence.replay_log, frame]
        goes_on = sequence.in_step and frame is not None
        self.position, self.starts = (len(sequence.replay_log) if goes_on else 0), not goes_on
        self.failed: dict[str, str] = {}
        self.reseeded, self.replayed = False, 0
        self.future: Any = None
        self.response: Any = None
        self.answer: Answer | None = None
        self.error: StreamError | None = None
        sequence.in_step = False
        if sequence.endpoint is None or (self.starts and sequence.endpoint.down):
            self._choose_server()

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    @property
    def begins(self) -> bool:
        """True if it has an answer, or a refusal, to the request that began its sequence."""
        return self.response is not None and self.starts

    @property
    def _last(self) -> bool:
        return self.position == len(self.frames) - 1

    def send(self) -> None:
        """Send the next request, to the chosen server."""
        sequence, codec, self.future = self.sequence, self.servers.codec, None
        while sequence.endpoint is not None:
            try:
                sequence.endpoint.check(self.servers.model)
                break
            except EndpointFailed as failure:
                self._move(str(failure))
        else:
            return
        frame, seed = self.frames[self.position], sequence.checkpoint if self.starts else None
        wants_states = self.wants_states and self._last
        request = codec.request(sequence.id, frame, start=self.starts, seed=seed, wants_states=wants_states)
        self.future = sequence.endpoint.send(request)
        sequence.opened = True
        self.replayed += self.frame is None or not self._last

    def receive(self) -> None:
        """Wait for the answer."""
        if self.future is None:
            return
        endpoint, self.response = self.sequence.endpoint, None
        assert endpoint is not None
        try:
            response = endpoint.receive(self.future)
            if not self.starts and response.model_version != self.sequence.version:
                raise SequenceLost(f"it went on to version {response.model_version} of the model")
            self.response = response
        except SequenceLost as lost:
            if self.starts or self.reseeded:
                self._move(f"it lost the sequence again ({lost})")
            else:
                self.reseeded, self.position, self.starts = True, 0, True
        except EndpointFailed as failure:
            self._move(str(failure))
        except StreamError as refusal:
            self.response = refusal

    def take(self, served: Mapping[str, str]) -> None:
        """Take the answer, and see what is next; `served` says by address why the model there is another."""
        if self.response is None:
            return
        endpoint, response, self.response = self.sequence.endpoint, self.response, None
        assert endpoint is not None
        if self.starts and (difference := served[endpoint.address]):
            self._move(difference)
            return
        if isinstance(response, StreamError):
            self.error = response
            return
        self.sequence.version = response.model_version
        try:
            if self._last:
                self.answer = self.servers.codec.answer(response, self.wants_states)
            self.position, self.starts = self.position + 1, False
        except StreamError as refusal:
            self.error = refusal

    def commit(self) -> None:
        """Update the sequence after the frame was fed."""
        assert self.answer is not None
        sequence, sequence.in_step = self.sequence, True
        if self.answer.states is None:
            sequence.replay_log = self.frames
        else:
            sequence.checkpoint, sequence.replay_log = self.answer.states, []

    def _move(self, reason: str) -> None:
        assert self.sequence.endpoint is not None
        self.failed[self.sequence.endpoint.address] = reason
        self._choose_server()

    def _choose_server(self) -> None:
        sequence = self.sequence
        sequence.leave(self.servers.codec)
        self.position, self.starts, self.reseeded = 0, True, False
        sequence.endpoint = self.servers.choose(sequence.id, self.failed)
        if sequence.endpoint is None:
            reasons = "".join(f"\n  {address}: {reason}" for address, reason in self.failed.items())
            self.error = StreamError(
                f"no server could take the frame, and the stream is as before it.{reasons}", id="remote-no-server-left"
            )
