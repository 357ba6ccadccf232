"""The folder of the target `wasm`: two modules in a package for npm, browsers and Node."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files as package_data
from typing import Any

import numpy as np

from rnn_export.contract.layout import graph_layout
from rnn_export.contract.precision import TOLERANCES
from rnn_export.contract.spec import BATCH, TIME, StreamSpec, TensorSpec
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.wasm.modules import WEIGHTS
from rnn_export.runtime.build.wasm.wasm_modules import compile_wasm
from rnn_export.runtime.protocols.c_step import contract_sha256, row_shape
from rnn_export.runtime.replay.golden import Golden
from rnn_export.runtime.replay.step_vectors import StepVectors

GOLDEN = "golden.json"


def package(sources: Mapping[str, bytes], name: str, spec: StreamSpec, precision: str) -> dict[str, bytes]:
    """The files of the folder by name, without the golden vectors: compiled from C `sources`, by bare file name."""
    web = {file.name: file.read_bytes() for file in package_data(__package__).joinpath("web").iterdir()}
    weights = {WEIGHTS: sources[f"{name}.bin"]} if f"{name}.bin" in sources else {}
    contract = {**_contract(spec, name, precision), "weights": bool(weights)}
    written = {"model.json": contract, "package.json": _package_json(spec, name)}
    texts = {file: (json.dumps(data, indent=1) + "\n").encode() for file, data in written.items()}
    return {**compile_wasm(sources, name, spec), **weights, **web, **texts}


def golden_json(spec: StreamSpec, golden: Golden, precision: str) -> bytes:
    """The golden vectors for `selftest()`, each tensor as base64 of its little-endian values."""
    if golden.precision != precision:
        golden = replace(golden, tolerance=TOLERANCES[precision])
    vectors = StepVectors.of(spec, golden)
    values = {
        "steps": vectors.steps,
        "silent_steps": vectors.silent_steps,
        "atol": golden.tolerance.atol,
        "rtol": golden.tolerance.rtol,
        "inputs": [_base64(a) for a in vectors.inputs],
        "outputs": [None if a is None else _base64(a) for a in vectors.outputs],
        "states": [_base64(a) for a in vectors.states],
        "ends": [_end(spec, golden, n) for n in _ends(spec, vectors)],
    }
    return (json.dumps(values) + "\n").encode()


def _ends(spec: StreamSpec, vectors: StepVectors) -> Sequence[int]:
    """Lengths of ended sequences whose frames are there."""
    most = vectors.steps * spec.chunk
    return [n for n in vectors.ends.frames if n <= most] if vectors.ends is not None else []


def _end(spec: StreamSpec, golden: Golden, frames: int) -> dict[str, Any]:
    """A sequence of the first `frames`: the input of its `finish`, and the result, null where there is none."""
    whole = frames - frames % spec.chunk

    def rest(tensor: TensorSpec) -> str | None:
        array = golden.inputs[tensor.name][:1]
        if not spec.timed(tensor):
            return _base64(graph_layout(array, tensor))
        piece = array[:, tensor.frames_of(whole) : tensor.frames_of(frames)]
        return _base64(graph_layout(piece, tensor)) if whole < frames else None

    def left(tensor: TensorSpec) -> str | None:
        if not spec.timed(tensor):
            return None
        return _base64(graph_layout(golden.ends[frames][tensor.name][:1, spec.left(tensor, frames).start :], tensor))

    return {"frames": frames, "rest": [rest(t) for t in spec.inputs], "left": [left(t) for t in spec.outputs]}


def _contract(spec: StreamSpec, name: str, precision: str) -> dict[str, Any]:
    return {
        "name": name,
        "digest": spec.digest,
        "compiled": contract_sha256(spec),
        "precision": precision,
        "chunk": spec.chunk,
        "delay": spec.delay,
        "tail": spec.tail,
        "end": next((i for i, state in enumerate(spec.states) if state.name == spec.end), None),
        "max_frames": spec.max_frames,
        "sample_rate": spec.sample_rate,
        "inputs": [_port(spec, t) for t in spec.inputs],
        "outputs": [_port(spec, t) for t in spec.outputs],
        "states": [_tensor(s.name, s.dtype, s.row) for s in spec.states],
        "audio": _audio(spec),
    }


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape), "size": int(np.prod(shape, dtype=int))}


def _port(spec: StreamSpec, tensor: TensorSpec) -> dict[str, Any]:
    dims = [dim for dim in tensor.shape if dim != BATCH]
    axis = tensor.axis(TIME)
    time = None if axis is None else dims.index(tensor.shape[axis])
    rate = [tensor.rate.numerator, tensor.rate.denominator]
    facts = {"timed": spec.timed(tensor), "time": time, "rate": rate, "lengths": list(tensor.lengths)}
    return {**_tensor(tensor.name, tensor.dtype, row_shape(tensor, spec.chunk)), **facts}


def _audio(spec: StreamSpec) -> dict[str, Any]:
    """Samples in a step of the input, and an output with as many; or why audio cannot be fed."""
    if spec.sample_rate is None:
        return {"why": "it was exported without a sample rate, sample_rate=16000 (--sample-rate 16000)"}
    if len(spec.inputs) != 1:
        return {"why": f"it has {len(spec.inputs)} inputs, and audio is one"}
    (tensor,) = spec.inputs
    if tensor.dtype != "float32" or not _in_order(tensor):
        return {"why": f"its input {tensor.name!r} is {tensor.dtype} {tensor.shape}, not samples one after the other"}
    samples = int(np.prod(row_shape(tensor, spec.chunk), dtype=int))
    heard = [t for t in spec.outputs if t.dtype == "float32" and spec.timed(t) and _in_order(t)]
    same = [t.name for t in heard if np.prod(row_shape(t, spec.chunk), dtype=int) == samples]
    return {"samples": samples, "output": same[0] if same else None}


def _in_order(tensor: TensorSpec) -> bool:
    """True if the values of a step lie in the order of time: axes before it are the batch or have size 1."""
    axis = tensor.axis(TIME)
    before = () if axis is None else tensor.shape[:axis]
    return all(dim in (BATCH, 1) for dim in before)


def _base64(array: Array) -> str:
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _package_json(spec: StreamSpec, name: str) -> dict[str, Any]:
    return {
        # npm takes small letters, and no underscore in front.
        "name": name.lower().strip("_") or "model",
        "version": f"0.0.0-{spec.digest[:12] or 'unnamed'}",
        "description": f"{name}, a recurrent model as WebAssembly, stepped frame by frame with its state kept.",
        "type": "module",
        "main": "index.js",
        "types": "index.d.ts",
        "exports": {".": {"types": "./index.d.ts", "default": "./index.js"}, "./*": "./*"},
        "sideEffects": False,
    }
