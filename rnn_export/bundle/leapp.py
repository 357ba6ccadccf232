"""A description of a bundle's step for NVIDIA's LEAPP: a YAML file beside the bundle, as `leapp` 0.7 reads it.

LEAPP (https://nvidia-isaac.github.io/leapp) runs models that are wired together by such a file. A state is a connection
from an output back to an input there, `feedback_flow`. Its shapes are numbers: one row, one chunk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rnn_export.bundle.reading import Bundle
from rnn_export.contract.spec import sized
from rnn_export.errors import BundleError
from rnn_export.onnx.onnx_file import read_model
from rnn_export.platform.arrays import Arrays
from rnn_export.platform.files import save_atomically

STEP, SUFFIX = "step.onnx", ".yaml"
# The versions whose format this is.
LEAPP, CONFIG = "0.7.2", "1.3"
# Keys that YAML reads as text without quotes.
PLAIN, WORDS = re.compile(r"[A-Za-z][\w. /-]*"), {"y", "n", "yes", "no", "true", "false", "on", "off", "null"}
# safetensors' names of dtypes.
SAFETENSORS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write_leapp(bundle: Bundle, path: Path | None = None, force: bool = False) -> list[Path]:
    """Write the description of `bundle` to `path`, NAME.yaml beside it if None, and states that start elsewhere.

    The paths written, the description first. It names the bundle's step by its relative path, and by its hash. Raises
    BundleError where there is no step, LEAPP has no word for it, or a file is in the way.
    """
    place = bundle.path.with_suffix(SUFFIX) if path is None else path
    if place.suffix != SUFFIX:
        raise BundleError(f"{place}: LEAPP reads descriptions whose name ends in {SUFFIX}.", id="leapp-suffix-unknown")
    initial = bundle.initial_states() if any(s.initial == "stored" for s in bundle.spec.states) else {}
    initial_path = place.with_name(f"{place.stem}_initial_values.safetensors")
    files = {place: _description(bundle, place, initial_path.name if initial else None).encode()}
    if initial:
        node = _node(bundle)
        files[initial_path] = _safetensors({f"{node}/{s.input}": initial[s.name][None] for s in bundle.spec.states})
    if not force and (there := [str(p) for p in files if p.exists()]):
        raise BundleError(f"{', '.join(there)}: there already. Say --force to replace it.", id="leapp-file-exists")
    try:
        # The description last: it is what LEAPP opens.
        for name, data in reversed(files.items()):
            with save_atomically(name) as written:
                written.write_bytes(data)
    except OSError as error:
        raise BundleError(f"{place} cannot be written: {error.strerror or error}.", id="leapp-not-written") from error
    return list(files)


def _description(bundle: Bundle, place: Path, initial: str | None) -> str:
    spec, node = bundle.spec, _node(bundle)
    if STEP not in bundle.files:
        why = "takes whole sequences only" if spec.sequence_only else "was stripped of it (--keep onnx keeps it)"
        raise BundleError(f"{bundle.path} has no {STEP}, which LEAPP runs: the bundle {why}.", id="leapp-graph-missing")
    raw = bundle.read(STEP)
    graph = read_model(raw)
    ports = [*spec.inputs, *spec.outputs]
    tensors = (
        {port.name: port for port in ports} | {s.input: s for s in spec.states} | {s.output: s for s in spec.states}
    )
    if odd := [name for name in (*graph.inputs, *graph.outputs) if "/" in name]:
        raise BundleError(
            f"LEAPP takes no '/' in a name, and {odd[0]!r} has one: export with other input_names.",
            id="leapp-slash-in-name",
        )

    def described(names: tuple[str, ...]) -> list[dict[str, Any]]:
        shapes = {name: list(sized(tensors[name].shape, 1, spec.chunk)) for name in names}
        return [{"name": n, "dtype": tensors[n].dtype, "shape": shapes[n], "type": "tensor"} for n in names]

    opset = next((row.opset for row in bundle.targets if STEP in row.files), None)
    flow: dict[str, Any] = {
        "data_flow": {},
        "feedback_flow": {f"{node}/{s.output}": [f"{node}/{s.input}"] for s in spec.states},
    }
    if initial is not None:
        flow["initial_values"] = initial
    flow |= {"inputs": {node: [t.name for t in spec.inputs]}, "outputs": {node: [t.name for t in spec.outputs]}}
    parameters = {
        "model_path": Path(os.path.relpath(bundle.path / STEP, place.absolute().parent)).as_posix(),
        "md5sum": hashlib.md5(raw, usedforsecurity=False).hexdigest(),
        "sha256sum": hashlib.sha256(raw).hexdigest(),
        "backend": "onnx",
        **({} if opset is None else {"opset_version": opset}),
    }
    model = {"inputs": described(graph.inputs), "outputs": described(graph.outputs), "parameters": parameters}
    own = {"digest": spec.digest, "chunk": spec.chunk, "sample_rate": spec.sample_rate}
    own["note"] = spec.delay_note if spec.has_delay else None
    text = {
        "models": {node: model},
        "pipeline": flow,
        "system information": {"leapp version": LEAPP, "leapp config version": CONFIG},
        "rnn-export": {name: value for name, value in own.items() if value is not None},
    }
    return "\n".join(_yaml(text)) + "\n"


def _node(bundle: Bundle) -> str:
    return re.sub(r"\W+", "_", bundle.path.stem) or "model"


def _yaml(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of YAML; all but mappings and lists of mappings is JSON, which YAML reads as it is."""
    for key, item in value.items():
        plain = PLAIN.fullmatch(key) and key.lower() not in WORDS
        name = f"{indent}{key if plain else _json(key)}:"
        if isinstance(item, Mapping) and item:
            yield name
            yield from _yaml(item, f"{indent}  ")
        elif isinstance(item, list) and item and isinstance(item[0], Mapping):
            yield name
            for entry in item:
                first, *rest = _yaml(entry)
                yield f"{indent}- {first}"
                yield from (f"{indent}  {line}" for line in rest)
        else:
            yield f"{name} {_json(item)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _safetensors(arrays: Arrays) -> bytes:
    """As https://github.com/huggingface/safetensors specifies it: a length (u64), a header in JSON, the raw values."""
    header, at, raw = dict[str, Any](), 0, list[bytes]()
    for name, array in arrays.items():
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": SAFETENSORS[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [at, at + len(data)],
        }
        at += len(data)
        raw.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(raw)
