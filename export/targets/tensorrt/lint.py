"""Check at export if a TensorRT takes a graph: each finding names node and operator.

A graph that its device refuses is found late; one that builds there and computes something else is never found.
The differences between versions are in `rnn_export.export.targets.tensorrt.parser_rules`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from rnn_export.contract.precision import PRECISIONS
from rnn_export.contract.spec import BATCH
from rnn_export.errors import ExportError, keyword
from rnn_export.export.graph.passes.nodes import RECURRENT, activations_of, directions_of, input_of
from rnn_export.export.graph.passes.pipeline import with_shapes
from rnn_export.export.targets.tensorrt.parser_rules import ParserRules
from rnn_export.platform.arrays import Array

SHOWN = 8
# The activations that the parser knows: onnx-tensorrt, OnnxAttrs.cpp of 8.2 to 10.1; TensorRT-RTX takes the same.
ACTIVATIONS = {
    *("Relu", "Tanh", "Sigmoid", "LeakyRelu", "ThresholdedRelu"),
    *("ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"),
}
# Types whose name in ONNX is not numpy's.
NUMPY_NAMES = {"float": "float32", "double": "float64"}
ONNX_NAMES = {numpy: onnx for onnx, numpy in NUMPY_NAMES.items()}
PRODUCTS = ("MatMul", "Gemm", "Conv")
ONE_OUTPUT = ("LayerNormalization", "MaxPool")
REWRITE = "write this part of the model in other operators"


@dataclass(frozen=True)
class Finding:
    """One reason to refuse a graph: the node's name, its operator, the rule it breaks, and advice."""

    node: str
    op: str
    rule: str
    advice: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.op}): {self.rule}; {self.advice}."


def lint(model: ir.Model, rules: ParserRules, precision: str) -> list[Finding]:
    """Breaches of `rules` in a step graph that is to run in `precision`, "fp32", "fp16" or "bf16"; empty is good."""
    model = with_shapes(model)
    linter = _Linter(rules, precision, model.opset_imports.get("", 0))
    return [*linter.interface(model.graph), *linter.nodes(model.graph)]


def refuse(findings: Sequence[Finding], target: str) -> None:
    """Raise ExportError with the first findings, if there are any."""
    if not findings:
        return
    lines = [f"target {target!r} does not take this graph:", *(f"- {finding}" for finding in findings[:SHOWN])]
    if len(findings) > SHOWN:
        lines.append(f"- and {len(findings) - SHOWN} more.")
    raise ExportError("\n".join(lines), id="tensorrt-rules-broken")


class _Linter:
    """The rules of one parser; each check yields its findings at one node, its values typed and shaped."""

    def __init__(self, rules: ParserRules, precision: str, opset: int) -> None:
        self.rules, self.precision, self.opset = rules, precision, opset
        of_any_operator = (self.operator, self.types, self.equal_types, self.product, self.build_time_inputs)
        self.checks = (
            *of_any_operator,
            self.outputs,
            self.settings,
            self.recurrent,
            self.loop,
            self.scan,
            self.carried,
        )

    def interface(self, graph: ir.Graph) -> Iterator[Finding]:
        name = graph.name or "graph"
        if self.opset > self.rules.opset:
            rule = f"its opset is {self.opset}, and {self.rules.name} reads up to {self.rules.opset}"
            yield Finding(name, "graph", rule, f"export it with {keyword('opset', self.rules.opset)}")
        if self.precision not in self.rules.precisions:
            known = ", ".join(self.rules.precisions)
            yield Finding(name, "graph", f"{self.rules.name} has no {self.precision}", f"choose from {known}")
        for value in graph.inputs:
            for axis, dim in enumerate(_dimensions(value) or ()):
                if not isinstance(dim, int) and dim != BATCH:
                    rule = f"its axis {axis} is {dim!r}, and only {BATCH!r} has a range in the optimisation profile"
                    yield Finding(str(value.name), "input", rule, "give it a fixed size in the example inputs")

    def nodes(self, graph: ir.Graph) -> Iterator[Finding]:
        for node in graph:
            for check in self.checks:
                yield from check(node)
            for attribute in node.attributes.values():
                if attribute.type is ir.AttributeType.GRAPH:
                    yield from self.nodes(attribute.as_graph())

    def schema(self, node: ir.Node) -> onnx.defs.OpSchema | None:
        try:
            return onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        except onnx.defs.SchemaError:
            return None

    def operator(self, node: ir.Node) -> Iterator[Finding]:
        if node.domain not in ("", "ai.onnx"):
            rule = f"{self.rules.name} knows no operators of the domain {node.domain!r}"
            yield _found(node, rule, "write it in operators of the default domain")
        elif node.op_type not in self.rules.operators:
            yield _found(node, f"{self.rules.name} has no such operator", REWRITE)

    def types(self, node: ir.Node) -> Iterator[Finding]:
        name, op = self.rules.name, node.op_type
        for dtype in dict.fromkeys(filter(None, map(_dtype, (*node.inputs, *node.outputs)))):
            if dtype == "float64":
                yield _found(node, f"{name} makes float64 a float32 in silence", "cast it to float32 in the model")
            elif dtype not in self.rules.dtypes:
                yield _found(node, f"{name} has no {dtype}", "use a type that it has, or another target")
            elif dtype == "uint8" and op not in ("Cast", "CastLike", "Identity"):
                yield _found(node, f"{name} takes uint8 as input or output of the graph alone", "cast it to float32")
        first = _dtype(node.inputs[0]) if node.inputs else ""
        if op in self.rules.float_only and "int" in first:
            yield _found(node, f"{name} has {op} for floating types only, not {first}", "cast it to float32 before")
        if op in self.rules.no_bool and "bool" in (first, _dtype(node.outputs[0])):
            yield _found(node, f"{name} has no {op} of bool", "cast it to int32 before and to bool after")
        for index in self.rules.float_constants.get(op, ()):
            value = input_of(node, index)
            if value is not None and _is_constant(value) and _dtype(value) == "float16":
                rule = f"{name} reads the constant {value.name!r} as float32, but it is float16"
                yield _found(node, rule, "keep this node in float32")
        # To Slice, a number that is clamped still says "to the end".
        exact = node.inputs if not self.rules.int64 and op != "Slice" else ()
        for value in (v for v in exact if v is not None and _is_beyond_int32(_array(v))):
            yield _found(node, f"{name} clamps int64 to int32, and {value.name!r} is beyond it", "use smaller numbers")

    def equal_types(self, node: ir.Node) -> Iterator[Finding]:
        """Inputs that ONNX, or TensorRT beyond it, wants to be of one type."""
        schema = self.schema(node)
        formals = [formal.type_str if formal.is_homogeneous else "" for formal in schema.inputs] if schema else []
        groups: dict[str, list[str]] = defaultdict(list)
        for index, value in enumerate(node.inputs):
            formal = formals[min(index, len(formals) - 1)] if formals else ""
            if node.op_type == "Pow" and not self.rules.exponents:
                formal = "T"
            if _dtype(value) and formal and "(" not in formal:
                groups[formal].append(_dtype(value))
        for found in groups.values():
            if len(set(found)) > 1:
                kinds = " and ".join(dict.fromkeys(found))
                yield _found(node, f"its inputs are {kinds}, and must be of one type", "put a Cast before it")

    def product(self, node: ir.Node) -> Iterator[Finding]:
        """A product must run in the precision asked for, if ONNX lets it: no engine is fp32 by accident."""
        dtype, wanted = _dtype(node.inputs[0]) if node.op_type in PRODUCTS else "", PRECISIONS[self.precision].dtype
        if "float" not in dtype or dtype in ("float64", wanted):
            return
        schema, text = self.schema(node), f"tensor({ONNX_NAMES.get(wanted, wanted)})"
        if schema and any(text in constraint.allowed_type_strs for constraint in schema.type_constraints):
            rule = f"it runs in {dtype}, though {self.precision} was asked for"
            yield _found(node, rule, f"its inputs must be {wanted}")

    def build_time_inputs(self, node: ir.Node) -> Iterator[Finding]:
        value = input_of(node, self.rules.build_time_inputs.get(node.op_type, len(node.inputs)))
        if value is not None and not _is_constant(value):
            rule = f"its input {value.name!r} is computed, and {self.rules.name} must know it when it builds"
            yield _found(node, rule, "make it a constant of the model")

    def outputs(self, node: ir.Node) -> Iterator[Finding]:
        more = [value.name for value in node.outputs[1:] if value.name] if node.op_type in ONE_OUTPUT else []
        if more:
            rule = f"{self.rules.name} has only its first output, not {', '.join(map(repr, more))}"
            yield _found(node, rule, REWRITE)

    def settings(self, node: ir.Node) -> Iterator[Finding]:
        op, attributes = node.op_type, node.attributes
        if op in ("AveragePool", "LpPool", "MaxPool") and set(attributes.get_ints("dilations", ())) - {1}:
            yield _found(node, f"{self.rules.name} has dilations of 1 only", REWRITE)
        reduction = attributes.get_string("reduction", "none")
        if op in ("ScatterElements", "ScatterND") and reduction != "none":
            yield _found(node, f"{self.rules.name} has no reduction {reduction!r}", REWRITE)

    def recurrent(self, node: ir.Node) -> Iterator[Finding]:
        if node.op_type not in RECURRENT:
            return
        if node.attributes.get_int("layout", 0):
            yield _found(node, "layout=1 builds, and its output has another shape", "use layout=0 between Transposes")
        if node.attributes.get_int("input_forget", 0):
            yield _found(node, f"{self.rules.name} has no input_forget=1", "write the step out as Gemm and activations")
        names = activations_of(node)
        for name in dict.fromkeys(name for name in names if name not in ACTIVATIONS):
            known = ", ".join(sorted(ACTIVATIONS))
            yield _found(node, f"{self.rules.name} has no activation {name!r}", f"use one of {known}")
        slopes = (node.attributes.get_floats(f"activation_{name}", ()) for name in ("alpha", "beta"))
        both = len(directions_of(node)) == 2
        if both and any(tuple(s[: len(s) // 2]) != tuple(s[len(s) // 2 :]) for s in (names, *slopes)):
            rule = f"its two directions have different activations, which {self.rules.name} has not"
            yield _found(node, rule, "write the step out as Gemm and activations")

    def loop(self, node: ir.Node) -> Iterator[Finding]:
        """Only a trip count ends a loop, and if frames are collected it is known when the engine is built."""
        if node.op_type != "Loop":
            return
        body = node.attributes["body"].as_graph()
        trips, going = node.inputs[0], input_of(node, 1)
        collects = len(node.outputs) > len(node.inputs) - 2
        if collects and not (trips is not None and _is_constant(trips)):
            length = f"the length of what it collects hangs on {trips.name!r}" if trips else ""
            rule = f"{length or 'it collects without a trip count'}, and must be known when the engine is built"
            yield _found(node, rule, "give it a constant trip count")
        condition = _source(body.outputs[0])
        passed = condition is body.inputs[1]
        if not (going is not None and _is_constant(going) if passed else _is_constant(condition)):
            computed = going is not None or not passed
            rule = "its condition is computed" if computed else "it passes a condition on that is not given"
            yield _found(node, f"{rule}, and only a trip count is sure to end it rightly", "end it by its trip count")

    def scan(self, node: ir.Node) -> Iterator[Finding]:
        if node.op_type == "Scan":
            for name in ("scan_input_axes", "scan_output_axes"):
                if any(axis < 0 for axis in node.attributes.get_ints(name, ())):
                    rule = f"its {name} count from the end, which {self.rules.name} reads as another axis"
                    yield _found(node, rule, "count them from the front")

    def carried(self, node: ir.Node) -> Iterator[Finding]:
        """A loop-carried value has one shape."""
        skipped = {"Loop": (2, 1), "Scan": (0, 0)}.get(node.op_type)
        if skipped is None:
            return
        body = node.attributes["body"].as_graph()
        first = node.inputs[skipped[0] : len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)]
        for before, after in zip(first, body.outputs[skipped[1] :], strict=False):
            start, end = _dimensions(before), _dimensions(after)
            if before is None or start is None or end is None:
                continue
            known = ((a, b) for a, b in zip(start, end, strict=False) if isinstance(a, int) and isinstance(b, int))
            if len(start) != len(end) or any(a != b for a, b in known):
                rule = f"{before.name!r} goes in as {start} and comes back as {end}"
                yield _found(node, f"{rule}, and must keep its shape", "pad it to one size")


def _found(node: ir.Node, rule: str, advice: str) -> Finding:
    return Finding(node.name or str(node.outputs[0].name if node.outputs else ""), node.op_type, rule, advice)


def _dtype(value: ir.Value | None) -> str:
    """Numpy's name of the type; empty where none is known."""
    if value is None or value.dtype is None or not value.dtype:
        return ""
    name = value.dtype.name.lower()
    return NUMPY_NAMES.get(name, name)


def _dimensions(value: ir.Value | None) -> list[int | str | None] | None:
    """For each axis an int, a symbol, or None if nothing is known."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value or None for dim in value.shape]


def _source(value: ir.Value) -> ir.Value:
    """The value that reaches this one through nothing but Identity."""
    while (node := value.producer()) is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def _is_constant(value: ir.Value) -> bool:
    """True if no parser has to compute it."""
    source = _source(value)
    node = source.producer()
    return source.is_initializer() or (node is not None and node.op_type == "Constant")


def _array(value: ir.Value) -> Array | None:
    source = _source(value)
    node = source.producer()
    tensor: Any = source.const_value
    if tensor is None and node is not None and node.op_type == "Constant" and "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
    return None if tensor is None else tensor.numpy()


def _is_beyond_int32(array: Array | None) -> bool:
    if array is None or array.dtype != np.int64 or not array.size:
        return False
    limits = np.iinfo(np.int32)
    return bool(array.min() < limits.min or array.max() > limits.max)
