"""The options of `export`, checked before anything runs, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rnn_export.contract import option_checks as check
from rnn_export.contract.choices import Precision
from rnn_export.contract.precision import TOLERANCES, Tolerance
from rnn_export.errors import ExportError
from rnn_export.export.lift.options import LiftOptions
from rnn_export.runtime.recording import Source
from rnn_export.runtime.replay.figures import Accept

# Options of one kind of source alone.
ONLY_OF = {
    "a PyTorch module": (
        "time_axis", "input_names", "output_names", "sequence_only", "assume", "max_frames", "max_context",
        "pack_states", "recurrent_form",
    ),
    "an ONNX file": ("fixed", "shapes"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExportOptions(LiftOptions):
    """The keywords of `rnn_export.export.export`, where they are described.

    Raises ExportError for a value that no model could take, and for two that do not agree.
    """

    targets: Sequence[str] = ("onnx",)
    precision: Precision = "fp32"
    state_precision: Precision | None = None
    opset: int | None = None
    batch: tuple[int, int, int] | None = None
    data: Source | None = None
    calibrate: Source | None = None
    steps: int = 256
    atol: float | None = None
    rtol: float | None = None
    accept: Accept | None = None
    fixed: Mapping[str, Any] | None = None
    shapes: Mapping[str, Sequence[int | str]] | None = None
    force: bool = False
    report: bool = True

    error = ExportError
    # A recording is checked with the contract.
    checks: ClassVar[Mapping[str, check.Check]] = {
        **LiftOptions.checks,
        "targets": check.names,
        "precision": check.word,
        "state_precision": check.optional(check.word),
        "opset": check.optional(check.count()),
        "batch": check.optional(check.batch),
        "steps": check.count(),
        "atol": check.optional(check.tolerance),
        "rtol": check.optional(check.tolerance),
        "accept": check.optional(check.function),
        "fixed": check.optional(check.by_name),
        "shapes": check.optional(check.by_name),
        "force": check.flag,
        "report": check.flag,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sequence_only and tuple(self.targets) != ("onnx",):
            raise ExportError(
                "sequence_only (--sequence-only) writes whole sequences, which the target onnx alone has: leave the "
                "others out.",
                id="sequence-only-targets",
            )
        if self.calibrate is not None and self.precision != "int8":
            raise ExportError(
                f"calibrate (--calibrate) is for precision int8, not for {self.precision}: leave it out.",
                id="calibrate-without-int8",
            )

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance asked for, or else that of the precision."""
        usual = TOLERANCES[self.precision]
        return Tolerance(usual.atol if self.atol is None else self.atol, usual.rtol if self.rtol is None else self.rtol)

    def set_for(self, source: str) -> list[str]:
        """The options that are set, of those that only such a source has; `source` is a key of `ONLY_OF`."""
        return [name for name in ONLY_OF[source] if getattr(self, name) != getattr(type(self), name)]
