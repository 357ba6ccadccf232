"""A function run in a process of its own: for converters of others, which print, warn, and may end their process.

The child's stdout and stderr are kept, and shown only where it fails. Inputs and results are files by name; numbers and
words go in as JSON. An error of ours that the function raises is raised here.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnn_export import errors
from rnn_export.errors import ExportError, RnnExportError
from rnn_export.lazy import load_module

GIVEN, MADE, RAISED = "given", "made", "raised.json"
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from rnn_export.platform.isolated_process import answer
answer(*sys.argv[2:])
"""


def run_isolated(module: str, function: str, files: Mapping[str, bytes], words: Mapping[str, Any]) -> dict[str, bytes]:
    """`function(files, words)` of `module`, which gives files, in a process of its own.

    Raises its exception where that is an error of ours, else ExportError with the last line of the process.
    """
    with tempfile.TemporaryDirectory(prefix="rnn-export-") as place:
        _write(Path(place, GIVEN), files)
        command = [sys.executable, "-W", "ignore", "-c", _CHILD, json.dumps(sys.path), module, function, place]
        try:
            done = subprocess.run(
                [*command, json.dumps(words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
            )  # fmt: skip
        except OSError as error:
            raise ExportError(
                f"no process can be started for {module}: {error}. Free memory, or raise ulimit -u.",
                id="isolated-not-started",
            ) from error
        raised = Path(place, RAISED)
        if raised.exists():
            kind, message, name = json.loads(raised.read_text())
            raise getattr(errors, kind)(message, id=name)
        if done.returncode:
            last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
            raise ExportError(
                f"the process that ran {module} {_end(done.returncode)}: {last}. Try again with more memory; if it "
                "ends so again, the library that it uses does not take this model.",
                id="isolated-process-ended",
            )
        return _read(Path(place, MADE))


def answer(module: str, function: str, place: str, words: str) -> None:
    """In the child: call the function, and leave its result or error in `place`."""
    try:
        made = getattr(load_module(module), function)(_read(Path(place, GIVEN)), json.loads(words))
    except RnnExportError as error:
        # Those that are made of more than a message go by that alone.
        kind = RnnExportError if "__init__" in vars(type(error)) else type(error)
        Path(place, RAISED).write_text(json.dumps([kind.__name__, str(error), error.id]))
        return
    _write(Path(place, MADE), made)


def _end(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """By number, since a name may be a path; the names stand in a file of their own."""
    os.makedirs(folder)
    for number, data in enumerate(files.values()):
        Path(folder, str(number)).write_bytes(data)
    Path(folder, "names.json").write_text(json.dumps([*files]))


def _read(folder: Path) -> dict[str, bytes]:
    names = json.loads(Path(folder, "names.json").read_text())
    return {name: Path(folder, str(number)).read_bytes() for number, name in enumerate(names)}
