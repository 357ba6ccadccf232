"""The first steps of a compiled library, in a process of its own: where its code is wrong, that process ends alone."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BuildError
from rnn_export.runtime.build.native.selftest import SECONDS, end_of
from rnn_export.runtime.protocols.c_step import row_shape

# Steps of silence, of one stream: enough for each window that moves along to be moved back. Fewer of a large step.
STEPS, MACS = 130, 10**8
# Streams that are stepped at once.
ROWS = 8
FIX = (
    "A process that loads it would end so too. Nothing was written. Take another compiler: CC=clang, or CC=zig after "
    'pip install ziglang, before rnn-export (os.environ["CC"] = "clang" in Python).'
)
# Without the packages of this Python it starts in a hundredth of a second. Loading says what cannot be loaded.
_CHILD = """
import ctypes, json, mmap, sys
library, weights, ports, steps, macs, rows = json.loads(sys.argv[1])
try:
    call = ctypes.CDLL(library)
except OSError:
    sys.exit()
size, address = ctypes.c_size_t, ctypes.c_void_p
call.rnn_state_bytes.restype = call.rnn_macs.restype = call.rnn_weights_bytes.restype = size
if call.rnn_weights_bytes() and not weights:
    sys.exit()
call.rnn_init.restype, call.rnn_init.argtypes = None, (address, address)
call.rnn_rows.restype, call.rnn_rows.argtypes = None, (address, size, address, address, size, size)
held = []
def memory(count):
    held.append(mmap.mmap(-1, max(1, count)))
    return ctypes.addressof(ctypes.c_char.from_buffer(held[-1]))
given = None
if weights:
    with open(weights, "rb") as file:
        held.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    given = ctypes.addressof(ctypes.c_char.from_buffer(held[-1]))
stride = -(-max(1, call.rnn_state_bytes()) // 64) * 64
structs = memory(rows * stride)
for row in range(rows):
    call.rnn_init(structs + row * stride, given)
ins, outs = ((address * len(counts))(*(memory(rows * count) for count in counts)) for counts in ports)
for _ in range(max(2, min(steps, macs // max(1, call.rnn_macs())))):
    call.rnn_rows(structs, stride, ins, outs, 1, 1)
for _ in range(2):
    call.rnn_rows(structs, stride, ins, outs, rows, 1)
"""


def run_first(library: Path, weights: Path | None, spec: StreamSpec, compiled_by: Sequence[str]) -> None:
    """Step streams of `library`, of the contract `spec`; raises BuildError where that ends the process.

    `weights` is the file of its weights, None where they are part of it; `compiled_by` the compiler and its flags.
    """
    ports = [
        [math.prod(row_shape(t, spec.chunk)) * np.dtype(t.dtype).itemsize for t in tensors]
        for tensors in (spec.inputs, spec.outputs)
    ]
    words = json.dumps([str(library), None if weights is None else str(weights), ports, STEPS, MACS, ROWS])
    command = [sys.executable, "-I", "-S", "-c", _CHILD, words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
    except OSError as error:
        raise BuildError(
            f"no process can be started to try what was compiled: {error}. Free memory.", id="first-run-not-started"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise _failed(compiled_by, f"had no end after {SECONDS} s") from error
    if done.returncode:
        message = (done.stderr.strip().splitlines() or [""])[-1]
        raise _failed(compiled_by, f"ended with {end_of(done.returncode)}{': ' * bool(message)}{message}")


def _failed(compiled_by: Sequence[str], how: str) -> BuildError:
    compiler, *flags = compiled_by
    what = f"the step that {compiler} compiled ({' '.join(flags)})"
    return BuildError(f"{what} made its first steps in a process of its own, which {how}. {FIX}", id="first-run-failed")
