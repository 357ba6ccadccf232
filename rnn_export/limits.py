"""Limits of declared sizes, checked before anything is allocated or searched. Their reasons: BUNDLE.md.

A tensor that is stored is bounded by the bytes that hold it. One that is only declared (a state, a chunk of an input or
output) takes a few characters, whatever its size, and so do a delay and a name: these are held to numbers.
"""

import os
from collections.abc import Iterable, Iterator

from rnn_export.errors import SpecError

# Bytes of all tensors that a contract declares together; the environment variable is another number of them.
MAX_BYTES = 2**30
MAX_BYTES_VARIABLE = "RNN_EXPORT_MAX_BYTES"
# One tensor may take this part of them, all files of a bundle so many times as much.
PART, FILES_PART = 4, 4

JSON_BYTES, JSON_DEPTH, JSON_DIGITS = 16 * 2**20, 64, 19
# Frames of an attention window: masks of so many frames by frames are made.
CONTEXT = 8192
# Of a contract: inputs, outputs and states; axes of one; characters of a name; of a delay; Hz; of a stream.
TENSORS, AXES, NAME = 4096, 16, 1024
DELAY, SAMPLE_RATE, FRAMES = 2**24, 2**31, 2**53
# Of a manifest: rows of files and of targets; characters and parts of a path.
FILES, TARGETS = 10_000, 1000
PATH, PARTS = 1024, 32


def max_bytes() -> int:
    """Bytes that the tensors of a contract may take together; raises SpecError where the variable is no number."""
    text = os.environ.get(MAX_BYTES_VARIABLE, "").strip()
    if not text:
        return MAX_BYTES
    if not (text.isascii() and text.isdigit() and len(text) <= JSON_DIGITS and int(text) > 0):
        raise SpecError(
            f"{MAX_BYTES_VARIABLE} is {text!r}: set it to a number of bytes above 0, or take it away.",
            id="max-bytes-invalid",
        )
    return int(text)


def excess(sizes: Iterable[tuple[str, int]], what: str) -> Iterator[str]:
    """Messages for tensors, as (name, bytes), over the limits; `what` names their owner."""
    limit, total = max_bytes(), 0
    for name, size in sizes:
        total += size
        if size > limit // PART:
            over = f"takes {size} bytes, over the limit of {limit // PART} a tensor"
            yield f"{name!r} of {what} {over}: {_fix(size * PART)}"
    if total > limit:
        yield f"the tensors of {what} take {total} bytes, over the limit of {limit}: {_fix(total)}"


def _fix(needed: int) -> str:
    return f"set {MAX_BYTES_VARIABLE}={needed} if it is meant."
