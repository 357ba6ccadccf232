"""The options of `lift`, as its stages read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rnn_export.export.lift.axes.axes import TimeAxis
from rnn_export.export.lift.model.call.output_parts import OutputRef


@dataclass(frozen=True)
class LiftOptions:
    """The arguments of `lift`; `chunk` is None for "auto"."""

    time_axis: TimeAxis
    states: Mapping[str, OutputRef | None] | None
    initial: Mapping[str, Tensor] | None
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    sample_rate: int | None
    chunk: int | None
    sequence_only: bool
    progress: Callable[[str], None]

    @property
    def frames(self) -> int:
        """The frames of a step; the fewest if no number is asked for."""
        return self.chunk or 1

    @property
    def plain(self) -> list[str]:
        """The arguments declared to be no states."""
        return [name for name, ref in (self.states or {}).items() if ref is None]
