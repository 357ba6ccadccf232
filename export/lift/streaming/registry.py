"""What a rule is, and the table of them by operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from torch import fx

from rnn_export.export.lift.streaming.context import StreamingContext
from rnn_export.export.lift.streaming.time_axis import NodeInfo

Apply = Callable[[StreamingContext, fx.Node], NodeInfo]


class Reach(NamedTuple):
    """How far one result of an operator reaches: over so many frames, taken every `stride`; at least as many."""

    frames: int = 0
    stride: int = 1


@dataclass(frozen=True)
class Rule:
    """How operators that move or carry frames go into a stream: call it with the context and a node.

    It rewrites the graph around the node, and gives what is then known of the frames of its result. Raises LiftError
    where a stream cannot have it.

    Attributes:
        apply: the function.
        operators: the targets of the nodes that it is for; of a node that calls a module, the class of the module.
        reach: of a node, for the length of the sequences that the model is recorded on.
        takes_unsupported: whether it deals itself with arguments that a stream cannot have.
    """

    apply: Apply
    operators: tuple[Any, ...]
    reach: Callable[[fx.Node], Reach] | None
    takes_unsupported: bool

    def __call__(self, context: StreamingContext, node: fx.Node) -> NodeInfo:
        return self.apply(context, node)


Rules = Mapping[Any, Rule]


def rule(
    *operators: Any, reach: Callable[[fx.Node], Reach] | None = None, takes_unsupported: bool = False
) -> Callable[[Apply], Rule]:
    """Make a function the rule of some operators."""
    return lambda apply: Rule(apply, operators, reach, takes_unsupported)


def rules_of(families: Sequence[ModuleType]) -> Rules:
    """The rules that stand in some modules, by operator; raises ValueError where an operator has two."""
    rules: dict[Any, Rule] = {}
    for found in (value for family in families for value in vars(family).values() if isinstance(value, Rule)):
        for target in found.operators:
            if rules.setdefault(target, found) is not found:
                raise ValueError(f"{target} has two rules: {rules[target].apply.__name__}, {found.apply.__name__}.")
    return rules


def receptive_field(graph: fx.Graph, rules: Rules) -> tuple[int, int]:
    """A number of frames that every stride divides, and at least as many as one frame of a result depends on."""
    unit, field = 1, 1
    for node in graph.nodes:
        known = rules.get(node.target)
        if known is not None and known.reach is not None:
            frames, stride = known.reach(node)
            field += frames * unit
            unit *= stride
    return unit, field
