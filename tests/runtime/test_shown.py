"""The display of the runtime's objects: short reprs, and tables in a notebook."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.contract.precision import TOLERANCES
from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec
from rnn_export.runtime import load
from rnn_export.runtime.replay.drift import ParityReport, drift
from rnn_export.runtime.serve.batcher import Batcher

from .graphs import SUM, TIMED

SHAPES = "x (batch, 3) -> y (batch, 3), 1 state"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return SUM.write(tmp_path / "sum.rnnx")


def report(error: float) -> ParityReport:
    want = np.ones((1, 40, 2), np.float32)
    found = drift("step", "y<b>", want + np.float32(error), want, range(1, 41), TOLERANCES["fp32"], ("noise",))
    return ParityReport("onnxruntime", "cpu", 40, 1, TOLERANCES["fp32"], (found,), steps=40)


def test_reprs_say_what_it_is_where_it_runs_and_its_shapes(path: Path) -> None:
    engine = load(path, backend="onnxruntime")
    assert repr(open_bundle(path)) == f"<Bundle sum.rnnx: onnx fp32; {SHAPES}>"
    assert repr(engine) == f"<Engine onnxruntime on cpu, fp32: {SHAPES}>"
    stream = engine.stream(batch=2)
    stream.step(np.zeros((2, 3), np.float32))
    assert repr(stream) == f"<Stream of 2 rows at frame 1: {SHAPES}>"
    pool = engine.pool(capacity=5)
    pool.open()
    assert repr(pool) == f"<Pool with 1 of 5 streams: {SHAPES}>"
    with Batcher(pool, max_delay_ms=1.5, max_batch=4) as batcher:
        assert repr(batcher) == f"<Batcher: rounds of 4 streams at most, after 1.5 ms; {pool!r}>"
    assert repr(batcher).startswith("<Batcher (closed): ")
    stream = load(TIMED.write(path.with_name("t.rnnx")), backend="onnxruntime").stream()
    stream.run(np.zeros((7, 3), np.float32))
    stream.finish()
    assert repr(stream) == "<Stream at frame 7, ended: x (batch, time, 3) -> y (batch, time, 3), 1 state>"


def test_a_report_says_how_it_came_out() -> None:
    ok = "<ParityReport on onnxruntime (cpu), 1 checks ok, largest relative error 1.0e-05"
    assert repr(report(1e-5)).startswith(ok)
    assert "outside the tolerance: step" in repr(report(1e-3))


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.said: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_a_notebook_shows_tables_and_a_curve(path: Path) -> None:
    engine = load(path, backend="onnxruntime")
    for shown, words in (
        (open_bundle(path), ["sum.rnnx", "onnx", "fp32", "x", "(batch, 3)", "12"]),
        (engine, ["onnxruntime", "cpu", "1 or more", "h"]),
        (engine.spec, ["input", "output", "state", "chunk 1, delay 0, 12 bytes of state a stream, digest"]),
        (report(1e-5), ["y<b>", "step", "1.0e-05", "ok"]),
    ):
        page = Tags(shown._repr_html_())
        assert "table" in page.tags
        said = " ".join(page.said)
        assert not [word for word in words if word not in said]
    page = Tags(report(1e-3)._repr_html_())
    assert "outside at step 1" in page.said
    assert [tag for tag in page.tags if tag in ("svg", "path", "line", "b")] == ["b", "svg", "path", "line"]


def test_names_are_text_in_a_notebook_too() -> None:
    evil = "<img src=x onerror=alert(1)>"
    spec = StreamSpec(
        (TensorSpec(evil, "float32", ("batch", 1)),),
        (TensorSpec("y", "float32", ("batch", 1)),),
        tuple(StateSpec(f"{evil}{n}", f"i{n}", f"o{n}", "float32", ("batch", 1)) for n in range(40)),
    )
    page = Tags(spec._repr_html_())
    assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code", "div"}
    assert "and 18 more" in page.said
    assert evil in page.said
