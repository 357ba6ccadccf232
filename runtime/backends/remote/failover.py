"""One stream as a sequence on a server, and how a frame reaches it: at once, or after a move to another server."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from rnn_export.errors import StreamError
from rnn_export.runtime.backends.remote.address import rendezvous
from rnn_export.runtime.backends.remote.endpoint import Endpoint, EndpointFailed, SequenceLost
from rnn_export.runtime.backends.remote.server_config import Served
from rnn_export.runtime.backends.remote.wire import Answer, Codec, Frame, States

SYSTEM = random.SystemRandom()


def fresh_id() -> int:
    """Above 0 and of 63 bits, so that no two clients ever meet in one."""
    return SYSTEM.randrange(1, 2**63)


@dataclass
class Sequence:
    """A stream as its client knows it.

    Attributes:
        seed: states (1, ...) by name of its last snapshot; None stands for the model's initial ones.
        fed: the frames since.
        id: of the sequence on `home`.
        begun: whether `home` may hold something under this id.
        live: whether what it holds is surely `seed` and `fed`.
    """

    seed: States | None = None
    fed: list[Frame] = field(default_factory=list)
    id: int = field(default_factory=fresh_id)
    home: Endpoint | None = None
    begun: bool = False
    live: bool = False

    def leave(self, codec: Codec) -> None:
        """End it on its server. A request that is still under way there will meet nobody: the next id is another."""
        if self.begun and self.home is not None:
            self.home.end(codec.request(self.id, codec.silence, start=False, end=True))
        self.id, self.home, self.begun, self.live = fresh_id(), None, False, False

    def set(self, seed: States | None) -> None:
        """Go on from `seed`."""
        self.seed, self.fed, self.live = seed, [], False


@dataclass(frozen=True)
class Servers:
    """The servers of one model, all alike."""

    served: Served
    codec: Codec
    endpoints: dict[str, Endpoint]

    def best(self, sequence: int, tried: dict[str, str]) -> Endpoint | None:
        """The server for a sequence, by its id, among those not `tried`; one that is down only if there is no other."""
        order = [self.endpoints[a] for a in rendezvous(list(self.endpoints), sequence) if a not in tried]
        return min(order, key=lambda endpoint: endpoint.down, default=None)


class Delivery:
    """The next frame of one sequence on its way, after those that its server has to be fed again.

    Without a frame the sequence stays where it is, and only its states are asked for.
    """

    def __init__(self, servers: Servers, sequence: Sequence, frame: Frame | None, asks: bool) -> None:
        self.servers, self.sequence, self.frame, self.asks = servers, sequence, frame, asks
        self.frames = sequence.fed if frame is None else [*sequence.fed, frame]
        goes_on = sequence.live and frame is not None
        self.at, self.start = (len(sequence.fed) if goes_on else 0), not goes_on
        self.tried: dict[str, str] = {}
        self.lost = self.again = 0
        self.future: Any = None
        self.answer: Answer | None = None
        self.error: StreamError | None = None
        sequence.live = False
        if sequence.home is None or (self.start and sequence.home.down):
            self._settle()

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    @property
    def _last(self) -> bool:
        return self.at == len(self.frames) - 1

    def send(self) -> None:
        """Send the next request, to whichever server there is."""
        sequence, codec, self.future = self.sequence, self.servers.codec, None
        while sequence.home is not None:
            try:
                sequence.home.check(self.servers.served)
                break
            except EndpointFailed as failure:
                self._move(str(failure))
        else:
            return
        self.future = sequence.home.send(
            codec.request(
                sequence.id,
                self.frames[self.at],
                start=self.start,
                seed=sequence.seed if self.start else None,
                asks=self.asks and self._last,
            )
        )
        sequence.begun = True
        self.again += self.frame is None or not self._last

    def receive(self) -> None:
        """Wait for the answer, and see what is next."""
        if self.future is None:
            return
        home = self.sequence.home
        assert home is not None
        try:
            response = home.receive(self.future)
            if self._last:
                self.answer = self.servers.codec.answer(response, self.asks)
            self.at, self.start = self.at + 1, False
        except SequenceLost as lost:
            self._begin_again(str(lost))
        except EndpointFailed as failure:
            self._move(str(failure))
        except StreamError as refusal:
            self.error = refusal

    def commit(self) -> None:
        """The sequence as it is now that the frame was fed."""
        assert self.answer is not None
        sequence, sequence.live = self.sequence, True
        if self.answer.states is not None:
            sequence.seed, sequence.fed = self.answer.states, []
        else:
            sequence.fed = self.frames

    def _begin_again(self, reason: str) -> None:
        if self.start or self.lost:
            self._move(f"it lost the sequence again ({reason})")
            return
        self.lost, self.at, self.start = 1, 0, True

    def _move(self, reason: str) -> None:
        assert self.sequence.home is not None
        self.tried[self.sequence.home.address] = reason
        self._settle()

    def _settle(self) -> None:
        """Choose a server and begin there from the seed."""
        sequence = self.sequence
        sequence.leave(self.servers.codec)
        self.at, self.start, self.lost = 0, True, 0
        sequence.home = self.servers.best(sequence.id, self.tried)
        if sequence.home is None:
            told = "".join(f"\n  {address}: {reason}" for address, reason in self.tried.items())
            self.error = StreamError(f"no server could take the frame, and the stream is as before it.{told}")
