"""A model as a function of flat, named tensors: (inputs..., states...) -> (outputs..., next states...)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError

OutputRef = int | str


@dataclass(frozen=True)
class Leaf:
    """One named tensor of a call, with its example value."""

    name: str
    example: Tensor


class FlatModel(nn.Module):
    """`model` called with flat tensors.

    Attributes:
        inputs, states: the named leaves, in the order of forward's arguments.
        outputs: the names of forward's first results; the next states follow in the order of `states`.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Sequence[Any],
        states: Mapping[str, OutputRef],
        input_names: Sequence[str] | None,
        output_names: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.refs = dict(states)
        self.arguments = _bind(model, example, self.refs)
        with torch.no_grad():
            result = self.model(**self.arguments)
        for name, ref in self.refs.items():
            if self.arguments[name] is None:
                # The model makes this state itself when it gets none; it must come back in the shape it is fed in.
                self.arguments[name] = pytree.tree_map(torch.zeros_like, _pick(result, ref, name))
        self.inputs = _named([n for n in self.arguments if n not in self.refs], self.arguments, input_names)
        self.states = _named(list(self.refs), self.arguments, None)
        self.outputs = self._output_names(result, output_names)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        left = list(tensors)
        called = {}
        for name in [*(n for n in self.arguments if n not in self.refs), *self.refs]:
            leaves, tree = pytree.tree_flatten(self.arguments[name])
            filled = [left.pop(0) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            called[name] = pytree.tree_unflatten(filled, tree)
        result = self.model(**called)
        after = [t for name, ref in self.refs.items() for t in pytree.tree_leaves(_pick(result, ref, name))]
        return (*(t for _, t in self._data(result)), *after)

    def _data(self, result: Any) -> list[tuple[str, Tensor]]:
        """The named tensors of a result that are not a next state."""
        if isinstance(result, Mapping):
            items = [(str(k), v) for k, v in result.items() if k not in self.refs.values()]
        elif isinstance(result, tuple | list):
            taken = {ref % len(result) for ref in self.refs.values() if isinstance(ref, int)}
            items = [("output", v) for i, v in enumerate(result) if i not in taken]
        else:
            items = [("output", result)]
        leaves = []
        for name, value in items:
            for path, leaf in pytree.tree_flatten_with_path(value)[0]:
                if isinstance(leaf, Tensor):
                    leaves.append((name + _suffix(path), leaf))
        if not isinstance(result, Mapping) and len(leaves) > 1:
            leaves = [(f"output{i}", leaf) for i, (_, leaf) in enumerate(leaves)]
        return leaves

    def _output_names(self, result: Any, wanted: Sequence[str] | None) -> tuple[str, ...]:
        names = [name for name, _ in self._data(result)]
        if not names:
            raise LiftError("the model returns nothing but its states: a stream needs an output. Return one more tensor.")
        return _renamed(names, wanted, "output")


def _bind(model: nn.Module, example: Sequence[Any], refs: Mapping[str, OutputRef]) -> dict[str, Any]:
    """The example by argument name; a declared state that it leaves out is None."""
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind_partial(*example)
    except TypeError as error:
        raise LiftError(
            f"the example has {len(example)} inputs, which do not fit forward{signature}: {error}."
        ) from None
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            raise LiftError(f"forward takes *{name}: give its arguments names, so that states can be named.")
        arguments[name] = value
    known = list(signature.parameters)
    for name in refs:
        if name not in known:
            raise LiftError(f"states names the argument {name!r}, but forward has {known}.")
        arguments.setdefault(name, None)
    missing = [
        n
        for n, p in signature.parameters.items()
        if p.default is p.empty and arguments.get(n) is None and p.kind is not p.VAR_KEYWORD
    ]
    if missing:
        raise LiftError(f"forward needs {', '.join(map(repr, missing))}, which the example does not give.")
    return arguments


def _pick(result: Any, ref: OutputRef, state: str) -> Any:
    try:
        if isinstance(ref, int) and isinstance(result, tuple | list):
            return result[ref]
        if isinstance(ref, str) and isinstance(result, Mapping):
            return result[ref]
    except (IndexError, KeyError):
        pass
    has = (
        f"the keys {list(result)}"
        if isinstance(result, Mapping)
        else f"{len(result)} values"
        if isinstance(result, tuple | list)
        else "one tensor"
    )
    raise LiftError(f"states says that {state!r} comes back as output {ref!r}, but the model returns {has}.")


def _named(arguments: Sequence[str], values: Mapping[str, Any], wanted: Sequence[str] | None) -> tuple[Leaf, ...]:
    names, tensors = [], []
    for argument in arguments:
        for path, leaf in pytree.tree_flatten_with_path(values[argument])[0]:
            if isinstance(leaf, Tensor):
                names.append(argument + _suffix(path))
                tensors.append(leaf.detach())
    return tuple(Leaf(n, t) for n, t in zip(_renamed(names, wanted, "input"), tensors, strict=True))


def _suffix(path: Sequence[Any]) -> str:
    return "".join(f".{getattr(key, 'key', getattr(key, 'idx', key))}" for key in path)


def _renamed(names: Sequence[str], wanted: Sequence[str] | None, what: str) -> tuple[str, ...]:
    if wanted is None:
        return tuple(names)
    if len(wanted) != len(names):
        raise LiftError(f"{what}_names has {len(wanted)} names, but the model has {len(names)} {what}s: {list(names)}.")
    return tuple(wanted)
