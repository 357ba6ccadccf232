"""Fold constants and remove nodes without effect, by onnxscript's rules: but a small number is not 0.

Its own optimizer takes a constant of up to 1e-8 for 0, and one within 1e-5 of 1 for 1, so that an epsilon under a root
goes and zeros give NaN.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassManager, PassResult, Sequential, common
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewritePass, RewriteRule, RewriteRuleSet
from onnxscript.rewriter.pattern import Constant
from onnxscript.rewriter.rules import common as rules

from rnn_export.platform.quiet import quiet


class Simplify(InPlacePass):
    """Fold constants of up to `largest` values, and simplify."""

    def __init__(self, largest: int = 2**31) -> None:
        super().__init__()
        self.largest = largest

    def call(self, model: ir.Model) -> PassResult:
        turn = (
            _Fold(self.largest),
            _Rewrite(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedOpsetsPass(),
        )
        # It warns of each node that it does not fold.
        with quiet():
            return Sequential(
                common.InlinePass(),
                PassManager(turn, steps=2, early_stop=True),
                common.RemoveUnusedNodesPass(),
                common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
                common.LiftSubgraphInitializersToMainGraphPass(),
                common.DeduplicateInitializersPass(),
                common.CommonSubexpressionEliminationPass(),
                common.OutputFixPass(),
                common.NameFixPass(),
            )(model)


class _Fold(InPlacePass):
    def __init__(self, largest: int) -> None:
        super().__init__()
        self.largest = largest

    def call(self, model: ir.Model) -> PassResult:
        done = fold_constants(model, onnx_shape_inference=True, input_size_limit=2**40, output_size_limit=self.largest)
        return PassResult(model, modified=done.modified)


class _Begun:
    """A rule that is tried only at nodes of its first operator: its own matching takes long to see it.

    Its constants are named after replaced values (`x_min`), and would replace those of that name that others take.
    """

    def __init__(self, operator: str, rule: RewriteRule) -> None:
        self.operator, self.rule = operator, rule

    def try_rewrite(self, model: ir.Model, graph: ir.Graph | ir.Function, node: ir.Node, **how: Any) -> Any:
        done = self.rule.try_rewrite(model, graph, node, **how) if node.op_type == self.operator else None
        if done is not None and isinstance(graph, ir.Graph):
            for value in done.new_initializers:
                value.name = _free_name(str(value.name), graph, done.match.nodes)
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)


def _free_name(name: str, graph: ir.Graph, replaced: Sequence[ir.Node]) -> str:
    """`name`, numbered where it is an input's, or a constant's that other nodes than those `replaced` take."""

    def is_taken(name: str) -> bool:
        there = graph.initializers.get(name)
        return there is not None and any(user not in replaced for user in there.consumers())

    inputs = {value.name for value in graph.inputs}
    numbered = (f"{name}_{number}" for number in count(1))
    return next(free for free in chain([name], numbered) if free not in inputs and not is_taken(free))


class _Rewrite(InPlacePass):
    """The rules of operators that the model has."""

    def call(self, model: ir.Model) -> PassResult:
        graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        nodes = [node for graph in graphs for node in ir.traversal.RecursiveGraphIterator(graph)]
        there, cut = {node.op_type for node in nodes}, Counter(n.inputs[0] for n in nodes if n.op_type == "Slice")
        asked: list[Any] = [_Begun(name, rule) for name, of_it in RULES.items() if name in there for rule in of_it]
        # For each slice it looks at all nodes, for another one of the same value.
        asked += [_Begun("Slice", rules.slice_split_rule)] * (max(cut.values(), default=0) > 1)
        return RewritePass(RewriteRuleSet(asked))(model) if asked else PassResult(model, modified=False)


def _identity(op: Any, x: Any, **_: Any) -> Any:
    return op.Identity(x)


def _exactly(number: int) -> Constant:
    return Constant(number, rel_tol=0.0, abs_tol=0.0)


# By the operator that each begins its match at; what does nothing, whatever the value of x, is our own. In onnxscript's
# own order, which some of them rely on.
RULES: dict[str, Sequence[RewriteRule]] = {
    "Mul": RewriteRule(lambda op, x: op.Mul(x, _exactly(1)), _identity, name="times 1").commute(),
    "Add": RewriteRule(lambda op, x: op.Add(x, _exactly(0)), _identity, name="plus 0").commute(),
    "Sub": [RewriteRule(lambda op, x: op.Sub(x, _exactly(0)), _identity, name="minus 0")],
    "Div": [RewriteRule(lambda op, x: op.Div(x, _exactly(1)), _identity, name="over 1")],
    "Dropout": [rules.dropout_zero_rule, rules.dropout_inference_rule],
    "Reshape": [
        rules.two_reshapes_matmul_reshape_rule,
        rules.one_reshape_matmul_reshape_rule,
        rules.materialize_reshape_shape_rule,
        rules.reshape_reshape_rule,
        rules.squeeze_reshape_1d_rule,
    ],
    "Cast": [
        rules.cast_constant_of_shape_rule,
        rules.cast_constant_of_shape_without_value_rule,
        rules.cast_cast_rule,
        rules.no_op_cast_rule,
    ],
    "Slice": [rules.collapse_slice_rule, rules.collapse_slice2_rule],
    "Min": [rules.min_min_rule, rules.max_min_rule],
    "Max": [rules.max_max_rule, rules.min_max_rule],
    "Clip": [rules.successive_clip_relu_rule, rules.successive_clip_rule],
    "Relu": [rules.successive_relu_clip_rule, rules.successive_relu_rule],
    "Expand": [rules.no_op_expand_rule],
    "Flatten": [rules.flatten_to_reshape_rule],
    "Transpose": [rules.no_op_transpose_rule, rules.transpose_transpose_rule],
    "Unsqueeze": [rules.unsqueeze_unsqueeze_rule],
    "ScatterND": [rules.no_op_dynamic_scatter_nd_rule, rules.no_op_static_scatter_nd_rule],
    "Conv": [
        rules.normalize_pad_format_conv_rule,
        rules.fuse_pad_into_conv_rule,
        rules.remove_optional_bias_from_conv_rule,
    ],
    "ConvTranspose": [rules.remove_optional_bias_from_conv_transpose_rule],
    "BatchNormalization": [
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
    ],
    "Gemm": [rules.remove_optional_bias_from_gemm_rule],
}
