"""Keeps the memory between the calls of a model that takes and returns it as an object, such as a cache."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from rnn_export.export.lift.model.call.output_parts import OutputRef, is_ordered, key_of, result_parts


class Carrying(nn.Module):
    """`model` with its arguments `refs` kept as attributes: the next value of each is the result that it refers to.

    `first` are their initial values, None for those that the model makes; `signature` is of forward without them.
    Returns the other results by their keys, in a tuple if the model does, with None in the place of these.
    """

    def __init__(
        self, model: nn.Module, refs: Mapping[str, OutputRef], first: Mapping[str, Any], signature: inspect.Signature
    ) -> None:
        super().__init__()
        self.model, self.refs = model, dict(refs)
        left = [parameter for name, parameter in signature.parameters.items() if name not in refs]
        self.signature = signature.replace(parameters=left)
        vars(self).update({name: first.get(name) for name in refs})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = self.model(*args, **kwargs, **{name: vars(self)[name] for name in self.refs})
        parts = result_parts(result)
        keys = {name: key_of(result, ref) for name, ref in self.refs.items()}
        vars(self).update({name: parts[key] for name, key in keys.items() if key is not None})
        others = {key: None if key in keys.values() else value for key, value in parts.items()}
        return tuple(others.values()) if is_ordered(result) else others
