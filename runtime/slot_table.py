"""The slots of a pool's streams, and the statistics of each."""

import secrets
from typing import Any

import numpy as np

from rnn_export.errors import StreamClosed, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.core.histogram import BOUNDS

# An id is the generation of its slot above the slot, so that no slot gives the same id twice.
SLOT_BITS = 31
SLOT = (1 << SLOT_BITS) - 1
FEWEST = 64
# With the generation of a slot where no stream is: more than any id has, of either sign.
FREE = 1 << 33

CLOSED, IDLE, NAN = range(3)
CAUSES = ("was closed", "was closed: no frame for more than idle_timeout", "was closed: a NaN came out of it")
# The columns: arrays with a value for each slot along their last axis.
COLUMNS = ("generation", "last", "frames", "resets", "nan", "latency", "ended", "_position", "_cause")


class SlotTable:
    """Slots of at most `limit` streams, and the statistics of the stream in each, (slots,).

    `generation` is that of the stream there, or of the next one with FREE added; `last` the time of its last frame in
    seconds, infinity where no stream is; `frames`, `resets` and `nan` are counts. `latency` (buckets, slots) says how
    many of its rounds took how long: a round writes to one bucket, so to one row. `ended`: its sequence is over.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free: list[int] = []
        # Ids of another pool are strangers here.
        self._base = 1 + secrets.randbits(30)
        self.generation = np.zeros(0, np.int64)
        self.last = np.zeros(0, np.float64)
        self.frames = np.zeros(0, np.int64)
        self.resets, self.nan = np.zeros(0, np.uint32), np.zeros(0, np.uint32)
        self.latency = np.zeros((len(BOUNDS), 0), np.uint32)
        self.ended, self._any_ended = np.zeros(0, np.bool_), False
        # Where a slot stands in the round that is looked at, and why its last stream was closed.
        self._position, self._cause = np.zeros(0, np.int32), np.zeros(0, np.uint8)
        self._key: tuple[Any, ...] | None = None
        self._slots = np.zeros(0, np.intp)
        # The slots of the last round as an index of columns: a slice where each follows the one before.
        self.rows: Array | slice = self._slots

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in COLUMNS)

    def __len__(self) -> int:
        return len(self.last) - len(self.free)

    @property
    def ids(self) -> list[int]:
        slots = np.flatnonzero(np.isfinite(self.last))
        ids: list[int] = (self.generation[slots] << SLOT_BITS | slots).tolist()
        return ids

    def count_for_one_more(self) -> int:
        """The number of slots to have for one more stream: unchanged where one is free."""
        count = len(self.last)
        return count if self.free else min(max(FEWEST, 2 * count), self.limit)

    def grow(self, count: int) -> None:
        """Add slots up to `count`, all free; where memory is short, none."""
        before = len(self.last)
        columns = {name: getattr(self, name) for name in COLUMNS}
        more = {name: np.zeros((*a.shape[:-1], count - before), a.dtype) for name, a in columns.items()}
        more["generation"][:], more["last"][:] = self._base + FREE, np.inf
        grown: dict[str, Any] = {name: np.concatenate([a, more[name]], -1) for name, a in columns.items()}
        grown["free"] = [*self.free, *range(count - 1, before - 1, -1)]
        # All at once: nothing of it can be interrupted.
        vars(self).update(grown)

    def vacant(self) -> int:
        """The slot that is taken next, its statistics at zero."""
        slot = self.free[-1]
        for column in (self.frames, self.resets, self.nan, self.latency, self.ended):
            column[..., slot] = 0
        return slot

    def set(self, slots: Array, frames: Any, ended: bool) -> None:
        """The streams in `slots` were fed `frames`, and their sequences are over, or not."""
        self._any_ended |= ended
        self.frames[slots], self.ended[slots] = frames, ended

    def refuse_ended(self, slots: Array) -> None:
        """Raise StreamError where the sequence of a stream in `slots` is over."""
        if self._any_ended and self.ended[slots].any():
            slot = int(slots[self.ended[slots]][0])
            stream = int(self.generation[slot]) << SLOT_BITS | slot
            raise StreamError(
                f"the sequence of stream {stream} is over, since finish() ended it: reset it before another.",
                id="stream-ended",
            )

    def take(self, slot: int, now: float) -> int:
        """A new id for the stream in `slot`, which is vacant."""
        generation = int(self.generation[slot]) - FREE
        # No call from here on, so that no interrupt leaves half of it.
        self.generation[slot], self.last[slot] = generation, now
        del self.free[-1]
        return generation << SLOT_BITS | slot

    def drop(self, slots: Array, cause: int) -> None:
        """Free `slots`, whose streams are over for `cause`: CLOSED, IDLE or NAN."""
        freed = slots.tolist()
        # No call from here on, so that no interrupt leaves half of it.
        self._key = None
        self.generation[slots] += 1 + FREE
        self.last[slots], self._cause[slots] = np.inf, cause
        self.free += freed

    def idle(self, before: float) -> Array:
        return np.flatnonzero(self.last < before)

    def holds(self, stream: Any) -> bool:
        if not isinstance(stream, int | np.integer) or not 0 < stream < 2**63:
            return False
        return bool(self._known(np.array([stream], np.int64))[0])

    def round(self, ids: Any) -> Array:
        """As `find`; for the ids of the last round the same array again, while all are open."""
        array = _array(ids)
        key = array.shape, array.dtype, array.tobytes()
        if key != self._key:
            slots = self.find(ids)
            self._slots, self.rows, self._key = slots, _index(slots), key
        return self._slots

    def find(self, ids: Any) -> Array:
        """The slots of `ids`, all different; raises StreamClosed, or StreamError where they are no ids of streams."""
        array = _array(ids)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            found = f"{ids.dtype} {ids.shape}" if isinstance(ids, np.ndarray) else repr(ids)[:60]
            raise StreamError(f"ids are a list of those that open() gave, not {found}.", id="ids-not-a-list")
        array = array.astype(np.int64, copy=False)
        known = self._known(array)
        if not known.all():
            raise self._stale(array[~known])
        slots = (array & SLOT).astype(np.intp, copy=False)
        order = np.arange(len(slots), dtype=np.int32)
        self._position[slots] = order
        if (twice := self._position[slots] != order).any():
            stream = array[twice][0]
            raise StreamError(
                f"stream {stream} stands in the round twice: give each stream one frame a round.",
                id="stream-twice-in-round",
            )
        return slots

    def _known(self, ids: Array) -> Array:
        slots = ids & SLOT
        inside = slots < len(self.last)
        if not inside.all():
            generation = np.append(self.generation, -1)[np.where(inside, slots, -1).astype(np.intp)]
        else:
            generation = self.generation[slots]
        known: Array = inside & (ids >> SLOT_BITS == generation)
        return known

    def _stale(self, ids: Array) -> StreamClosed:
        first, why = int(ids[0]), "is not one of this pool"
        slot, generation = first & SLOT, first >> SLOT_BITS
        current = int(self.generation[slot]) % FREE if slot < len(self.last) else 0
        if self._base <= generation < current:
            why = CAUSES[self._cause[slot] if generation == current - 1 else CLOSED]
        more = f", and {len(ids) - 1} more are over or unknown" if len(ids) > 1 else ""
        return StreamClosed(
            f"stream {first} {why}{more}: no stream was stepped. Leave it out, or open a new one.",
            tuple(int(i) for i in ids),
            id="stream-closed",
        )


def _index(slots: Array) -> Array | slice:
    in_a_row = len(slots) > 0 and bool((np.diff(slots) == 1).all())
    return slice(int(slots[0]), int(slots[-1]) + 1) if in_a_row else slots


def _array(ids: Any) -> Array:
    if isinstance(ids, np.ma.MaskedArray):
        raise StreamError(
            "ids are a masked array, and a round knows no mask: give the ids that are meant.", id="ids-masked"
        )
    try:
        return np.asarray(ids)
    except ValueError as error:  # lists of several lengths
        raise StreamError(
            f"ids are a list of those that open() gave, not {repr(ids)[:60]}.", id="ids-unreadable"
        ) from error
