"""A team: threads that compute the steps of an engine together, each on a core of its own."""

import ctypes
import os
import re
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnn_export.errors import BackendUnavailable
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.native.cpu import read_text

# Which of the numbered cores are one, that runs several threads.
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
# As rnn_team.h has it.
MOST = 64
SIZE, ADDRESS = ctypes.c_size_t, ctypes.c_void_p
# The functions of a library with teams: what each returns and takes.
FACE: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "rnn_team_start": (ctypes.c_int, (ADDRESS, ctypes.c_int, ADDRESS)),
    "rnn_team_stop": (None, (ADDRESS,)),
    "rnn_team_rows": (None, (ADDRESS, ADDRESS, SIZE, ADDRESS, ADDRESS, SIZE, SIZE)),
    "rnn_team_pool": (SIZE, (ADDRESS, ADDRESS, SIZE, ADDRESS, ADDRESS, ADDRESS, SIZE, ADDRESS)),
}


def has_teams(triple: str) -> bool:
    """True if steps for the machine `triple` are compiled with teams: on Linux, where addresses have 64 bits."""
    return re.match("(x86_64|aarch64|riscv64|powerpc64le|s390x|loongarch64)-linux-", triple) is not None


def check_cores(threads: int) -> None:
    """Raise BackendUnavailable where this process may use fewer cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads > min(cores, MOST):
        has = f"this process may use {cores}" if threads > cores else f"a step has {MOST} threads at most"
        why = f"each thread of a native step has a core of its own, and {has}"
        raise BackendUnavailable(
            f"threads={threads}: {why}. Say threads={min(cores, MOST)} or less.", id="threads-over-cores"
        )


class Team:
    """`threads` threads for the steps of a library with the functions `call`; those beside the caller's end with it.

    Attributes:
        address: of its `memory`, for `call.rnn_team_rows` and `call.rnn_team_pool`.
        rows_function: the address of the former.

    Raises BackendUnavailable where the system starts no more threads.
    """

    def __init__(self, call: Any, threads: int, memory: Array) -> None:
        for name, (result, arguments) in FACE.items():
            function = getattr(call, name)
            function.restype, function.argtypes = result, arguments
        self.address = int(memory.ctypes.data)
        self.rows_function = int(ctypes.cast(call.rnn_team_rows, ADDRESS).value or 0)
        cores = (ctypes.c_int * threads)(*usable_cores()[:threads])
        if error := call.rnn_team_start(self.address, threads, cores):
            why = f"the system starts no more threads ({os.strerror(error)})"
            raise BackendUnavailable(
                f"threads={threads}: {why}. Say fewer, or raise its limit.", id="threads-not-started"
            )
        # Not at exit, when another thread may be amid a step.
        weakref.finalize(self, _stop, call, memory).atexit = False


def _stop(call: Any, memory: Array) -> None:
    call.rnn_team_stop(memory.ctypes.data)


def usable_cores(siblings: str = SIBLINGS) -> list[int]:
    """The numbers of the cores that this process may use, each core once before any a second time."""
    turns, seen = [], dict[str, int]()
    for number in sorted(os.sched_getaffinity(0)):
        core = read_text(Path(siblings.format(number))) or str(number)
        seen[core] = seen.get(core, 0) + 1
        turns.append((seen[core], number))
    return [number for _, number in sorted(turns)]
