"""Whether a TensorRT takes a graph, found out before it leaves: each rule names node and operator.

A graph refused on its device is late news; one that builds there and computes something else is no news at all.
What differs from version to version stands in `rnn_export.export.targets.tensorrt.parser_rules`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import GraphProto, NodeProto

from rnn_export.errors import ExportError
from rnn_export.export.targets.tensorrt.parser_rules import DTYPES, RULES, Rules, rules_of
from rnn_export.export.targets.tensorrt.scope import Scope, attributes, is_wide
from rnn_export.spec import BATCH

__all__ = ["RULES", "Finding", "Rules", "lint", "refuse", "rules_of"]

SHOWN = 8
RECURRENT = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
# The activations that the parser knows: onnx-tensorrt, OnnxAttrs.cpp of 8.2 to 10.1; TensorRT-RTX takes the same.
ACTIVATIONS = {
    *("Relu", "Tanh", "Sigmoid", "LeakyRelu", "ThresholdedRelu"),
    *("ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus"),
}
SHORT = {"float32": "float"}
PRODUCTS = ("MatMul", "Gemm", "Conv")
ONE_OUTPUT = ("LayerNormalization", "MaxPool")
REWRITE = "write this part of the model in other operators"


@dataclass(frozen=True)
class Finding:
    """One reason why a graph will not do: the node's name, its operator, the rule it breaks, and what to do."""

    node: str
    op: str
    rule: str
    advice: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.op}): {self.rule}; {self.advice}."


def lint(graph: bytes, rules: Rules, precision: str) -> list[Finding]:
    """What breaks `rules` in a step graph that is to run in `precision`, "fp32", "fp16" or "bf16"; empty is good."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph))
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    linter = _Linter(rules, precision)
    return [*linter.whole(model.graph, opset), *linter.graph(model.graph, Scope(opset))]


def refuse(findings: Sequence[Finding], target: str) -> None:
    """Raise ExportError with the first findings, if there are any."""
    if not findings:
        return
    lines = [f"target {target!r} does not take this graph:", *(f"- {finding}" for finding in findings[:SHOWN])]
    if len(findings) > SHOWN:
        lines.append(f"- and {len(findings) - SHOWN} more.")
    raise ExportError("\n".join(lines))


class _Linter:
    def __init__(self, rules: Rules, precision: str) -> None:
        self.rules, self.precision = rules, precision
        self.checks: tuple[Callable[[NodeProto, Scope], Iterator[Finding]], ...] = (
            self.operator,
            self.types,
            self.equal_types,
            self.product,
            self.constants,
            self.outputs,
            self.settings,
            self.recurrent,
            self.loop,
            self.scan,
            self.carried,
        )

    def whole(self, graph: GraphProto, opset: int) -> Iterator[Finding]:
        name = graph.name or "graph"
        if opset > self.rules.opset:
            rule = f"its opset is {opset}, and {self.rules.name} reads up to {self.rules.opset}"
            yield Finding(name, "graph", rule, f"export it with opset={self.rules.opset}")
        if self.precision not in self.rules.precisions:
            known = ", ".join(self.rules.precisions)
            yield Finding(name, "graph", f"{self.rules.name} has no {self.precision}", f"choose from {known}")
        scope = Scope(opset).inside(graph)
        for value in graph.input:
            for axis, dim in enumerate(scope.shapes.get(value.name, ())):
                if not isinstance(dim, int) and dim != BATCH:
                    rule = f"its axis {axis} is {dim!r}, and only {BATCH!r} has a range in the optimisation profile"
                    yield Finding(value.name, "input", rule, "give it a fixed size in the example inputs")

    def graph(self, graph: GraphProto, outer: Scope) -> Iterator[Finding]:
        scope = outer.inside(graph)
        for node in graph.node:
            for check in self.checks:
                yield from check(node, scope)
            for inner in attributes(node).values():
                if isinstance(inner, GraphProto):
                    yield from self.graph(inner, scope)
            scope.pass_by(node)

    def operator(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        if node.domain not in ("", "ai.onnx"):
            rule = f"{self.rules.name} knows no operators of the domain {node.domain!r}"
            yield _found(node, rule, "write it in operators of the default domain")
        elif node.op_type not in self.rules.operators:
            yield _found(node, f"{self.rules.name} has no such operator", REWRITE)

    def types(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        name, op = self.rules.name, node.op_type
        for dtype in dict.fromkeys(scope.dtypes[v] for v in (*node.input, *node.output) if v in scope.dtypes):
            if dtype == "float64":
                yield _found(node, f"{name} makes float64 a float32 in silence", "cast it to float32 in the model")
            elif dtype not in self.rules.dtypes:
                yield _found(node, f"{name} has no {dtype}", "use a type that it has, or another target")
            elif dtype == "uint8" and op not in ("Cast", "CastLike", "Identity"):
                yield _found(node, f"{name} takes uint8 as input or output of the graph alone", "cast it to float32")
        first = scope.dtypes.get(node.input[0], "") if node.input else ""
        if op in self.rules.floating and "int" in first:
            yield _found(node, f"{name} has {op} for floating types only, not {first}", "cast it to float32 before")
        if op in self.rules.no_bool and "bool" in (first, scope.dtypes.get(node.output[0])):
            yield _found(node, f"{name} has no {op} of bool", "cast it to int32 before and to bool after")
        for index in self.rules.float_constants.get(op, ()):
            given = node.input[index] if index < len(node.input) else ""
            if given in scope.constants and scope.dtypes.get(given, "float32") == "float16":
                rule = f"{name} reads the constant {given!r} as float32, but it is float16"
                yield _found(node, rule, "keep this node in float32")
        # To Slice, a number that is clamped still says "to the end".
        exact = node.input if not self.rules.wide and op != "Slice" else ()
        for wide in (v for v in exact if is_wide(scope.constants.get(v))):
            yield _found(node, f"{name} clamps int64 to int32, and {wide!r} is beyond it", "use smaller numbers")

    def equal_types(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        """Inputs that ONNX, or TensorRT beyond it, wants to be of one type."""
        schema = _schema(node, scope)
        formals = [formal.type_str if formal.is_homogeneous else "" for formal in schema.inputs] if schema else []
        groups: dict[str, list[str]] = defaultdict(list)
        for index, name in enumerate(node.input):
            formal = formals[min(index, len(formals) - 1)] if formals else ""
            if node.op_type == "Pow" and not self.rules.exponents:
                formal = "T"
            if name in scope.dtypes and formal and "(" not in formal:
                groups[formal].append(scope.dtypes[name])
        for found in groups.values():
            if len(set(found)) > 1:
                kinds = " and ".join(dict.fromkeys(found))
                yield _found(node, f"its inputs are {kinds}, and must be of one type", "put a Cast before it")

    def product(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        """What makes a precision worth asking for runs in it, where ONNX lets it: no engine is fp32 by accident."""
        dtype = scope.dtypes.get(node.input[0], "") if node.op_type in PRODUCTS else ""
        if "float" not in dtype or dtype in ("float64", wanted := DTYPES[self.precision]):
            return
        schema = _schema(node, scope)
        if schema and any(
            f"tensor({SHORT.get(wanted, wanted)})" in c.allowed_type_strs for c in schema.type_constraints
        ):
            rule = f"it runs in {dtype}, though {self.precision} was asked for"
            yield _found(node, rule, f"its inputs must be {wanted}")

    def constants(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        index = self.rules.constant.get(node.op_type, len(node.input))
        if index < len(node.input) and node.input[index] and node.input[index] not in scope.constants:
            rule = f"its input {node.input[index]!r} is computed, and {self.rules.name} must know it when it builds"
            yield _found(node, rule, "make it a constant of the model")

    def outputs(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        more = [name for name in node.output[1:] if name] if node.op_type in ONE_OUTPUT else []
        if more:
            yield _found(
                node, f"{self.rules.name} has only its first output, not {', '.join(map(repr, more))}", REWRITE
            )

    def settings(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        given, op = attributes(node), node.op_type
        if op in ("AveragePool", "LpPool", "MaxPool") and set(given.get("dilations", ())) - {1}:
            yield _found(node, f"{self.rules.name} has dilations of 1 only", REWRITE)
        if op in ("ScatterElements", "ScatterND") and given.get("reduction", "none") != "none":
            yield _found(node, f"{self.rules.name} has no reduction {given['reduction']!r}", REWRITE)
        if op == "Constant" and "sparse_value" in given:
            yield _found(node, f"{self.rules.name} has no sparse constants", "make it a dense one")

    def recurrent(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        if node.op_type not in RECURRENT:
            return
        given, usual = attributes(node), RECURRENT[node.op_type]
        if given.get("layout"):
            yield _found(node, "layout=1 builds, and its output has another shape", "use layout=0 between Transposes")
        if given.get("input_forget"):
            yield _found(node, f"{self.rules.name} has no input_forget=1", "write the step out as Gemm and activations")
        ways = 2 if given.get("direction") == "bidirectional" else 1
        names = given.get("activations", usual * ways)
        for name in dict.fromkeys(name for name in names if name not in ACTIVATIONS):
            known = ", ".join(sorted(ACTIVATIONS))
            yield _found(node, f"{self.rules.name} has no activation {name!r}", f"use one of {known}")
        numbers = (names, given.get("activation_alpha", ()), given.get("activation_beta", ()))
        if ways == 2 and any(tuple(n[: len(n) // 2]) != tuple(n[len(n) // 2 :]) for n in numbers):
            rule = f"its two directions have different activations, which {self.rules.name} has not"
            yield _found(node, rule, "write the step out as Gemm and activations")

    def loop(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        """Only a trip count ends a loop, and where frames are collected it is known when the engine is built."""
        if node.op_type != "Loop":
            return
        body = attributes(node)["body"]
        trips, going = node.input[0], node.input[1] if len(node.input) > 1 else ""
        collects = len(node.output) > len(node.input) - 2
        if collects and trips not in scope.constants:
            rule = f"the length of what it collects hangs on {trips!r}" if trips else "it collects without a trip count"
            yield _found(node, f"{rule}, and must be known when the engine is built", "give it a constant trip count")
        inner = scope.inside(body)
        for each in body.node:
            inner.pass_by(each)
        makers = {output: each for each in body.node for output in each.output}
        condition = body.output[0].name
        while condition in makers and makers[condition].op_type == "Identity":
            condition = makers[condition].input[0]
        passed = condition == body.input[1].name
        if not (going in scope.constants if passed else condition in inner.constants):
            rule = "its condition is computed" if going or not passed else "it passes a condition on that is not given"
            yield _found(node, f"{rule}, and only a trip count is sure to end it rightly", "end it by its trip count")

    def scan(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        if node.op_type == "Scan":
            for name in ("scan_input_axes", "scan_output_axes"):
                if any(axis < 0 for axis in attributes(node).get(name, ())):
                    rule = f"its {name} count from the end, which {self.rules.name} reads as another axis"
                    yield _found(node, rule, "count them from the front")

    def carried(self, node: NodeProto, scope: Scope) -> Iterator[Finding]:
        """What a loop carries has one shape in all rounds."""
        given, skipped = attributes(node), {"Loop": (2, 1), "Scan": (0, 0)}.get(node.op_type)
        if skipped is None:
            return
        inner = scope.inside(given["body"])
        first = node.input[skipped[0] : len(node.input) - given.get("num_scan_inputs", 0)]
        for name, after in zip(first, given["body"].output[skipped[1] :], strict=False):
            shapes = [s.shapes.get(n) for s, n in ((scope, name), (inner, after.name))]
            if shapes[0] is None or shapes[1] is None:
                continue
            same = len(shapes[0]) == len(shapes[1]) and all(
                a == b for a, b in zip(*shapes, strict=True) if isinstance(a, int) and isinstance(b, int)
            )
            if not same:
                rule = f"{name!r} goes in as {list(shapes[0])} and comes back as {list(shapes[1])}"
                yield _found(node, f"{rule}, and must keep its shape", "pad it to one size")


def _schema(node: NodeProto, scope: Scope) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, scope.opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def _found(node: NodeProto, rule: str, advice: str) -> Finding:
    return Finding(node.name or next(iter(node.output), ""), node.op_type, rule, advice)
