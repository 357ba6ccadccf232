"""The options of `lift`, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

from rnn_export.contract import option_checks as check
from rnn_export.contract.choices import Chunk
from rnn_export.errors import LiftError, RnnExportError
from rnn_export.limits import CONTEXT, FRAMES, SAMPLE_RATE

if TYPE_CHECKING:
    from rnn_export.export.lift.axes.axes import TimeAxis
    from rnn_export.export.lift.model.call.output_parts import OutputRef


def _time_axis(value: object) -> str:
    if value is None or type(value) is int or (type(value) is str and value == "auto") or not check.by_name(value):
        return ""
    return 'must be "auto", None, an axis, or a dict of them by input (--time-axis auto, none, N, or NAME=N for each)'


@dataclass(frozen=True, kw_only=True)
class LiftOptions:
    """The keywords of `rnn_export.export.export` that lifting reads; they are described there.

    Raises LiftError for a value that no model could take.
    """

    time_axis: TimeAxis = "auto"
    states: Mapping[str, OutputRef | None] | None = None
    initial: Mapping[str, Any] | None = None
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    sample_rate: int | None = None
    chunk: Chunk = "auto"
    sequence_only: bool = False
    assume: Mapping[str, bool] | None = None
    max_frames: int | None = None
    max_context: int | None = None
    pack_states: bool = False
    recurrent_form: Mapping[FunctionType, FunctionType] | None = None
    progress: Callable[[str], None] = lambda stage: None

    error: ClassVar[type[RnnExportError]] = LiftError
    checks: ClassVar[Mapping[str, check.Check]] = {
        "time_axis": _time_axis,
        "states": check.optional(check.by_name),
        "initial": check.optional(check.by_name),
        "input_names": check.optional(check.names),
        "output_names": check.optional(check.names),
        "sample_rate": check.optional(check.count(SAMPLE_RATE)),
        "chunk": check.chunk,
        "sequence_only": check.flag,
        "assume": check.optional(check.by_name),
        "max_frames": check.optional(check.count(FRAMES)),
        "max_context": check.optional(check.count(CONTEXT)),
        "pack_states": check.flag,
        "recurrent_form": check.optional(check.functions),
        "progress": check.function,
    }

    def __post_init__(self) -> None:
        if problem := check.problem(self, self.checks):
            raise self.error(problem, id="option-refused")

    @property
    def frames(self) -> int:
        """The frames of a step; the fewest if no number is asked for."""
        return 1 if self.chunk == "auto" else self.chunk

    @property
    def plain(self) -> list[str]:
        """The arguments declared to be no states."""
        return [name for name, ref in (self.states or {}).items() if ref is None]
