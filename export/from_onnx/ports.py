"""Inputs and outputs of a file, and the shapes and constants that a user gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from rnn_export.contract.spec import BATCH, DTYPES, TIME, Dim
from rnn_export.errors import SourceError
from rnn_export.platform.arrays import Array

# How an option names what is asked for, in both places where it can stand.
SHAPE_OPTION = "--shape {name}={dims} (shapes={{{name!r}: ({dims})}})"


@dataclass(frozen=True)
class Port:
    """An input or output of a file. A dimension is a number, the file's own symbol, or None if unknown.

    `shape` is None if not even the number of axes is known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        shape = (
            "of unknown rank"
            if self.shape is None
            else f"({', '.join('?' if d is None else str(d) for d in self.shape)})"
        )
        return f"{self.name!r} {self.dtype} {shape}"


def ports(values: Iterable[ValueInfoProto]) -> dict[str, Port]:
    """The ports by name, in order; raises SourceError for one that is no tensor of a stream's types."""
    return {value.name: _port(value) for value in values}


def _port(value: ValueInfoProto) -> Port:
    if not value.type.HasField("tensor_type"):
        raise SourceError(
            f"{value.name!r} is a {value.type.WhichOneof('value')}, and a stream has tensors alone.",
            id="onnx-value-no-tensor",
        )
    tensor = value.type.tensor_type
    try:
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        dtype = "of no known type"
    if dtype not in DTYPES:
        raise SourceError(
            f"{value.name!r} is {dtype}, which no stream has: known are {', '.join(DTYPES)}.", id="onnx-dtype-unknown"
        )
    if dtype in ("float16", "float64"):
        raise SourceError(
            f"{value.name!r} is {dtype}: every target is written from a float32 step, and is narrow inside where its "
            "precision says so. Export the model with float32 inputs and outputs.",
            id="onnx-input-not-float32",
        )
    if not tensor.HasField("shape"):
        return Port(value.name, dtype, None)
    dims = (d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
    # A word that tf2onnx makes for each axis that it knows nothing of.
    known = (None if isinstance(d, str) and d.startswith("unk__") else d or None for d in dims)
    return Port(value.name, dtype, tuple(known))


def constants(model: ModelProto, fixed: Mapping[str, Any]) -> dict[str, Array]:
    """The values of inputs that are no data, in their dtypes; raises SourceError where one does not fit."""
    found, taken = {}, ports(model.graph.input)
    for name, value in fixed.items():
        if name not in taken:
            raise SourceError(
                f"there is no input {name!r} to fix: the file takes {', '.join(map(str, taken.values()))}.",
                id="no-input-to-fix",
            )
        port = taken[name]
        try:
            array = np.asarray(value)
            cast = array.astype(port.dtype)
            fits = array.dtype.kind in "biuf" and np.array_equal(cast, array)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise SourceError(f"the value {value!r} of {name!r} is not of {port.dtype}.", id="fixed-value-wrong-dtype")
        if port.shape is not None:
            if cast.ndim == 0 and port.shape and all(d in (1, None) or isinstance(d, str) for d in port.shape):
                cast = cast.reshape([1] * len(port.shape))
            fits = len(port.shape) == cast.ndim
            fits = fits and all(not isinstance(d, int) or d == n for d, n in zip(port.shape, cast.shape, strict=True))
            if not fits:
                raise SourceError(
                    f"the value of {name!r} has shape {cast.shape}, but the file takes {port}.",
                    id="fixed-value-wrong-shape",
                )
        found[name] = cast
    return found


def declared_shapes(taken: Mapping[str, Port], shapes: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Dim, ...]]:
    """The shapes that a user says, checked against the file; raises SourceError where they differ."""
    found: dict[str, tuple[Dim, ...]] = {}
    for name, said in shapes.items():
        if name not in taken:
            raise SourceError(
                f"there is no {name!r} to say a shape of: the file has {', '.join(taken)}.", id="shape-of-unknown-name"
            )
        shape, port = tuple(said), taken[name]
        for dim in shape:
            if dim not in (BATCH, TIME) and not (type(dim) is int and dim > 0):
                raise SourceError(
                    f"the shape {shape} of {name!r} holds {dim!r}: say numbers, 'batch' and 'time'.",
                    id="shape-with-unknown-word",
                )
        if port.shape is not None:
            fits = len(shape) == len(port.shape)
            fits = fits and all(
                not isinstance(d, int) or d == s or isinstance(s, str) for d, s in zip(port.shape, shape, strict=True)
            )
            if not fits:
                raise SourceError(
                    f"the shape {shape} of {name!r} does not fit the file, which has {port}.", id="declared-shape-unfit"
                )
        found[name] = shape
    return found
