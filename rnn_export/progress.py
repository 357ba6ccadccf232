"""Progress for whoever looks: a bar on a terminal, a line in a notebook, nothing anywhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rnn_export.lazy import load_module
from rnn_export.markup import element
from rnn_export.text import visible

Stage = Callable[[str], None]
# What is said of progress: a function that is told each stage, None for whoever looks, False for nobody.
Progress = Stage | Literal[False] | None


@contextmanager
def told(what: str, stages: int, progress: Progress) -> Iterator[Stage]:
    """The function to call at each of `stages`."""
    if progress is not None:
        yield progress or (lambda stage: None)
        return
    with bar(what, stages) as stage:
        yield stage


@contextmanager
def bar(what: str, stages: int | None, shown: bool = True) -> Iterator[Stage]:
    """A bar on stderr where that is a terminal, a line where this is a notebook; gone at the end. None: nobody knows.

    Stdout and stderr stay as they are: other threads print as before.
    """
    if shown and _in_notebook():
        with _line(what, stages) as stage:
            yield stage
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    looked_at = shown and console.is_terminal
    with Progress(
        *columns, console=console, transient=True, disable=not looked_at, redirect_stdout=False, redirect_stderr=False
    ) as drawn:
        task, started = drawn.add_task(visible(what), total=stages), [False]

        def stage(name: str) -> None:
            drawn.update(task, description=visible(f"{what}: {name}"), advance=float(started[0]))
            started[0] = True

        yield stage


def _in_notebook() -> bool:
    """Whether a kernel runs this, whose frontend shows HTML: IPython is then there already."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and bool(shell.has_trait("kernel"))


@contextmanager
def _line(what: str, stages: int | None) -> Iterator[Stage]:
    display: Any = load_module("IPython.display")
    handle, done = display.display(display.HTML(""), display_id=True), [0]

    def stage(name: str) -> None:
        at = None if stages is None else min(done[0], stages)
        bar = element("progress", value=at, max=stages)
        handle.update(display.HTML(element("div", bar, f" {what}: {name}")))
        done[0] += 1

    try:
        yield stage
    finally:
        handle.update(display.HTML(""))
