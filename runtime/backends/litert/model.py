"""A step as LiteRT's file, as a bundle has it: inspected and held to the contract before LiteRT sees it.

The file is still code (BUNDLE.md): LiteRT trusts its content, and one wrong number ends the process. So no file is
opened untrusted, and this finds a file that was written for another model, is damaged or too large.

Its one signature, `step`, takes the inputs and then the states, and gives the outputs and then the next states, by the
names of the contract; the graph itself has them in that order, for runtimes without signatures. All sizes are numbers,
of one stream.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_export import limits
from rnn_export.contract.spec import METADATA_KEY, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import BundleError
from rnn_export.runtime.backends.litert.library import schema

FILE, SIGNATURE = "step.tflite", "step"
Form = tuple[str, str, tuple[int, ...]]
DTYPES = {
    getattr(schema.TensorType, name.upper()): name
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "bool")
}


@dataclass(frozen=True)
class Checked:
    """A file that is of the contract.

    Attributes:
        inputs, outputs: where the tensors are, by number in the graph and in the order of the contract: inputs, then
            states.
        model: the file as objects of Python.
    """

    raw: bytes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    model: Any


def check_model(file: str, raw: bytes, spec: StreamSpec) -> Checked:
    """Raises BundleError where `raw` is damaged, too large, or not of the contract."""
    try:
        model = parsed(raw)
        graph = _graph(model)
        if _contract(model) != spec.dumps().encode():
            raise ValueError("it was written for another contract than the bundle's")
        for excess in limits.excess(_sizes(graph), "the graph"):
            raise ValueError(excess)
        _check_constants(model, graph, len(raw))
        _check_operators(model, graph)
        ports = _ports(model, graph)
    except ValueError as error:
        raise BundleError(
            f"{file} cannot be used: {str(error).removesuffix('.')}. Export the bundle again.",
            id="litert-model-invalid",
        ) from error
    _check_contract(file, graph, ports, spec)
    return Checked(raw, tuple(i for _, i in ports[0]), tuple(i for _, i in ports[1]), model)


def parsed(raw: bytes) -> Any:
    """The model as objects of Python; raises ValueError where the bytes are none."""
    if raw[4:8] != b"TFL3":
        raise ValueError("it is no file of LiteRT's")
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw, 0))
    except Exception as error:  # of a damaged file this raises many kinds
        raise ValueError(f"it is damaged: {type(error).__name__}: {error}") from error


def operator_name(model: Any, operator: Any) -> str:
    """LiteRT's name of an operator: "FULLY_CONNECTED"; of a custom one its own name."""
    codes = model.operatorCodes or []
    if not 0 <= operator.opcodeIndex < len(codes):
        raise ValueError("an operator of it has no kind")
    code = codes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return f"the custom operator {_text(code.customCode)!r}"
    return _OPERATORS.get(number, f"operator {number}")


def _graph(model: Any) -> Any:
    if len(model.subgraphs or ()) != 1:
        raise ValueError(f"it has {len(model.subgraphs or ())} graphs, and a step has one")
    graph = model.subgraphs[0]
    for tensor in graph.tensors or ():
        shape, free = _ints(tensor.shape), _ints(tensor.shapeSignature)
        if tensor.type not in DTYPES:
            raise ValueError(f"tensor {_text(tensor.name)!r} is of kind {tensor.type}, which no step has")
        if min(shape, default=1) < 0 or min(free, default=1) < 0:
            raise ValueError(f"the size of tensor {_text(tensor.name)!r} follows from values: it has no bound")
        if tensor.isVariable or tensor.sparsity is not None or tensor.variantTensors:
            raise ValueError(f"tensor {_text(tensor.name)!r} is kept, sparse or a list, which none of a step is")
    return graph


def _contract(model: Any) -> bytes | None:
    for noted in model.metadata or ():
        if _text(noted.name) == METADATA_KEY and 0 <= noted.buffer < len(model.buffers or ()):
            data = model.buffers[noted.buffer].data
            return b"" if data is None else np.asarray(data, np.uint8).tobytes()
    return None


def _sizes(graph: Any) -> Iterator[tuple[str, int]]:
    for tensor in graph.tensors or ():
        yield _text(tensor.name), math.prod(_ints(tensor.shape)) * np.dtype(DTYPES[tensor.type]).itemsize


def _check_constants(model: Any, graph: Any, nbytes: int) -> None:
    """Every constant lies in the file, and is as long as its shape says."""
    sizes = dict(enumerate(_sizes(graph)))
    for number, tensor in enumerate(graph.tensors or ()):
        if not 0 <= tensor.buffer < len(model.buffers or ()):
            raise ValueError(f"tensor {_text(tensor.name)!r} lies in a buffer that is not there")
        buffer = model.buffers[tensor.buffer]
        if buffer.offset > 1 or buffer.size > 1 or tensor.externalBuffer:
            raise ValueError(f"tensor {_text(tensor.name)!r} lies outside of the graph, which none of a bundle does")
        if buffer.data is not None and len(buffer.data) not in (0, sizes[number][1]):
            raise ValueError(
                f"tensor {_text(tensor.name)!r} takes {sizes[number][1]} bytes, and {len(buffer.data)} are stored"
            )


def _check_operators(model: Any, graph: Any) -> None:
    count = len(graph.tensors or ())
    for operator in graph.operators or ():
        name = operator_name(model, operator)
        if name.startswith("the custom") or operator.builtinOptions2 is not None:
            raise ValueError(f"it has {name}, which no graph of a bundle has")
        for number in (*_ints(operator.inputs), *_ints(operator.outputs), *_ints(operator.intermediates)):
            # -1 is what is left out.
            if not -1 <= number < count:
                raise ValueError(f"{name} reads or writes a tensor that is not there")


def _ports(model: Any, graph: Any) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    signatures = [s for s in model.signatureDefs or () if _text(s.signatureKey) == SIGNATURE]
    if len(signatures) != 1 or len(model.signatureDefs) != 1:
        raise ValueError(f"it has not one signature, {SIGNATURE!r}")
    found = []
    for maps, order in ((signatures[0].inputs, graph.inputs), (signatures[0].outputs, graph.outputs)):
        ports = [(_text(port.name), int(port.tensorIndex)) for port in maps or ()]
        if [number for _, number in ports] != _ints(order):
            raise ValueError("its signature has another order than its graph")
        if any(not 0 <= number < len(graph.tensors or ()) for _, number in ports):
            raise ValueError("its signature names a tensor that is not there")
        found.append(ports)
    return found[0], found[1]


def _check_contract(file: str, graph: Any, ports: Sequence[Sequence[tuple[str, int]]], spec: StreamSpec) -> None:
    """Raise BundleError where its inputs or outputs are not those of the contract."""
    inputs: list[tuple[str, TensorSpec | StateSpec]] = [(t.name, t) for t in spec.inputs]
    outputs: list[tuple[str, TensorSpec | StateSpec]] = [(t.name, t) for t in spec.outputs]
    inputs += [(s.input, s) for s in spec.states]
    outputs += [(s.output, s) for s in spec.states]
    for what, found, expected in (("takes", ports[0], inputs), ("gives", ports[1], outputs)):
        wanted: list[Form] = [(name, port.dtype, sized(port.shape, 1, spec.chunk)) for name, port in expected]
        has: list[Form] = [
            (name, DTYPES[graph.tensors[i].type], tuple(_ints(graph.tensors[i].shape))) for name, i in found
        ]
        if has != wanted:
            raise BundleError(
                f"{file} {what} {has}, but the contract says {wanted}. Export the bundle again.",
                id="litert-contract-differs",
            )


def _ints(values: Any) -> list[int]:
    return [] if values is None else [int(v) for v in values]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


_OPERATORS: Mapping[int, str] = {n: name for name, n in vars(schema.BuiltinOperator).items() if isinstance(n, int)}
