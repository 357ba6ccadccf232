"""Calls of cuda-python, which gives an error code before what else it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnn_export.errors import DeviceError


def checked(library: Any, name: str, arguments: tuple[Any, ...], string_of: str, advice: Mapping[str, str]) -> Any:
    """The first value of a call; raises DeviceError with the library's own words, by `string_of`, and with `advice`."""
    code, *values = getattr(library, name)(*arguments)
    if int(code):
        _, text = getattr(library, string_of)(code)
        fix = f": {advice[code.name]}" if code.name in advice else ""
        raise DeviceError(f"{name} gave {code.name} ({text.decode()}){fix}.")
    return values[0] if values else None
