"""Changes to one field of a bundle, each of which its reader must notice or live with.

A case is a field and a source of random numbers. Half of the changes are kept consistent (graphs of the changed
contract, rows of the changed files), and all are rehashed, so that most of them get past `open_bundle`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from rnn_export.bundle.reading import checksum
from rnn_export.contract.spec import DTYPES, StreamSpec
from rnn_export.platform.arrays import pack_arrays, unpack_arrays

from .seeds import Seed, rewritten, seeds

Rng = random.Random
NUMBERS = (-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 64, 1000, 2**16, 2**31 - 1, 2**31, 2**63 - 1, 10**18)
WORDS = (
    "", "x", "y", "h", "h.next", "batch", "time", "time/2", "../x", "a/b", "\u202e", "\x1b[2J", "\ud800", "e\u0301",
    "a" * 3000, "int", "fp32", "onnx", "c", "stored", "zeros", "float32", "native.so", "step.onnx", "\0",
)  # fmt: skip
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, 1.5, [[]], {"a": [1]}, [None], -0.0)


def wild(rng: Rng, old: Any) -> Any:
    """Another value: mostly of the same type, near or far."""
    if rng.random() < 0.1:
        return copy.deepcopy(rng.choice(OTHERS))
    if isinstance(old, bool) or old is None:
        return rng.choice((True, False, None, 1, 16000))
    if isinstance(old, int):
        return rng.choice((rng.choice(NUMBERS), old + rng.choice((-1, 1)), old * 2, rng.randrange(1, 12)))
    if isinstance(old, str):
        return rng.choice((rng.choice(WORDS), old + rng.choice("ab1_. /"), old[:-1], old.upper()))
    if isinstance(old, list):
        return _wild_list(rng, old)
    if isinstance(old, dict):
        return _wild_dict(rng, old)
    return rng.choice(NUMBERS)


def _wild_list(rng: Rng, old: list[Any]) -> list[Any]:
    new = copy.deepcopy(old)
    way = rng.randrange(5)
    if way == 0 and new:
        del new[rng.randrange(len(new))]
    elif way == 1 and new:
        new.append(copy.deepcopy(rng.choice(new)))
    elif way == 2:
        rng.shuffle(new)
    elif way == 3 and new:
        at = rng.randrange(len(new))
        new[at] = wild(rng, new[at])
    else:
        new.insert(rng.randrange(len(new) + 1), rng.choice((*NUMBERS[:9], *WORDS[:6])))
    return new


def _wild_dict(rng: Rng, old: dict[str, Any]) -> dict[str, Any]:
    new = copy.deepcopy(old)
    if new and rng.random() < 0.6:
        key = rng.choice(sorted(new))
        if rng.random() < 0.3:
            del new[key]
        else:
            new[key] = wild(rng, new[key])
    else:
        new[rng.choice(WORDS)] = rng.choice((1, "a", None, []))
    return new


# --- the fields: each changes the manifest and the files of a copy of a seed


class Case:
    """A bundle in the making: `manifest` and `files` are to be changed."""

    def __init__(self, seed: Seed, rng: Rng) -> None:
        self.model, self.rng = seed.model, rng
        self.manifest: dict[str, Any] = copy.deepcopy(seed.manifest)
        self.files = dict(seed.files)
        self.rows = {row["path"]: row for row in seed.manifest["files"]}

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.manifest["spec"]
        return spec

    def rehash(self) -> bytes:
        """The bytes of the manifest, its rows those of the files; what is no JSON in UTF-8 is escaped."""
        rows = self.manifest["files"] if isinstance(self.manifest["files"], list) else []
        for row in rows:
            data = self.files.get(row["path"]) if isinstance(row, dict) and isinstance(row.get("path"), str) else None
            # What was changed on purpose stays so.
            if data is not None and row == self.rows.get(row["path"]):
                row.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        return json.dumps(self.manifest).encode()

    def agree(self, names: Mapping[str, str] = {}) -> None:
        """Write the graphs anew where the changed contract is one, so that both say the same; `names` are new ones."""
        try:
            spec = StreamSpec.from_json(copy.deepcopy(self.spec))
            if all(
                np.prod([d for d in t.shape if isinstance(d, int)]) < 2**16
                for t in (*spec.inputs, *spec.outputs, *spec.states)
            ):
                self.files |= {n: raw for n, raw in rewritten(self.model, spec, names).items() if n in self.files}
        except Exception:  # then they differ
            return


LIKELY: Mapping[str, tuple[str, ...]] = {"dtype": DTYPES, "initial": ("zeros", "stored")}


def _of_tensor(group: str, field: str) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        rng, row = case.rng, case.rng.choice(case.spec[group])
        old = row[field]
        if field == "shape" and rng.random() < 0.6:
            # A number that is possible, for every tensor of the model or for this one.
            size = rng.randrange(1, 9)
            rows = [t for g in ("inputs", "outputs", "states") for t in case.spec[g]] if rng.random() < 0.5 else [row]
            for other in rows:
                other["shape"] = [size if type(d) is int else d for d in other["shape"]]
        elif rng.random() < 0.8 and field in LIKELY:
            row[field] = rng.choice(LIKELY[field])
        else:
            row[field] = wild(rng, old)
        if rng.random() < 0.5:
            renamed = field not in LIKELY and field != "shape" and isinstance(row[field], str)
            case.agree({old: row[field]} if renamed else {})

    return change


def _of_spec(field: str) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        rng, spec = case.rng, case.spec
        numbers = {"chunk": (1, 2, 3, 4, 6), "delay": (0, 1, 2, 3, 5, 6, 100), "sample_rate": (1, 8000, 16000, None)}
        texts = {"digest": ("", "0" * 64, "f" * 64), "sequence_only": (True, False)}
        likely: tuple[Any, ...] | None = {**numbers, **texts}.get(field)
        if field in ("inputs", "outputs"):
            # One more, of any shape that it may have.
            more = {**rng.choice(spec[field]), "name": rng.choice(("more", "rnn.l0", "x2"))}
            likely = ([*spec[field], more], [more, *spec[field]])
        spec[field] = rng.choice(likely) if likely and rng.random() < 0.7 else wild(rng, spec[field])
        if rng.random() < 0.5:
            case.agree()

    return change


def _of_row(group: str, field: str) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        row = case.rng.choice(case.manifest[group])
        likely: dict[str, tuple[Any, ...]] = {
            "precision": ("fp16", "bf16", "int8", "fp64", "fp32"), "opset": (1, 18, 99, None),
            "target": ("tensorrt", "jetson-orin-nano", "pt2", "other", "c", "onnx", "torchscript"),
        }  # fmt: skip
        if field == "path" and case.rng.random() < 0.8:
            old, new = row["path"], case.rng.choice(("other", "a/b/c.bin", f"new/{row['path']}", "\u00e9"))
            case.files[new] = case.files.pop(old)
            for target in case.manifest["targets"]:
                target["files"] = [new if name == old else name for name in target["files"]]
            row["path"] = new
        elif field in likely and case.rng.random() < 0.7:
            row[field] = case.rng.choice(likely[field])
        else:
            row[field] = wild(case.rng, row[field])

    return change


def _of_manifest(field: str) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        if field == "producer" and case.rng.random() < 0.7:
            case.manifest["producer"][case.rng.choice(("torch", "\x1b[2J", ""))] = case.rng.choice(
                ("1", "", "\x1b[31m")
            )
        elif field == "format" and case.rng.random() < 0.7:
            # The older one has two fields less.
            case.manifest.update(format=1)
            del case.manifest["weights"], case.manifest["extra"]
        else:
            case.manifest[field] = wild(case.rng, case.manifest[field])

    return change


def _of_requires(case: Case) -> None:
    row = case.rng.choice(case.manifest["targets"])
    likely = {
        "name": "other", "library": "tensorrt", "version": "10.3", "compute_capability": ["8.6"], "torch": "2.0",
        "onnx_sha256": "0" * 64, "batch": [1, 1, 8], "scales": "calibrated", "anything": [None],
    }  # fmt: skip
    name = case.rng.choice(sorted(likely))
    other = wild(case.rng, case.rng.choice(("a", 1, ["8.6"], [1, 1, 8])))
    row["requires"][name] = likely[name] if case.rng.random() < 0.7 else other


def flipped(rng: Rng, raw: bytes) -> bytes:
    """With some bytes changed, put in, taken out or cut off."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, way = rng.randrange(len(data) + 1), rng.randrange(5)
        if way == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4))))
        elif way == 2:
            del data[at : at + rng.choice((1, 4, 64))]
        elif way == 3 and at < len(data):
            data[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
        else:
            data[at : at + 8] = struct.pack("<q", rng.choice((0, -1, 2**31, 2**62)))
    return bytes(data)


def _bytes_of(name: str) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        found = [path for path in case.files if path.rsplit("/", 1)[-1] == name]
        for path in found:
            case.files[path] = flipped(case.rng, case.files[path])

    return change


def _of_graph(part: str) -> Callable[[Case], None]:
    """A part of a graph that stays a graph of onnx, with the file's other parts as they are."""

    def change(case: Case) -> None:
        rng = case.rng
        name = rng.choice([n for n in ("step.onnx", "sequence.onnx") if n in case.files])
        model = onnx.load_from_string(case.files[name])
        graph = model.graph
        values = [*graph.input, *graph.output]
        names = [
            *(v.name for v in values),
            *(t.name for t in graph.initializer),
            *(o for n in graph.node for o in n.output),
        ]
        node, tensor = rng.choice(graph.node), rng.choice([*graph.initializer])
        if part == "node.op_type":
            node.op_type = rng.choice(OPS)
        elif part == "node.inputs" and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "nowhere"])
        elif part == "node.outputs":
            node.output[0] = rng.choice([*names, "new"])
        elif part == "node.attribute":
            node.attribute.append(onnx.helper.make_attribute(*rng.choice(ATTRIBUTES)))
        elif part == "node.domain":
            node.domain = rng.choice(("com.microsoft", "ai.onnx", "ai.onnx.ml", "x"))
        elif part == "node.added":
            size = rng.choice((1, 2, 5, 2**10, 2**20, 2**33, -1))
            graph.initializer.append(
                onnx.numpy_helper.from_array(np.array([size, rng.choice((1, 3))], np.int64), "size")
            )
            made = onnx.helper.make_node(rng.choice(("ConstantOfShape", "RandomNormal", "Shape")), ["size"], ["made"])
            expanded = onnx.helper.make_node(
                rng.choice(("Expand", "Tile", "Reshape")), [graph.input[0].name, "size"], ["made"]
            )
            graph.node.insert(0, rng.choice((made, expanded)))
        elif part == "tensor.dims":
            tensor.dims[:] = [rng.choice(NUMBERS) for _ in range(rng.randrange(3))]
        elif part == "tensor.data":
            tensor.data_type = rng.randrange(0, 24)
        elif part == "tensor.external":
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(("/etc/passwd", "../w", "w.bin", "")))
        elif part == "value.shape":
            shape = rng.choice(values).type.tensor_type.shape
            for dim in shape.dim:
                if rng.random() < 0.5:
                    dim.dim_value = rng.choice(NUMBERS)
        elif part == "value.type":
            rng.choice(values).type.tensor_type.elem_type = rng.randrange(0, 24)
        elif part == "value.name":
            rng.choice(values).name = rng.choice(names)
        elif part == "opset":
            model.opset_import[0].version = rng.choice((0, 1, 7, 13, 17, 21, 99, -1))
        case.files[name] = model.SerializeToString()

    return change


OPS = (
    "Add", "Mul", "Identity", "MatMul", "Concat", "Loop", "Scan", "If", "GRU", "LSTM", "Range", "Expand", "Resize",
    "Cast", "Conv", "Gather", "Slice", "CumSum", "Softmax", "Transpose", "NonZero", "Nothing", "Exp", "Div", "Einsum",
    "Split", "Pad",
)  # fmt: skip
ATTRIBUTES: tuple[tuple[str, Any], ...] = (
    ("axis", 0), ("axis", -9), ("axis", 2**40), ("to", 1), ("to", 99), ("perm", [1, 0]), ("perm", [9, 9]),
    ("axes", [0]),
    ("value", 1.0), ("num_scan_inputs", -1), ("hidden_size", 2**31), ("mode", "x"), ("equation", "ij,jk"),
    ("keepdims", 7),
)  # fmt: skip


def _of_arrays(name: str) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        file = name if name in case.files else "golden.npz"
        arrays, rng = dict(unpack_arrays(case.files[file])), case.rng
        key = rng.choice(sorted(arrays))
        array = arrays[key]
        way = rng.randrange(6)
        if way == 0:
            del arrays[key]
        elif way == 1:
            kinds = ("float64", "int64", "float16", "bool", "U4", ">f4") if array.dtype.kind in "fiu" else ("U1",)
            arrays[key] = array.astype(rng.choice(kinds))
        elif way == 2:
            arrays[key] = array.reshape(-1)[: rng.randrange(3)]
        elif way == 3 and array.dtype.kind == "f":
            arrays[key] = np.full_like(array, rng.choice((np.nan, np.inf, 1e30, -0.0)))
        elif way == 4:
            arrays[rng.choice(("trials/input/x", "trials/at", "scale/y", "x", "\x1b"))] = array
        else:
            arrays[key] = array[None]
        case.files[file] = pack_arrays(arrays)

    return change


def _of_record(case: Case) -> None:
    for path in [p for p in case.files if p.endswith("build.json")]:
        record = wild(case.rng, json.loads(case.files[path]))
        case.files[path] = json.dumps(record).encode()


_TENSOR = ("name", "dtype", "shape")
FIELDS: Mapping[str, Callable[[Case], None]] = {
    **{f"contract: {g}.{f}": _of_tensor(g, f) for g in ("inputs", "outputs", "states") for f in _TENSOR},
    **{f"contract: states.{f}": _of_tensor("states", f) for f in ("input", "output", "initial")},
    **{
        f"contract: {f}": _of_spec(f)
        for f in ("inputs", "outputs", "states", "chunk", "delay", "sample_rate", "sequence_only", "digest")
    },
    **{f"files: {f}": _of_row("files", f) for f in ("path", "sha256", "bytes")},
    **{f"targets: {f}": _of_row("targets", f) for f in ("target", "precision", "opset", "files")},
    "targets: requires": _of_requires,
    **{f"manifest: {f}": _of_manifest(f) for f in ("format", "producer", "weights", "files", "targets", "extra")},
    **{
        f"graph: {p}": _of_graph(p)
        for p in (
            "node.op_type", "node.inputs", "node.outputs", "node.attribute", "node.domain", "node.added", "tensor.dims",
            "tensor.data", "tensor.external", "value.shape", "value.type", "value.name", "opset",
        )
    },
    **{f"bytes: {n}": _bytes_of(n) for n in ("step.onnx", "sequence.onnx", "golden.npz", "initial_states.npz")},
    "bytes: build.json": _bytes_of("build.json"),
    **{f"arrays: {n}": _of_arrays(n) for n in ("golden.npz", "initial_states.npz")},
    "build.json": _of_record,
}  # fmt: skip
# Those that TorchScript's own file is changed in: torch is slow to load, so they are fewer.
TORCHSCRIPT = {"bytes: step.pt": _bytes_of("step.pt")}


def sound() -> dict[str, bytes]:
    """The files of a bundle with nothing changed."""
    seed = seeds()[0]
    raw = Case(seed, random.Random(0)).rehash()
    return {**seed.files, "manifest.json": raw, "manifest.sha256": checksum(raw)}


def bundle_case(field: str, rng: Rng) -> dict[str, bytes]:
    """The files of a bundle with that field changed, manifest and checksum among them."""
    case = Case(rng.choice(seeds()), rng)
    {**FIELDS, **TORCHSCRIPT}[field](case)
    raw = case.rehash()
    return {**case.files, "manifest.json": raw, "manifest.sha256": checksum(raw)}


def snapshot_case(raw: bytes, rng: Rng) -> bytes:
    """A snapshot that is changed, and mostly has its checksum right."""
    body = bytearray(flipped(rng, raw[:-4]))
    if rng.random() < 0.5 and len(body) > 12:
        body = bytearray(raw[:-4])
        body[-4:] = struct.pack("<f", rng.choice((float("nan"), float("inf"), 1e38, -0.0)))
    return bytes(body) + struct.pack("<I", zlib.crc32(body) if rng.random() < 0.8 else 0)
