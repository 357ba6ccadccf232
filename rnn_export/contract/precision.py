"""The one table of the precisions of a step, with the tolerance and the names in other libraries of each."""

import math
from dataclasses import dataclass

from rnn_export.errors import ExportError


@dataclass(frozen=True)
class Tolerance:
    """An error is allowed up to atol + rtol * scale, with scale the largest magnitude that the tensor had so far."""

    atol: float
    rtol: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in (self.atol, self.rtol)):
            raise ExportError(
                f"atol={self.atol} and rtol={self.rtol}: both must be finite and at least 0.",
                id="tolerance-out-of-range",
            )


@dataclass(frozen=True)
class Precision:
    """One precision of weights and products, with its names in numpy, `onnx.TensorProto` and `tensorrt.DataType`.

    Attributes:
        compute: the lowest compute capability of the NVIDIA GPUs that compute in it; TensorRT's support matrix.
        tolerance: of a closed loop in it; None where nothing is written in it.
        dtype: empty, as the other names, where no ONNX graph is written in it.
        tensorrt_since: the first version of `tensorrt` that has it, where not all do: onnx-tensorrt, docs/operators.md.
        largest: the largest finite number.
    """

    name: str
    bits: int
    compute: tuple[int, int] = (0, 0)
    tolerance: Tolerance | None = None
    dtype: str = ""
    onnx_type: str = ""
    tensorrt_type: str = ""
    tensorrt_since: str = ""
    largest: float = math.inf


# Real nets with carried state are at 1e-7 to 2e-5 in fp32, up to 3e-2 in fp16, 2e-1 in bf16, 3e-1 in int8.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", 32, (0, 0), Tolerance(1e-6, 2e-5), "float32", "FLOAT", "FLOAT", largest=3.4028235e38),
        Precision("fp16", 16, (5, 3), Tolerance(1e-3, 3e-2), "float16", "FLOAT16", "HALF", largest=65504.0),
        Precision("bf16", 16, (8, 0), Tolerance(1e-2, 2e-1), "bfloat16", "BFLOAT16", "BF16", "9.0", 3.3895314e38),
        Precision("int8", 8, (7, 2), Tolerance(5e-2, 3e-1)),
        Precision("fp8", 8, (8, 9)),
        Precision("fp4", 4, (10, 0)),
    )
}
TOLERANCES = {name: p.tolerance for name, p in PRECISIONS.items() if p.tolerance is not None}
# Those that an ONNX graph can be typed in.
GRAPH_PRECISIONS = tuple(name for name, p in PRECISIONS.items() if p.dtype)


def precisions_of_gpu(compute: str) -> tuple[str, ...]:
    """Precisions of a GPU of a compute capability such as "8.7"."""
    major, minor = map(int, compute.split("."))
    return tuple(name for name, p in PRECISIONS.items() if p.compute <= (major, minor))
