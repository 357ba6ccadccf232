"""OpenVINO itself, or why it is not here; its settings, and its report of an error."""

from typing import Any

from rnn_export.errors import BackendUnavailable
from rnn_export.platform.installing import pip_install

try:
    import openvino as _openvino
    import openvino.opset13
    import openvino.passes
except ImportError as error:
    raise BackendUnavailable(
        f"openvino is not here ({error}): {pip_install('openvino')}.", id="openvino-missing"
    ) from error

__all__ = ["PRECISION", "SETTINGS", "cause", "infer", "ov", "settings", "version"]

ov: Any = _openvino
# The inference itself, without the layer of Python around it: (request, inputs, share outputs, decode strings).
infer: Any = next(
    c.infer for c in _openvino.InferRequest.__mro__[1:] if "infer" in vars(c) and c.__module__ == "openvino._pyopenvino"
)
# By itself OpenVINO computes in less than fp32 where a CPU has instructions for bf16, and says nothing.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
SETTINGS = {**PRECISION, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}


def settings(threads: int, by_default: bool = False) -> dict[str, Any]:
    """Compile settings, for steps that come one by one; in OpenVINO's own precision if `by_default`."""
    asked = {**SETTINGS, "INFERENCE_NUM_THREADS": threads}
    return {name: value for name, value in asked.items() if not (by_default and name in PRECISION)}


def version() -> str:
    """The version, as "2026.4.1"."""
    return str(ov.get_version()).partition("-")[0]


def cause(error: Exception) -> str:
    """The reason alone: OpenVINO tells first where in its sources it was."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return " ".join(lines) or type(error).__name__
