"""The measured machine: pinning to one core, its description, C compiled for it, and sweeping its caches."""

import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.errors import BackendUnavailable, BuildError
from rnn_export.runtime.backends.native.cpu import read_text, this_cpu
from rnn_export.runtime.build.native.compilers import find_compiler

CORES = "sys/devices/system/cpu"
MIB = 2**20
# A compiler knows the first for one kind of CPU, and the second for another; with neither the code is for any.
FOR_THIS_CPU = ("-march=native", "-mcpu=native", "")


@contextmanager
def pinned(core: int | None) -> Iterator[int]:
    """Pin this thread and those it starts to `core` or the last that it may use; raises BackendUnavailable."""
    if not hasattr(os, "sched_setaffinity"):
        raise BackendUnavailable(
            f"{platform.system()} pins no process to a core (Python's os.sched_setaffinity is missing), and a figure "
            "that wanders between cores says little: run the bench on Linux.",
            id="bench-no-pinning",
        )
    allowed = os.sched_getaffinity(0)
    chosen = max(allowed) if core is None else core
    if chosen not in allowed:
        cores = ", ".join(map(str, sorted(allowed)))
        raise BackendUnavailable(
            f"core {chosen} is none of those that this process may use: {cores}.", id="bench-core-unusable"
        )
    os.sched_setaffinity(0, {chosen})
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, allowed)


def describe(core: int, root: Path = Path("/")) -> dict[str, Any]:
    """CPU, caches in bytes by level, and governor (None where it does not say) of the machine with files in `root`."""
    return {
        "cpu": this_cpu(root / "proc/cpuinfo").model,
        "core": core,
        "cores": os.cpu_count(),
        "caches": _caches(root / CORES / f"cpu{core}" / "cache"),
        "governor": read_text(root / CORES / f"cpu{core}" / "cpufreq/scaling_governor") or None,
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def preemptions() -> int:
    """The number of preemptions of this thread so far: their cost is in the percentiles."""
    import resource

    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _caches(folder: Path) -> dict[str, int]:
    """Bytes of the caches that data goes through, by level."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    found = {}
    for cache in sorted(folder.glob("index*")):
        size = re.fullmatch("([0-9]+)([KMG]?)", read_text(cache / "size"))
        if size and read_text(cache / "type") != "Instruction":
            found[f"L{read_text(cache / 'level')}"] = int(size[1]) * units[size[2]]
    return found


def compile_shared(source: str, library: Path, flags: Sequence[str] = ()) -> str:
    """Write `library`, say by which compiler and flags; raises BackendUnavailable, with its first error."""
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
    raise BackendUnavailable(str(refused[0]), id=refused[0].id)


class Sweep:
    """Reads and writes a buffer of twice the largest cache, 64 to 512 MiB of it, so that no other data is left."""

    def __init__(self, caches: dict[str, int]) -> None:
        self.bytes = min(max(2 * max(caches.values(), default=0), 64 * MIB), 512 * MIB)
        self.buffer = np.zeros(self.bytes // 8, np.int64)

    def __call__(self) -> None:
        np.add(self.buffer, 1, out=self.buffer)
