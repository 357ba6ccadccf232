"""Source locations in the user's code for messages: of a node, an error, the running line."""

from __future__ import annotations

import linecache
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from torch import fx

from rnn_export import models
from rnn_export.export.lift.ir.fx_nodes import path_of

# The folders of lifting and of the cells.
_OURS = tuple(
    f"{folder}/" for folder in (Path(__file__).resolve().parents[1], Path(str(models.__file__)).resolve().parent)
)

# The place of what stands in no submodule and in no line of the user's.
MODEL = "the model"


@cache
def is_foreign(file: str) -> bool:
    """True if a file is of torch, lifting or cells."""
    path = str(Path(file).resolve())
    return path.startswith(_OURS) or any(part in path for part in ("/torch/", "/contextlib.py", "<"))


def at_line(file: str, line: Any) -> str:
    """FILE:LINE, without the folders."""
    return f"{file.rpartition('/')[2]}:{line}"


def source_line(file: str, line: int) -> str:
    """A line of the user's, stripped, in backticks."""
    return f"`{linecache.getline(file, line).strip()}`"


def place_of(node: fx.Node) -> str:
    """Module path and source line of `node`."""
    path, line = path_of(node) or MODEL, source_of(node)
    return f"{path} ({line})" if line else path


def source_of(node: fx.Node) -> str:
    """The line of the user's that `node` comes from, FILE:LINE; empty if it comes from none."""
    return ["", *_source_lines(node.meta.get("stack_trace") or "")][-1]


def at_place(node: fx.Node) -> str:
    """The place of `node` behind the name of its operator: "at FILE:LINE", "in PATH (FILE:LINE)" inside a submodule."""
    line = source_of(node)
    return f"at {line}" if line and (node.op == "call_module" or not path_of(node)) else f"in {place_of(node)}"


def busiest_place(module: fx.GraphModule) -> str:
    """The place of most nodes of a graph: of an unrolled loop, its body."""
    places = Counter(place_of(node) for node in module.graph.nodes if node.op == "call_function")
    return places.most_common(1)[0][0] if places else MODEL


def line_of(error: Exception) -> str:
    """The last line of the user's code that the error passed through, as " at FILE:LINE"; empty if none."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [at_line(f.filename, f.lineno) for f in frames if not is_foreign(f.filename)]
    return f" at {lines[-1]}" if lines else ""


def user_line() -> tuple[str, int]:
    """File and line of the innermost frame that is the user's, else of the operator's caller."""
    # This function, its caller, and the mode's __torch_function__ are the frames before.
    frame = sys._getframe(3)
    first = (frame.f_code.co_filename, frame.f_lineno)
    at: Any = frame
    while at is not None:
        if not is_foreign(at.f_code.co_filename):
            return at.f_code.co_filename, at.f_lineno
        at = at.f_back
    return first


def _source_lines(trace: str) -> Iterator[str]:
    """`file.py:12` of each frame of the user's."""
    for line in trace.splitlines():
        name, comma, rest = line.strip().partition(", line ")
        if comma and name.startswith('File "'):
            file = name.removeprefix('File "').removesuffix('"')
            if not is_foreign(file):
                yield at_line(file, rest.split(",")[0])
