"""Finds counters in attributes that calls use for anything but their own next value.

An object that is no number of Python's stands in for each, so that every use is seen: an index of a list, a shift, a
format, a library function.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnn_export.errors import LiftError
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.module_attributes import AttributePath

# As many as a value that goes from attribute to attribute is followed.
CALLS = 4
ARITHMETIC = "add sub mul mod floordiv truediv pow"
ASKING = (
    "eq ne lt le gt ge bool index int float complex round trunc floor ceil hash format str repr neg pos abs invert "
    "lshift rlshift rshift rrshift and rand or ror xor rxor divmod rdivmod matmul rmatmul"
)


# What a tensor answers otherwise than a number.
UNLIKE = {
    "__hash__": "the hash, as of a key in a dict or a set,",
    **dict.fromkeys(("__str__", "__repr__", "__format__"), "the text"),
}


class _Opaque:
    """A number whose sums, products and the like are such numbers too; all of them share `asked`."""

    def __init__(self, value: Any, asked: list[str]) -> None:
        self.value, self.asked = value, asked

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.asked.append(name)
        return getattr(self.value, name)

    def __deepcopy__(self, memo: Any) -> _Opaque:
        return self


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Opaque) else value


def _arithmetic(function: Callable[..., Any], turned: bool) -> Callable[..., Any]:
    def method(self: _Opaque, other: Any) -> Any:
        if not isinstance(_plain(other), int | float):
            self.asked.append(f"__{function.__name__}__")
        sides = (other, self) if turned else (self, other)
        result = function(*map(_plain, sides))
        return _Opaque(result, self.asked) if isinstance(result, int | float) else result

    return method


def _asking(name: str) -> Callable[..., Any]:
    def method(self: _Opaque, *others: Any) -> Any:
        self.asked.append(name)
        return getattr(self.value, name)(*map(_plain, others))

    return method


for _name in ARITHMETIC.split():
    for _turned, _word in ((False, _name), (True, f"r{_name}")):
        setattr(_Opaque, f"__{_word}__", _arithmetic(getattr(operator, _name), _turned))
for _name in ASKING.split():
    setattr(_Opaque, f"__{_name}__", _asking(f"__{_name}__"))


def asked_numbers(
    flat: FlatModel, numbers: Mapping[AttributePath, int | float], arguments: Sequence[Tensor]
) -> list[AttributePath]:
    """The paths of `numbers` that calls of the model ask for anything but their own next value.

    Raises LiftError if they are asked what a tensor, which a count is in a step, answers otherwise, or not at all.
    """
    asked = {path: _asked(copy.deepcopy(flat), path, numbers[path], arguments) for path in numbers}
    for path, names in asked.items():
        if unlike := next((name for name in names if name in UNLIKE or not name.startswith("__")), None):
            raise LiftError(
                f"calls of the model change the number {str(path)!r}, and ask for {UNLIKE.get(unlike, f'{unlike}()')} "
                "of it: in a step it is a tensor, which answers otherwise. Compare it with numbers (==, <), count with "
                "a rest (% N), and choose by torch.where.",
                id="count-asked-as-object",
            )
    return [path for path, names in asked.items() if names]


def _asked(flat: FlatModel, path: AttributePath, value: int | float, arguments: Sequence[Tensor]) -> list[str]:
    asked: list[str] = []
    path.put(flat.model, _Opaque(value, asked))
    try:
        with torch.no_grad():
            for _ in range(CALLS):
                flat(*(t.clone() for t in arguments))
    except Exception:  # what takes numbers of Python's alone may raise anything, with the text of what it was given
        return ["__index__"]
    return asked
