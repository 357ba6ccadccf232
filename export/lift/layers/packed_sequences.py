"""Packed sequences of rows that all have every frame, as in streams, for which packing changes nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence

from rnn_export.errors import LiftError

UNEQUAL = (
    "the model packs rows of other lengths than the frames that it is given (pack_padded_sequence): a stream has no "
    "end that a row could have before the others. Make the lengths of the size of the time axis, such as "
    "torch.full((x.shape[0],), x.shape[1]), in place of an input; or call the layer with the padded tensor."
)


class FullRows(PackedSequence):
    """Rows that all have every frame; `frames` is (time, batch, features)."""

    frames: Tensor


def full_rows(frames: Tensor) -> FullRows:
    """Packed rows of frames (time, batch, ...)."""
    time, batch = frames.shape[:2]
    made = FullRows(frames.flatten(0, 1), torch.full((time,), batch, dtype=torch.int64), None, None)
    made.frames = frames
    return made


def frames_of(rows: PackedSequence) -> Tensor:
    """Frames (time, batch, ...) of rows that all have every frame."""
    if isinstance(rows, FullRows):
        return rows.frames
    time = rows.batch_sizes.shape[0]
    return rows.data.reshape(time, -1, *rows.data.shape[1:])


def _packed(
    input: Tensor,  # noqa: A002 - torch's name for it
    lengths: Any,
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> FullRows:
    frames = input.transpose(0, 1) if batch_first else input
    if not torch.compiler.is_exporting() and bool((torch.as_tensor(lengths) != frames.shape[0]).any()):
        raise LiftError(UNEQUAL, id="unequal-packed-lengths")
    return full_rows(frames)


def _padded(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    frames = frames_of(sequence)
    lengths = torch.full((frames.shape[1],), frames.shape[0], dtype=torch.int64)
    return frames.transpose(0, 1) if batch_first else frames, lengths


INSTEAD: dict[Callable[..., Any], Callable[..., Any]] = {
    rnn.pack_padded_sequence: _packed,
    rnn.pad_packed_sequence: _padded,
}


def _layer(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` of a recurrent layer, without torch's code for packed rows, which takes states of any size."""

    def plain(self: nn.RNNBase, input: Any, hx: Any = None) -> Any:  # noqa: A002 - torch's name for it
        if not isinstance(input, PackedSequence):
            return forward(self, input, hx)
        frames = frames_of(input)
        y, after = forward(self, frames.transpose(0, 1) if self.batch_first else frames, hx)
        return full_rows(y.transpose(0, 1) if self.batch_first else y), after

    return plain


@contextlib.contextmanager
def packing_full_rows() -> Iterator[None]:
    """Within, torch's functions that pack and pad, and its layers, take rows that all have every frame."""
    places = [
        (names, name, value)
        for module in [*sys.modules.values()]
        if (names := getattr(module, "__dict__", None)) is not None and module.__name__ != __name__
        for name in ("pack_padded_sequence", "pad_packed_sequence")
        if (value := names.get(name)) in INSTEAD
    ]
    layers = [(cls, cls.forward) for cls in (nn.RNN, nn.GRU, nn.LSTM)]
    try:
        for names, name, value in places:
            names[name] = INSTEAD[value]
        for cls, forward in layers:
            cls.forward = _layer(forward)  # type: ignore[method-assign]
        yield
    finally:
        for names, name, value in places:
            names[name] = value
        for cls, forward in layers:
            cls.forward = forward  # type: ignore[method-assign]
