"""Streams whose states a library keeps: a step and the count of its frames are one call of C."""

from collections import deque
from collections.abc import Callable
from itertools import count, islice, repeat, starmap

from rnn_export.runtime.protocols import StreamBuffers


class CountedBuffers(StreamBuffers):
    """The frames of one stream, which no interrupt cuts apart from its steps.

    `call`, which must not be a function of Python's, is a step of `chunk` frames.
    """

    def __init__(self, call: Callable[[], object], chunk: int) -> None:
        self.call, self.chunk = call, chunk
        self.frames = 0

    def turn(self) -> None:
        """One step, and its frames; raises what the call raises, and then counts none."""
        self.last.extend(islice(self.turns, 1))

    @property
    def frames(self) -> int:
        return self.last[0][1]

    @frames.setter
    def frames(self, frames: int) -> None:
        self.turns = zip(starmap(self.call, repeat(())), count(frames + self.chunk, self.chunk), strict=False)
        self.last: deque[tuple[object, int]] = deque([(None, frames)], maxlen=1)
