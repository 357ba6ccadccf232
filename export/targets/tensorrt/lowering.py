"""From the step graph of a bundle to what TensorRT gets: no recurrent operator, typed, at the target's opset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.decompose import decompose
from rnn_export.export.graph.passes.mixed_precision import MATRIX, typed
from rnn_export.export.graph.passes.opset import at_opset
from rnn_export.export.targets.tensorrt.half import numeric_session
from rnn_export.export.targets.tensorrt.lint import lint, refuse, rules_of
from rnn_export.runtime.backends.api import Artefacts, folder
from rnn_export.runtime.backends.onnxruntime.backend import graph_session
from rnn_export.runtime.backends.tensorrt.backend import RECIPE
from rnn_export.runtime.build.tensorrt.recipe import Recipe
from rnn_export.runtime.engine import Engine
from rnn_export.spec import StreamSpec
from rnn_export.target_options import Order
from rnn_export.targets import Target


def lowered(step: bytes, target: Target, order: Order) -> bytes:
    """`step.onnx` as `target` reads it, at the opset and in the precisions of `order`.

    Raises ExportError, with node and operator, where the opset or the target's TensorRT has no such thing.
    """
    assert order.opset is not None
    try:
        plain = at_opset(onnx.load_from_string(decompose(step)), order.opset)
    except ExportError as error:
        raise ExportError(f"target {target.name!r} does not take this graph: {error}") from error
    model = onnx.load_from_string(typed(plain.SerializeToString(), order.precision, order.state_precision))
    _refuse_nothing_typed(model.graph, target, order)
    for node in model.graph.node:
        _say_defaults(node)
    _count_from_the_front(model.graph)
    onnx.checker.check_model(model, full_check=True)
    graph = bytes(model.SerializeToString())
    refuse(lint(graph, rules_of(target, order.precision), order.precision), target.name)
    return graph


def _refuse_nothing_typed(graph: onnx.GraphProto, target: Target, order: Order) -> None:
    """An engine in a precision that none of its products has would be one of fp32 by another name."""
    products = list(_products(graph))
    if order.precision != "fp32" and products and all(wide for _, wide in products):
        names = " and ".join(sorted({op for op, _ in products}))
        raise ExportError(
            f"target {target.name!r} in {order.precision} would be fp32 throughout: {names} has "
            f"no {order.precision} form at opset {order.opset}. Choose --precision fp16."
        )


def _products(graph: onnx.GraphProto) -> Iterator[tuple[str, bool]]:
    """The operator of each product, and whether its weights stayed in fp32."""
    kinds = {i.name: i.data_type for i in graph.initializer}
    for node in graph.node:
        if node.op_type in MATRIX:
            yield node.op_type, onnx.TensorProto.FLOAT in map(kinds.get, node.input)


def _say_defaults(node: NodeProto) -> None:
    """TensorRT's parser has Selu's two numbers to four digits, which would be 4e-5 off."""
    if node.op_type == "Selu":
        known = onnx.defs.get_schema("Selu").attributes
        node.attribute.extend(known[name].default_value for name in ("alpha", "gamma") if not _has(node, name))


def _has(node: NodeProto, name: str) -> bool:
    return any(attribute.name == name for attribute in node.attribute)


def _count_from_the_front(graph: onnx.GraphProto) -> None:
    """A constant index from the end, which TensorRT before 8.2 reads beyond the array, as one from the beginning."""
    typed_values = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph)).graph
    values = (*typed_values.value_info, *typed_values.input, *typed_values.output)
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[1] in constants and node.input[0] in sizes:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            size, index = sizes[node.input[0]][axis], constants[node.input[1]]
            if size and (index < 0).any():
                name = f"{node.name or node.output[0]}.index"
                graph.initializer.append(onnx.numpy_helper.from_array(np.where(index < 0, index + size, index), name))
                node.input[1] = name


def files(step: bytes, spec: StreamSpec, target: Target, order: Order) -> dict[str, bytes]:
    """`step.onnx` of the target, from the fp32 one of a bundle, and `recipe.json`, how an engine is made of it."""
    assert order.opset is not None
    graph, place = lowered(step, target, order), folder(target.name, order.precision)
    name, digest = f"{place}/step.onnx", hashlib.sha256(graph).hexdigest()
    recipe = Recipe(target.name, order.precision, order.state_precision, order.opset, name, digest, order.batch)
    return {name: graph, f"{place}/{RECIPE}": recipe.to_file(spec)}


def notes(artefacts: Artefacts, target: Target, order: Order) -> list[str]:
    """What a user should know of how the precision was written."""
    if target.library is None or order.precision == "fp32":
        return []
    graph = onnx.load_from_string(artefacts.read(f"{folder(target.name, order.precision)}/step.onnx")).graph
    wide = {op for op, stayed in _products(graph) if stayed}
    return [
        f"{target.name}: {' and '.join(sorted(wide))} stays in fp32, since ONNX has none in {order.precision} at opset "
        f"{order.opset}"
    ][: len(wide)]


def requires(target: Target, order: Order) -> dict[str, Any]:
    """The library that builds and runs the engine, and the range of its batch."""
    return {"library": target.library, "batch": list(order.batch)}


def engines(artefacts: Artefacts, target: Target, order: Order) -> list[Engine]:
    """In fp32 ONNX Runtime's; below, what a GPU computes that adds products up in fp32."""
    if order.precision != "fp32":
        return [_numeric(artefacts, target, order, "fp32")]
    graph = artefacts.read(f"{folder(target.name, order.precision)}/step.onnx")
    return [Engine(artefacts, f"{target.name} on onnxruntime", graph_session(artefacts.spec, {"step.onnx": graph}))]


def rough_engines(artefacts: Artefacts, target: Target, order: Order) -> list[Engine]:
    """What a GPU computes that adds products of fp16 up in fp16, as some of its kernels do."""
    rough = target.library is not None and order.precision == "fp16"
    return [_numeric(artefacts, target, order, "fp16")] if rough else []


def _numeric(artefacts: Artefacts, target: Target, order: Order, sums: str) -> Engine:
    graph = artefacts.read(f"{folder(target.name, order.precision)}/step.onnx")
    return Engine(artefacts, f"{target.name} ({sums} sums)", numeric_session(artefacts.spec, graph, sums))
