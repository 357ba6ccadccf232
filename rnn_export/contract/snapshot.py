"""A stream's memory as bytes, to be restored by any backend on any machine: same contract, same weights, same batch.

Layout, little-endian: the magic, sha256 digest of the spec (32 bytes), batch (u32), frames so far (u64), pending frames
(u32, its highest bit set where the sequence has ended), then each state's raw values in the order of the spec, then the
pending frames of each input with a time axis, then the crc32 of all of it (u32).
"""

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Arrays

MAGIC = b"rnnxsnp1"
HEADER = struct.Struct("<8s32sIQI")
ENDED = 1 << 31
CHECK = struct.Struct("<I")


@dataclass(frozen=True)
class Snapshot:
    """`states` by name (batch, ...); `pending` by input name (batch, frames, ...): frames below a whole chunk.

    `ended`: the sequence is over, and nothing can be fed before a reset.
    """

    frames: int
    states: Arrays
    pending: Arrays
    ended: bool = False


def pack(spec: StreamSpec, batch: int, snapshot: Snapshot) -> bytes:
    """The snapshot as bytes."""
    if not spec.digest:
        raise StreamError(
            "this model has no digest, so a snapshot could be restored into another one: export it again.",
            id="snapshot-without-digest",
        )
    rates = {t.name: t.rate.numerator for t in spec.inputs}
    waiting = next((a.shape[1] // rates[name] for name, a in snapshot.pending.items()), 0)
    header = HEADER.pack(
        MAGIC, bytes.fromhex(spec.digest), batch, snapshot.frames, waiting | (ENDED if snapshot.ended else 0)
    )
    pending = [snapshot.pending[t.name] for t in spec.inputs if t.name in snapshot.pending]
    arrays = [*(snapshot.states[s.name] for s in spec.states), *pending]
    whole = header + b"".join(np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes() for a in arrays)
    return whole + CHECK.pack(zlib.crc32(whole))


def unpack(spec: StreamSpec, batch: int, data: bytes) -> Snapshot:
    """Read what `pack` wrote; raises StreamError where it is damaged or of another model or batch."""
    if not isinstance(data, bytes | bytearray | memoryview) or len(data) < HEADER.size:
        raise StreamError(
            "this is not a snapshot: give the bytes that stream.snapshot() returned.", id="snapshot-not-bytes"
        )
    data = bytes(data)
    magic, digest, rows, frames, waiting = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise StreamError(
            f"this is not a snapshot: it starts with {magic!r}, not {MAGIC!r}.", id="snapshot-magic-differs"
        )
    if digest.hex() != spec.digest:
        raise StreamError(
            f"this snapshot is of another model: its digest starts with {digest.hex()[:12]}, this model's with "
            f"{spec.digest[:12]}. A snapshot fits only the contract and weights it was taken with.",
            id="snapshot-of-other-model",
        )
    if rows != batch:
        raise StreamError(
            f"this snapshot has {rows} rows, but the stream has {batch}: open engine.stream(batch={rows}).",
            id="snapshot-rows-differ",
        )
    ended, waiting = bool(waiting & ENDED), waiting & ~ENDED
    shapes = [(s.name, (batch, *s.row), s.dtype) for s in spec.states]
    timed = [t for t in spec.inputs if spec.timed(t)] if waiting else []
    held = [(t.name, (batch, t.frames_of(waiting), *t.frame), t.dtype) for t in timed]
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for _, shape, dtype in (*shapes, *held)]
    needed = HEADER.size + sum(sizes) + CHECK.size
    if waiting >= spec.chunk or len(data) != needed:
        raise StreamError(
            f"this snapshot has {len(data)} bytes where {needed} are needed: it is truncated or damaged.",
            id="snapshot-truncated",
        )
    if frames >> 62:
        raise StreamError(
            f"this snapshot is damaged: it says that {frames} frames were fed.", id="snapshot-frame-count"
        )
    if CHECK.pack(zlib.crc32(data[: -CHECK.size])) != data[-CHECK.size :]:
        raise StreamError(
            "this snapshot is damaged: its checksum is not that of its values.", id="snapshot-checksum-differs"
        )
    arrays, at = [], HEADER.size
    for (name, shape, dtype), size in zip((*shapes, *held), sizes, strict=True):
        raw = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), math.prod(shape), at)
        if dtype == "bool" and raw.view(np.uint8).max(initial=0) > 1:
            raise StreamError(
                f"this snapshot is damaged: {name!r} has a value that is neither true nor false.",
                id="snapshot-bool-damaged",
            )
        arrays.append((name, raw.reshape(shape).astype(dtype)))
        at += size
    return Snapshot(frames, dict(arrays[: len(shapes)]), dict(arrays[len(shapes) :]), ended)
