"""The advice of a refusal works: after one suggestion a model lifts, or is refused with no other suggestion."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rnn_export.cli.export import export_command
from rnn_export.cli.options import export_keywords
from rnn_export.errors import LiftError, keyword
from rnn_export.export.lift.model.torch_driver import torch_driver
from rnn_export.export.lift.options import LiftOptions
from rnn_export.export.lift.readings import Refused
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.inputs import inputs_to_verify
from rnn_export.export.verify.reference import own_trace
from rnn_export.runtime.replay.closed_loop import ClosedLoop

from ..lifting import lift  # noqa: TID252
from ..zoo.case import assert_fed_back  # noqa: TID252
from . import advice_calls  # noqa: F401
from .advice_nets import FRAME, MODELS, REFUSED, STREAM, WHOLE, Case

# Where a message leaves a number open.
OPEN = {"N": "16"}
NAMES = "|".join(sorted(set(LiftOptions.checks) - {"initial", "progress"}))
SUGGESTED = re.compile(rf"\b({NAMES})=([^()]+?) \((--[^()]+)\)")
STEPS = 8


def suggestions(refusal: LiftError, options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The keywords that a refusal suggests, one suggestion after the other, but for those of `options`."""
    for one in written(Exception.__str__(refusal)):
        if any(name not in options or options[name] != meant for name, meant in one.items()):
            yield one
    for advice in refusal.advice:
        if "{}" in advice.sentence:
            assert {name: meant for one in written(str(advice)) for name, meant in one.items()} == advice.keywords
            yield advice.keywords


def written(text: str) -> Iterator[dict[str, Any]]:
    """The keywords that `text` names with a value, as `errors.keyword` writes them.

    Holds the option of the command beside each to mean the same.
    """
    for name, value, words in SUGGESTED.findall(text):
        try:
            meant = ast.literal_eval(OPEN.get(value, value))
        except ValueError:
            continue  # the names of arguments and outputs are the user's to fill in
        assert said(words) == {name: meant}, text
        yield {name: meant}


def said(words: str) -> dict[str, Any]:
    """The keywords of export() that options of its command mean."""
    given = [OPEN.get(word, word) for word in shlex.split(words)]
    flags = export_command.make_context("export", ["SOURCE", "-o", "BUNDLE", *given]).params
    return export_keywords(**{name: value for name, value in flags.items() if name in LiftOptions.checks})


def with_suggestion(options: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with more: a pair is added to those that were said before."""
    changed = dict(options)
    for name, value in keywords.items():
        before = options.get(name)
        changed[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, Mapping) else value
    return changed


def end_of(lifted: StreamingModel) -> str:
    return WHOLE if lifted.spec.sequence_only else STREAM if lifted.spec.has_time else FRAME


def hold(lifted: StreamingModel) -> None:
    """Hold what was lifted to the model in a closed loop of a few steps, or over a sequence."""
    if not lifted.spec.sequence_only:
        assert_fed_back(lifted, STEPS)
        return
    loop = ClosedLoop(lifted.spec, inputs_to_verify(lifted, None, STEPS))
    given = loop.run(torch_driver(lifted.spec, lifted.module, {}), (0, loop.frames)).outputs
    for name, want in own_trace(lifted, loop).outputs.items():
        np.testing.assert_allclose(given[name], want, rtol=1e-5, atol=2e-6)


def tried(case: Case, options: Mapping[str, Any]) -> StreamingModel | LiftError:
    """The lifted model, or the refusal."""
    try:
        return lift(case.model, case.example, **options)
    except LiftError as error:
        return error


@pytest.mark.parametrize("name", MODELS)
def test_the_advice_of_a_refusal_works(name):
    case = MODELS[name]()
    found, told, options, known = tried(case, case.options), "", case.options, []
    if isinstance(found, LiftError) and (known := list(suggestions(found, options))):
        told, options = f"{found}\n", with_suggestion(options, known[0])
        found = tried(case, options)
    told += f"{options}: {found}"
    if isinstance(found, LiftError):
        assert known == [], told
        assert REFUSED in case.ends, told
    else:
        assert end_of(found) in case.ends, told
        assert {name: getattr(found.spec, name) for name in case.contract} == case.contract, told
        hold(found)


def test_a_reading_that_got_as_far_as_another_is_no_likelier():
    alike = SimpleNamespace(refines=lambda other: False, flat=SimpleNamespace(rated=False))
    closer = SimpleNamespace(refines=lambda other: other is alike, flat=alike.flat)
    first = Refused(alike, LiftError("It cannot."), 2)
    assert not replace(first).is_likelier(first)
    assert replace(first, stage=3).is_likelier(first)
    assert replace(first, reading=closer).is_likelier(first)
    assert not replace(first, reading=closer, stage=1).is_likelier(first)


WRITTEN = [
    (keyword("time_axis", None), "time_axis", None),
    (keyword("time_axis", {"x": 1, "y": None}), "time_axis", {"x": 1, "y": None}),
    (keyword("states", {"h": 1}), "states", {"h": 1}),
    (keyword("states", {"h": "h_next", "c": None}), "states", {"h": "h_next", "c": None}),
    (keyword("assume", {"net.py:12": True}), "assume", {"net.py:12": True}),
    (keyword("chunk", 4), "chunk", 4),
    (keyword("max_frames", 64), "max_frames", 64),
    ("max_context=N (--max-context N)", "max_context", 16),
    ("sequence_only=True (--sequence-only)", "sequence_only", True),
]


@pytest.mark.parametrize(("text", "name", "value"), WRITTEN)
def test_a_suggestion_is_read_as_it_is_written(text, name, value):
    refusal = LiftError(f"So it is. If it is meant, say {text}; else leave it.")
    assert list(suggestions(refusal, {})) == [{name: value}]
    assert list(suggestions(refusal, {name: value})) == []
