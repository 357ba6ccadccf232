"""Small C of the bench, compiled when it is needed by the compiler of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rnn_export.errors import BackendUnavailable, BuildError
from rnn_export.runtime.build.native.compiler import find_compiler

# A compiler knows the first for one kind of CPU, and the second for another; with neither the code is for any.
FOR_THIS_CPU = ("-march=native", "-mcpu=native", "")


def compile_shared(source: str, library: Path, flags: Sequence[str] = ()) -> str:
    """Write `library`, and say by which compiler and with which flags.

    Raises BackendUnavailable where there is no compiler, or with its first error.
    """
    compiler, refused = find_compiler(), []
    text = library.with_suffix(".c")
    text.write_text(source)
    for cpu in FOR_THIS_CPU:
        options = [*filter(None, ["-O3", cpu, *flags])]
        try:
            compiler.compile([*options, "-shared", "-fPIC", "-o", str(library), str(text)], library.parent)
        except BuildError as error:
            refused.append(error)
            continue
        return f"{compiler.title}: {' '.join(options)}"
    raise BackendUnavailable(str(refused[0]))
