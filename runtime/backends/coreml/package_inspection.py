"""A package of a bundle, inspected before anything opens it: one program of known operators, held to the contract.

A program is data: it has functions of tensors alone, in shapes that are numbers, and its weights lie in the package.
Core ML gets the package as it was inspected.
"""

import hashlib
import json
import math
from collections.abc import Iterator

import numpy as np

from rnn_export import limits
from rnn_export.bundle import TargetRow
from rnn_export.contract.spec import METADATA_KEY, StreamSpec, sized
from rnn_export.errors import BundleError
from rnn_export.runtime.backends.coreml.mil import Form, Program, read_program
from rnn_export.runtime.backends.coreml.mil_operators import COMPUTE, OPERATORS
from rnn_export.runtime.backends.coreml.package_names import BEGUN, MANIFEST, MODEL, WEIGHTS, part_names, tensor_names
from rnn_export.runtime.protocols import Artefacts


def manifest() -> bytes:
    """`Manifest.json` of a package, whose names of its items follow from their paths."""
    places = {"com.apple.CoreML/model.mlmodel": MODEL, "com.apple.CoreML/weights": "weights"}
    items = {
        hashlib.sha256(path.encode()).hexdigest()[:32]: {
            "author": "com.apple.CoreML",
            "description": "CoreML Model Specification" if name == MODEL else "CoreML Model Weights",
            "name": name,
            "path": path,
        }
        for path, name in places.items()
    }
    whole = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": next(iter(items))}
    return (json.dumps(whole, indent=4) + "\n").encode()


def read_package(artefacts: Artefacts, row: TargetRow) -> tuple[dict[str, bytes], Program]:
    """The files of a row by name, and its program; raises BundleError where it is no package of the contract."""
    files: dict[str, bytes] = {}
    for name in (MODEL, WEIGHTS, MANIFEST):
        path = row.file(name)
        if path is None:
            raise BundleError(
                f"target 'coreml' lists {', '.join(row.files)}, but no {name}. Export the bundle again.",
                id="coreml-file-missing",
            )
        files[name] = artefacts.read(path)
    try:
        if files[MANIFEST] != manifest():
            raise ValueError(f"its {MANIFEST} names other files than those of a bundle")
        program = read_program(files[MODEL], files[WEIGHTS])
        check_program(program, artefacts.spec, row.precision)
    except ValueError as error:
        path = row.file(MODEL)
        raise BundleError(
            f"{path} cannot be used: {str(error).removesuffix('.')}. Export the bundle again.",
            id="coreml-package-invalid",
        ) from error
    return files, program


def check_program(program: Program, spec: StreamSpec, precision: str) -> None:
    """Raise ValueError where a program is not the contract's, too large, or computes in another precision."""
    for operation in program.operations:
        if operation.kind not in OPERATORS:
            raise ValueError(f"{operation.title} is an operator that no program of a bundle has")
    if program.metadata.get(METADATA_KEY) != spec.dumps():
        raise ValueError("it was written for another contract than the bundle's")
    names = tensor_names(spec)
    inputs = {names[t.name]: (_exchanged(t.dtype), sized(t.shape, 1, spec.chunk)) for t in spec.inputs}
    outputs = {names[t.name]: (_exchanged(t.dtype), sized(t.shape, 1, spec.chunk)) for t in spec.outputs}
    parts = part_names(spec, precision)
    states: dict[str, Form] = {
        name: ("float16", sized(s.shape, 1, spec.chunk)) for s in spec.states for name in parts[s.name]
    }
    if BEGUN in program.states:
        states[BEGUN] = ("float16", (1,))
    expected = ("takes", program.inputs, inputs), ("gives", program.outputs, outputs), ("keeps", program.states, states)
    for what, found, wanted in expected:
        if dict(found) != wanted:
            raise ValueError(f"it {what} {dict(found)}, but the contract says {wanted}")
    wrong = "float16" if precision == "fp32" else "float32"
    for operation in program.operations:
        if operation.kind in COMPUTE and any(dtype == wrong for dtype, _ in operation.outputs.values()):
            raise ValueError(f"{operation.title} computes in {wrong}, and not in {precision}")
    for excess in limits.excess(_sizes(program), "the program"):
        raise ValueError(excess)


def _exchanged(dtype: str) -> str:
    return dtype if dtype == "float32" else "int32"


def _sizes(program: Program) -> Iterator[tuple[str, int]]:
    forms = {**program.inputs, **program.states}
    for operation in program.operations:
        forms |= operation.outputs
    for name, (dtype, shape) in forms.items():
        yield name, math.prod(shape) * np.dtype(dtype).itemsize
