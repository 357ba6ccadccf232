"""The builds, each with its machine and its proof there; and the times of a step, where they were taken."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnn_export.page.checks import error_text
from rnn_export.page.facts import Build, Timing
from rnn_export.platform.markup import Html, code, element, joined, table

BAR = 110


def builds_section(builds: Sequence[Build]) -> Html:
    """A row for each."""
    return table(("target", "size", "for", "its own parity"), [_row(build) for build in builds], "builds")


def _row(build: Build) -> Sequence[object]:
    part = element("small", build.part) if build.part else None
    proof = build.proof
    good = proof.passed or (proof.worst is not None and proof.ok)
    verdict = "good" if good else "warn" if proof.missing else "soft"
    without = "none" if proof.missing else "passed" if proof.passed else "below"
    worst = without if proof.worst is None else error_text(proof.worst)
    files = f"{build.files} file{'' if build.files == 1 else 's'}"
    return (
        element("div", element("strong", build.target), " ", build.precision, part),
        element("div", size_text(build.bytes), element("small", files)),
        element("div", build.machine, element("small", build.more) if build.more else None),
        element("div", element("strong", worst, class_=verdict), element("small", proof.words)),
    )


def size_text(size: int) -> str:
    for unit, name in ((2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size} bytes"


def latency_section(timing: Timing | None) -> Iterator[Html]:
    """The engines of a bench, the fastest first."""
    if timing is None:
        again = joined((code("rnn-export bench NAME.rnnx --json > bench.json"), " and ", code("--bench bench.json")))
        yield element("p", "Nobody timed a step for this page: ", again, " add it.", class_="soft")
        return
    result = timing.result
    engines = sorted(result["engines"], key=lambda row: row["p50"])
    slowest = max((row["p50"] for row in engines), default=0.0)
    frames = result["frames_a_step"]
    a_step = "a step" if frames == 1 else f"a step of {frames} frames"
    yield element("p", f"Microseconds of {a_step} on {result['machine'].get('cpu', 'an unknown machine')}.")
    if timing.note:
        yield element("p", timing.note, class_="warn")
    rows = [
        (element("strong", row["name"]), _us(row["p50"]), _us(row["p90"]), _us(row["p99"]),
         f"{row['steps_per_second']:,.0f}", _bar(row, slowest))
        for row in engines
    ]  # fmt: skip
    yield table(("engine", "median", "p90", "p99", "steps/s", "the median, drawn"), rows, "latency")


def _us(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _bar(row: Mapping[str, Any], slowest: float) -> Html:
    """The median, that of the slowest engine being the whole width."""
    width = max(1.0, BAR * row["p50"] / slowest) if slowest > 0 else 1.0
    bar = element("rect", x=0, y=1, width=f"{width:.1f}", height=12, class_="bar")
    box = {"width": BAR, "height": 14, "viewBox": f"0 0 {BAR} 14"}
    return element("svg", bar, role="img", aria_label=f"median {_us(row['p50'])} µs", **box)
