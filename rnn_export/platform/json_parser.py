"""The one parser of JSON that others wrote: every fault in it is a ValueError."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rnn_export.limits import JSON_BYTES, JSON_DEPTH, JSON_DIGITS


def parse_json(raw: bytes | str) -> Any:
    """Plain data from JSON in UTF-8.

    Raises ValueError, and nothing else, where it is no JSON or over a limit of size or depth; has a key twice, NaN, a
    number beyond what others read, or half a surrogate pair, which cannot be written again.
    """
    if len(raw) > JSON_BYTES:
        raise ValueError(f"it has {len(raw)} bytes, over the limit of {JSON_BYTES}")
    text = raw if isinstance(raw, str) else raw.decode()
    hooks: dict[str, Any] = {"parse_constant": _finite, "parse_float": _finite, "parse_int": _whole}
    try:
        data = json.loads(text, object_pairs_hook=_unique, **hooks)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {JSON_DEPTH} levels") from None
    _check_depth(data)
    if "\\u" in text:
        _check_text(data)
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"field {twice!r} stands there twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is not a number that JSON has")
    return float(text)


def _whole(text: str) -> int:
    # The time for an int grows with the square of its digits.
    if len(text.lstrip("-")) > JSON_DIGITS:
        raise ValueError(f"a whole number has {len(text)} digits, over the limit of {JSON_DIGITS}")
    return int(text)


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(JSON_DEPTH):
        level = [inner for value in level for inner in _held(value)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {JSON_DEPTH} levels")


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _check_text(data: Any) -> None:
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it has half a surrogate pair (\\ud800 to \\udfff), which is no character") from None
