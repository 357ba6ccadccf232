"""Sources of C written from files that are C themselves, with places to fill in.

`$key` and `${key}` are values. `name_` and `NAME_` begin what is public, and become the name of the model. Lines of
their own say what is written: `//@if KEY` or `//@unless KEY` to `//@end`, `//@each KEY` to `//@end` once for each row
of values that KEY has, and `//@include FILE`. Where C's comments are none, they begin with `#@`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from string import Template
from typing import Any

Values = Mapping[str, Any]
_DIRECTIVE = re.compile(r"\s*(?://|#)@(if|unless|each|end|include)\s*(\S*)\s*")


@dataclass
class _Block:
    """The lines between a directive and its end."""

    directive: str = "if"
    key: str = ""
    parts: list[str | _Block] = field(default_factory=list)

    def render(self, values: Values) -> Iterator[str]:
        if self.directive == "each":
            rows: Sequence[Values] = [{**values, **row} for row in values[self.key]]
        else:
            rows = [values] * (not self.key or bool(values[self.key]) is (self.directive == "if"))
        for row in rows:
            for part in self.parts:
                if isinstance(part, _Block):
                    yield from part.render(row)
                else:
                    yield Template(part).substitute(row)


def render(package: str, file: str, name: str, values: Values) -> str:
    """The template `file` of `package` for the model `name`; raises KeyError where `values` lacks a key."""
    blocks = [_Block()]
    for line in _lines(package, file):
        found = _DIRECTIVE.fullmatch(line)
        if found is None:
            line = re.sub(r"\b(NAME|name)_", lambda m: f"{name.upper() if m[1] == 'NAME' else name}_", line)
            blocks[-1].parts.append(line)
        elif found[1] == "end":
            blocks.pop()
        else:
            block = _Block(found[1], found[2])
            blocks[-1].parts.append(block)
            blocks.append(block)
    (whole,) = blocks
    return "".join(whole.render({"name": name, **values}))


def _lines(package: str, file: str) -> Iterator[str]:
    for line in files(package).joinpath(file).read_text().splitlines(keepends=True):
        found = _DIRECTIVE.fullmatch(line)
        if found and found[1] == "include":
            yield from _lines(package, found[2])
        else:
            yield line
