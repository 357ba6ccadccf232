"""A program of Core ML's (MIL) read from `model.mlmodel` and `weight.bin`, with no package of Apple's.

Sources: the numbers of fields are those of MIL.proto, Model.proto and FeatureTypes.proto, the layout of the weights
that of MILBlob (github.com/apple/coremltools: mlmodel/format, mlmodel/src/MILBlob/Blob/StorageFormat.hpp).
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rnn_export.onnx.protobuf import Value, fields, packed, text
from rnn_export.platform.arrays import Array

WEIGHTS_PATH = "@model_path/weights/weight.bin"
# The version of the format from which on a model keeps states: iOS 18 and macOS 15.
SPECIFICATION, OPSET = 9, "CoreML8"
# By the number that MIL and a description of a model have for them; 2 is a string.
DTYPES = {1: "bool", 2: "str", 10: "float16", 11: "float32", 21: "int8", 22: "int16", 23: "int32", 31: "uint8"}
DTYPES |= {24: "int64", 32: "uint16"}
FEATURE_DTYPES = {65568: "float32", 131104: "int32", 65552: "float16"}
# Of a file of weights: by its own number, and the mark that each tensor begins with.
_BLOB_DTYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 14: "int32"}
_SENTINEL = 0xDEADBEEF

# dtype and shape; a number alone has the shape ().
Form = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Operation:
    """`inputs` are names of values by parameter, one or several; `outputs` the names that it gives, each of a form."""

    kind: str
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, Form]

    @property
    def title(self) -> str:
        return f"operation {next(iter(self.outputs), '')!r} ({self.kind})"


@dataclass(frozen=True, eq=False)
class Program:
    """One function: its inputs, states and outputs by name, its constants, and its operations in order."""

    inputs: Mapping[str, Form]
    states: Mapping[str, Form]
    outputs: Mapping[str, Form]
    constants: Mapping[str, Array]
    operations: Sequence[Operation]
    metadata: Mapping[str, str]


def read_program(model: bytes, weights: bytes) -> Program:
    """The program of a package; raises ValueError where it is damaged, or is something else than one such function."""
    features: dict[int, dict[str, Form]] = {}
    metadata: dict[str, str] = {}
    functions, version = [], 0
    for number, wire, value in fields(memoryview(model)):
        if number == 1:
            version = _number(value)
        elif number == 2:
            features, metadata = _description(_message(value))
        elif number == 502:
            functions = [_entry(_message(v)) for n, _, v in fields(_message(value)) if n == 2]
        else:
            raise ValueError(f"it holds something else than a program, in field {number} (wire type {wire})")
    if version != SPECIFICATION or [name for name, _ in functions] != ["main"]:
        raise ValueError(f"it is of version {version} with {len(functions)} functions, not of {SPECIFICATION} with one")
    reader = _Reader(memoryview(weights))
    reader.function(functions[0][1])
    inputs = {n: f for n, f in reader.taken.items() if n not in reader.kept}
    declared = features.get(1, {}), features.get(13, {}), features.get(10, {})
    if declared != (inputs, reader.kept, reader.given):
        raise ValueError("its description is not that of its function")
    return Program(inputs, reader.kept, reader.given, reader.constants, tuple(reader.operations), metadata)


class _Reader:
    """Collects the parts of a function."""

    def __init__(self, weights: memoryview) -> None:
        self.weights = weights
        self.taken, self.kept, self.given = dict[str, Form](), dict[str, Form](), dict[str, Form]()
        self.constants, self.operations = dict[str, Array](), list[Operation]()
        self.forms: dict[str, Form] = {}

    def function(self, message: memoryview) -> None:
        blocks: list[tuple[str, memoryview]] = []
        opset = ""
        for number, _, value in fields(message):
            if number == 1:
                name, form, is_state = _named(_message(value))
                self.taken[name] = form
                self.define(name, form)
                if is_state:
                    self.kept[name] = form
            elif number == 2:
                opset = text(value)
            elif number == 3:
                blocks.append(_entry(_message(value)))
        if opset != OPSET or [name for name, _ in blocks] != [OPSET]:
            raise ValueError(f"its function is of {opset!r} with {len(blocks)} forms, not of {OPSET!r} with one")
        outputs = []
        for number, _, value in fields(blocks[0][1]):
            if number == 2:
                outputs.append(text(value))
            elif number == 3:
                self.operation(_message(value))
        for name in outputs:
            if name not in self.forms:
                raise ValueError(f"it gives {name!r}, which nothing makes")
            self.given[name] = self.forms[name]

    def operation(self, message: memoryview) -> None:
        kind, inputs, outputs, attributes = "", dict[str, tuple[str, ...]](), dict[str, Form](), dict[str, memoryview]()
        for number, _, value in fields(message):
            if number == 1:
                kind = text(value)
            elif number == 2:
                name, argument = _entry(_message(value))
                inputs[name] = tuple(self.argument(argument))
                if not inputs[name]:
                    raise ValueError(f"operation {kind!r} is given nothing as {name!r}")
            elif number == 3:
                name, form, _ = _named(_message(value))
                outputs[name] = form
            elif number == 4:
                raise ValueError(f"operation {kind!r} holds other operations, which no program of a bundle has")
            elif number == 5:
                attributes |= dict([_entry(_message(value))])
        if kind == "const":
            if len(outputs) != 1 or inputs or "val" not in attributes:
                raise ValueError("a constant has inputs, or no value")
            ((name, form),) = outputs.items()
            self.define(name, form)
            self.constants[name] = self.constant(attributes["val"])
            return
        self.operations.append(Operation(kind, inputs, outputs))
        for name in (name for names in inputs.values() for name in names):
            if name not in self.forms and name not in self.constants:
                raise ValueError(f"{self.operations[-1].title} reads {name!r}, which nothing makes before it")
        for name, form in outputs.items():
            self.define(name, form)

    def define(self, name: str, form: Form) -> None:
        if name in self.forms:
            raise ValueError(f"two things in it are called {name!r}")
        self.forms[name] = form

    def argument(self, message: memoryview) -> Iterator[str]:
        for _, _, binding in fields(message):
            for number, _, value in fields(_message(binding)):
                if number == 1:
                    yield text(value)
                else:
                    # A value that stands where it is used has a name that no text of a program has.
                    name = f"\0{len(self.constants)}"
                    self.constants[name] = self.constant(_message(value))
                    yield name

    def constant(self, message: memoryview) -> Array:
        form: Form = ("", ())
        found: Array | None = None
        for number, _, value in fields(message):
            if number == 2:
                form, _ = _form(_message(value))
            elif number == 3:
                found = _immediate(_message(value), form)
            elif number == 5:
                found = self.stored(_message(value), form)
        if found is None:
            raise ValueError("a constant has no value")
        return found

    def stored(self, message: memoryview, form: Form) -> Array:
        name, offset = "", -1
        for number, _, value in fields(message):
            if number == 1:
                name = text(value)
            elif number == 2:
                offset = _number(value)
        dtype, shape = form
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name != WEIGHTS_PATH or not 64 <= offset <= len(self.weights) - 64 or offset % 64:
            raise ValueError(f"a constant lies in {name!r} at {offset}, which is not inside of the weights")
        mark, kind, nbytes, start = struct.unpack_from("<IIQQ", self.weights, offset)
        if mark != _SENTINEL or _BLOB_DTYPES.get(kind) != dtype or nbytes != size or start + size > len(self.weights):
            raise ValueError(f"the weights at {offset} are not {dtype} {shape}")
        return np.frombuffer(self.weights[start : start + size], dtype).reshape(shape)


def _description(message: memoryview) -> tuple[dict[int, dict[str, Form]], dict[str, str]]:
    features: dict[int, dict[str, Form]] = {}
    metadata: dict[str, str] = {}
    for number, _, value in fields(message):
        if number in (1, 10, 13):
            name, form = _feature(_message(value))
            features.setdefault(number, {})[name] = form
        elif number == 100:
            for part, _, entry in fields(_message(value)):
                if part == 100:
                    key, content = _entry(_message(entry))
                    metadata[key] = text(content)
        else:
            raise ValueError(f"its description has field {number}, which no program of a bundle has")
    return features, metadata


def _feature(message: memoryview) -> tuple[str, Form]:
    name, dtype, shape = "", "", list[int]()
    for number, _, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 3:
            for kind, _, array in fields(_message(value)):
                if kind == 8:
                    ((_, _, array),) = fields(_message(array))
                elif kind != 5:
                    raise ValueError(f"{name!r} is no array")
                for part, _, item in fields(_message(array)):
                    if part == 1:
                        shape += packed(item)
                    elif part == 2:
                        dtype = FEATURE_DTYPES.get(_number(item), "")
    return name, (dtype, tuple(shape))


def _entry(message: memoryview) -> tuple[str, memoryview]:
    """Key and value of an entry of a map."""
    found = {number: value for number, _, value in fields(message)}
    return text(found.get(1, memoryview(b""))), _message(found.get(2, memoryview(b"")))


def _named(message: memoryview) -> tuple[str, Form, bool]:
    found = {number: value for number, _, value in fields(message)}
    return text(found.get(1, memoryview(b""))), *_form(_message(found.get(2, memoryview(b""))))


def _form(message: memoryview) -> tuple[Form, bool]:
    """A type, and whether it is that of a state."""
    for number, _, value in fields(message):
        if number == 5:
            ((_, _, wrapped),) = fields(_message(value))
            return _form(_message(wrapped))[0], True
        if number != 1:
            raise ValueError("a value is neither a tensor nor a state")
        dtype, shape = "", list[int]()
        for part, _, item in fields(_message(value)):
            if part == 1:
                dtype = DTYPES.get(_number(item), "")
            elif part == 3:
                shape.append(_dimension(_message(item)))
        if not dtype:
            raise ValueError("a value is of a type that no program of a bundle has")
        return (dtype, tuple(shape)), False
    raise ValueError("a value has no type")


def _dimension(message: memoryview) -> int:
    for number, _, value in fields(message):
        if number == 1:
            return next((_number(v) for n, _, v in fields(_message(value)) if n == 1), 0)
    raise ValueError("the size of a value is left open, which it is in no program of a bundle")


def _immediate(message: memoryview, form: Form) -> Array:
    """A constant that stands in the program itself."""
    dtype, shape = form
    ((number, _, tensor),) = fields(message)
    values: list[Array] = []
    if number != 1:
        raise ValueError("a constant is no tensor")
    for kind, _, repeated in fields(_message(tensor)):
        for _, _, value in fields(_message(repeated)):
            values.append(_values(kind, value, dtype))
    flat = np.concatenate(values) if values else np.zeros(0, dtype)
    if flat.size != math.prod(shape):
        raise ValueError(f"a constant of {shape} has {flat.size} values")
    return flat.reshape(shape)


def _values(kind: int, value: Value, dtype: str) -> Array:
    """The values of one field of a `TensorValue`, whose number is `kind`, as `dtype`."""
    if dtype == "str":
        return np.array([text(value)])
    if kind in (2, 3, 5) and not dtype.startswith("float"):
        numbers = packed(value)
        if dtype != "bool" and numbers and not _fit(numbers, dtype):
            raise ValueError(f"a constant of {dtype} is beyond what that holds")
        return np.array(numbers, dtype)
    if kind in (1, 6) and dtype.startswith("float"):
        with np.errstate(all="ignore"):
            return np.frombuffer(_message(value), "float32" if kind == 1 else "float64").astype(dtype)
    if kind == 7:
        return np.frombuffer(_message(value), dtype)
    raise ValueError(f"a constant of {dtype} stands in field {kind}")


def _fit(numbers: Sequence[int], dtype: str) -> bool:
    return np.iinfo(dtype).min <= min(numbers) and max(numbers) <= np.iinfo(dtype).max


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("a message stands where a number should")
    return value
