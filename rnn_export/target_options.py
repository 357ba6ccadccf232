"""What is asked of a target."""

from dataclasses import dataclass

from rnn_export.arrays import Arrays
from rnn_export.errors import ExportError


@dataclass(frozen=True)
class TargetOptions:
    """How a target is written.

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
                f"states are {' or '.join(sorted({'fp32', self.precision}))}."
            )
        if self.calibration is not None and self.precision != "int8":
            raise ExportError(
                f"a recording to calibrate on is for precision int8, not for {self.precision}: leave it out."
            )
        if not isinstance(self.batch, tuple | list) or [type(n) for n in self.batch] != [int] * 3:
            raise ExportError(f"batch is {self.batch!r}, but must be three ints: (MIN, OPT, MAX).")
        low, usual, high = self.batch
        if not 1 <= low <= usual <= high:
            raise ExportError(f"batch {low}:{usual}:{high} is no range MIN:OPT:MAX of at least 1 that rises.")
