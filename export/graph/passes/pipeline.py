"""Run passes: a graph is parsed once, rewritten as one onnx_ir model, and serialised once.

A pass is an `onnx_ir.passes.PassBase`: `requires` is checked before it, `ensures` after it, on every run.
"""

import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, InvariantError, PassBase, PassError, PassResult, Sequential

from rnn_export.errors import ExportError


def parse(graph: bytes) -> ir.Model:
    """The model of a serialised `ModelProto`; raises ExportError if onnx_ir cannot read a part of it."""
    proto = onnx.load_from_string(graph)
    for node in proto.graph.node:
        if any(attribute.type == onnx.AttributeProto.SPARSE_TENSOR for attribute in node.attribute):
            raise ExportError(
                f"node {node.name!r} ({node.op_type}) holds a sparse tensor: make it a dense one.", id="sparse-tensor"
            )
    return ir.from_proto(proto)


def serialise(model: ir.Model, check: bool = False) -> bytes:
    """The model as a `ModelProto`; with `check` it must satisfy onnx.checker, types and shapes included."""
    proto = ir.to_proto(model)
    if check:
        onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def apply(model: ir.Model, *passes: PassBase) -> ir.Model:
    """Run `passes` on `model`, one after another. Errors of a pass or of its conditions are raised unchanged."""
    try:
        return Sequential(*passes)(model).model
    except (PassError, InvariantError) as error:
        cause: BaseException = error
        while isinstance(cause, PassError | InvariantError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise cause from None


def rewrite(graph: bytes, *passes: PassBase) -> bytes:
    """`apply` from bytes to bytes."""
    return serialise(apply(parse(graph), *passes))


def with_shapes(model: ir.Model) -> ir.Model:
    """A copy in which every value has the dtype and shape that onnx infers for it, bodies of loops included."""
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


class InferShapes(InPlacePass):
    """`with_shapes` in place: what is inferred is written with the graph.

    onnx_ir's own pass moves large initializers behind small ones, which changes the written bytes.
    """

    def call(self, model: ir.Model) -> PassResult:
        for graph, inferred in zip(model.graphs(), with_shapes(model).graphs(), strict=True):
            known = ir.convenience.create_value_mapping(inferred, include_subgraphs=False)
            for name, value in ir.convenience.create_value_mapping(graph, include_subgraphs=False).items():
                value.type, value.shape = known[name].type, known[name].shape
        return PassResult(model, modified=True)
