"""C sources made from templates: files that are C themselves, with places to fill in.

`$key` and `${key}` are values. `name_` and `NAME_` begin public names, and become the name of the model, as `$name` and
`$upper` do. Text between the lines `//@if KEY` and `//@end KEY` is written where KEY has a value that is true, between
`//@unless KEY` and its end where not, and between `//@each KEY` and its end once for each row of values that KEY has.
`//@include FILE` is another template. In other languages such lines begin with `#@`.
"""

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from string import Template
from typing import Any

Values = Mapping[str, Any]
_INCLUDE = re.compile(r"^//@include (.+)\n", re.MULTILINE)
_BLOCK = re.compile(r"^(?://|#)@(if|unless|each) (\w+)\n(.*?)^(?://|#)@end \2\n", re.MULTILINE | re.DOTALL)


def render(package: str, file: str, name: str, values: Values) -> str:
    """The template `file` of `package` for the model `name`; raises KeyError where `values` lacks a key."""
    folder = files(package)
    text = _INCLUDE.sub(
        lambda found: folder.joinpath(found[1]).read_text(encoding="utf-8"),
        folder.joinpath(file).read_text(encoding="utf-8"),
    )
    text = re.sub(r"\bNAME_", f"{name.upper()}_", re.sub(r"\bname_", f"{name}_", text))
    return "".join(_filled(text, {"name": name, "upper": name.upper(), **values}))


def _filled(text: str, values: Values) -> Iterator[str]:
    start = 0
    for found in _BLOCK.finditer(text):
        yield Template(text[start : found.start()]).substitute(values)
        start, (kind, key, body) = found.end(), found.groups()
        rows = values[key] if kind == "each" else [{}] * (bool(values[key]) is (kind == "if"))
        for row in rows:
            yield from _filled(body, {**values, **row})
    yield Template(text[start:]).substitute(values)
