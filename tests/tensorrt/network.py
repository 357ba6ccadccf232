"""A network as TensorRT-RTX parsed it, executed in numpy without a GPU and independently of ONNX.

NVIDIA's documentation of TensorRT's operators defines each kind of layer; `layers` and `sums` follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorrt_rtx as trt

from . import layers, sums
from .layers import Array, Compute
from .sums import Products

Kind = trt.LayerType
# Each kind of layer: the view that shows its attributes, and what reads them.
PLAIN: dict[Any, tuple[Any, Callable[[Any], Compute]]] = {
    Kind.ACTIVATION: (trt.IActivationLayer, layers.activation),
    Kind.CAST: (trt.ICastLayer, layers.cast),
    Kind.CONCATENATION: (trt.IConcatenationLayer, layers.concatenation),
    Kind.CONSTANT: (trt.IConstantLayer, layers.constant),
    Kind.ELEMENTWISE: (trt.IElementWiseLayer, layers.elementwise),
    Kind.GATHER: (trt.IGatherLayer, layers.gather),
    Kind.IDENTITY: (trt.IIdentityLayer, layers.identity),
    Kind.SELECT: (trt.ISelectLayer, layers.select),
    Kind.SHAPE: (trt.IShapeLayer, layers.shape),
    Kind.SHUFFLE: (trt.IShuffleLayer, layers.shuffle),
    Kind.SLICE: (trt.ISliceLayer, layers.slice_),
    Kind.SQUEEZE: (trt.ISqueezeLayer, layers.squeeze),
    Kind.UNARY: (trt.IUnaryLayer, layers.unary),
    Kind.UNSQUEEZE: (trt.IUnsqueezeLayer, layers.unsqueeze),
}
ADDING: dict[Any, tuple[Any, Callable[[Any, Products], Compute]]] = {
    Kind.CONVOLUTION: (trt.IConvolutionLayer, sums.convolution),
    Kind.MATRIX_MULTIPLY: (trt.IMatrixMultiplyLayer, sums.matrix_multiply),
    Kind.NORMALIZATION: (trt.INormalizationLayer, sums.normalization),
    Kind.POOLING: (trt.IPoolingLayer, sums.pooling),
    Kind.REDUCE: (trt.IReduceLayer, sums.reduce),
    Kind.SOFTMAX: (trt.ISoftMaxLayer, sums.softmax),
}
DTYPES = {
    trt.DataType.FLOAT: np.dtype(np.float32),
    trt.DataType.HALF: np.dtype(np.float16),
    trt.DataType.INT32: np.dtype(np.int32),
    trt.DataType.INT64: np.dtype(np.int64),
    trt.DataType.BOOL: np.dtype(np.bool_),
}


class Refused(Exception):
    """TensorRT-RTX cannot take a graph, or what it made of one cannot be executed here."""


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.ERROR:
            self.errors.append(message)


# The library warns of a second logger in a process, which it may ignore.
LOG = Log()


@dataclass(frozen=True)
class Parsed:
    """A graph as a network; what it points into is kept alive beside it."""

    network: Any
    builder: Any
    parser: Any
    graph: bytes

    @property
    def layers(self) -> list[Any]:
        return [self.network.get_layer(i) for i in range(self.network.num_layers)]

    @property
    def inputs(self) -> list[Any]:
        return [self.network.get_input(i) for i in range(self.network.num_inputs)]

    @property
    def outputs(self) -> list[Any]:
        return [self.network.get_output(i) for i in range(self.network.num_outputs)]


def parse(graph: bytes) -> Parsed:
    """Raises Refused with each node that the parser cannot take, its operator and the reason."""
    LOG.errors.clear()
    builder = trt.Builder(LOG)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise Refused("; ".join(f"node {e.node_name()!r} ({e.node_operator()}): {e.desc()}" for e in errors))
    return Parsed(network, builder, parser, graph)


@dataclass(frozen=True)
class Step:
    """One layer: the tensors it reads (None: left out), the one it gives, and what TensorRT says of that."""

    name: str
    compute: Compute
    inputs: tuple[str | None, ...]
    output: str
    dtype: Any
    shape: tuple[int, ...]

    def run(self, values: Mapping[str, Array]) -> Array:
        result = self.compute([None if name is None else values[name] for name in self.inputs])
        if result.dtype != self.dtype or not _fits(result.shape, self.shape):
            raise Refused(
                f"{self.name} gave {result.dtype} {result.shape}, but TensorRT has {self.dtype} {self.shape} there."
            )
        return result


class Executor:
    """Executes a parsed network without control flow.

    `accumulate`, "fp32" or "fp16", is the type in which the products of fp16 matrices and convolutions, and the sums of
    reductions, are added up; every layer's result is rounded to its own type. Activations, softmax and normalisation
    are computed in fp32 and rounded once, and what is fp32 is added up in fp32.

    Raises Refused where the network holds a layer that is in neither table above, with its name and kind.
    """

    def __init__(self, parsed: Parsed, accumulate: str = "fp32") -> None:
        self.parsed = parsed
        self.inputs = {t.name: (DTYPES[t.dtype], tuple(t.shape)) for t in parsed.inputs}
        self.outputs = [t.name for t in parsed.outputs]
        products = Products(accumulate)
        steps = _ordered([_step(layer, products) for layer in parsed.layers], set(self.inputs))
        self.constants: dict[str, Array] = {}
        self.steps: list[Step] = []
        for step in steps:
            # What depends on constants alone is computed once.
            if all(name is None or name in self.constants for name in step.inputs):
                self.constants[step.output] = step.run(self.constants)
            else:
                self.steps.append(step)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs by name to outputs by name."""
        for name, (dtype, shape) in self.inputs.items():
            if feed[name].dtype != dtype or not _fits(feed[name].shape, shape):
                raise Refused(f"input {name!r} is {feed[name].dtype} {feed[name].shape}, not {dtype} {shape}.")
        values = {**self.constants, **feed}
        # What overflows becomes Inf, as on the device.
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            for step in self.steps:
                values[step.output] = step.run(values)
        return {name: values[name] for name in self.outputs}


def _step(layer: Any, products: Products) -> Step:
    kind, output = layer.type, layer.get_output(0)
    name = f"layer {layer.name!r} ({kind})"
    if kind not in PLAIN and kind not in ADDING:
        raise Refused(f"{name} is of a kind that the executor has not learnt.")
    # num_inputs does not count what follows a gap.
    tensors = [layer.get_input(i) for i in range(6 if kind == Kind.SLICE else layer.num_inputs)]
    inputs = tuple(None if tensor is None else str(tensor.name) for tensor in tensors)
    try:
        if kind in PLAIN:
            layer.__class__, read = PLAIN[kind]
            compute = read(layer)
        else:
            layer.__class__, read_sum = ADDING[kind]
            compute = read_sum(layer, products)
    except KeyError as error:
        raise Refused(f"{name} has {error.args[0]}, which the executor has not learnt.") from error
    return Step(name, compute, inputs, output.name, DTYPES[output.dtype], tuple(output.shape))


def _ordered(steps: Sequence[Step], known: set[str | None]) -> list[Step]:
    """The parser gives layers in an order in which some read what comes later."""
    ordered: list[Step] = []
    known.add(None)
    while steps:
        later = []
        for step in steps:
            if step.output in known:
                raise Refused(f"two tensors of the network are called {step.output!r}.")
            if known.issuperset(step.inputs):
                ordered.append(step)
                known.add(step.output)
            else:
                later.append(step)
        if len(later) == len(steps):
            raise Refused(f"{later[0].name} reads what nothing gives.")
        steps = later
    return ordered


def _fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    return len(shape) == len(declared) and all(d in (-1, n) for n, d in zip(shape, declared, strict=True))
