"""Run a function in a forked child within a time limit and return its message."""

import os
import select
import signal
import time
import traceback
from collections.abc import Callable

HUNG = "hung"


def in_child(work: Callable[[], str], seconds: float = 20.0) -> str:
    """The text that `work` returns or raises in a forked process; HUNG if it did not end in time."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        said = "nothing"
        try:
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
            if not str(error):
                said = traceback.format_exc()
        finally:
            os.write(writing, said.encode()[:60_000])
            os._exit(0)
    os.close(writing)
    said, end = b"", time.monotonic() + seconds
    try:
        while True:
            ready, _, _ = select.select([reading], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.kill(child, signal.SIGKILL)
                return HUNG
            part = os.read(reading, 65536)
            if not part:
                return said.decode()
            said += part
    finally:
        os.close(reading)
        os.waitpid(child, 0)
