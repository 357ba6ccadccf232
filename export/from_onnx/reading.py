"""Read an ONNX file with its weights, and check that a graph of a bundle may hold it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto
from onnx_ir.passes import common

from rnn_export import limits
from rnn_export.errors import SourceError, first_line
from rnn_export.onnx.onnx_file import read_model
from rnn_export.platform.arrays import Array

# Of ONNX's default operators: before, LSTM and GRU were others; after, what the onnx package here knows.
OLDEST_OPSET = 9


@dataclass(frozen=True)
class Source:
    """A file: `packed` is its model with all weights inside, as it is run; `model` the same without functions."""

    path: Path
    packed: bytes
    model: ModelProto

    @property
    def opset(self) -> int:
        return opset_of(self.model)

    @property
    def metadata(self) -> dict[str, str]:
        return {entry.key: entry.value for entry in self.model.metadata_props}

    @property
    def producer(self) -> str:
        return f"{self.model.producer_name} {self.model.producer_version}".strip() or "nobody says"


def read_source(path: str | os.PathLike[str]) -> Source:
    """Read `path` and the files beside it that its weights lie in, once.

    Raises SourceError where it is no ONNX file, where weights lie outside of its folder or are cut off, where it is too
    large, and where it holds an operator, a domain or an opset that no graph of a bundle has.
    """
    path = Path(path)
    if not path.is_file():
        raise SourceError(f"{path} does not exist or is not a file.", id="onnx-file-missing")
    budget = limits.FILES_PART * limits.max_bytes()
    if path.stat().st_size > budget:
        raise SourceError(
            f"{path} has {path.stat().st_size} bytes, over the limit of {budget}: {_LARGER}.", id="onnx-file-too-large"
        )
    try:
        proto = onnx.load_from_string(path.read_bytes())
    except Exception as error:  # protobuf has kinds of its own
        raise SourceError(f"{path} cannot be read as ONNX: {first_line(error)}.", id="onnx-unreadable") from None
    if not proto.HasField("graph") or not proto.graph.node:
        raise SourceError(f"{path} cannot be read as ONNX: it holds no graph.", id="onnx-without-graph")
    _pack(proto, path, budget - path.stat().st_size)
    opset, newest = opset_of(proto), onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise SourceError(
            f"{path} is of opset {opset}, but {OLDEST_OPSET} to {newest} are read here: convert it with "
            "onnx.version_converter, or install a newer onnx.",
            id="onnx-opset-unread",
        )
    packed = proto.SerializeToString()
    _without_initializers_as_inputs(proto.graph)
    if proto.functions:
        proto = ir.to_proto(common.InlinePass()(ir.from_proto(proto)).model)
    try:
        read_model(proto.SerializeToString())
    except (ValueError, RecursionError) as error:
        raise SourceError(
            f"{path} cannot be used: {str(error).removesuffix('.')}. {_OPERATORS}", id="onnx-file-unusable"
        ) from error
    try:
        if not all(value.type.tensor_type.HasField("shape") for value in proto.graph.output):
            proto = onnx.shape_inference.infer_shapes(proto)
        onnx.checker.check_model(proto)
    except Exception as error:  # the checker raises several kinds
        raise SourceError(f"{path} is no valid ONNX: {first_line(error)}.", id="onnx-invalid") from error
    return Source(path, packed, proto)


_LARGER = f"set {limits.MAX_BYTES_VARIABLE} to more, if it is meant"
_OPERATORS = (
    "What a step is made of are operators of ONNX itself, without side effects, of sizes that shapes say: export the "
    "model again without what is named."
)


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's default operators."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph, and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            bodies = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
            for body in bodies:
                yield from graphs_of(body)


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that a model holds: initializers and attributes, at any depth."""
    for graph in graphs_of(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
    for function in model.functions:
        for node in function.node:
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def array_of(tensor: TensorProto) -> Array:
    array: Array = onnx.numpy_helper.to_array(tensor)
    return array


def _pack(model: ModelProto, path: Path, budget: int) -> None:
    """Load tensors from other files of the same folder."""
    for tensor in tensors_of(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        fields = {entry.key: entry.value for entry in tensor.external_data}
        data = _external(path, tensor.name, fields, budget)
        budget -= len(data)
        tensor.raw_data = data
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        try:
            array_of(tensor)
        except Exception as error:  # of a size that does not fit, numpy and onnx raise their own
            raise SourceError(
                f"{path}: the weights {tensor.name!r} are damaged: {first_line(error)}.", id="onnx-weights-damaged"
            ) from error


def _external(path: Path, name: str, fields: dict[str, str], budget: int) -> bytes:
    location, folder = fields.get("location", ""), path.resolve().parent
    place = (folder / location).resolve()
    if not location or not place.is_relative_to(folder) or not place.is_file():
        raise SourceError(
            f"{path}: the weights {name!r} lie in {location!r}, which is no file in the folder of the model: put it "
            "there, under that name.",
            id="onnx-weights-missing",
        )
    try:
        offset, size = int(fields.get("offset", 0)), place.stat().st_size
        length = int(fields.get("length", size - offset))
    except ValueError:
        raise SourceError(
            f"{path}: the weights {name!r} have a place in {location!r} that is no number.",
            id="onnx-weights-place-invalid",
        ) from None
    if min(offset, length) < 0 or offset + length > size:
        raise SourceError(
            f"{path}: the weights {name!r} lie at {offset} to {offset + length} of {location!r}, which has {size} "
            "bytes: it is cut off, or of another model.",
            id="onnx-weights-cut-off",
        )
    if length > budget:
        raise SourceError(
            f"{path}: the weights {name!r} take {length} bytes, over what is left: {_LARGER}.",
            id="onnx-weights-too-large",
        )
    with place.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _without_initializers_as_inputs(graph: GraphProto) -> None:
    """Drop weights among the inputs, as before IR version 4."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
