"""Errors by the id of their message, which stays when its sentence changes, and by the values in it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from rnn_export import errors


@cache
def classes() -> dict[str, type[errors.RnnExportError]]:
    """By id, the class as tests/messages.txt has it."""
    rows = (line.split("  ", 2) for line in Path(__file__).with_suffix(".txt").read_text().splitlines())
    return {name: getattr(errors, kind) for name, kind, _ in rows}


@contextmanager
def raises(
    name: str, *values: object, kind: type[errors.RnnExportError] | None = None
) -> Iterator[pytest.ExceptionInfo[errors.RnnExportError]]:
    """A block that must raise the message `name`, with these values in its text, one behind the other.

    The class is that of the message; `kind` is another, where one error takes up another and keeps its id.
    """
    with pytest.raises(kind or classes()[name]) as caught:
        yield caught
    check(caught.value, name, *values)


def check(error: errors.RnnExportError, name: str, *values: object) -> None:
    """The id of an error, and the values in its text; a number or a short word stands there as a whole."""
    text, at = str(error), 0
    assert error.id == name, f"{error.id}: {text}"
    for value in map(str, values):
        edge = r"\b" if re.fullmatch(r"\w{1,3}|\d+", value) else ""
        found = re.compile(f"{edge}{re.escape(value)}{edge}").search(text, at)
        assert found, f"{value!r} is not behind the first {at} characters of {text}"
        at = found.end()
