"""SOURCE on the command line: `file.py:factory` or `package.module:factory`, a function that makes a model."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rnn_export.cli.functions import find_function, guarded
from rnn_export.errors import SourceError
from rnn_export.export.export_options import ExportOptions
from rnn_export.models.weights import load_weights

# Files that are taken for a model, which --weights takes.
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt")
Source = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def read_source(
    source: str, weights: Path | None, keywords: Mapping[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], ExportOptions]:
    """The model with its weights, its example, and its options under `keywords`; raises SourceError."""
    model, example, options = load_source(source)
    if weights is not None:
        load_weights(model, weights)
    known = {field.name for field in fields(ExportOptions)} - {"force", "progress"}
    if unknown := sorted({*options} - known):
        raise SourceError(
            f"{source} gives the options {unknown}, but export knows {sorted(known)}.", id="source-options-unknown"
        )
    return model, example, ExportOptions(**{**options, **keywords})


def load_source(source: str) -> Source:
    """The (model, example_inputs, options of `export`) that the factory makes; raises SourceError.

    Of a file alone, file.py, it is the function `factory`.
    """
    if Path(source).suffix.lower() in WEIGHTS:
        raise SourceError(
            f"{source} holds weights, and not the code of a model: write a function that makes the model, and give it "
            f"with them, file.py:factory --weights {source}.",
            id="source-is-weights",
        )
    if source.endswith(".py"):
        source = f"{source}:factory"
    factory = find_function(source, "source", "factory")
    return _checked(source, guarded(f"{source} raised", factory))


def _checked(source: str, made: Any) -> Source:
    parts = made if isinstance(made, tuple) else (made,)
    kinds = ", ".join(type(part).__name__ for part in parts)
    returned = f"{source} returned " + (f"({kinds})" if isinstance(made, tuple) else f"a {kinds}")
    if len(parts) not in (2, 3) or not isinstance(parts[0], nn.Module):
        raise SourceError(
            f"{returned}, but must return (model, example_inputs) or (model, example_inputs, options), with a "
            "torch.nn.Module, a tuple of tensors and a dict of export()'s keywords.",
            id="source-returns-other",
        )
    model, example, options = (*parts, {})[:3]
    example = (example,) if isinstance(example, Tensor) else example
    if not isinstance(example, tuple | list) or not isinstance(options, Mapping):
        raise SourceError(
            f"{returned}: example_inputs must be a tuple of tensors and options a dict.", id="source-types-wrong"
        )
    return model, tuple(example), dict(options)
