"""Data-dependent decisions (`if mask.all():`), which no graph has: each is known beforehand, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from rnn_export.contract.spec import Assumption
from rnn_export.errors import AssumptionBroken, DecidedByValue, LiftError, NumberByValue
from rnn_export.export.lift.ir.source_location import line_of, source_line, user_line
from rnn_export.export.lift.model.numbers.int_provenance import mark, provenance
from rnn_export.export.lift.model.numbers.tensor_indices import ENTRIES, Pick, is_number, one_entry
from rnn_export.export.lift.model.select_branches import Variant

# These answer with a bool of Python's.
ASKING = ("__bool__", "is_nonzero", "equal", "allclose", "__contains__")
# These make a number of Python's.
NUMBERING = ("__int__", "__index__")
# In what torch says of a value that it does not know.
DATA_DEPENDENT = "data-dependent"
# How often one line may be decided in a call: a `while` that never ends is decided over and over.
OFTEN = 10_000


@dataclass(eq=False)
class Seen:
    """Record of the decisions of a model; shared by all its copies.

    Attributes:
        needed: the assumptions that a graph needed.
        counts: by assumption, how often the user's own module decided each way.
        values: by file and line, the outcomes of undecided decisions.
        tensors: by file and line, the tensors that these read.
        numbers: the Python numbers made of tensors, as values (0 from `item()`) with their provenance.
        picks: the entries that a number in a tensor picks, in a graph.
        files: by assumption, the files of the lines that asked for it.
        spared: by line, as `assume` names it, the refusal of a decision with both branches computed.
    """

    needed: set[str] = field(default_factory=set)
    counts: dict[str, Counter[bool]] = field(default_factory=dict)
    values: dict[tuple[str, int], set[bool]] = field(default_factory=dict)
    tensors: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    numbers: list[tuple[int, Any]] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)
    files: dict[str, set[str]] = field(default_factory=dict)
    spared: dict[str, DecidedByValue] = field(default_factory=dict)

    def __deepcopy__(self, memo: Any) -> Seen:
        return self


@dataclass(frozen=True)
class Decisions:
    """The facts known about the decisions of a model.

    Attributes:
        known: the decision of each line.
        checked: the model decides by itself, and is checked against `known`; else it decides as `known` says.
        numbers: item() gives a tensor, so that decisions by it are seen.
        flags: the inputs that a decision tests for zero, whatever else they are.
        watched: unknown decisions are recorded too.
        chosen: the lines, as `assume` names them, of which both branches are computed.
        counted: by the provenance of a counter, all values that it may have: each is a variant as well.
        left: by name of a counter that `counted` relies on, each provenance that its next value may have.
        sized: a number made of a tensor stays data-dependent, so that sizes may be.
        way: the decisions of the variant that runs.
    """

    known: tuple[Assumption, ...] = ()
    checked: bool = True
    numbers: bool = False
    flags: frozenset[str] = frozenset()
    watched: bool = False
    chosen: frozenset[str] = frozenset()
    counted: Mapping[Any, tuple[int, ...]] = field(default_factory=dict)
    left: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    sized: bool = False
    variant: Variant | None = None
    seen: Seen = field(default_factory=Seen)

    def at(self, file: str, line: int) -> Assumption | None:
        """The known decision of a line, or None."""
        return next((a for a in self.known if _is_at(a.at, file, line)), None)

    def is_chosen(self, file: str, line: int) -> bool:
        """True if both branches of a line are computed."""
        return any(_is_at(at, file, line) for at in self.chosen)

    @property
    def decide(self) -> bool:
        """True if any decision is to be taken or recorded as the model runs now."""
        return (
            bool(self.known)
            or self.variant is not None
            or self.watched
            or self.numbers
            or torch.compiler.is_exporting()
        )

    @property
    def needed(self) -> tuple[Assumption, ...]:
        """The known decisions that a graph needed."""
        return tuple(a for a in self.known if a.at in self.seen.needed)


def _is_at(at: str, file: str, line: int) -> bool:
    return f"/{file}:{line}".endswith(f"/{at}")


def user_assumptions(assume: Mapping[str, bool] | None) -> Decisions:
    """A user's decisions, {"file.py:190": True}; raises LiftError."""
    items = (assume or {}).items()
    for at, value in items:
        file, colon, line = at.rpartition(":")
        if not (file and colon and line.isdigit()) or type(value) is not bool:
            raise LiftError(
                f'assume has {at!r}: {value!r}, but must be like {{"file.py:190": True}}.', id="assume-malformed"
            )
    return Decisions(tuple(Assumption(at, value, "said") for at, value in items))


def with_unused_assumptions(refusal: DecidedByValue, decisions: Decisions) -> DecidedByValue:
    """`refusal`, with the assumed lines at which nothing is decided: a wrong file or number, most likely."""
    unasked = [a.at for a in decisions.known if a.why == "said" and a.at not in decisions.seen.files]
    if refusal.of_number or not unasked:
        return refusal
    return refusal.with_note(f"{refusal.tried} (assume names {', '.join(unasked)}, where nothing is asked)")


def decided_by_value(error: Exception) -> DecidedByValue:
    """The refusal of a number made of a tensor: with the line alone, if torch names one."""
    return DecidedByValue(line_of(error).removeprefix(" at "), 0, "")


class Deciding(TorchFunctionMode):
    """Takes decisions as `decisions` say while a model runs, or is traced."""

    def __init__(self, decisions: Decisions) -> None:
        super().__init__()
        self._decisions = decisions
        self._often = Counter[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, before = kwargs or {}, provenance(args[0]) if args else None
        result = self._answer(func, args, kwargs)
        mark(func, args, kwargs, before, result)
        return result

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", "")
        if func is torch._assert:
            if not self._decide(lambda: bool(args[0]), args[:1]):
                raise AssertionError(args[1] if len(args) > 1 else kwargs.get("message", ""))
            return None
        if name == "item" and (self._decisions.numbers or self._is_own(args[0])):
            # What is compared with a number of Python's is compared in double, as that is.
            wide = self._decisions.checked and args[0].is_floating_point()
            return args[0].reshape(()).double() if wide else args[0].reshape(())
        if name == "item" and self._decisions.watched:
            self._decisions.seen.numbers.append((0, provenance(args[0])))
        if name in NUMBERING and is_number(args[0], args[0].dim()):
            return self._number(args[0])
        if func in ENTRIES:
            args = (args[0], pytree.tree_map(self._bound, args[1], is_leaf=lambda p: isinstance(p, slice)), *args[2:])
        if name in ASKING:
            return self._decide(lambda: bool(func(*args, **kwargs)), args)
        return func(*args, **kwargs)

    def _is_own(self, tensor: Tensor) -> bool:
        """True if a tensor is an integer of the model's own, and is traced as a tensor."""
        return provenance(tensor) is not None and torch.compiler.is_exporting() and not self._decisions.sized

    def _bound(self, part: Any) -> Any:
        """A part of an index; tensors at the ends of a slice become numbers."""
        if not isinstance(part, slice) or (torch.compiler.is_exporting() and one_entry(part) is not None):
            return part
        return slice(
            *(
                self._number(n, is_end=True) if isinstance(n, Tensor) and is_number(n, n.dim()) else n
                for n in (part.start, part.stop, part.step)
            )
        )

    def _number(self, tensor: Tensor, is_end: bool = False) -> int:
        """The Python int made of a tensor, by int() or as an end of a slice; raises NumberByValue."""
        decisions, how = self._decisions, provenance(tensor)
        values = decisions.counted.get(how) if decisions.variant is not None else None
        if decisions.variant is not None and values is not None:
            return decisions.variant.number(tensor, how, values)
        if not torch.compiler.is_exporting():
            with torch._C.DisableTorchFunction():
                number = int(tensor)
            decisions.seen.numbers.append((number, how))
            return number
        if decisions.sized and is_end:
            with torch._C.DisableTorchFunction():
                return tensor.item()  # type: ignore[return-value]
        file, line = user_line()
        raise NumberByValue(file, line, source_line(file, line), how, is_end=is_end)

    def _decide(self, ask: Callable[[], bool], asked: Iterable[Any]) -> bool:
        file, line = user_line()
        decisions, seen = self._decisions, self._decisions.seen
        if decisions.variant is not None and decisions.is_chosen(file, line):
            tensors = [t for t in asked if isinstance(t, Tensor)]
            if len(tensors) == 1:
                return decisions.variant.decide(tensors[0])
        known = decisions.at(file, line)
        if known is None:
            return self._undecided(ask, asked, file, line)
        seen.files.setdefault(known.at, set()).add(file)
        if len(files := sorted(seen.files[known.at])) > 1:
            raise LiftError(
                f"{known.at} is a line of {' and of '.join(files)}, and each of them decides by the value of a tensor: "
                f'say of both how, with their folders, assume={{"FOLDER/{known.at}": True}} (--assume '
                f"FOLDER/{known.at}=true).",
                id="assume-line-ambiguous",
            )
        if decisions.checked:
            value = ask()
            seen.counts.setdefault(known.at, Counter())[value] += 1
            if known.why == "said" and value != known.value:
                raise AssumptionBroken(known.at, source_line(file, line), value)
            return value
        if torch.compiler.is_exporting():
            seen.needed.add(known.at)
        self._often[known.at] += 1
        if self._often[known.at] > OFTEN:
            raise LiftError(
                f"{known.at}: {source_line(file, line)} is decided more than {OFTEN} times in one call where it is "
                f"always {known.value}: a loop that ends by a value of a tensor never ends so.",
                id="assumed-loop-endless",
            )
        return known.value

    def _undecided(self, ask: Callable[[], bool], asked: Iterable[Any], file: str, line: int) -> bool:
        seen = self._decisions.seen
        if not torch.compiler.is_exporting():
            value = ask()
            if self._decisions.watched:
                seen.values.setdefault((file, line), set()).add(value)
                seen.tensors.setdefault((file, line), []).extend(t for t in asked if isinstance(t, Tensor))
            return value
        try:
            return ask()
        except Exception as error:  # torch has several for a value that it does not know
            raise DecidedByValue(file, line, source_line(file, line)) from error
