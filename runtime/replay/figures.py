"""A task's own figures: a user's function of the model's outputs and of the stream's."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from rnn_export.errors import ParityError, SourceError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drivers import FrameDriver, RunDriver, only_value
from rnn_export.runtime.replay.golden import Golden

# (outputs of the model, outputs of the stream) -> a number, numbers by name, or nothing; False refuses.
Accept = Callable[[Any, Any], Any]


def task_figures(engine: Engine, golden: Golden, accept: Accept) -> dict[str, float]:
    """Figures of `accept` by name, for `engine` driven step by step over the golden vectors.

    Its arguments are the outputs of model and stream for the same frames: an array (rows, frames, ...) without the
    frames of the delay, or (rows, ...) where an output has no time axis; a dict of arrays by name where there are
    several outputs. A number gets the function's name.

    Raises ParityError where `accept` gives False or an assertion of it fails, and SourceError where it gives anything
    else or raises another exception.
    """
    vectors = golden.fitted(engine)
    driver = (RunDriver if engine.spec.sequence_only else FrameDriver)(engine.stream(batch=vectors.rows))
    edges = (0, vectors.frames) if engine.spec.sequence_only else None
    outputs = ClosedLoop(engine.spec, vectors.inputs).run(driver, edges, states_at=()).outputs
    name = getattr(accept, "__name__", "accept").replace("<lambda>", "accept")
    try:
        given = accept(_own(vectors.outputs), _own(outputs))
    except AssertionError as error:
        raise ParityError(
            f"{name} refuses what {engine.backend} gives: {str(error) or _place(error)}.", id="metric-refuses-result"
        ) from error
    except Exception as error:  # it is the user's code
        raise SourceError(
            f"{name} raised {type(error).__name__}: {error} ({_place(error)})", id="metric-raised"
        ) from error
    if isinstance(given, Mapping):
        return {key: _number(name, value, key) for key, value in given.items()}
    if given is None or _plain(given) is True:
        return {}
    if _plain(given) is False:
        raise ParityError(f"{name} refuses what {engine.backend} gives: it returned False.", id="metric-returned-false")
    return {name: _number(name, given)}


def figures_text(figures: Mapping[str, float | None]) -> str:
    """Figures in the form of `ParityReport.to_json`, in one line; one that is not finite is null there."""
    return ", ".join(f"{name} {'not finite' if value is None else f'{value:.6g}'}" for name, value in figures.items())


def _own(outputs: Mapping[str, Array]) -> Any:
    """Copies: normalising in place changes no value that is compared or stored."""
    return only_value({name: value.copy() for name, value in outputs.items()})


def _number(name: str, value: Any, key: Any = "") -> float:
    plain = _plain(value)
    if not isinstance(key, str) or isinstance(plain, bool) or not isinstance(plain, Real):
        at = f" for {key!r}" if key != "" else ""
        raise SourceError(
            f"{name} returned {type(value).__name__} {str(value)[:60]!r}{at}: it must return a number, a dict of "
            "numbers by name, or nothing; False, or an assert that fails, refuses.",
            id="metric-returned-other",
        )
    return float(plain)


def _plain(value: Any) -> Any:
    """A Python number for one of numpy or torch."""
    return value.item() if getattr(value, "shape", None) == () else value


def _place(error: Exception) -> str:
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{at.filename}:{at.lineno}"
