"""The options of a target."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rnn_export.contract.option_checks import batch as batch_problem
from rnn_export.contract.option_checks import shown
from rnn_export.errors import ExportError
from rnn_export.platform.arrays import Arrays


@dataclass(frozen=True)
class TargetOptions:
    """Options of one target.

    Attributes:
        precision: of weights and arithmetic: "fp32", "fp16", "bf16", "int8".
        state_precision: of the states between two steps: "fp32", or the same as `precision`.
        opset: of the ONNX graphs; None where the target has none.
        batch: the fewest, usual and most streams in one step, where an engine is built for a range.
        name: an identifier that sources are named after.
        calibration: a recording by input, (rows, frames, ...), that int8 takes its scales from; None measures them at
            each step.
    """

    precision: str = "fp32"
    state_precision: str = "fp32"
    opset: int | None = None
    batch: tuple[int, int, int] = (1, 1, 8)
    name: str = "model"
    calibration: Arrays | None = None

    def __post_init__(self) -> None:
        if self.state_precision not in ("fp32", self.precision):
            raise ExportError(
                f"state_precision {self.state_precision!r} does not go with precision {self.precision!r}: "
                f"states are {' or '.join(sorted({'fp32', self.precision}))}.",
                id="state-precision-unfit",
            )
        if self.calibration is not None and self.precision != "int8":
            raise ExportError(
                f"a recording to calibrate on is for precision int8, not for {self.precision}: leave it out.",
                id="calibration-without-int8",
            )
        if expected := batch_problem(self.batch):
            raise ExportError(f"batch is {shown(self.batch)}, but {expected}.", id="batch-option-invalid")

    def of_rows(self, rows: int | None) -> TargetOptions:
        """The same for a contract of so many `rows`; None for any number."""
        return self if rows is None else replace(self, batch=(rows,) * 3)


def check_batch(batch: tuple[int, int, int] | None, rows: int | None) -> None:
    """Raise ExportError where a batch is asked for that a contract of so many `rows` has not."""
    if rows is not None and batch not in (None, (rows,) * 3):
        raise ExportError(
            f"batch is {batch}, but the model takes one stream at a time (rows: 1 in its contract): leave it out.",
            id="batch-of-one-row",
        )
