"""Prepare the step graph for the C writer: a fixed batch, a number for every size, and folded constants."""

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from rnn_export.contract.spec import BATCH
from rnn_export.errors import ExportError, first_line
from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.functions import written_out
from rnn_export.export.graph.passes.nodes import DEFAULT_ACTIVATIONS, activations_of, directions_of, input_of
from rnn_export.export.graph.passes.pipeline import apply, rewrite
from rnn_export.export.graph.passes.simplify import Simplify
from rnn_export.export.targets.c.fourier_detection import FindTransforms
from rnn_export.export.targets.c.operator_table import OPERATORS, refuse_unknown

# Constants that folding may make; it may start from any.
FOLDED = 2**22
# What is computed twice, or stored, is so once.
ONCE = (common.DeduplicateInitializersPass(), common.CommonSubexpressionEliminationPass())


def static_graph(step: bytes, batch: int = 1) -> ir.Model:
    """The graph of `batch` streams; raises ExportError if a shape does not follow or an operator is unknown."""
    model = onnx.load_from_string(rewrite(step, DecomposeRecurrent(lambda node: not has_kernel(node))))
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == BATCH:
                dim.dim_value = batch
    del model.graph.value_info[:]
    graph = ir.from_proto(written_out(model, OPERATORS))
    apply(graph, Simplify(FOLDED), FindTransforms(), *ONCE, common.RemoveUnusedNodesPass())
    refuse_unknown(graph.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(ir.to_proto(graph), strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(
            f"the shapes of the step do not fit a batch of {batch}: {first_line(error)}.", id="c-shapes-misfit-batch"
        ) from error
    result = ir.from_proto(inferred)
    for node in result.graph:
        for value in node.outputs:
            if value.name and (value.shape is None or not value.shape.is_static() or value.dtype is None):
                raise ExportError(
                    f"node {node.name!r} ({node.op_type}) gives {value.name!r} of a shape that is not fixed "
                    f"({value.shape}): C has no arrays that change their size. Make the shape depend on sizes alone.",
                    id="c-shape-not-fixed",
                )
    return result


def has_kernel(node: ir.Node) -> bool:
    """True if a recurrent node is computed as a whole; others are decomposed."""
    attributes = node.attributes
    plain = not ({"clip", "layout", "input_forget"} & {a.name for a in attributes.values() if a.value})
    extra = any(input_of(node, i) is not None for i in (4, 7))
    known = [DEFAULT_ACTIVATIONS[node.op_type], *([("Relu",)] if node.op_type == "RNN" else [])]
    directions = len(directions_of(node))
    return plain and not extra and activations_of(node) in [names * directions for names in known]
