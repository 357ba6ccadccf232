"""Checks of option values: each returns what the value must be, or "" for a value that fits.

An options class has a table of them, so that a wrong value is refused by one sentence before anything runs.
"""

import contextlib
import math
import reprlib
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

Check = Callable[[Any], str]

# Of a count that has no smaller limit: sizes of arrays are kept in 64 bits.
MOST = 2**31 - 1


def problem(options: object, checks: Mapping[str, Check]) -> str:
    """A sentence on the first attribute of `options` whose value fails its check; empty if all pass."""
    for name, check in checks.items():
        if expected := check(getattr(options, name)):
            return f"{name} is {shown(getattr(options, name))}, but {expected}."
    return ""


def shown(value: object) -> str:
    """`value` for a message: as Python writes it if that is short, its type otherwise."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an int of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float | str | bytes | list | tuple | set | dict):
        with contextlib.suppress(ValueError):  # an int inside has too many digits for Python
            return reprlib.repr(value)
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def flag(value: object) -> str:
    return "" if type(value) is bool else "must be True or False"


def count(most: int = MOST) -> Check:
    """A whole number from 1 on."""

    def check(value: object) -> str:
        if type(value) is not int or value < 1:
            return "must be an int of at least 1"
        return f"may be {most} at most" if value > most else ""

    return check


def optional(check: Check) -> Check:
    """The check of a value that may be None."""
    return lambda value: "" if value is None else check(value)


def tolerance(value: object) -> str:
    """A finite number from 0 on."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    return "" if fits else "must be a finite number of at least 0"


def names(value: object) -> str:
    """Several names; one string is none, since it would be read letter by letter."""
    fits = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return "" if fits else "must be a list or tuple of names"


def by_name(value: object) -> str:
    """Values by name."""
    fits = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    return "" if fits else "must be a dict with names as keys"


def chunk(value: object) -> str:
    """Frames of a step: a count, or "auto"."""
    if (type(value) is str and value == "auto") or not count()(value):
        return ""
    return (
        'a step has a whole number of frames: give an int of at least 1 (--chunk N), or "auto" (--chunk auto) for the '
        "fewest that the model takes at once"
    )


def batch(value: Any) -> str:
    """The fewest, usual and most streams of a step."""
    fits = isinstance(value, tuple | list) and len(value) == 3 and not any(map(count(), value))
    rises = fits and value[0] <= value[1] <= value[2]
    return "" if rises else "must be three ints of at least 1 that rise: (MIN, OPT, MAX)"


def word(value: object) -> str:
    return "" if type(value) is str else "must be a word"


def function(value: object) -> str:
    return "" if callable(value) else "must be a function"


def functions(value: object) -> str:
    """Functions by functions of the same arguments."""
    fits = isinstance(value, Mapping) and all(isinstance(f, FunctionType) for pair in value.items() for f in pair)
    return "" if fits else "must be a dict of functions by functions, {chunkwise: recurrent}"


def anything(value: object) -> str:
    """No check: what the value must fit is known later."""
    return ""
