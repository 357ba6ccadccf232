"""The report of a bundle: its contents, the copy in the bundle, and that it is a page and nothing else."""

import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner

import rnn_export
from rnn_export.bundle import TargetRow, extend_bundle, open_bundle
from rnn_export.bundle.reporting import Report, inside_page, report
from rnn_export.bundle.stripping import strip_bundle
from rnn_export.cli.main import main
from rnn_export.page.picture import shortened
from rnn_export.platform.markup import element, table, text

from .messages import raises
from .reports import HOSTILE, bench_of, hostile, plain

TAGS = """
html head meta title style body header main footer section nav a p h1 h2 h3 dl div dt dd table thead tbody tr th td
small strong code ul li details summary figure svg defs marker g path rect line text
"""
ATTRIBUTES = """
charset http-equiv content name lang id class href scope data-label aria-label role width height viewbox x y x1 x2
y1 y2 rx d fill refx refy markerwidth markerheight orient marker-end
"""


class Page(HTMLParser):
    """A page as a browser reads it: its elements, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def written(bundle: Any) -> str:
    return (bundle.path / "report.html").read_text()


@pytest.mark.parametrize("make", [lambda p: plain(p / "a.rnnx"), hostile], ids=["plain", "hostile"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_page_has_nothing_that_runs_or_loads(tmp_path: Path, make: Callable[[Path], Any], inside: bool):
    bundle = make(tmp_path)
    html = written(bundle) if inside else report(bundle.path).html
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= {*TAGS.split()}
    assert {name for _, attributes in page.tags for name in attributes} <= {*ATTRIBUTES.split()}
    assert all(value and value.startswith("#") for _, a in page.tags if (value := a.get("href", "#")))
    ((_, policy),) = [tag for tag in page.tags if tag[1].get("http-equiv")]
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    said = policy["content"] or ""
    assert said.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in said
    assert [tag for tag, _ in page.tags][:3] == ["html", "head", "meta"]


def test_every_word_of_a_hostile_bundle_is_text(tmp_path: Path):
    """Each stands on the page as it is, what cannot be seen written out."""
    found = Page(report(hostile(tmp_path).path).html).text
    for word in HOSTILE:
        assert " ".join(Page(text(word)).text.split()) in found
    assert "\\u202egnp.exe" in found
    assert "line\\nfeed\\x1b[31m" in found
    # A message of curves that are none: none of them is drawn, and none is an error.
    assert "not a number" not in Page(report(plain(tmp_path / "b.rnnx").path).html).text


def test_the_contract_checks_and_builds_stand_on_it(tmp_path: Path):
    bundle = plain(tmp_path / "a.rnnx", not_judged={"loud noise": "gates of 8 bits do not hold them"})
    page = Page(report(bundle.path).html).text
    assert "the first 4 frames give no output" in page
    assert "finish() gives the last" in page
    assert "and 4 more" in page  # of nine states
    assert "260 bytes" in page
    assert "held to the model at export, on onnxruntime" in page
    assert "loud noise, not judged: gates of 8 bits do not hold them" in page
    assert "c (fp32), cortex-m4: the bundle has no report on it" in page
    assert "flash 4,096 bytes" in page
    assert "An error may reach 1e-06 + 2e-05 × scale." in page
    assert "1.2e-05" in page  # the worst of native: 3 x 4e-6
    for file in bundle.files.values():
        assert file.sha256 in page


def test_what_is_outside_the_tolerance_is_said(tmp_path: Path):
    bundle = plain(tmp_path / "a.rnnx")
    told = json.loads(bundle.read("parity.json"))
    assert Page(written(bundle)).text.count("Verified") == 1
    told["drifts"][-1].update(step=7, relative=None, error=None)
    page = Page(report(plain(tmp_path / "b.rnnx", drifts=told["drifts"]).path).html).text
    assert "Not verified" in page
    assert "outside at step 7" in page
    assert "not a number" in page
    assert "c (fp32), x86_64-linux-gnu: it is outside the tolerance" in page
    unread = Page(report(plain(tmp_path / "c.rnnx", drifts="none").path).html).text
    assert "no report of a verification that could be read: nothing here is proven" in unread


def test_a_build_that_no_export_held_has_no_parity(tmp_path: Path):
    """A report of an earlier release says of no row that it held it."""

    def of_native(**more: Any) -> float | None:
        builds = report(plain(tmp_path / f"{len(more)}.rnnx", **more).path).facts.builds
        return next(build.proof.worst for build in builds if build.part == "x86_64-linux-gnu")

    assert of_native() == pytest.approx(1.2e-5)
    assert of_native(targets=None) is None


def test_what_is_very_much_is_cut(tmp_path: Path):
    drifts = [{"check": f"c{n}", "tensor": "t", "error": 0, "relative": 0, "step": None} for n in range(4000)]
    bundle = plain(tmp_path / "a.rnnx", drifts=drifts, notes=["n"] * 5000, tolerance={"atol": 1e300, "rtol": -1})
    html = report(bundle.path).html
    assert len(html) < 200_000
    page = Page(html).text
    assert "All 4000 comparisons The first 300 are shown; parity.json has the rest." in page
    assert "more, in parity.json" in page


VALUES = [None, True, -1, 0, 10**18, 1e300, -1e-300, "", "<b>", "a, b", [], [[1, 2]], {}, {"a": [None]}]


@pytest.mark.parametrize("seed", range(4))
def test_no_value_of_an_evidence_breaks_it(tmp_path: Path, seed: int):
    """Any value in parity.json gives a page: an exception in an export would cost the bundle."""
    random, bundle = Random(seed), plain(tmp_path / "a.rnnx")
    files = {name: bundle.read(name) for name in bundle.files}
    first = json.loads(files["parity.json"])
    first["fp16_accumulate"] = [json.loads(files["parity.json"])]
    for _ in range(50):
        told = json.loads(json.dumps(first))
        for _ in range(random.randint(1, 4)):
            inside: Any = told
            while inside and isinstance(inside, dict | list):
                key = random.choice([*inside] if isinstance(inside, dict) else range(len(inside)))
                if random.random() < 0.4 or not isinstance(inside[key], dict | list):
                    inside[key] = random.choice(VALUES)
                    break
                inside = inside[key]
        page = inside_page("a.rnnx", bundle, {**files, "parity.json": json.dumps(told).encode()})
        assert page.endswith(b"</html>\n")


def test_the_copy_inside_is_written_anew_by_a_build(tmp_path: Path):
    bundle = plain(tmp_path / "a.rnnx")
    first = written(bundle)
    assert hashlib.sha256(bundle.raw).hexdigest() not in first
    assert "neither its own nor a signature" in first
    row = TargetRow("torchscript", "fp32", None, ("targets/torchscript-fp32/step.pt",), {"torch": "2.9"})
    after = extend_bundle(bundle, row, {row.files[0]: b"pt"})
    second = written(after)
    assert "torchscript" in second
    assert "torchscript" not in first
    assert after.files["report.html"].sha256 == hashlib.sha256(second.encode()).hexdigest()
    # Everything else that the manifest lists stands on it, as it is now.
    others = [file for name, file in after.files.items() if name != "report.html"]
    assert all(file.sha256 in second for file in others)
    assert open_bundle(after.path).read("report.html") == second.encode()


def test_a_bundle_without_a_report_gains_none(tmp_path: Path):
    bundle = plain(tmp_path / "a.rnnx", report=False)
    after = extend_bundle(bundle, TargetRow("pt2", "fp32", None, ("b",), {}), {"b": b"2"})
    assert "report.html" not in {*bundle.files, *after.files}


def test_strip_takes_it_away(tmp_path: Path):
    stripped = strip_bundle(plain(tmp_path / "a.rnnx"), ["c"], out=tmp_path / "b.rnnx")
    assert "report.html" in stripped.gone
    assert "report.html" not in stripped.bundle.files


def test_a_bench_has_to_be_of_this_bundle(tmp_path: Path):
    bundle = plain(tmp_path / "a.rnnx")
    manifest = hashlib.sha256(bundle.raw).hexdigest()
    good = bench_of(bundle, manifest)
    page = Page(report(bundle.path, good).html).text
    assert "native 1 10 12 20 100,000" in page
    assert "before the bundle was changed" not in page
    assert "it was not timed" not in page
    old = Page(report(bundle.path, bench_of(bundle, "e" * 64)).html).text
    assert "It was timed before the bundle was changed" in old
    with raises("bench-of-other-model", "eeeeeeeeeeee", "dddddddddddd"):
        report(bundle.path, {**good, "digest": "e" * 64})
    for wrong in ({}, {**good, "engines": [{"name": "a"}]}, {**good, "machine": 1}, {**good, "manifest": None}):
        with raises("bench-too-old"):
            report(bundle.path, wrong)


def test_the_command(tmp_path: Path):
    bundle, page, bench = plain(tmp_path / "a.rnnx"), tmp_path / "page.html", tmp_path / "bench.json"
    bench.write_text(json.dumps(bench_of(bundle, hashlib.sha256(bundle.raw).hexdigest())))
    run = CliRunner().invoke
    done = run(main, ["report", str(bundle.path), "-o", str(page), "--bench", str(bench), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["bytes"] == page.stat().st_size
    assert [build["part"] for build in said["builds"]] == ["", "sources", "x86_64-linux-gnu", "cortex-m4"]
    assert [build["ok"] for build in said["builds"]] == [True, False, True, False]
    assert any("cortex-m4" in line for line in said["not_proven"])
    done = run(main, ["report", str(bundle.path), "-o", str(page)])
    assert done.stdout == f"wrote {page} ({page.stat().st_size:,} bytes)\n"
    bench.write_text("{")
    done = run(main, ["report", str(bundle.path), "-o", str(page), "--bench", str(bench)])
    assert (done.exit_code, "is no JSON" in done.stderr) == (1, True)
    done = run(main, ["report", str(bundle.path), "-o", str(tmp_path / "no" / "page.html")])
    assert (done.exit_code, "cannot be written" in done.stderr) == (1, True)


def test_from_python(tmp_path: Path):
    bundle = plain(tmp_path / "a.rnnx")
    made = rnn_export.report(bundle)
    assert isinstance(made, Report)
    assert made.html == rnn_export.report(bundle.path).html
    assert made.write(tmp_path / "a.html").read_text() == made.html
    assert repr(made).startswith("<Report of a.rnnx: ")
    ((tag, attributes), *more) = Page(made._repr_html_()).tags
    assert (tag, attributes["sandbox"], attributes["srcdoc"], more) == ("iframe", "", made.html, [])


def test_markup_is_escaped_once():
    inner = element("b", "a<b", title='"&')
    assert inner == '<b title="&quot;&amp;">a&lt;b</b>'
    assert table(("<",), [(inner,)]).count("&lt;b</b>") == 1
    assert element("p", None, "x", class_=None) == "<p>x</p>"


@pytest.mark.parametrize(("width", "short"), [(9, "encoder.h"), (7, "enc…r.h"), (2, "e…")])
def test_a_long_name_loses_its_middle(width: int, short: str):
    assert shortened("encoder.h", width) == short
