"""The C of a bundle made into a library for this machine, with the extension for this Python where it can be."""

import os
import re
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BuildError
from rnn_export.runtime.backends.native.backend import LIBRARY, RECORD
from rnn_export.runtime.backends.native.cpu import features, host_triple, this_cpu, without
from rnn_export.runtime.backends.native.record import Record, numpy_major, sources_sha256
from rnn_export.runtime.build.c_compiler import FLAGS, Compiler, lay_out, work_folder
from rnn_export.runtime.build.glue import FILE, glue, with_rows
from rnn_export.runtime.build.native.compilers import find_compiler, link, with_team
from rnn_export.runtime.build.native.first_run import run_first

STEPPER = "stepper.c"


def compile_native(
    files: Mapping[str, bytes],
    name: str,
    spec: StreamSpec,
    compiler: Compiler | None = None,
    march: str = "native",
    extension: bool | None = None,
    profile: bool = False,
) -> dict[str, bytes]:
    """Compile `files`, the sources of the step `name` by bare file name, for this machine; nothing else is left behind.

    `march` is "native" for this CPU, or a level that more have: "x86-64-v2" to "x86-64-v4". The extension for this
    Python is made where its headers are here, or as `extension` says. With `profile` the operators of a step are timed,
    which one thread computes. The library makes its first steps in a process of its own, where this CPU can run it.
    Gives `native.so` and `build.json` by path. Raises BuildError with the compiler's first error, or where that process
    crashed, and BackendUnavailable where there is no compiler.
    """
    compiler = compiler or find_compiler()
    headers = python_headers() if extension is None or extension else None
    if extension and headers is None:
        raise BuildError(
            f"there is no Python.h in {sysconfig.get_path('include')}: install the headers of Python.",
            id="python-headers-missing",
        )
    with work_folder() as folder:
        # A folder of its own: a step may have any name.
        lay_out(files, folder / "step")
        (folder / FILE).write_text(glue(name, spec), encoding="utf-8")
        flags, used = _flags(compiler, march, folder)
        parts = [f"step/{name}.c", FILE]
        if headers is not None:
            (folder / STEPPER).write_bytes(Path(__file__).with_name(STEPPER).read_bytes())
            parts.append(STEPPER)
        includes = [f"-I{path}" for path in ("step", *(headers or ()))]
        linked = [*link(host_triple()), *["-Wl,-undefined,dynamic_lookup"] * (sys.platform == "darwin")]
        defines = [with_rows(name), *(["-DRNN_PROFILE"] if profile else with_team(name, host_triple()))]
        compiler.compile([*flags, *defines, *linked, *includes, *parts, "-o", LIBRARY, "-lm"], folder)
        library = (folder / LIBRARY).read_bytes()
        cpu = this_cpu()
        if not cpu.features or cpu.features.issuperset(used):
            weights = folder / "step" / f"{name}.bin"
            run_first(folder / LIBRARY, weights if weights.is_file() else None, spec, [compiler.title, *flags])
    python = None if headers is None else str(sysconfig.get_config_var("EXT_SUFFIX"))
    numpy = None if headers is None else numpy_major()
    sha256 = sources_sha256(files)
    record = Record(host_triple(), compiler.title, tuple(flags), tuple(used), python, numpy, sha256)
    place = f"build/{record.triple}"
    return {f"{place}/{LIBRARY}": library, f"{place}/{RECORD}": record.to_file()}


def python_headers() -> tuple[str, ...] | None:
    """Folders of the headers of this Python and of numpy; None where an extension cannot be compiled."""
    # Without a global lock the extension's own bookkeeping would need one, so there it is ctypes too.
    folders = [sysconfig.get_path("include"), sysconfig.get_path("platinclude"), np.get_include()]
    if not Path(folders[0], "Python.h").is_file() or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None
    # On Windows an extension is linked to a file of Python's that its compilers look for elsewhere.
    return None if os.name == "nt" else tuple(dict.fromkeys(folders))


def _flags(compiler: Compiler, march: str, folder: Path) -> tuple[list[str], list[str]]:
    """Flags of the compiler, and the CPU's features that it may use with them."""
    if not re.fullmatch("[a-z0-9][a-z0-9+._-]*", march):
        raise BuildError(f"march={march!r}: say native, or a level such as x86-64-v3.", id="march-malformed")
    x86 = host_triple().startswith(("x86_64", "i"))
    flags = [*FLAGS, *(_native(compiler) if march == "native" and not x86 else [f"-march={march}"])]
    used = features(compiler.macros(flags, folder))
    cpu = this_cpu()
    if march == "native" and x86 and cpu.features:
        # A compiler asks the CPU, and the kernel may hide some of it or be too old to know it.
        flags += without(set(used) - cpu.features)
        used = features(compiler.macros(flags, folder))
    return flags, used


def _native(compiler: Compiler) -> list[str]:
    """The flag for this CPU, no x86: elsewhere than on Linux for the least that has this name."""
    if sys.platform == "darwin":
        return [f"-mcpu=apple{'_' if 'cc' in compiler.command else '-'}m1"]
    return [] if os.name == "nt" else ["-mcpu=native"]
