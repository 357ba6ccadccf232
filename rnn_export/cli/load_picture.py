"""The picture of a load test: latency over the number of live streams, and how many are held."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from rnn_export.cli.console import duration, live_streams
from rnn_export.cli.plots import COLORS, FAINT, GREY, INK, save

LATE = "#B03A2E"


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """As a PNG; raises SourceError where it cannot be written."""
    points, frame = result["points"], result["frame_ms"]
    color = COLORS.get(result["backend"], INK)
    figure = Figure(figsize=(10, 5.6), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.12, 0.86, 0.68))
    streams = [p["streams"] for p in points]
    p50, p99 = ([max(p[key], 1e-3) for p in points] for key in ("p50", "p99"))
    axes.set(xscale="log", yscale="log")
    axes.fill_between(streams, p50, p99, color=color, alpha=0.13, linewidth=0)
    axes.plot(streams, p99, "-o", color=color, linewidth=2.2, markersize=5, label="p99")
    axes.plot(streams, p50, "-o", color=color, linewidth=1.2, markersize=3.5, alpha=0.55, label="median")
    lost = [(p["streams"], max(p["p99"], 1e-3)) for p in points if not p["held"]]
    if lost:
        axes.plot(*zip(*lost, strict=True), "o", color=LATE, markersize=6.5, label="p99, not held", zorder=4)
    axes.axhline(frame, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.text(
        0.005, frame * 1.06, f"a frame, {duration(frame * 1e3)}", color=GREY, fontsize=9.5, va="bottom",
        transform=axes.get_yaxis_transform(),
    )  # fmt: skip
    if result["held"]:
        axes.axvline(result["held"], color=FAINT, linewidth=6, zorder=0)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    short = max(*p99, frame) < 100 * min(*p50, frame)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,), numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda ms, _: duration(ms * 1e3).replace(".00", "").replace(".0 ", " "))
    )
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=GREY, labelsize=9.5)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"live streams, each {result['frames_per_second']:g} frames/s", color=GREY, fontsize=10)
    axes.legend(frameon=False, labelcolor=GREY, fontsize=9.5, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    name = str(result["source"]).partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
    figure.text(0.025, 0.925, f"{name}: {live_streams(result)}", fontsize=16, fontweight="bold", color=INK)
    # Of servers, the processor is not known.
    on = result["device"] if result["backend"] == "remote" else f"{result['device']} · {result['machine']['cpu']}"
    figure.text(
        0.025, 0.865, f"latency of a frame from when it was due · {result['backend']} {result['precision']} on "
        f"{on}", fontsize=10, color=GREY,
    )  # fmt: skip
    save(figure, path)
