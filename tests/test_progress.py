"""Progress is shown on a terminal and in a notebook's kernel, and nowhere else."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from rnn_export.platform import progress
from rnn_export.platform.progress import report_stages

from .reports import WORD, hostile, plain

LOG = logging.getLogger("made_for_a_test")

TOLD = """
import logging, sys
from rnn_export.platform.progress import report_stages
out, err = sys.stdout, sys.stderr
with report_stages("export", 3, None, logging.getLogger("rnn_export.export")) as stage:
    stage("lift")
    assert (sys.stdout, sys.stderr) == (out, err)
    stage("graphs")
print("done")
"""


def test_a_terminal_has_a_bar() -> None:
    pty = pytest.importorskip("pty")
    reads, writes = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", TOLD], stdout=subprocess.PIPE, stderr=writes, env=env, check=True)
    os.close(writes)
    said = os.read(reads, 1 << 16).decode()
    os.close(reads)
    assert "export: graphs" in said
    assert done.stdout == b"done\n"


def test_a_pipe_has_none() -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    done = subprocess.run([sys.executable, "-c", TOLD], capture_output=True, env=env, check=True)
    assert (done.stdout, done.stderr) == (b"done\n", b"")


def test_who_configures_logging_has_the_stages_in_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOG.name), report_stages("export", 3, None, LOG) as stage:
        stage("lift")
    assert [(r.name, r.levelno, r.getMessage()) for r in caplog.records] == [(LOG.name, logging.INFO, "export: lift")]


def test_a_stage_that_comes_again_does_not_move_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, int, int | None]] = []
    monkeypatch.setattr(progress, "_bar", lambda what: nullcontext(lambda *seen: drawn.append(seen)))
    with progress.bar("export", 2) as stage:
        for name in ("axes", "capture", "axes", "write"):
            stage(name)
    assert drawn == [("axes", 0, 2), ("capture", 1, 2), ("axes", 1, 2), ("write", 2, 3)]


def test_a_function_is_told_and_false_tells_nobody() -> None:
    heard: list[str] = []
    with report_stages("export", 1, heard.append, LOG) as stage:
        stage("lift")
    with report_stages("export", 1, False, LOG) as stage:
        stage("lift")
    assert heard == ["lift"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Runs a cell in a kernel: what it displays, as HTML, and what it still shows at its end."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=120)
    place = tmp_path_factory.mktemp("ipython")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(place))
        patch.setenv("JUPYTER_CONFIG_DIR", str(place))
        with client.setup_kernel():

            def run(code: str) -> list[str]:
                cell = nbformat.v4.new_code_cell(code)
                client.nb.cells.append(cell)
                client.execute_cell(cell, len(client.nb.cells) - 1)
                return [o.data["text/html"] for o in cell.outputs if "data" in o and "text/html" in o.data]

            yield run


LINE = """
import logging
from IPython.display import HTML
from IPython.utils.capture import capture_output
from rnn_export.platform.progress import report_stages
with capture_output() as seen, report_stages("export", 4, None, logging.root) as stage:
    stage("lift")
    stage("<b>")
HTML(repr([o.data["text/html"] for o in seen.outputs]))
"""


def test_a_notebook_has_a_line_while_it_lasts(cells: Any) -> None:
    (said,) = cells(LINE)
    lift = '<div><progress value="0" max="4"></progress> export: lift</div>'
    assert said == repr(["", lift, lift.replace("0", "1").replace("lift", "&lt;b&gt;"), ""])


def test_a_notebook_shows_tables_and_the_report_in_a_frame(cells: Any, tmp_path: Path) -> None:
    place = plain(tmp_path / "a.rnnx").path
    (shown,) = cells(f"from rnn_export.bundle import open_bundle\nopen_bundle({str(place)!r})")
    assert "<table>" in shown
    (frame,) = cells(f"from rnn_export import report\nreport({str(hostile(tmp_path).path)!r})")
    assert frame.startswith('<iframe srcdoc="&lt;!DOCTYPE html&gt;')
    assert WORD not in frame
