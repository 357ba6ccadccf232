"""Runs named passes over a graph; each can be checked on sample inputs and written down, so that a wrong one shows.

RNN_EXPORT_DUMP=FOLDER writes the graph after each pass that changed it, a folder for each run. RNN_EXPORT_CHECK=1 runs
the graph after each of them: the pass that changed a result raises WrongPass. The tests set it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, fx

from rnn_export.errors import WrongPass
from rnn_export.export.lift.ir.compare import CLOSED_LOOP, same
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.source_location import place_of

DUMP, CHECK = "RNN_EXPORT_DUMP", "RNN_EXPORT_CHECK"

# A rule writes the nodes for one operator and returns the node in its place, or None if that stays or is gone.
Rule = Callable[[NodeWriter, fx.Node], fx.Node | None]
# True if a graph has a property; the name of the function names it.
Property = Callable[[fx.Graph], bool]


class Subject(Protocol):
    """A graph that passes rewrite, with inputs that it can be run on."""

    module: fx.GraphModule
    args: Sequence[Tensor]


S = TypeVar("S", bound=Subject)


@dataclass(frozen=True)
class Pass(Generic[S]):
    """One rewrite of a graph, in place.

    Attributes:
        requires: properties that the graph has before; a list in which no earlier pass ensures them is wrong.
        ensures: properties that it has afterwards.
        changes_values: True for a subject of which the pass is meant to compute something else.
    """

    name: str
    apply: Callable[[S], None]
    requires: tuple[Property, ...] = ()
    ensures: tuple[Property, ...] = ()
    changes_values: Callable[[S], bool] = lambda subject: False


def rules(name: str, table: Mapping[Any, Rule], **properties: Any) -> Pass[Any]:
    """A pass that rewrites the nodes whose operators are in `table`."""
    return Pass(name, lambda subject: apply_rules(subject.module, table, name), **properties)


def apply_rules(module: fx.GraphModule, table: Mapping[Any, Rule], prefix: str) -> None:
    """Rewrite each node whose operator is in `table`, in order and in place; `prefix` begins names of constants."""
    write = NodeWriter(module, prefix.replace(" ", "_"))
    for node in list(module.graph.nodes):
        rule = table.get(node.target)
        if rule is None or node._erased:
            continue
        write.at = node
        with module.graph.inserting_before(node):
            found = rule(write, node)
        if found is not None:
            node.replace_all_uses_with(found)
            module.graph.erase_node(node)


def erase(write: NodeWriter, node: fx.Node) -> None:
    """The rule for an operator that checks something and gives nothing."""
    write.graph.erase_node(node)


def run_passes(stage: str, passes: Sequence[Pass[S]], subject: S) -> None:
    """Apply `passes` in order; `stage` names the run in dumps. Raises WrongPass where one is found out."""
    watch, known = _Watch(stage, subject), set[Property]()
    for step in passes:
        if missing := set(step.requires) - known:
            raise WrongPass(
                f"pass {step.name!r} requires {_names(missing)}, which no pass before it ensures.",
                id="pass-requirement-missing",
            )
        step.apply(subject)
        known |= set(step.ensures)
        watch.after(step, subject)


class _Watch:
    """Dumps and checks a run of passes, as far as the environment asks for it."""

    def __init__(self, stage: str, subject: Subject) -> None:
        self.checks, folder = os.environ.get(CHECK) == "1", os.environ.get(DUMP)
        self.folder = _new_folder(Path(folder), stage) if folder else None
        self.values: list[Any] | None = None
        self.text, self.count = "", 0
        if self.folder or self.checks:
            self._look("before", subject)

    def after(self, step: Pass[Any], subject: Subject) -> None:
        """Look at the graph that `step` left; raises WrongPass."""
        if not (self.folder or self.checks):
            return
        _refuse_broken(step.name, step.ensures, subject.module.graph)
        before = self.values
        if not self._look(step.name, subject) or before is None or step.changes_values(subject):
            return
        if self.values is None:
            raise WrongPass(
                f"the graph ran on sample inputs before pass {step.name!r}, and fails after it.", id="pass-breaks-run"
            )
        if wrong := [i for i, pair in enumerate(zip(self.values, before, strict=True)) if not same(*pair, CLOSED_LOOP)]:
            raise WrongPass(
                f"pass {step.name!r} changed results {wrong} of the graph on sample inputs.", id="pass-changes-results"
            )

    def _look(self, name: str, subject: Subject) -> bool:
        """Dump and run the graph if it is another one than at the last look."""
        text = "\n".join(lines_of(subject.module))
        if text == self.text:
            return False
        self.text = text
        if self.folder:
            _write(self.folder / f"{self.count:02}-{name.replace(' ', '-')}.txt", text)
            self.count += 1
        self.values = _values(subject) if self.checks else None
        return True


def end_stage(stage: str, module: fx.GraphModule, *ensures: Property) -> None:
    """Dump and check the graph of a stage that is no list of passes, as far as the environment asks for it."""
    if folder := os.environ.get(DUMP):
        _write(_new_folder(Path(folder), stage) / "00-graph.txt", "\n".join(lines_of(module)))
    if os.environ.get(CHECK) == "1":
        _refuse_broken(stage, ensures, module.graph)


def _refuse_broken(name: str, ensures: Sequence[Property], graph: fx.Graph) -> None:
    if broken := [one for one in ensures if not one(graph)]:
        raise WrongPass(
            f"pass {name!r} should ensure {_names(broken)}, but the graph is not so.", id="pass-promise-broken"
        )


def lines_of(module: fx.GraphModule) -> Iterator[str]:
    """A graph as text, a line a node: its name, operator, arguments, type, and the source line that it comes from."""
    for node in module.graph.nodes:
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        if isinstance(node.target, torch._ops.OpOverload):
            target = str(node.target).removeprefix("aten.")
        call = f"{target}({', '.join(map(str, node.args))})" if node.op != "placeholder" else "input"
        call += f" {dict(node.kwargs)}" if node.kwargs else ""
        value = node.meta.get("val")
        kind = f": {str(value.dtype)[6:]}{[*value.shape]}" if isinstance(value, Tensor) else ""
        place = f"  # {place_of(node)}" if node.op.startswith("call") else ""
        yield f"{node.name}{kind} = {call}{place}"
    for name, inner in module.named_children():
        if isinstance(inner, fx.GraphModule):
            yield f"\n{name}:"
            yield from lines_of(inner)


def _values(subject: Subject) -> list[Any] | None:
    """The results of the graph on its sample; None where it cannot be run as it is, as with views that torch copies."""
    with torch.no_grad(), torch.random.fork_rng([]), contextlib.suppress(Exception):
        torch.manual_seed(0)
        args = [a.clone() for a in subject.args]
        results: list[Any] = torch.utils._pytree.tree_leaves(fx.Interpreter(subject.module).run(*args))
        return results
    return None


def _new_folder(folder: Path, stage: str) -> Path:
    made = folder / f"{len([*folder.glob('*')]):03}-{stage}"
    made.mkdir(parents=True)
    return made


def _write(path: Path, text: str) -> None:
    path.write_text(f"{text}\n", encoding="utf-8")


def _names(properties: Any) -> str:
    return ", ".join(sorted(one.__name__ for one in properties))
