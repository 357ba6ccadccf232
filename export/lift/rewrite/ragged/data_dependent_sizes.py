"""Makes axes of data-dependent size, as in `cache[:, W - n:]`, axes of a fixed size.

The steps of a stream have the same sizes. So an axis whose size depends on a counter state is stored at its maximum
length, and operators leave out its invalid entries (`ragged_tensors.py`). The results are those of the model from its
first call on, for every count.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.fx_nodes import aten, is_drawn, named_args, overloads, placeholders, results
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.source_location import place_of
from rnn_export.export.lift.ir.symbolic_integers import Number, Numbers, is_by_value, is_whole_number, origin_of
from rnn_export.export.lift.rewrite.ragged.ragged_rules import rule_of
from rnn_export.export.lift.rewrite.ragged.ragged_tensors import RaggedTensor, Result, Rewrite, Unruled

ITEMS = overloads("item _local_scalar_dense")
ROUNDED: Mapping[Any, Any] = {math.ceil: -1, math.floor: 1, math.trunc: 1, torch.sym_int: 1}
# Of tensors of one whole number these are reckoned as numbers are.
SUMS = overloads("add.Tensor sub.Tensor rsub.Scalar rsub.Tensor mul.Tensor add.Scalar sub.Scalar mul.Scalar")
# Operators that a number is made by, as far as it is looked for whether these are of constants.
MOST_NODES = 32


def make_axes_ragged(module: fx.GraphModule, counts: Sequence[tuple[int, int]] = ()) -> None:
    """Rewrite `module` in place, so that no size in it is data-dependent.

    `counts` are states that begin at zero or above, by the index of the placeholder and of the next value.

    Raises LiftError if an operator has no such form, or a result of the graph has such a size.
    """
    # What was made of constants alone is a constant by now, whatever torch knows of its size.
    live = {symbol for n in module.graph.nodes for symbol in n.meta.get("unbacked_bindings") or ()}
    if not any(_sized_by(n.meta.get("val"), live) for n in module.graph.nodes if n.op == "call_function"):
        return
    fed, given = placeholders(module.graph), results(module.graph)
    from_zero = {fed[i] for i, after in counts if never_below_zero(module, fed[i], given[after])}
    _SizesByValue(module, live, from_zero).rewrite()


def _sized_by(value: Any, symbols: Collection[Any]) -> bool:
    """True if a value of a graph, or one of several, is a tensor whose size depends on one of `symbols`."""
    sizes = [size for size in _sizes(value) if isinstance(size, torch.SymInt)]
    return any(not free_unbacked_symbols(size).isdisjoint(symbols) for size in sizes)


def _sizes(value: Any) -> list[Any]:
    return [n for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, Tensor) for n in t.shape]


class _SizesByValue:
    """The rewriting of one graph; `ratios` are integers divided, not rounded yet."""

    def __init__(self, module: fx.GraphModule, live: Collection[Any], from_zero: Collection[fx.Node]) -> None:
        self.module, self.graph, self.live = module, module.graph, live
        self.writer = NodeWriter(module, "room")
        self.rewriting = Rewrite(Numbers(self.writer, from_zero))
        self.numbers = self.rewriting.numbers
        self.ratios: dict[fx.Node, tuple[Number, int]] = {}
        self.keys: dict[fx.Node, Any] = {}
        self.first: dict[Any, fx.Node] = {}

    def rewrite(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "output":
                self._refuse_results(node)
            elif node.op == "call_function":
                with self.graph.inserting_before(node):
                    self.writer.at = node
                    self._rewrite(node)
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op == "call_function":
                self.graph.erase_node(node)

    def _rewrite(self, node: fx.Node) -> None:
        known = self.rewriting
        if self._is_number(node):
            return
        touched = any(n in known.values or n in known.known for n in node.all_input_nodes)
        if not (touched or _sized_by(node.meta.get("val"), self.live)):
            self._value_of_number(node)
            return
        rule = rule_of(node.target)
        try:
            if rule is None and touched and any(n in known.values for n in node.all_input_nodes):
                raise Unruled
            result = known.plain(node) if rule is None else rule(known, node)
            if any(map(is_by_value, (n for part in _nodes_of(result) for n in _sizes(part.meta["val"])))):
                raise Unruled
            self._put(node, result)
        except Unruled as error:
            raise _refusal(node, str(error), id="ragged-operator-refused") from None
        self._value_of_number(node)

    def _put(self, node: fx.Node, result: Result) -> None:
        if isinstance(result, fx.Node):
            node.replace_all_uses_with(result)
            if (number := self._sum(node)) is not None:
                self.rewriting.held[result] = number
        elif isinstance(result, RaggedTensor) and not result.ragged_axes:
            node.replace_all_uses_with(result.node)
        else:
            self.rewriting.values[node] = result

    def _is_number(self, node: fx.Node) -> bool:
        """True if `node` is a data-dependent Python number; then it is noted."""
        known, numbers = self.rewriting.known, self.numbers
        first: Any = node.args[0] if node.args else None
        if node.target in ITEMS:
            if is_whole_number(first.meta.get("val")):
                known[node] = self.rewriting.number_in(first, self._key(first))
                return True
            return False
        if node.target is aten.sym_size.int and isinstance(value := self.rewriting.values.get(first), RaggedTensor):
            axis: Any = node.args[1]
            axis %= value.node.meta["val"].dim()
            size = value.node.meta["val"].shape[axis]
            known[node] = value.ragged_axes[axis].count if axis in value.ragged_axes else Number(int(size))
            return True
        if isinstance(node.meta.get("val"), Tensor | tuple | list) or not any(
            n in known or n in self.ratios for n in node.all_input_nodes
        ):
            return False
        if node.target in ROUNDED and (ratio := self.ratios.get(first)) is not None:
            turned = ROUNDED[node.target]
            known[node] = numbers.quotient(ratio[0] * turned, ratio[1]) * turned
            return True
        if node.target in ROUNDED and first in known:
            known[node] = known[first]
            return True
        sides = [known.get(a) if isinstance(a, fx.Node) else Number(a) if type(a) is int else None for a in node.args]
        if None in sides or len(sides) > 2:
            raise _refusal(
                node,
                "a number of Python's is reckoned of the value of a tensor in a way that has no rule",
                id="ragged-number-by-value",
            )
        a, b = (side for side in (*sides, Number())[:2] if side is not None)
        if node.target is operator.truediv and b.known is not None and b.known > 0:
            self.ratios[node] = (a, b.known)
            return True
        made = _computed(numbers, node.target, a, b)
        if made is None:
            raise _refusal(
                node,
                "a number of Python's is reckoned of the value of a tensor in a way that has no rule",
                id="ragged-number-by-value",
            )
        known[node] = made
        return True

    def _value_of_number(self, node: fx.Node) -> None:
        if (number := self._sum(node)) is not None:
            self.rewriting.held[node] = number

    def _sum(self, node: fx.Node) -> Number | None:
        """The number in an integer tensor of one entry, if it is a sum of known ones."""
        if not is_whole_number(node.meta.get("val")) or node.kwargs.get("alpha", 1) != 1 or len(node.args) > 2:
            return None
        if node.target not in SUMS:
            return None
        sides = [self._side(a) for a in node.args]
        if len(sides) < 2 or None in sides:
            return None
        a, b = (side for side in sides if side is not None)
        name = str(node.target).split(".")[1]
        if name == "mul":
            factor, of = (a, b) if a.known is not None else (b, a)
            return None if factor.known is None else of * factor.known
        return {"add": a + b, "sub": a - b, "rsub": b - a}[name]

    def _side(self, value: Any) -> Number | None:
        if isinstance(value, fx.Node):
            known = self.rewriting.known.get(value, self.rewriting.held.get(value))
            if known is not None or not is_whole_number(self.writer.value_of(value)):
                return known
            tensor = self._constant(value)
            return self.numbers.of_tensor(value, self._key(value)) if tensor is None else Number(int(tensor))
        return Number(value) if type(value) is int else None

    def _constant(self, node: fx.Node) -> Any:
        """The value of a tensor of one number made of constants alone; else None."""
        made, waiting = dict[fx.Node, Any](), [node]
        while waiting:
            here = waiting[-1]
            if here.op not in ("get_attr", "call_function") or is_drawn(here) or len(made) > MOST_NODES:
                return None
            if more := [n for n in here.all_input_nodes if n not in made]:
                waiting += more
                continue
            waiting.pop()
            if here.op == "get_attr":
                made[here] = operator.attrgetter(str(here.target))(self.module)
            else:
                args, kwargs = fx.node.map_arg((here.args, here.kwargs), made.__getitem__)
                operate: Any = here.target
                made[here] = operate(*args, **kwargs)
        return made[node]

    def _key(self, node: fx.Node) -> Any:
        """A key that nodes share if they compute the same of the same."""
        if is_whole_number(node.meta.get("val")):
            node = origin_of(node)
        if node.op != "call_function" or node.kwargs:
            return node
        if node not in self.keys:
            self.keys[node] = (node.target, str(fx.node.map_arg(node.args, self._key_node)))
        return self.keys[node]

    def _key_node(self, node: fx.Node) -> fx.Node:
        return self.first.setdefault(self._key(node), node)

    def _refuse_results(self, output: fx.Node) -> None:
        for node in output.all_input_nodes:
            if node in self.rewriting.values:
                raise _refusal(node, "a result of the model, or what it keeps, has such a size", id="ragged-result")


def _nodes_of(result: Result) -> list[fx.Node]:
    parts = result if isinstance(result, list) else [result]
    return [part.node if isinstance(part, RaggedTensor) else part for part in parts]


def _computed(numbers: Numbers, target: Any, a: Number, b: Number) -> Number | None:
    if target in (operator.add, operator.sub):
        return a + b if target is operator.add else a - b
    if target is operator.neg:
        return a * -1
    if target is operator.mul and (a.known is not None or b.known is not None):
        return b * a.known if a.known is not None else a * (b.known or 0)
    if target is operator.floordiv and b.known is not None and b.known > 0:
        return numbers.quotient(a, b.known)
    if target is operator.mod and b.known is not None and b.known > 0:
        return a - numbers.quotient(a, b.known) * b.known
    if target in (torch.sym_min, torch.sym_max):
        return numbers.minimum(a, b) if target is torch.sym_min else numbers.maximum(a, b)
    return None


def _refusal(node: fx.Node, why: str, *, id: str) -> LiftError:
    name = getattr(node.target, "__name__", str(node.target))
    return LiftError(
        f"{place_of(node)}: the values of a tensor say how many entries another one has (entries picked by a mask, "
        f"nonzero, a slice that ends where a value says), but every step of a stream has the same sizes; {name} of "
        f"what has such a size cannot be made one of a fixed size{f' ({why})' if why else ''}. Keep all entries, and "
        "mask those that are left out: torch.where, or a product with zeros and ones.",
        id=id,
    )


ADDITIONS = overloads("add.Tensor add.Scalar")
LEAST = overloads("minimum maximum mul.Tensor mul.Scalar where.self")
RESTS = overloads("remainder.Scalar remainder.Tensor")


def never_below_zero(module: fx.GraphModule, count: fx.Node, after: fx.Node) -> bool:
    """True if `after`, the next value of `count`, is at least zero if `count` is."""

    def is_so(value: Any) -> bool:
        if not isinstance(value, fx.Node):
            return isinstance(value, int | float) and value >= 0
        node = origin_of(value)
        if node is count:
            return True
        if node.op == "get_attr":
            return bool((operator.attrgetter(str(node.target))(module) >= 0).all())
        return node.op == "call_function" and _is_so(node, is_so)

    return is_so(after)


def _is_so(node: fx.Node, is_so: Callable[[Any], bool]) -> bool:
    if node.target in ADDITIONS:
        return is_so(node.kwargs.get("alpha", 1)) and all(map(is_so, node.args))
    if node.target in LEAST:
        sides = node.args[1:] if len(node.args) == 3 else node.args
        return all(map(is_so, sides))
    if node.target in overloads("clamp clamp_min"):
        least = named_args(node)["min"]
        return least is not None and is_so(least)
    if node.target in RESTS:
        return is_so(node.args[1])
    return node.target in overloads("full") and is_so(node.args[1])
