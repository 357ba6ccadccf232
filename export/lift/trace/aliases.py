"""Finds operators that may return their argument, or a part of it."""

from __future__ import annotations

import operator
from functools import cache
from typing import Any

import torch
from torch import fx

from rnn_export.export.lift.ir.fx_nodes import overloads

# A view of it is read as a reshape anyway.
AS_THEY_ARE = overloads("reshape")


@cache
def is_plain(target: Any) -> bool:
    """True if an operator returns a new value, or a view that its schema declares."""
    if isinstance(target, torch._ops.HigherOrderOperator) or _is_of_functorch(target):
        return False
    if not isinstance(target, torch._ops.OpOverload) or target in AS_THEY_ARE:
        return True
    if target._schema.is_mutable or torch.Tag.maybe_aliasing_or_mutating in target.tags:
        return False
    name: str = target._name
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
    return not (composite and any(argument.alias_info is not None for argument in target._schema.arguments))


def is_new(value: fx.Node) -> bool:
    """True if a value is no part of an earlier one."""
    target: Any = value.args[0].target if value.target is operator.getitem else value.target  # type: ignore[union-attr]
    if not isinstance(target, torch._ops.OpOverload) or not is_plain(target):
        return False
    return all(result.alias_info is None for result in target._schema.returns)


def _is_of_functorch(target: Any) -> bool:
    """True if it is a step of `torch.func`, as in `vmap`, whose tensors do not exist outside of it."""
    return str(getattr(target, "__module__", "")).startswith("torch._functorch")
