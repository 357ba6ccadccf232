"""ONNX Runtime itself, or why it is not here, and its errors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnn_export.errors import BackendUnavailable
from rnn_export.platform.installing import pip_install

try:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as native
except ImportError as error:
    fix = f"{pip_install('cpu')}, or with gpu in place of cpu for CUDA"
    raise BackendUnavailable(f"onnxruntime is not here ({error}): {fix}.", id="onnxruntime-missing") from error

__all__ = ["RUN_ERRORS", "infer_shapes", "make_session", "ort"]

# They have no common base; a bound run raises a bare RuntimeError.
_NATIVE = (native.Fail, native.InvalidArgument, native.RuntimeException, native.EPFail, native.NotImplemented)
RUN_ERRORS = (*_NATIVE, RuntimeError)


def make_session(
    graph: bytes,
    provider: str = "CPUExecutionProvider",
    number: int = 0,
    threads: int = 1,
    optimise: bool = True,
    dims: Mapping[str, int] | None = None,
    run: bool = True,
    profile: str | None = None,
) -> Any:
    """An InferenceSession; raises BackendUnavailable for any error in which ONNX Runtime refuses the graph.

    Without `optimise` each node runs as it was written; `dims` are sizes of symbols; without `run` a session prepares
    nothing. A profile is written to a file whose path begins with `profile`.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # What is an error is raised, so nothing has to be printed on stderr as well.
    options.log_severity_level = 4
    # For the small tensors of a step the arena costs more than malloc.
    options.enable_cpu_mem_arena = False
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    for name, size in (dims or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    if not (optimise and run):
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not run:
        options.add_session_config_entry("session.disable_prepacking", "1")
    chosen: Any = provider
    if provider == "CUDAExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        chosen = (provider, {"device_id": str(number)})
    try:
        return ort.InferenceSession(graph, options, providers=[chosen])
    except Exception as error:  # it has a dozen of its own, and those of its binding
        raise BackendUnavailable(
            f"onnxruntime {ort.__version__} cannot load the graph: {error}", id="onnxruntime-cannot-load"
        ) from error


def infer_shapes(model: bytes, dims: Mapping[str, int]) -> Iterator[tuple[str, str, Sequence[object]]]:
    """Name, type and shape of a model's inputs and outputs, by a session that is made and never run."""
    session = make_session(model, dims=dims, run=False)
    for value in (*session.get_inputs(), *session.get_outputs()):
        yield value.name, value.type.removeprefix("tensor(").removesuffix(")"), value.shape
