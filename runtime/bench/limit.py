"""The lower bound of a step's time: one core reads every weight once, at its speed for memory of that size.

The speed is measured here, by fused multiply-adds on all of a buffer of the size, as in a bare product of a matrix and
a vector.
"""

import ctypes
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.errors import BackendUnavailable
from rnn_export.platform.arrays import Array
from rnn_export.runtime.bench.this_machine import compile_shared

# The buffer is of whole kilobytes, and beyond all caches a larger one is read no slower.
UNIT, LARGEST = 1024, 512 * 2**20
# A sample is long beside the clock and short beside what disturbs it; a block is of many.
SAMPLE_NS, BLOCK_NS = 5_000, 4_000_000

SOURCE = r"""
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* As wide as the registers, and as many sums at a time as they hold: fewer would wait for one another. */
#if defined __AVX512F__
enum { WIDTH = 64 };
#elif defined __AVX__
enum { WIDTH = 32 };
#else
enum { WIDTH = 16 };
#endif
#if defined __AVX512F__ || defined __aarch64__
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
enum { SUMS = 16 };
#else
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
enum { SUMS = 8 };
#endif
typedef float vec __attribute__((vector_size(WIDTH)));

void *allocate(size_t bytes) {
    void *p = NULL;
    size_t huge = (size_t)2 << 20;
    if (posix_memalign(&p, huge, (bytes + huge - 1) / huge * huge)) return NULL;
#if defined __linux__ && defined MADV_HUGEPAGE
    madvise(p, (bytes + huge - 1) / huge * huge, MADV_HUGEPAGE);
#endif
    memset(p, 0, bytes);
    return p;
}

/* `bytes` is a multiple of 1024, which all of SUMS * WIDTH divide. */
static void pass(const vec *p, size_t bytes, float factor, vec *sums) {
#define LOAD(i) vec s##i = sums[i];
#define ADD(i) s##i += x * p[k + i];
#define STORE(i) sums[i] = s##i;
    vec x = factor - (vec){0};
    EACH(LOAD)
    for (size_t k = 0; k < bytes / WIDTH; k += SUMS) { EACH(ADD) }
    EACH(STORE)
    /* Whatever the compiler knew of the memory, it no longer knows. */
    __asm__ volatile("" : : "r"(p), "r"(sums) : "memory");
}

/* The ns that one of `passes` takes, `samples` times; a quarter of them first, for others have had the caches. */
void read_all(const void *p, size_t bytes, size_t passes, size_t samples, double *ns) {
    vec sums[SUMS];
    struct timespec begin, end;
    memset(sums, 0, sizeof sums);
    for (size_t n = 0; n < 1 + samples / 4 * passes; n++) pass(p, bytes, 1, sums);
    for (size_t i = 0; i < samples; i++) {
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (size_t n = 0; n < passes; n++) pass(p, bytes, 1, sums);
        clock_gettime(CLOCK_MONOTONIC, &end);
        ns[i] = (1e9 * (end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec)) / passes;
    }
}
"""


class Reader:
    """The compiled program; `compiled` says by which compiler. Raises BackendUnavailable where there is none."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "limit.so")
            self.compiled = compile_shared(SOURCE, path, ["-ffp-contract=fast"])
            self.library: Any = ctypes.CDLL(str(path))
        size = ctypes.c_size_t
        self.library.allocate.restype, self.library.allocate.argtypes = ctypes.c_void_p, [size]
        self.library.read_all.restype = None
        self.library.read_all.argtypes = [ctypes.c_void_p, size, size, size, ctypes.c_void_p]
        self.free = ctypes.CDLL(None).free
        self.free.restype, self.free.argtypes = None, [ctypes.c_void_p]


class Limit:
    """The time in which this core reads `nbytes` of weights; `block` measures for some ms."""

    def __init__(self, reader: Reader, nbytes: int) -> None:
        self.reader, self.nbytes = reader, nbytes
        self.size = min(max(1, -(-nbytes // UNIT)) * UNIT, LARGEST)
        self.buffer = reader.library.allocate(self.size)
        if not self.buffer:
            raise BackendUnavailable(f"no room for {self.size:,} bytes", id="bench-no-memory")
        first = max(1.0, float(self._read(1, 5).min()))
        self.passes = max(1, math.ceil(SAMPLE_NS / first))
        self.samples = max(1, int(BLOCK_NS / first / self.passes))
        self.taken: list[Array] = []

    def __del__(self) -> None:
        self.reader.free(self.buffer)

    def block(self) -> None:
        self.taken.append(self._read(self.passes, self.samples))

    def _read(self, passes: int, samples: int) -> Array:
        ns = np.empty(samples)
        self.reader.library.read_all(self.buffer, self.size, passes, samples, ns.ctypes.data)
        return ns

    @property
    def bandwidth(self) -> float:
        """Bytes that this core reads in a second, the median of all samples."""
        return self.size / float(np.median(np.concatenate(self.taken))) * 1e9

    @property
    def us(self) -> float:
        """µs that a step takes at least: the time to read its weights once."""
        return self.nbytes / self.bandwidth * 1e6
