"""Alias of 0.1; see `rnn_export.moved`."""

from typing import Any

from rnn_export import moved


def __getattr__(name: str) -> Any:
    return moved.find(__name__, name)
