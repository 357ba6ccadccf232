"""Complex values of a graph as pairs of real ones: no step, in ONNX or in C, computes with complex numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.source_location import place_of

TRANSFORM_OF_WINDOWS = (
    "a transform over windows of time is not taken apart into its windows: write it as unfold, times a matrix"
)


@dataclass(frozen=True)
class Pair:
    """A complex value: `re` + i `im`, each a node, or a number; None is 0."""

    re: Any
    im: Any


# What a rule gives: a pair where the value is complex, else a node.
Rule = Callable[["PairWriter", fx.Node], Any]


class PairWriter(NodeWriter):
    """Writes the real operators for a node of complex values."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, "real")
        self.pairs: dict[fx.Node, Pair] = {}

    def rewrite(self, rules: Mapping[Any, Rule]) -> None:
        """Replace complex values by pairs; raises LiftError, with operator and place, without a rule."""
        nodes = list(self.graph.nodes)
        for node in nodes:
            if node.target is aten._neg_view.default:
                node.target = aten.neg.default
            complex_in = any(n in self.pairs for n in node.all_input_nodes)
            if node.op not in ("call_function", "get_attr") or not (complex_in or is_complex(node)):
                continue
            self.at = node
            with self.graph.inserting_before(node):
                if node.op == "get_attr":
                    held = attrgetter(str(node.target))(self.module).detach()
                    self.pairs[node] = Pair(self.constant(held.real), self.constant(held.imag))
                    continue
                rule = rules.get(node.target)
                found = NotImplemented if rule is None else rule(self, node)
                if found is NotImplemented and _name_of(node).endswith("stft"):
                    raise LiftError(
                        f"{place_of(node)}: {TRANSFORM_OF_WINDOWS} ({_name_of(node)}).", id="transform-of-windows"
                    )
                if found is NotImplemented:
                    raise LiftError(
                        f"{place_of(node)}: {_name_of(node)} of complex values has no form in pairs of real ones that "
                        "is known here, and neither ONNX nor C has complex numbers. Compute with the real and the "
                        "imaginary part, or with magnitude and angle.",
                        id="complex-operator-unknown",
                    )
                if isinstance(found, Pair):
                    self.pairs[node] = self._whole(found)
                else:
                    node.replace_all_uses_with(found)
        for node in reversed(nodes):
            if not node.users and node.op in ("call_function", "get_attr"):
                self.graph.erase_node(node)

    def pair(self, value: Any) -> Pair:
        """An operand, complex or not, as a pair."""
        if isinstance(value, fx.Node):
            return self.pairs.get(value, Pair(value, None))
        return Pair(value.real or None, value.imag or None) if isinstance(value, complex) else Pair(value, None)

    # --- arithmetic of parts, where None is 0

    def add(self, a: Any, b: Any) -> Any:
        return b if a is None else a if b is None else self._of(aten.add.Tensor, operator.add, a, b)

    def sub(self, a: Any, b: Any) -> Any:
        return self.neg(b) if a is None else a if b is None else self._of(aten.sub.Tensor, operator.sub, a, b)

    def mul(self, a: Any, b: Any) -> Any:
        return None if a is None or b is None else self._of(aten.mul.Tensor, operator.mul, a, b)

    def div(self, a: Any, b: Any) -> Any:
        return None if a is None else self._of(aten.div.Tensor, operator.truediv, a, b)

    def neg(self, a: Any) -> Any:
        return None if a is None else self.call(aten.neg.default, a) if isinstance(a, fx.Node) else -a

    def _of(self, target: Any, of_numbers: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
        if not isinstance(a, fx.Node) and not isinstance(b, fx.Node):
            return of_numbers(a, b)
        if isinstance(a, fx.Node):
            return self.call(target, a, b)
        # The first operand of an operator is a tensor.
        if target is aten.div.Tensor:
            return self.mul(self.call(aten.reciprocal.default, b), a)
        return self.call(target, b, a) if target is not aten.sub.Tensor else self.add(self.neg(b), a)

    # --- arithmetic of pairs

    def plus(self, a: Pair, b: Pair) -> Pair:
        return Pair(self.add(a.re, b.re), self.add(a.im, b.im))

    def minus(self, a: Pair, b: Pair) -> Pair:
        return Pair(self.sub(a.re, b.re), self.sub(a.im, b.im))

    def times(self, a: Pair, b: Pair) -> Pair:
        return Pair(
            self.sub(self.mul(a.re, b.re), self.mul(a.im, b.im)), self.add(self.mul(a.re, b.im), self.mul(a.im, b.re))
        )

    def over(self, a: Pair, b: Pair) -> Pair:
        if b.im is None:
            return Pair(self.div(a.re, b.re), self.div(a.im, b.re))
        size = self.add(self.mul(b.re, b.re), self.mul(b.im, b.im))
        top = self.times(a, Pair(b.re, self.neg(b.im)))
        return Pair(self.div(top.re, size), self.div(top.im, size))

    def abs(self, a: Pair) -> Any:
        """sqrt(re^2 + im^2)."""
        if a.im is None or a.re is None:
            return self.call(aten.abs.default, a.re if a.im is None else a.im)
        return self.call(aten.sqrt.default, self.add(self.mul(a.re, a.re), self.mul(a.im, a.im)))

    def angle(self, a: Pair) -> Any:
        """atan2(im, re), by operators that ONNX and C have."""
        re, im, half = self.real(a), self.imag(a), math.pi / 2
        on_axis = self.call(aten.eq.Scalar, re, 0)
        slope = self.div(im, self.call(aten.where.ScalarSelf, on_axis, 1.0, re))
        found = self.call(aten.atan.default, slope)
        turned = self.call(aten.where.Scalar, self.call(aten.lt.Scalar, im, 0), -2 * half, 2 * half)
        found = self.call(aten.where.self, self.call(aten.lt.Scalar, re, 0), self.add(found, turned), found)
        return self.call(aten.where.self, on_axis, self.mul(self.call(aten.sign.default, im), half), found)

    def polar(self, size: Any, angle: Any) -> Pair:
        cos, sin = self.call(aten.cos.default, angle), self.call(aten.sin.default, angle)
        return Pair(self.mul(cos, size), self.mul(sin, size))

    def log(self, a: Pair) -> Pair:
        return Pair(self.call(aten.log.default, self.abs(a)), self.angle(a))

    def exp(self, a: Pair) -> Pair:
        if a.re is None:
            return Pair(self.call(aten.cos.default, a.im), self.call(aten.sin.default, a.im))
        size = self.call(aten.exp.default, a.re)
        return Pair(size, None) if a.im is None else self.polar(size, a.im)

    def real(self, a: Pair) -> Any:
        return a.re if a.re is not None else self.call(aten.zeros_like.default, a.im)

    def imag(self, a: Pair) -> Any:
        return a.im if a.im is not None else self.call(aten.zeros_like.default, a.re)

    def _whole(self, pair: Pair) -> Pair:
        """The parts that exist, in the shape and type of the value."""
        assert self.at is not None
        value = self.value_of(self.at)
        re, im = pair.re, pair.im
        if isinstance(value, Tensor):
            dtype = value.dtype.to_real()
            re, im = (None if part is None else self._typed(part, dtype) for part in (re, im))
            if re is not None and im is not None:
                re = self._widened(re, im, value)
                im = self._widened(im, re, value)
        return Pair(re, im)

    def _widened(self, part: fx.Node, other: fx.Node, value: Tensor) -> fx.Node:
        """`part` in the shape of `value`, to which both parts broadcast."""
        if str(self.value_of(part).shape) == str(value.shape):
            return part
        return self.call(aten.add.Tensor, part, self.call(aten.zeros_like.default, other))

    def _typed(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        return node if self.value_of(node).dtype == dtype else self.call(aten._to_copy.default, node, dtype=dtype)


def is_complex(node: fx.Node) -> bool:
    """True if the value of a node, or the first of several, is complex."""
    value = node.meta.get("val")
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, Tensor) and value.is_complex()


def has_complex(graph: fx.Graph) -> bool:
    return any(is_complex(node) for node in graph.nodes)


def combined(parts: Sequence[int]) -> tuple[bool, int]:
    """The product of real (0) and imaginary (1) parts: whether it is imaginary, and its sign."""
    count = sum(parts)
    return bool(count % 2), -1 if count % 4 >= 2 else 1


def _name_of(node: fx.Node) -> str:
    return str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))
