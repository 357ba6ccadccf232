"""Binds an example to the arguments of `forward` by name."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError
from rnn_export.export.lift.model.call.nested_states import put_back, taken_out
from rnn_export.export.lift.model.call.output_parts import OutputRef
from rnn_export.export.lift.model.call.pytree import closed, leaves_by_path, opened, suffix
from rnn_export.export.lift.model.script.script_modules import signature_of


def bind(
    model: nn.Module, example: Sequence[Any], refs: Mapping[str, OutputRef]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the names of the arguments passed by position (`*NAME` for varargs), and the example by argument name.

    Varargs are one tuple; a state that the example leaves out is None.
    """
    signature = signature_of(model)
    parameters = signature.parameters
    try:
        bound = signature.bind_partial(*example)
    except TypeError as error:
        raise LiftError(
            f"the example has {len(example)} inputs, which do not fit forward{signature}: {error}.",
            id="example-does-not-fit",
        ) from None
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        arguments[name] = pytree.tree_map_only(Tensor, torch.detach, closed(value))
        _check_example(name, arguments[name], name in refs)
    taken_out(arguments, [*refs])
    starred = [n for n, p in parameters.items() if p.kind is p.VAR_POSITIONAL and n in arguments]
    named = [n for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in arguments]
    for name in refs:
        if name not in (*named, *arguments):
            raise LiftError(
                f"states (--state) names the argument {name!r}, but forward has {list(parameters)}.",
                id="state-names-no-argument",
            )
        arguments.setdefault(name, None)
    if missing:
        raise LiftError(
            f"forward needs {', '.join(map(repr, missing))}, which the example does not give.",
            id="forward-argument-missing",
        )
    if not pytree.tree_any_only(Tensor, lambda t: True, [v for n, v in arguments.items() if n not in refs]):
        raise LiftError(
            "the example holds no tensor that goes in: give a tuple of tensors that forward can take.",
            id="example-without-tensors",
        )
    by_position = [n for n in bound.arguments if starred or parameters[n].kind is inspect.Parameter.POSITIONAL_ONLY]
    return tuple(f"*{n}" if n in starred else n for n in by_position), arguments


def _check_example(name: str, value: Any, is_state: bool) -> None:
    for path, leaf in leaves_by_path(value):
        if hasattr(leaf, "__array__") and not isinstance(leaf, Tensor):
            raise LiftError(
                f"input {name + suffix(path)!r} is {type(leaf).__name__}: give torch.as_tensor of it.",
                id="example-not-a-tensor",
            )
        if isinstance(leaf, Tensor) and not leaf.numel() and not is_state:
            raise LiftError(
                f"input {name + suffix(path)!r} has shape {tuple(leaf.shape)}: no axis of an example may be empty.",
                id="example-axis-empty",
            )


def call_bound(model: nn.Module, positional: Sequence[str], arguments: Mapping[str, Any]) -> Any:
    """The result of `model` for `arguments` as `bind` gives them."""
    called = {name: opened(value) for name, value in put_back(arguments).items()}
    taken = [called.pop(name.removeprefix("*")) for name in positional]
    given = (value if name.startswith("*") else (value,) for name, value in zip(positional, taken, strict=True))
    return model(*itertools.chain(*given), **called)
