"""Checks of `requires` of a target row: keys of the format have its form, all others are left as they are."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

_IDENTIFIER = re.compile("[A-Za-z_][A-Za-z0-9_]{0,99}")


def is_identifier(value: Any) -> bool:
    """True if it can name functions and files of C, in the letters that all compilers read."""
    return isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _are_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))


def _is_batch(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 3 and all(type(n) is int and n >= 1 for n in value)
    return numbers and sorted(value) == value


def _are_scales(value: Any) -> bool:
    def is_scale(one: Any) -> bool:
        if not isinstance(one, dict) or {*one} != {"scale", "zero_point"}:
            return False
        scale, zero = one["scale"], one["zero_point"]
        return type(scale) in (int, float) and 0 < scale < math.inf and type(zero) is int and -128 <= zero <= 127

    return isinstance(value, dict) and all(map(_is_text, value)) and all(map(is_scale, value.values()))


_FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (is_identifier, "a name that C can have: letters, digits and '_'"),
    "scales": (_is_text, "text"),
    "state_scales": (_are_scales, "by state a scale above 0 and a zero_point from -128 to 127"),
    "torch": (_is_text, "a version"),
    "library": (_is_text, "a name"),
    "version": (_is_text, "a version"),
    "compute_capability": (_are_texts, "one capability or a list of them"),
    "onnx_sha256": (_is_text, "a sha256"),
    "batch": (_is_batch, "three rising whole numbers from 1 on"),
}


def check_requirements(target: str, requires: Mapping[str, Any]) -> None:
    """Raise ValueError where `requires` of a row of `target` is not of the format."""
    if target == "c" and "name" not in requires:
        raise ValueError("the target 'c' requires no 'name', by which its sources go")
    for field, (fits, form) in _FORMS.items():
        if field in requires and not fits(requires[field]):
            raise ValueError(f"target {target!r} requires {field} = {requires[field]!r}, which must be {form}")
