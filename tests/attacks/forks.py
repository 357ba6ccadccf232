"""Many forks amid steps: `python -m tests.attacks.forks --count 100`.

While other threads step a stream, a pool and a batcher, the process is forked. The child uses the parent's objects
and loads the bundle anew. Each must work or raise an error of this project's, and the child must end.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import click
import numpy as np

from rnn_export import Batcher
from rnn_export.errors import RnnExportError
from rnn_export.runtime import Engine

from .engines import engines
from .forking import HUNG, in_child

ONE = np.ones(3, np.float32)


def fork(open_engine: Callable[[], Engine], count: int, progress: Callable[[int], None]) -> Counter[str]:
    engine, came = open_engine(), Counter[str]()
    stream, pool, idle = engine.stream(), engine.pool(), engine.stream()
    ids, waits = [pool.open() for _ in range(4)], pool.open()
    x, stop = np.ones((4, 3), np.float32), threading.Event()
    batcher = Batcher(pool, max_delay_ms=0)
    steps = (lambda: stream.step(ONE), lambda: pool.step(ids, x), lambda: batcher.submit(waits, ONE).result())

    def work(step: Callable[[], Any]) -> None:
        while not stop.is_set():
            step()

    uses = {
        "idle stream": lambda: idle.step(ONE),
        "busy stream": lambda: stream.step(ONE),
        "pool": lambda: pool.step(ids, x),
        "batcher": lambda: batcher.submit(waits, ONE).result(),
        "engine": lambda: engine.stream().step(ONE),
        "loaded anew": lambda: open_engine().stream().step(ONE),
    }
    threads = [threading.Thread(target=work, args=(step,), daemon=True) for step in steps]
    for thread in threads:
        thread.start()
    for _ in range(count):
        for what, use in uses.items():
            said = in_child(lambda use=use: _said(use))
            kind = said if said in (HUNG, "worked", "refused") else "other"
            came[f"{what} {kind}"] += 1
            if kind == "other":
                click.echo(f"{what}: {said}", err=True)
        progress(1)
    stop.set()
    for thread in threads:
        thread.join(30)
    batcher.close()
    return came


def _said(use: Callable[[], Any]) -> str:
    try:
        use()
    except RnnExportError:
        return "refused"
    return "worked"


@click.command()
@click.option("--count", default=100, show_default=True, help="Forks of each use on each backend.")
@click.option("--backend", multiple=True, default=("onnxruntime", "native", "torchscript"), show_default=True)
def main(count: int, backend: tuple[str, ...]) -> None:
    """Fork amid steps, use everything in the child, and say what came of it."""
    bad = 0
    with engines(backend) as known:
        for name, open_engine in known.items():
            with click.progressbar(length=count, label=name, file=sys.stderr) as bar:
                came = fork(open_engine, count, bar.update)
            hung, other = (sum(n for what, n in came.items() if what.endswith(end)) for end in (HUNG, "other"))
            click.echo(f"{name}: {sum(came.values()):,} children, hung {hung}, other errors {other}")
            for what, n in sorted(came.items()):
                click.echo(f"  {what} {n}")
            bad += hung + other
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
