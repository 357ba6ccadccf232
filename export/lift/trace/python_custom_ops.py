"""Exports custom operators that a package wrote in Python as the operators they are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# The kernels of an operator that take tensors of the CPU, in the order in which torch would.
KERNELS = ("CPU", "CompositeExplicitAutograd")
# What this project registers is meant to stand in a graph.
OWN = "rnn_export"


class PythonOperators(TorchFunctionMode):
    """Calls Python kernels of custom operators in an export."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = _overload(func)
        kernel = None if operator is None else _kernel(operator)
        if operator is None or kernel is None:
            return func(*args, **kwargs)
        try:
            with self:
                return operator.redispatch(kernel, *args, **kwargs)
        except Exception:  # a kernel may ask for values, which there are none of
            return func(*args, **kwargs)


def _overload(func: Any) -> torch._ops.OpOverload | None:
    if isinstance(func, torch._ops.OpOverloadPacket):
        names: list[str] = func.overloads()  # type: ignore[no-untyped-call]
        return getattr(func, names[0]) if len(names) == 1 else None
    return func if isinstance(func, torch._ops.OpOverload) else None


def _kernel(operator: torch._ops.OpOverload) -> Any:
    """The key of a Python kernel that writes to none of its arguments, or None."""
    if operator.namespace == OWN or operator._schema.is_mutable:
        return None
    name, overload = operator._schema.name.replace("::", "/"), operator._schema.overload_name
    name = f"{name}.{overload}" if overload else name
    key = next((key for key in KERNELS if f"{name}/{key}" in torch.library._impls), None)
    return None if key is None else torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))
