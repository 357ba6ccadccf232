"""Small nets in C against the limit of reading their weights and, where $RTNEURAL is its checkout, against RTNeural."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import native_speed
import numpy as np
from native_speed import CELLS, Figures, Net
from turns import in_turn

from rnn_export.platform.arrays import Array
from rnn_export.runtime.bench.limit import Limit, Reader

SIZES = ((8, 16), (16, 32), (32, 64), (64, 128), (128, 256))
OTHERS = ((4, 8), (10, 20), (20, 40))
ROUNDS, WEIGHTS_READ = 61, 2**27
# Its fastest form: Eigen, sizes that the compiler knows, mathematics made fast.
RTNEURAL_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffast-math", "-DNDEBUG", "-shared", "-fPIC")
RTNEURAL_DEFINES = ("-DRTNEURAL_USE_EIGEN=1", "-DRTNEURAL_DEFAULT_ALIGNMENT=32", "-DEIGEN_STACK_ALLOCATION_LIMIT=0")


def small() -> Figures:
    """A step from C, many in one call, so that of Python nothing is left; the calls take turns."""
    reader, checkout = Reader(), os.environ.get("RTNEURAL")
    for name, cell in CELLS.items():
        for inputs, units in (*SIZES, *OTHERS):
            title, net = f"{name} {inputs} -> {units}", Net(cell, inputs, units).eval()
            steps = max(64, min(2048, WEIGHTS_READ // (16 * units * (inputs + units))))
            frames, outputs = _aligned((steps, inputs)), _aligned((steps, 1))
            frames[:] = np.random.default_rng(0).standard_normal(frames.shape)
            with tempfile.TemporaryDirectory() as folder:
                bundle = native_speed.exported(net, inputs, folder, ())
                limit = Limit(reader, 4 * (bundle.weights or 0))
                calls: dict[str, Callable[[], Any]] = {
                    "C": native_speed.steps_in_c(bundle.path, "fp32", frames[None], outputs[None]),
                    "limit": limit.block,
                }
                other = _aligned((steps, 1))
                if checkout and (inputs, units) in SIZES:
                    calls["RTNeural"] = _rtneural(Path(checkout), net, name, frames, other, folder)
                taken = in_turn(calls, ROUNDS, 1)
                ours = float(np.median(taken["C"])) / steps
                yield f"{title}: a step in C, µs", ours
                yield f"{title}: times the limit", ours / float(np.median(np.concatenate(limit.taken[1:]))) * 1e3
                if "RTNeural" in calls:
                    yield f"{title}: times as fast as RTNeural", float(np.median(taken["RTNeural"] / taken["C"]))
                    yield f"{title}: difference from RTNeural", float(np.abs(outputs - other).max())


def _aligned(shape: tuple[int, int]) -> Array:
    """On a cache line, as RTNeural asks for."""
    raw = np.zeros(shape[0] * shape[1] + 16, np.float32)
    start = -raw.ctypes.data // 4 % 16
    return raw[start : start + shape[0] * shape[1]].reshape(shape)


def _rtneural(checkout: Path, net: Net, name: str, x: Array, y: Array, folder: str) -> Callable[[], Any]:
    """The same net there, as one call for all frames; each call goes on from the state of the last, as ours does."""
    gates, inputs = {"LSTM": 4, "GRU": 3}[name], net.rnn.input_size
    sizes = {"CELL": f"{name}LayerT", "GATES": gates, "INPUTS": inputs, "UNITS": net.rnn.hidden_size}
    defines = [*RTNEURAL_DEFINES, *(f"-D{key}={value}" for key, value in sizes.items())]
    includes, library = [f"-I{checkout}", f"-I{checkout}/modules/Eigen"], Path(folder, "rtneural.so")
    source = str(Path(__file__).with_name("rtneural.cpp"))
    subprocess.run(["g++", *RTNEURAL_FLAGS, *defines, *includes, source, "-o", str(library)], check=True)
    there = ctypes.CDLL(str(library))
    there.net_open.restype, there.net_open.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    there.net_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    rnn: Any = net.rnn
    head: Any = net.head
    parts = (rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0, head.weight, head.bias)
    weights = np.concatenate([part.detach().numpy().reshape(-1) for part in parts])
    opened = there.net_open(weights.ctypes.data)
    return lambda: there.net_run(opened, x.ctypes.data, y.ctypes.data, len(x))
