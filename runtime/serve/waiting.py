"""Frames that wait for a round: a queue for each stream, the oldest first, with operations in a heap's time."""

from __future__ import annotations

import math
from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import Any

from rnn_export.runtime.serve.submission import Submission


class Waiting:
    """Submissions by stream. `heads` and `deadlines` are heaps which keep entries of gone frames for a while.

    An interrupt leaves an operation done or not: an entry of a queue counts, is put there last, and with no call in
    between.
    """

    def __init__(self) -> None:
        self.queues: dict[int, OrderedDict[int, Submission[Any]]] = {}
        self.count, self.last = 0, 0
        # (number, stream) of the oldest frame of each stream; (deadline, number, stream) of all that have one.
        self.heads: list[tuple[int, int]] = []
        self.deadlines: list[tuple[float, int, int]] = []

    def __len__(self) -> int:
        return self.count

    @property
    def streams(self) -> int:
        """Number of streams with a waiting frame."""
        return len(self.queues)

    def all(self) -> list[Submission[Any]]:
        return [submission for queue in self.queues.values() for submission in queue.values()]

    def add(self, submission: Submission[Any]) -> None:
        self.last += 1
        number, stream = self.last, submission.stream
        submission.number = number
        if submission.deadline < math.inf:
            heappush(self.deadlines, (submission.deadline, number, stream))
        queue = self.queues.get(stream)
        if queue is None:
            queue = OrderedDict()
            heappush(self.heads, (number, stream))
        queue[number] = submission
        self.queues[stream] = queue
        self.count += 1

    def remove(self, submission: Submission[Any]) -> bool:
        """True if it waited."""
        number, stream = submission.number, submission.stream
        queue = self.queues.get(stream)
        if queue is None or number not in queue:
            return False
        oldest = iter(queue)
        if next(oldest) == number and (then := next(oldest, None)) is not None:
            heappush(self.heads, (then, stream))
        if len(queue) == 1:
            del self.queues[stream]
            self.count -= 1
        else:
            del queue[number]
            self.count -= 1
        return True

    def oldest(self) -> Submission[Any] | None:
        while self.heads:
            number, stream = self.heads[0]
            queue = self.queues.get(stream)
            if queue is not None and next(iter(queue)) == number:
                return queue[number]
            heappop(self.heads)
        return None

    def first(self, most: int) -> list[Submission[Any]]:
        """The oldest frame of each stream, the oldest first, of at most `most` streams; they are taken out."""
        taken: list[Submission[Any]] = []
        streams, later = set[int](), []
        while len(taken) < most and (submission := self.oldest()) is not None:
            if submission.stream in streams:
                # Its second frame.
                later.append(heappop(self.heads))
                continue
            streams.add(submission.stream)
            taken.append(submission)
            self.remove(submission)
        for head in later:
            heappush(self.heads, head)
        return taken

    def deadline(self) -> float:
        """The next, infinity where there is none."""
        while self.deadlines:
            deadline, number, stream = self.deadlines[0]
            if number in self.queues.get(stream, ()):
                return deadline
            heappop(self.deadlines)
        return math.inf

    def expired(self, now: float) -> list[Submission[Any]]:
        """Take out the frames past their deadline."""
        gone = []
        while self.deadline() <= now:
            _, number, stream = self.deadlines[0]
            submission = self.queues[stream][number]
            gone.append(submission)
            self.remove(submission)
        if len(self.deadlines) > 2 * self.count + 64:
            self.deadlines = [d for d in self.deadlines if d[1] in self.queues.get(d[2], ())]
            heapify(self.deadlines)
        return gone
