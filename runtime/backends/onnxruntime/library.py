"""ONNX Runtime itself, or why it is not here, and what it raises."""

from rnn_export.errors import BackendUnavailable

try:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as native
except ImportError as error:
    fix = "pip install 'rnn-export[cpu]', or 'rnn-export[gpu]' for CUDA"
    raise BackendUnavailable(f"onnxruntime is not here ({error}): {fix}.") from error

__all__ = ["LOAD_ERRORS", "RUN_ERRORS", "ort"]

# They have no common base; a bound run raises a bare RuntimeError.
_NATIVE = (native.Fail, native.InvalidArgument, native.RuntimeException, native.EPFail, native.NotImplemented)
RUN_ERRORS = (*_NATIVE, RuntimeError)
LOAD_ERRORS = (*RUN_ERRORS, native.InvalidGraph, native.InvalidProtobuf, native.NoSuchFile)
