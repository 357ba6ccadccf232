"""A command's output beside its result: --verbose, --quiet, and the stages of long work."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

from rnn_export.platform.progress import Stage, bar, is_watched
from rnn_export.platform.terminal_text import visible


@dataclass(frozen=True)
class Voice:
    """The user's choice: `verbose` adds the time of each stage and log records, `quiet` leaves only errors."""

    verbose: bool = False
    quiet: bool = False


def voice() -> Voice:
    """The choice of the command that runs."""
    context = click.get_current_context(silent=True)
    return (context.find_object(Voice) if context else None) or Voice()


@contextmanager
def stages(what: str, count: int | None, lines: bool = True) -> Iterator[Stage]:
    """A function to call at each stage of `what`, of about `count` stages, all on stderr.

    A terminal has a bar, anything else a line for each stage if `lines`. --verbose has lines everywhere, and the time
    that each stage took.
    """
    if voice().quiet or not (lines or voice().verbose or is_watched()):
        yield lambda name: None
    elif voice().verbose or not is_watched():
        with _lines(what, voice().verbose) as stage:
            yield stage
    else:
        with bar(what, count) as stage:
            yield stage


@contextmanager
def _lines(what: str, timed: bool) -> Iterator[Stage]:
    begun: list[tuple[str, float]] = []

    def end() -> None:
        if timed and begun:
            name, start = begun[-1]
            _say(f"{what}: {name}: {time.monotonic() - start:.1f} s")

    def stage(name: str) -> None:
        end()
        begun.append((name, time.monotonic()))
        _say(f"{what}: {name}")

    yield stage
    end()


@contextmanager
def log_records(shown: bool) -> Iterator[None]:
    """Show the library's log, from INFO on, as lines on stderr."""
    if not shown:
        yield
        return
    logger, handler = logging.getLogger("rnn_export"), logging.Handler()
    level = logger.level
    handler.emit = lambda record: _say(record.getMessage())  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def logged_notes() -> Iterator[list[str]]:
    """The warnings of the library meanwhile, for the command alone to show in its own way."""
    logger, messages = logging.getLogger("rnn_export"), list[str]()
    propagated, handler = logger.propagate, logging.Handler()

    def emit(record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            messages.append(record.getMessage())
        else:
            _say(record.getMessage())

    handler.emit = emit  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def _say(line: str) -> None:
    click.echo(visible(line), err=True)
