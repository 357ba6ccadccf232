"""The sides of a model's thresholds that no input of the verification reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from rnn_export.export.lift.ir.fx_nodes import depends_on, name_of, named_args, placeholders, stands_for
from rnn_export.export.lift.ir.source_location import place_of, source_of
from rnn_export.export.lift.loops.loop_body import RolledLoop
from rnn_export.export.lift.model.torch_driver import torch_driver
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.reference import initial_states
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.golden import Golden

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
# By the side of a threshold, where a value was on it.
Sides = Mapping[str, Tensor]
Args = Mapping[str, Any]
# (arguments by name, result) -> sides.
Finder = Callable[[Args, Any], Sides]
# Which sides of a node were seen.
Seen = dict[fx.Node, dict[str, bool]]


def not_exercised(model: StreamingModel, golden: Golden) -> list[dict[str, str]]:
    """Each operator of the user's with a threshold, its place, and the side that it never had: op, place, never.

    Operators inside of torch, and those that lifting writes, are none of the user's.

    The step runs in torch on the trials of `golden`, and on the recording if it is of one.
    """
    seen: Seen = {}
    vectors = [golden] if golden.trials is None else [golden.trials, *([golden] if "recording" in golden.kinds else [])]
    if _has_threshold(model.module):
        recorder = _Recorder(model.module, seen)
        for part in vectors:
            loop = ClosedLoop(model.spec, part.inputs)
            driver = torch_driver(model.spec, recorder.run, initial_states(model, loop.rows))
            loop.run(driver, (0, loop.frames) if model.dynamic_time else None)
    nodes = [node for graph in _graphs(model.module) for node in graph.nodes]
    has_lines = any(map(source_of, nodes))
    of_user = [node for node in seen if (source_of(node) or not has_lines) and stands_for(node) == name_of(node)]
    never = [(node, side) for node in of_user for side, was in seen[node].items() if not was]
    # Copies of one module have one place.
    is_condition = dict.fromkeys((_name(node), place_of(node), side) for node, side in never)
    return [{"op": op, "place": place, "never": side} for op, place, side in is_condition]


def _has_threshold(module: nn.Module) -> bool:
    return any(_finder(node) is not None for graph in _graphs(module) for node in graph.nodes)


def _graphs(module: nn.Module) -> list[fx.Graph]:
    """The graph of `module`, and those of the bodies of its loops."""
    return [m.graph for m in module.modules() if isinstance(m, fx.GraphModule)]


class _Recorder(fx.Interpreter):
    """Runs a graph, and the bodies of its loops, and keeps which sides of each threshold were seen."""

    def __init__(self, module: fx.GraphModule, seen: Seen) -> None:
        super().__init__(module)
        self._seen = seen
        # What hangs on no input is the same whatever is tried.
        self._varying = depends_on(module.graph, placeholders(module.graph))

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._varying and (find := _finder(n)) is not None:
            args = fx.node.map_arg(named_args(n), self.env.__getitem__)
            seen = self._seen.setdefault(n, {})
            for side, where in find(args, result).items():
                seen[side] = seen.get(side, False) or bool(where.any())
        return result

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, RolledLoop):
            return module.driven(_Recorder(module.body, self._seen).run, args)
        return super().call_module(target, args, kwargs)


def _name(node: fx.Node) -> str:
    """The name of an operator, the same in place or not."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).rpartition("::")[2].rstrip("_")


def _finder(node: fx.Node) -> Finder | None:
    """A finder of the sides of `node`; None if it has no threshold."""
    name = _name(node)
    if name == "rnn":
        return _at_zero if "Relu" in node.args else None
    if name in ("max", "min") and "other" not in named_args(node):
        # The largest along an axis is no threshold.
        return None
    # A comparison that is a condition is told once.
    is_condition = name in ("where", "masked_fill") and any(_name(a) in COMPARISONS for a in node.all_input_nodes)
    return None if is_condition else FINDERS.get(name)


def _between(low: str | float | None, high: str | float | None) -> Finder:
    """A finder for bounds: numbers, or arguments by name."""

    def find(args: Args, result: Any) -> Sides:
        x = next(iter(args.values()))
        a, b = (args[bound] if isinstance(bound, str) else bound for bound in (low, high))
        sides = {} if a is None else {f"below {_number(a)}": x < a}
        inside = torch.ones_like(x, dtype=torch.bool) if a is None else x > a
        if b is None:
            return {**sides, f"above {_number(a)}": inside}
        return {**sides, "inside its range": inside & (x < b), f"above {_number(b)}": x > b}

    return find


def _number(bound: Any) -> str:
    return "its bound" if isinstance(bound, Tensor) else f"{bound:g}"


def _condition(argument: str | None) -> Finder:
    """A finder for a condition: an argument, or the operator's result."""

    def find(args: Args, result: Any) -> Sides:
        condition = (result if argument is None else args[argument]).bool()
        return {"true": condition, "false": ~condition}

    return find


def _larger(args: Args, result: Any) -> Sides:
    a, b = args["self"], args["other"]
    return {"the first larger": a > b, "the second larger": a < b}


def _at_zero(args: Args, result: Any) -> Sides:
    return {"above 0": result[0] > 0, "at 0": result[0] == 0}


FINDERS: Mapping[str, Finder] = {
    **dict.fromkeys(("relu", "leaky_relu", "prelu", "_prelu_kernel", "elu", "celu", "selu"), _between(0, None)),
    **dict.fromkeys(("abs", "sign", "sgn"), _between(0, None)),
    **dict.fromkeys(("hardsigmoid", "hardswish"), _between(-3, 3)),
    **dict.fromkeys(("clamp", "clip"), _between("min", "max")),
    **dict.fromkeys(COMPARISONS, _condition(None)),
    **dict.fromkeys(("maximum", "minimum", "max", "min"), _larger),
    "relu6": _between(0, 6),
    "hardtanh": _between("min_val", "max_val"),
    "threshold": _between("threshold", None),
    "clamp_min": _between("min", None),
    "clamp_max": _between(None, "max"),
    "where": _condition("condition"),
    "masked_fill": _condition("mask"),
}
