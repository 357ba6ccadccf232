"""LiteRT itself, or why it is not here; and its report of an error."""

from importlib.metadata import version as version_of
from typing import Any

from rnn_export.errors import BackendUnavailable
from rnn_export.platform.installing import pip_install

try:
    import ai_edge_litert.interpreter as _interpreter
    import ai_edge_litert.schema_py_generated as _schema
except ImportError as error:
    raise BackendUnavailable(
        f"ai-edge-litert is not here ({error}): {pip_install('litert')}.", id="ai-edge-litert-missing"
    ) from error

__all__ = ["cause", "new_interpreter", "schema", "version"]

schema: Any = _schema


def new_interpreter(raw: bytes, threads: int, keeps_all: bool = False) -> Any:
    """An interpreter of its own on the file `raw`, with room for its tensors: all can be read where it `keeps_all`.

    On LiteRT's own kernels, without the delegate for XNNPACK: that one writes a line on stderr whenever it is made,
    and packs the weights anew for each.
    """
    kernels = _interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    made: Any = _interpreter.Interpreter(
        model_content=raw, num_threads=threads, experimental_op_resolver_type=kernels,
        experimental_preserve_all_tensors=keeps_all,
    )  # fmt: skip
    made.allocate_tensors()
    return made


def version() -> str:
    """Version, as "2.3.0"."""
    return version_of("ai-edge-litert")


def cause(error: Exception) -> str:
    """The reason alone: an interpreter tells all that it ever refused, the newest last."""
    lines = [part.strip() for part in str(error).split("failed to invoke.") if part.strip()]
    return " ".join(lines[-1].split()) if lines else type(error).__name__
