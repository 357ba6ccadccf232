"""Progress of long calls: a bar on a terminal, a line in a notebook, log records anywhere else."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rnn_export.lazy import load_module
from rnn_export.platform.markup import element
from rnn_export.platform.terminal_text import visible

Stage = Callable[[str], None]
# A function that is called with the name of each stage, None for whoever looks, False for nobody.
Progress = Stage | Literal[False] | None


@contextmanager
def report_stages(what: str, stages: int, progress: Progress, log: logging.Logger) -> Iterator[Stage]:
    """The function to call at each stage, of about `stages`; `log` has them at INFO if unwatched."""
    if progress is not None:
        yield progress or (lambda stage: None)
    elif is_watched():
        with bar(what, stages) as stage:
            yield stage
    else:
        yield lambda stage: log.info("%s: %s", what, stage)


def is_watched() -> bool:
    """True if stderr is a terminal, or this is a notebook."""
    from rich.console import Console

    return _in_notebook() or Console(stderr=True).is_terminal


@contextmanager
def bar(what: str, stages: int | None) -> Iterator[Stage]:
    """A bar on the terminal that stderr is, or a line in a notebook; gone at the end. None is an unknown number.

    A stage that comes again, as another attempt does, does not move it. Stdout and stderr stay as they are: other
    threads print as before.
    """
    with (_line if _in_notebook() else _bar)(what) as draw:
        seen: dict[str, None] = {}

        def stage(name: str) -> None:
            seen[name] = None
            draw(name, len(seen) - 1, None if stages is None else max(stages, len(seen)))

        yield stage


# Draws the name of a stage, how many went before it, and how many there are.
Draw = Callable[[str, int, int | None], None]


@contextmanager
def _bar(what: str) -> Iterator[Draw]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False,
        redirect_stderr=False,
    ) as drawn:  # fmt: skip
        task = drawn.add_task(visible(what), total=None)
        yield lambda name, done, total: drawn.update(
            task, description=visible(f"{what}: {name}"), completed=done, total=total
        )


def _in_notebook() -> bool:
    """True if a kernel runs this, whose frontend shows HTML: IPython is then there already."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and bool(shell.has_trait("kernel"))


@contextmanager
def _line(what: str) -> Iterator[Draw]:
    display: Any = load_module("IPython.display")
    handle = display.display(display.HTML(""), display_id=True)

    def draw(name: str, done: int, total: int | None) -> None:
        bar = element("progress", value=None if total is None else done, max=total)
        handle.update(display.HTML(element("div", bar, f" {what}: {name}")))

    try:
        yield draw
    finally:
        handle.update(display.HTML(""))
