"""The words of a command line of trtexec, the tool that comes with TensorRT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Shape = Sequence[int]


def shape_flags(shapes: Mapping[str, Sequence[Shape]]) -> list[str]:
    """The flags for the (lowest, most likely, highest) shape of every input, by name; not quoted for a shell.

    Source: NVIDIA/TensorRT, samples/common/sampleOptions.cpp at 8.2.1 to 11.1.
    """
    flags = []
    for index, flag in enumerate(("minShapes", "optShapes", "maxShapes")):
        sizes = (f"{_quoted(name)}:{'x'.join(map(str, ranges[index]))}" for name, ranges in shapes.items())
        flags.append(f"--{flag}={','.join(sizes)}")
    return flags


def _quoted(name: str) -> str:
    """A name as trtexec reads it: it splits at `:` and `,` outside of single quotes."""
    return f"'{name}'" if set(name) & set(":,") else name
