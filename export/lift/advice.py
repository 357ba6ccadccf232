"""Tries the advice of a refusal before it is shown: leaves out what does not help, and follows it where it leads on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rnn_export.errors import Advice, LiftError, SeveralReadings
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
    pairs = zip(error.advice, found, strict=True)
    left = (_after_trial(advice, one) for advice, one in pairs if advice.shown)
    error.advice = tuple(advice for advice in left if advice is not None)
    return error


def _after_trial(advice: Advice, found: Keywords | LiftError | None) -> Advice | None:
    """`advice` as its trial leaves it; None if there is nothing to say."""
    if isinstance(found, LiftError):
        return replace(advice, sentence=advice.refused.replace("{}", str(found))) if advice.refused else None
    return None if found is None else replace(advice, keywords=found)


def _followed(keywords: Keywords, options: LiftOptions, attempt: Attempt) -> Keywords | LiftError | None:
    """The keywords that lift, from these on; else the last refusal, or None where the code of the user fails."""
    for _ in range(LINKS):
        try:
            attempt(replace(options, **_merged(vars(options), keywords)))
            return keywords
        except LiftError as error:
            refused = error
        except Exception:  # the user's code may raise anything
            return None
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
