"""Reset some rows of a batch: in vectorised environments episodes end one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_export.contract.snapshot import Snapshot
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array, is_masked


def check_rows(spec: StreamSpec, batch: int, rows: Any) -> Array:
    """The mask `rows` as bool (batch,); raises StreamError where it is none, or rows cannot begin again alone."""
    if batch == 1:
        raise StreamError(
            "rows= chooses among the rows of a batch, but this stream has one: call reset() if it ended.",
            id="reset-rows-of-one",
        )
    if why := _one_count(spec):
        raise StreamError(
            f"rows of this stream cannot be reset alone: {why}, and a stream counts the frames of all of its rows as "
            "one. Use a pool, which counts them for each: pool.reset(ids).",
            id="reset-rows-counted",
        )
    if is_masked(rows):
        raise StreamError("rows= is a masked array: fill it, rows.filled(False).", id="reset-rows-masked")
    try:
        mask = np.asarray(rows)
    except Exception as error:  # a foreign __array__ has its own
        raise StreamError(
            f"rows= is a {type(rows).__name__} that numpy cannot read: {error}.", id="reset-rows-unreadable"
        ) from None
    if mask.dtype != np.bool_:
        why = "convert zeros and ones with .astype(bool); of indices make mask = np.zeros(batch, bool); mask[indices] ="
        raise StreamError(
            f"rows= is {mask.dtype}, but must be a mask of bool, True where a row is reset: {why} True.",
            id="reset-rows-dtype",
        )
    if mask.shape != (batch,):
        raise StreamError(
            f"rows= has shape {mask.shape}, but must be ({batch},): one bool for each row of the stream.",
            id="reset-rows-shape",
        )
    return mask


def _one_count(spec: StreamSpec) -> str:
    """Why it matters how many frames each row was fed; empty where it does not."""
    if spec.has_delay:
        return spec.delay_note
    if spec.tail:
        return f"finish() gives up to {spec.tail} frames of a sequence that ends, those of all rows at once"
    if spec.max_frames is not None:
        return f"a sequence has {spec.max_frames} frames at most (max_frames)"
    return ""


def with_rows_reset(now: Snapshot, mask: Array, initial: Mapping[str, Array]) -> Snapshot:
    """`now`, whose states are copies, with the rows of `mask` as in `initial`, each (batch, ...)."""
    for name, state in now.states.items():
        state[mask] = initial[name][mask]
    return now
