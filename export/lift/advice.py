"""Tries the advice of a refusal before it is shown: leaves out what does not help, and follows it where it leads on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rnn_export.errors import LiftError, SeveralReadings
from rnn_export.export.lift.options import LiftOptions

# Refusals in a row whose advice is followed.
LINKS = 3
Keywords = Mapping[str, Any]
Attempt = Callable[[LiftOptions], object]


def with_tried_advice(error: LiftError, options: LiftOptions, attempt: Attempt) -> LiftError:
    """`error` with the advice with which `attempt` lifts; what stands behind it if all of its advice leads there."""
    if not error.advice:
        return error
    options.progress("advice")
    options = replace(options, progress=lambda stage: None)
    found = [_followed(advice.keywords, options, attempt) for advice in error.advice]
    refusals = [one for one in found if isinstance(one, LiftError)]
    are_alike = len(found) > 1 and len({str(refusal) for refusal in refusals}) == 1
    if len(refusals) == len(found) and (are_alike or isinstance(error, SeveralReadings)):
        error = refusals[0]
        error.advice = ()
        return error
    error.advice = tuple(
        replace(advice, sentence=advice.refused.replace("{}", str(one)))
        if isinstance(one, LiftError)
        else replace(advice, keywords=one)
        for advice, one in zip(error.advice, found, strict=True)
        if advice.shown and (advice.refused or not isinstance(one, LiftError))
    )
    return error


def _followed(keywords: Keywords, options: LiftOptions, attempt: Attempt) -> Keywords | LiftError:
    """The keywords that lift, from these on; the last refusal if there are none."""
    for _ in range(LINKS):
        try:
            attempt(replace(options, **_merged(vars(options), keywords)))
            return keywords
        except LiftError as error:
            refused = error
        except Exception as error:  # the user's code may raise anything
            return LiftError(str(error), id="advice-fails")
        more = (_merged(keywords, advice.keywords) for advice in refused.advice)
        if (changed := next((k for k in more if k != keywords), None)) is None:
            return refused
        keywords = changed
    return refused


def _merged(before: Keywords, more: Keywords) -> Keywords:
    """`more` beside `before`; dicts hold what both say."""

    def both(name: str, value: Any) -> Any:
        known = before.get(name)
        return {**known, **value} if isinstance(known, Mapping) and isinstance(value, Mapping) else value

    return {**before, **{name: both(name, value) for name, value in more.items()}}
