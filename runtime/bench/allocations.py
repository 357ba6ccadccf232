"""Count the heap allocations of a step, in a process of its own whose malloc is replaced by one that counts.

Python's own allocator is switched off there (PYTHONMALLOC=malloc), so objects count as well as C's memory, and so does
memory that is freed at once. Memory that numpy and Python keep for reuse is no allocation.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnn_export.bundle import open_bundle
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime.bench.candidates import runners
from rnn_export.runtime.bench.this_machine import compile_shared
from rnn_export.runtime.bench.timing import Subject

STEPS = 1000
# Until a counter of Python's is no longer one of the small numbers that it keeps.
WARM = 300
SECONDS = 300

SOURCE = r"""
#include <errno.h>
#include <stddef.h>

/* glibc's own, under the names that it keeps for this. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
static unsigned long long count;
#define COUNT __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED)

unsigned long long rnn_allocations(void) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }
void *malloc(size_t n) { COUNT; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { COUNT; return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { COUNT; return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { COUNT; return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { COUNT; return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    COUNT;
    *p = __libc_memalign(a, n);
    return *p ? 0 : ENOMEM;
}
"""

_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from rnn_export.runtime.bench import allocations
allocations.child(*sys.argv[2:])
"""


def count_all(bundle: Path, core: int, backends: Sequence[str], trust: bool = False) -> dict[str, float]:
    """Allocations of a step of each subject by its name; raises BackendUnavailable where they cannot be counted."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "count.so")
        compile_shared(SOURCE, library)
        loaded = f"{library} {os.environ.get('LD_PRELOAD', '')}".strip()
        command, env = [sys.executable, "-c", _CHILD], {**os.environ, "LD_PRELOAD": loaded, "PYTHONMALLOC": "malloc"}
        command += [json.dumps(sys.path), str(bundle), str(core), json.dumps(backends), str(library), json.dumps(trust)]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", timeout=SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise BackendUnavailable(f"no process could count them: {error}", id="allocations-no-process") from error
    try:
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BackendUnavailable(
            f"the process that counts them failed: {last}", id="allocations-process-failed"
        ) from None
    return found


def child(bundle: str, core: str, backends: str, library: str, trust: str) -> None:
    """In that process: print the counts."""
    os.sched_setaffinity(0, {int(core)})
    counter = ctypes.CDLL(library).rnn_allocations
    counter.restype = ctypes.c_ulonglong
    found, _ = runners(open_bundle(bundle), json.loads(backends), verify=False, trust=json.loads(trust))
    print(json.dumps({r.subject.name: count(r.subject, counter) for r in found}))  # noqa: T201


def count(subject: Subject, counter: Any, steps: int = STEPS) -> float:
    """Allocations of a step, by `counter()` before and after; its own are subtracted."""
    frames = [subject.frames[at % len(subject.frames)] for at in range(steps)]
    step, out = subject.step, subject.out
    subject.reset()
    subject.run(subject.settle + WARM)
    begin = counter()
    own = counter() - begin
    begin = counter()
    if out is None:
        for frame in frames:
            step(frame)
    else:
        for frame in frames:
            step(frame, out=out)
    taken: int = counter() - begin - own
    return round(max(0, taken) / steps, 2)


def python_blocks_kept(subject: Subject, steps: int = STEPS) -> float:
    """Blocks of Python's own allocator that a step leaves behind: above 0 is a leak."""
    return count(subject, sys.getallocatedblocks, steps)
