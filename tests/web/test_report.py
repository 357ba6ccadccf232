"""The report in a real Chromium: readable in both schemes and on a narrow screen, and nothing of it runs or loads."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rnn_export.bundle.reporting import report

from ..reports import WORD, bench_of, hostile, plain  # noqa: TID252
from .chromium import Chromium, find_chromium
from .node import need

ROOT = Path(__file__).parents[2]
# The least contrast of any text with what stands behind it, by WCAG 2's formula, and what text that is.
CONTRAST = """
document.querySelectorAll("details").forEach((found) => { found.open = true; });
const numbers = (color) => color.match(/[0-9.]+/g).map(Number);
const light = (color) => {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = numbers(color).map((c) => linear(c / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if (numbers(color)[3] !== 0) return [color];
  }
  throw new Error("nothing is behind " + element.outerHTML);
};
const boxes = [...document.querySelectorAll("svg rect.box, svg rect.step")].map((box) => getComputedStyle(box).fill);
let least = { contrast: 99, count: 0 };
const look = (text, color, backs) => {
  for (const back of backs) {
    const [a, b] = [light(color), light(back)], contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    least.count += 1;
    if (contrast < least.contrast) least = { ...least, contrast, text, color, back };
  }
};
for (const element of document.body.querySelectorAll("*")) {
  const style = getComputedStyle(element);
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!element.getClientRects().length) continue;
  const before = getComputedStyle(element, "::before");
  if (before.content.startsWith('"')) look("before", before.color, behind(element));
  if (!own) continue;
  const svg = element.ownerSVGElement;
  if (svg) look(element.textContent, style.fill, [...behind(svg), ...boxes]);
  else look(element.textContent.slice(0, 40), style.color, behind(element));
}
return least;
"""
# What stands beyond the right edge of the window, and how wide the page is.
WIDE = """
document.querySelectorAll("details").forEach((found) => { found.open = true; });
const room = document.documentElement.clientWidth;
const beyond = [...document.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > room + 0.5);
return [document.documentElement.scrollWidth, room, beyond.map((e) => e.outerHTML.slice(0, 120)).slice(0, 3)];
"""
WORDS = """
document.body.innerHTML = "<p class=good>passed</p><p class=bad>failed</p>";
document.head.append(Object.assign(document.createElement("style"), { textContent: style }));
document.documentElement.style.backgroundColor = "Canvas";
"""
SCHEMES, WIDTHS = ("light", "dark"), (360, 1100)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    need("chromium")
    with Chromium(str(find_chromium())) as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    found = {}
    for name, bundle in (("plain", plain(folder / "a.rnnx")), ("hostile", hostile(folder))):
        word = WORD if name == "hostile" else "native"
        bench = bench_of(bundle, hashlib.sha256(bundle.raw).hexdigest(), word)
        found[name] = report(bundle, bench).write(folder / f"{name}.html")
        found[f"{name} inside"] = bundle.path / "report.html"
    return found


def shown(chromium: Chromium, page: Path, scheme: str = "light", width: int = 1100) -> Chromium:
    chromium.emulate(scheme, width)
    chromium.open(page.as_uri())
    return chromium


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_text_can_be_read(chromium: Chromium, pages: dict[str, Path], scheme: str):
    least: dict[str, Any] = shown(chromium, pages["plain"], scheme).run(CONTRAST)
    assert least["count"] > 100
    assert least["contrast"] >= 4.5, least


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_a_package_s_page_says_of_itself_can_be_read(chromium: Chromium, scheme: str):
    style = json.dumps((ROOT / "runtime/build/wasm/web/page.css").read_text())
    chromium.emulate(scheme, 1100)
    chromium.open("about:blank")
    least = chromium.run(f"const style = {style}; {WORDS} {CONTRAST}")
    assert least["count"] == 2
    assert least["contrast"] >= 4.5, least


@pytest.mark.parametrize("name", ["plain", "hostile"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_its_window(chromium: Chromium, pages: dict[str, Path], name: str, width: int):
    wide, capacity, beyond = shown(chromium, pages[name], width=width).run(WIDE)
    assert (wide <= capacity, beyond) == (True, [])


@pytest.mark.parametrize("name", ["hostile", "hostile inside"])
def test_nothing_of_a_hostile_page_runs_or_loads(chromium: Chromium, pages: dict[str, Path], name: str):
    before = len(chromium.said)
    page = shown(chromium, pages[name])
    assert page.run("return document.title") == "<script>1<.rnnx: report"
    assert page.run("return document.querySelectorAll('script, img, iframe, base, object, embed').length") == 0
    assert page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    assert chromium.said[before:] == []


def test_its_policy_stops_what_would_run_and_leaves_its_own_style(chromium: Chromium, pages: dict[str, Path]):
    page = shown(chromium, pages["plain"], "dark")
    put = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
    assert page.run(f"{put} return window.ran ?? null") is None
    assert page.run("return getComputedStyle(document.documentElement).backgroundColor") == "rgb(20, 23, 26)"
    assert "violates the following Content Security Policy" in chromium.said[-1]
