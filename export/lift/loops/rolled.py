"""A loop over time as one module: its body, driven over the frames with its memory carried along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx, nn

from rnn_export.export.lift.loops.references import Path, value_at


class RolledLoop(nn.Module):
    """forward(invariants..., sequences..., initial memory...) -> (joined frames..., last frame's values..., memory...).

    Attributes:
        body: (invariants..., frames..., memory...) -> (next memory..., values to join..., values of the last frame...).
        scans: for each sequence, how frame 0 is taken of it; the first part is along the axis of frames.
        memories: how many tensors the body carries from frame to frame.
        joins: for each value to join, `torch.stack` or `torch.cat`, and along which axis.
    """

    def __init__(
        self,
        body: fx.GraphModule,
        scans: Sequence[Path],
        memories: int,
        joins: Sequence[tuple[Callable[..., Any], int]],
    ) -> None:
        super().__init__()
        self.body, self.scans, self.memories, self.joins = body, tuple(scans), memories, tuple(joins)

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        first_memory = len(args) - self.memories
        first_sequence = first_memory - len(self.scans)
        invariants, sequences = args[:first_sequence], args[first_sequence:first_memory]
        memory = args[first_memory:]
        by_frame: list[tuple[Tensor, ...]] = []
        for k in range(sequences[0].shape[self.scans[0][0].axis]):
            frames = [
                value_at(x, (path[0]._replace(entry=k), *path[1:]))
                for x, path in zip(sequences, self.scans, strict=True)
            ]
            results = self.body(*invariants, *frames, *memory)
            memory = results[: self.memories]
            by_frame.append(results[self.memories :])
        joined = [join([frame[i] for frame in by_frame], dim) for i, (join, dim) in enumerate(self.joins)]
        return (*joined, *by_frame[-1][len(self.joins) :], *memory)
