"""One case of lifting: a model, its example and options, and what must come of them.

    case(model, X, time_axis=1).streams(delay=2, states=["frames"])
    case(model, X).refused("not-frame-local", "looks at all frames")

A family of cases is a module beside this one with a TABLE: by statement ("attention within a band streams") the cases
that show it, by name. tests/models/test_cases.py runs all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rnn_export.contract.precision import TOLERANCES
from rnn_export.export.lift import stages
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.inputs import inputs_to_verify
from rnn_export.export.verify.reference import golden_vectors

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..models.streams import assert_lifted_streams  # noqa: TID252
from ..models.whole_streams import assert_lifted_whole  # noqa: TID252

CALLS = 20


@dataclass(frozen=True)
class Streams:
    """The model streams, and its contract has these values; None is not asked.

    A model over time is held to whole sequences of several `lengths`, to their ends; with `end=False`, and where a call
    is one frame, to the steps alone. `truth` is another model that gives the right values. A model that takes states
    or trees of inputs, or one row and no `lengths`, is held to its own calls as an export does.
    """

    delay: int | None = None
    tail: int | None = None
    chunk: int | None = None
    # Of the first output.
    every: int | None = None
    input: tuple[str | int, ...] | None = None
    output: tuple[str | int, ...] | None = None
    # By name, by row, or by (name, row, initial).
    states: Sequence[str] | Sequence[tuple[int, ...]] | Sequence[tuple[str, tuple[int, ...], str]] | None = None
    kinds: set[str] | None = None
    # Parts of notes that must be there.
    notes: Sequence[str] = ()
    holds: Callable[[StreamingModel], bool] | None = None
    end: bool = True
    lengths: range | None = None
    atol: float = 2e-6
    truth: nn.Module | None = None

    def check(
        self, model: nn.Module, example: tuple[Tensor, ...], options: Mapping[str, Any], lifted: StreamingModel
    ) -> None:
        spec, kinds = lifted.spec, {origin.kind for origin in lifted.origins}
        of_one_row = spec.rows is not None and self.lengths is None
        if of_one_row or "states" in options or not all(isinstance(x, Tensor) for x in example):
            assert (self.truth, self.lengths) == (None, None), "a model whose states are fed back has no other truth"
            assert_fed_back(lifted)
        elif self.end and spec.has_time:
            assert_lifted_whole(lifted, self.truth or model, example, lengths=self.lengths, atol=self.atol)
        else:
            assert_lifted_streams(lifted, self.truth or model, example, atol=self.atol)
        for name in ("delay", "tail", "chunk"):
            assert getattr(self, name) in (None, getattr(spec, name)), (name, getattr(spec, name))
        assert self.every in (None, spec.outputs[0].every), spec.outputs[0].every
        assert self.input in (None, spec.inputs[0].shape), spec.inputs[0].shape
        assert self.output in (None, spec.outputs[0].shape), spec.outputs[0].shape
        if self.states is not None:
            forms = ([s.name for s in spec.states], [s.row for s in spec.states])
            triples = [(s.name, s.row, s.initial) for s in spec.states]
            assert list(self.states) in (*forms, triples), triples
        assert self.kinds in (None, kinds), kinds
        for part in self.notes:
            assert any(part in note for note in lifted.notes), lifted.notes
        assert self.holds is None or self.holds(lifted)


def assert_fed_back(lifted: StreamingModel, calls: int = CALLS) -> None:
    """Hold the step to calls of the model itself, the states fed back in both."""
    _, drifts = golden_vectors(lifted, inputs_to_verify(lifted, None, calls), TOLERANCES["fp32"], "noise")
    assert [drift for drift in drifts if drift.step is not None] == []


@dataclass(frozen=True)
class Refused:
    """`lift` raises the message `id`, with these values in its text, one behind the other.

    With `advice`, what the message advises is tried before it is shown, as users have it; that takes several lifts.
    """

    id: str
    values: tuple[object, ...]
    advice: bool


@dataclass(frozen=True)
class Case:
    """`model` may be a function that makes one; the seed is 0 before it."""

    model: nn.Module | Callable[[], nn.Module]
    example: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    expected: Streams | Refused | None = None

    def streams(self, **expected: Any) -> Case:
        return replace(self, expected=Streams(**expected))

    def refused(self, id: str, *values: object, advice: bool = False) -> Case:
        return replace(self, expected=Refused(id, values, advice))

    def built(self) -> nn.Module:
        """A model of its own, in eval mode."""
        torch.manual_seed(0)
        return copy.deepcopy(self.model).eval() if isinstance(self.model, nn.Module) else self.model().eval()

    def check(self) -> None:
        """Lift the model, and hold what comes of it to what is expected."""
        model = self.built()
        if isinstance(self.expected, Refused):
            with pytest.MonkeyPatch.context() as patch, raises(self.expected.id, *self.expected.values):
                if not self.expected.advice:
                    patch.setattr(stages, "with_tried_advice", lambda error, options, attempt: error)
                lift(model, self.example, **self.options)
        else:
            assert self.expected, "a case says what must come of it"
            self.expected.check(model, self.example, self.options, lift(model, self.example, **self.options))


def conv(size: int = 3, **options: Any) -> nn.Conv1d:
    return nn.Conv1d(4, 4, size, **options)


def gru(*sizes: int, **options: Any) -> nn.GRU:
    return nn.GRU(*sizes, batch_first=True, **options)


def case(model: nn.Module | Callable[[], nn.Module], *example: Tensor, **options: Any) -> Case:
    """A case without what must come of it; `options` are those of `lift`."""
    return Case(model, example, options)
