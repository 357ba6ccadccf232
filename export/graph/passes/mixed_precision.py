"""Convert a step graph to fp16 or bf16, strongly typed: TensorRT 10 asks for it, 11 requires it.

Which operators stay fp32 follows PyTorch's autocast (torch.amp, "CUDA Ops that can autocast to float32"), and so does
the rule for the rest: an operator runs in the widest type of its inputs.
"""

import enum
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from rnn_export.contract.precision import PRECISIONS
from rnn_export.contract.spec import METADATA_KEY, StreamSpec
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.nodes import RECURRENT
from rnn_export.export.graph.passes.pipeline import InferShapes
from rnn_export.platform.arrays import Array

FLOAT = ir.DataType.FLOAT
FLOAT_TYPES = {name: ir.DataType[p.onnx_type] for name, p in PRECISIONS.items() if p.onnx_type}

# What reads weights; the hardware adds the products up.
MATRIX = {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"}
# Sums of many terms, and what leaves the range of fp16 (6e-8 to 65504) for ordinary arguments: torch.amp's list in the
# words of ONNX, and division, whose result has no bound.
WIDE = {
    *("ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"),
    *("ReduceLogSumExp", "CumSum", "GlobalAveragePool", "AveragePool", "GlobalLpPool", "LpPool", "Softmax"),
    *("LogSoftmax", "LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"),
    *("BatchNormalization", "LpNormalization", "MeanVarianceNormalization"),
    *("Exp", "Log", "Pow", "Sqrt", "Reciprocal", "Div", "Softplus", "Acos", "Asin", "Cosh", "Sinh", "Tan"),
}
# What moves values and computes none.
MOVING = {
    *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Gather"),
    *("GatherElements", "GatherND", "ScatterElements", "ScatterND", "Pad", "Expand", "Tile", "DepthToSpace"),
    *("SpaceToDepth", "Shape", "Size"),
}
COMPARING = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}


class Kind(enum.IntEnum):
    """The precision of a float value; the largest wins."""

    FREE = 0  # fp32 as it came, from outside or from the weights: whatever its reader needs
    LOW = 1  # in the precision
    WIDE = 2  # fp32 that must stay so: a state, or what an operator of WIDE gave


class ToMixedPrecision(InPlacePass):
    """A decomposed fp32 step graph as a strongly typed one in `precision`, with the contract that it carries.

    Weights and products are in `precision`, and so is everything between them. In fp32 stay the operators of `WIDE`;
    an operator that has `precision` in no form at the opset of the graph (Conv in bf16 before 22); an Add or Mul
    with a value of fp32, until the next product; and so the whole update of a state.

    Inputs and outputs keep their dtype. States have `state_precision`: "fp32", or the precision itself. A state that
    depends on nothing but itself, a counter, stays fp32: fp16 counts to 2048, bf16 to 256.

    Before: the graph carries its contract. After: onnx.checker takes it, so no operator reads two types where ONNX
    wants one. Raises ExportError if a node has a loop inside or a float that is not fp32, if another precision is asked
    for, or if a weight does not fit into `precision`.
    """

    def __init__(self, precision: str, state_precision: str = "fp32") -> None:
        if precision not in FLOAT_TYPES or state_precision not in ("fp32", precision):
            raise ExportError(
                f"asked for precision {precision!r} with states in {state_precision!r}: the precision is one of "
                f"{', '.join(FLOAT_TYPES)}, and states are in fp32 or in the precision itself.",
                id="mixed-precision-unknown",
            )
        self.precision, self.state_precision = precision, state_precision

    def requires(self, model: ir.Model) -> None:
        if self.precision != "fp32":
            spec_of(model)

    def call(self, model: ir.Model) -> PassResult:
        if self.precision == "fp32":
            return PassResult(model, modified=False)
        InferShapes()(model)
        for node in model.graph:
            _refuse_foreign(node, self.precision)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        _Typing(model, self.precision, self.state_precision).run()
        common.RemoveUnusedNodesPass()(model)
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)


def _refuse_foreign(node: ir.Node, precision: str) -> None:
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if node.op_type in RECURRENT or any(a.type in graphs for a in node.attributes.values()):
        raise ExportError(
            f"node {node.name!r} ({node.op_type}) cannot be typed: it has a loop or a graph of its own inside. "
            "Decompose the step graph first, or take fp32.",
            id="untypable-control-flow",
        )
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype not in (None, FLOAT) and value.dtype.is_floating_point():
            raise ExportError(
                f"node {node.name!r} ({node.op_type}) has {value.name!r} in {value.dtype.name.lower()}: "
                f"{precision} is written from an fp32 graph. Call model.float() before the export.",
                id="graph-not-fp32",
            )


def spec_of(model: ir.Model) -> StreamSpec:
    """The contract that a graph carries; raises ExportError if it has none."""
    if METADATA_KEY not in model.metadata_props:
        raise ExportError(
            f"the graph has no {METADATA_KEY!r} among its metadata: export it with rnn-export.",
            id="graph-without-contract",
        )
    return StreamSpec.from_json(json.loads(model.metadata_props[METADATA_KEY]))


class _Typing:
    """Goes through the nodes in order, and keeps the `Kind` of each float value."""

    def __init__(self, model: ir.Model, precision: str, state_precision: str) -> None:
        self.graph, self.opset = model.graph, model.opset_imports[""]
        self.precision, self.low = precision, FLOAT_TYPES[precision]
        given = (*self.graph.inputs, *self.graph.initializers.values())
        self.kinds = {value: Kind.FREE for value in given if value.dtype is FLOAT}
        self.copies: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        by_name = {value.name: value for value in self.graph.inputs}
        self.ends = dict.fromkeys((value.name for value in self.graph.outputs if value.dtype is FLOAT), FLOAT)
        counters = self.counters(spec_of(model))
        for state in spec_of(model).states:
            if state.dtype == "float32":
                low = state_precision != "fp32" and state.name not in counters
                self.ends[state.output] = by_name[state.input].dtype = self.low if low else FLOAT
                self.kinds[by_name[state.input]] = Kind.LOW if low else Kind.WIDE

    def counters(self, spec: StreamSpec) -> set[str]:
        """States whose next value depends on the last one and on constants alone."""
        sources = {value: {value.name} for value in self.graph.inputs}
        for node in self.graph:
            # What has only the size of another value does not depend on it.
            read = [] if node.op_type == "Shape" else [sources.get(v, set()) for v in node.inputs if v is not None]
            sources.update(dict.fromkeys(node.outputs, set().union(*read)))
        found = {value.name: sources.get(value) for value in self.graph.outputs}
        return {state.name for state in spec.states if found[state.output] == {state.input}}

    def run(self) -> None:
        for node in list(self.graph):
            self.write(node)
        for i, value in enumerate(self.graph.outputs):
            wanted = self.ends.get(value.name)
            if wanted is not None and value.dtype is not wanted:
                name, value.name = value.name, f"{value.name}.inside"
                self.graph.outputs[i] = self.cast(value, wanted, name, None)

    def write(self, node: ir.Node) -> None:
        """Give the node inputs of one float type, and its outputs the type that follows."""
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        symbols = {constraint.type_param_str for constraint in schema.type_constraints}
        floats = [(i, value) for i, value in enumerate(node.inputs) if value in self.kinds and value is not None]
        formals = _by_position(schema.inputs, len(node.inputs))
        # Some inputs are float by definition: the scales of a Resize.
        read = {i: value for i, value in floats if formals[i].type_str in symbols}
        kind = self.kind(node, schema, list(read.values())) if read else Kind.WIDE
        for i, value in floats:
            if node.op_type != "Cast":
                dtype = self.low if i in read and kind is Kind.LOW else FLOAT
                node.replace_input_with(i, self.carried(value, dtype, node))
        bound = {formals[i].type_str for i in read}
        for formal, value in zip(_by_position(schema.outputs, len(node.outputs)), node.outputs, strict=True):
            if value.dtype is FLOAT:
                self.kinds[value] = kind if formal.type_str in bound else self.default_kind(node)
                value.dtype = self.low if self.kinds[value] is Kind.LOW else FLOAT

    def kind(self, node: ir.Node, schema: onnx.defs.OpSchema, read: Sequence[ir.Value]) -> Kind:
        """The node's kind; FREE only if it moves values that are."""
        widest = max(self.kinds[value] for value in read)
        if node.op_type in WIDE or not self.has_low(schema):
            return Kind.WIDE
        table = node.op_type == "Gather" and read[0].const_value is not None
        if node.op_type in MATRIX or table:
            return Kind.LOW
        if node.op_type in MOVING:
            return widest
        if node.op_type in COMPARING and widest is Kind.FREE:
            return Kind.WIDE
        return max(widest, Kind.LOW) if all(map(self.fits, read)) else Kind.WIDE

    def has_low(self, schema: onnx.defs.OpSchema) -> bool:
        """True if the operator takes the precision wherever it takes fp32."""
        text = f"tensor({self.low.name.lower()})"
        allowed = [constraint.allowed_type_strs for constraint in schema.type_constraints]
        return all(text in types for types in allowed if "tensor(float)" in types)

    def fits(self, value: ir.Value) -> bool:
        """True if a constant survives in the precision: no Inf, and no epsilon that becomes zero."""
        if value.const_value is None:
            return True
        array = value.const_value.numpy()
        low = self.rounded(array)
        return bool(np.isfinite(low[np.isfinite(array)]).all() and (low.any() or not array.any()))

    def default_kind(self, node: ir.Node) -> Kind:
        """The kind of a float that a node makes of another type: a whole number may be too large for fp16."""
        source = node.inputs[0] if node.inputs else None
        if node.op_type != "Cast" or source is None or source.dtype is ir.DataType.BOOL:
            return Kind.FREE
        return Kind.WIDE if self.kinds.get(source, Kind.WIDE) is Kind.WIDE else Kind.FREE

    def carried(self, value: ir.Value, dtype: ir.DataType, node: ir.Node) -> ir.Value:
        if value.dtype is dtype:
            return value
        if (value, dtype) not in self.copies:
            name = f"{value.name}.{next(text for text, known in FLOAT_TYPES.items() if known is dtype)}"
            if value.const_value is None:
                self.copies[value, dtype] = self.cast(value, dtype, name, node)
            else:
                self.copies[value, dtype] = self.weight(value, name, node)
        return self.copies[value, dtype]

    def cast(self, value: ir.Value, dtype: ir.DataType, name: str | None, before: ir.Node | None) -> ir.Value:
        node = ir.node("Cast", [value], {"to": dtype}, name=f"cast {name}")
        (result,) = node.outputs
        result.name, result.dtype, result.shape = name, dtype, value.shape
        if before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(before, node)
        return result

    def weight(self, value: ir.Value, name: str, node: ir.Node) -> ir.Value:
        assert value.const_value is not None
        array = value.const_value.numpy()
        low = self.rounded(array)
        lost = np.isfinite(array) & ~np.isfinite(low)
        if lost.any():
            raise ExportError(
                f"weight {value.name!r} of node {node.name!r} ({node.op_type}) holds {np.abs(array[lost]).max():.6g}, "
                f"which would become Inf: {self.precision} ends at {PRECISIONS[self.precision].largest:.6g}. "
                f"Take {'bf16 or ' if self.precision == 'fp16' else ''}fp32, or scale the weight.",
                id="weight-becomes-inf",
            )
        made = ir.Value(name=name, shape=value.shape, type=ir.TensorType(self.low))
        made.const_value = ir.tensor(low, name=name)
        self.graph.register_initializer(made)
        return made

    def rounded(self, array: Array) -> Array:
        with np.errstate(over="ignore"):
            low: Array = array.astype(self.low.numpy())
        return low


def _by_position(formals: Sequence[Any], count: int) -> list[Any]:
    """One formal parameter for each of `count` arguments: the last may stand for many."""
    return [formals[min(i, len(formals) - 1)] for i in range(count)]
