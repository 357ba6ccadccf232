"""Tracks the values of tensors made of constants, as `torch.arange(1, 3)`, while a module is exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from rnn_export.export.lift.ir.symbolic_integers import is_by_value
from rnn_export.export.lift.model.numbers.symbolic_functions import NUMBER

# The attribute of a tensor that is known: a tensor of that value.
VALUE = "_rnn_export_value"
# The attribute of a tensor that is made of sizes: how to make it of numbers.
OF_SIZES = "_rnn_export_of_sizes"
MAKERS: set[Callable[..., Any]] = {
    torch.arange, torch.zeros, torch.ones, torch.full, torch.eye, torch.linspace, torch.logspace, torch.tensor,
    torch.as_tensor, torch.scalar_tensor, torch.tril_indices, torch.triu_indices, torch.hann_window,
    torch.hamming_window, torch.blackman_window, torch.bartlett_window, torch.kaiser_window,
}  # fmt: skip
# These answer with numbers of Python's.
ASKING = ("item", "tolist", "is_nonzero", "equal", "allclose", "__contains__", "__bool__", "__int__", "__index__",
          "__float__")  # fmt: skip
RANDOM = ("rand", "bernoulli", "multinomial", "normal", "poisson", "dropout", "uniform", "exponential", "geometric",
          "cauchy", "rrelu")  # fmt: skip
SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


class KnownConstants(TorchFunctionMode):
    """Gives the numbers in tensors made of constants to exported code; torch itself knows no values of tensors."""

    def __init__(self) -> None:
        super().__init__()
        # Held, so that no other storage has the address of one that is no longer known.
        self._forgotten: list[torch.UntypedStorage] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in ASKING and (known := self._known(func, args, kwargs)) is not None:
            return known[0]
        if func is Tensor.__getitem__:
            args = (args[0], pytree.tree_map(self._number, args[1], is_leaf=lambda part: isinstance(part, slice)))
        known = self._known(func, args, kwargs)
        result = func(*args, **kwargs)
        if known is not None:
            _mark(result, known[0])
        elif func in MAKERS and getattr(result, NUMBER, None) is None:
            setattr(result, OF_SIZES, lambda: func(*_of_numbers(args), **_of_numbers(kwargs)))
        elif _writes(name, kwargs):
            self._forget(kwargs.get("out", args[0] if args else None))
        return result

    def _known(self, func: Any, args: Any, kwargs: Any) -> tuple[Any] | None:
        """The result of `func`, in a tuple, if all arguments are known."""
        first = next((a for a in args if isinstance(a, Tensor)), None)
        if first is not None and self._value(first, func) is None:
            return None
        leaves = pytree.tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(map(is_by_value, leaves)):
            # Torch would take any number for it.
            return None
        is_made = func in MAKERS and not any(isinstance(leaf, SYMBOLS) for leaf in leaves)
        if not (tensors or is_made) or any(word in getattr(func, "__name__", "") for word in RANDOM):
            return None
        values = [self._value(t, func) for t in tensors]
        if any(value is None for value in values):
            return None
        by_id = {id(t): value for t, value in zip(tensors, values, strict=True)}
        given = pytree.tree_map_only(Tensor, lambda t: by_id[id(t)], (args, kwargs))
        try:
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                return (func(*given[0], **given[1]),)
        except Exception:  # what fails says so itself
            return None

    def _value(self, tensor: Tensor, func: Any) -> Tensor | None:
        make = getattr(tensor, OF_SIZES, None)
        if make is not None and getattr(func, "__name__", "") in ASKING:
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                made: Tensor = make()
                return made
        value: Tensor | None = getattr(tensor, VALUE, None)
        if value is None or any(s._cdata == value.untyped_storage()._cdata for s in self._forgotten):
            return None
        return value

    def _number(self, index: Any) -> Any:
        """An index, with the number of a known tensor in its place."""
        if isinstance(index, slice):
            return slice(*map(self._number, (index.start, index.stop, index.step)))
        if not isinstance(index, Tensor) or index.dim() or index.dtype not in (torch.int64, torch.int32):
            return index
        value = self._value(index, None)
        if value is None:
            return index
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return int(value)

    def _forget(self, written: Any) -> None:
        for tensor in pytree.tree_leaves(written):
            value = getattr(tensor, VALUE, None)
            if value is not None:
                self._forgotten.append(value.untyped_storage())
            if getattr(tensor, OF_SIZES, None) is not None:
                delattr(tensor, OF_SIZES)


def _mark(result: Any, known: Any) -> None:
    """Note the value of each tensor of `result` in an attribute."""
    made, values = pytree.tree_leaves(result), pytree.tree_leaves(known)
    for tensor, value in zip(made, values, strict=True) if len(made) == len(values) else ():
        if isinstance(tensor, Tensor) and isinstance(value, Tensor):
            setattr(tensor, VALUE, value)


def _writes(name: str, kwargs: Any) -> bool:
    is_special = name.startswith("__") and name.endswith("__")
    changes = name == "__setitem__" or (name.startswith("__i") and name not in ("__int__", "__index__", "__invert__"))
    return (changes if is_special else name.endswith("_")) or kwargs.get("out") is not None


def _of_numbers(values: Any) -> Any:
    """`values` with symbolic sizes as ints, to which the export specializes them."""
    return pytree.tree_map(lambda v: int(v) if isinstance(v, torch.SymInt) else v, values)
