"""The picture of a bench: each engine's median, p90 and p99 on one axis, and the machine's limit."""

import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rnn_export.cli import console
from rnn_export.cli.console import duration
from rnn_export.errors import SourceError
from rnn_export.platform.files import save_atomically
from rnn_export.platform.installing import pip_install

# From the palette of Okabe and Ito, told apart by every eye.
COLORS = {
    "native": "#D55E00",
    "onnxruntime": "#0072B2",
    "openvino": "#F0E442",
    "litert": "#56B4E9",
    "executorch": "#999999",
    "torchscript": "#009E73",
    "tensorrt": "#CC79A7",
}
INK, GREY, FAINT, LIMIT = "#222222", "#666666", "#E4E4E4", "#111111"
WIDTH, ROW, HEAD, FOOT = 12, 0.62, 1.55, 1.1  # inches
# Where the right edge of each column of numbers is, of the width of the axes.
MEDIAN, FASTER, OVER = 1.14, 1.29, 1.41


def check(path: Path) -> None:
    """Raise SourceError where no picture can be written to `path`; it is left as it is."""
    if path.suffix != ".png":
        raise SourceError(f"{path} is of no known kind: a plot is written as a .png file.", id="plot-suffix-unknown")
    if find_spec("matplotlib") is None:
        raise SourceError(
            f"a plot needs matplotlib, which is not here: {pip_install('plot')}.", id="matplotlib-missing"
        )
    parent = path.absolute().parent
    if not parent.is_dir():
        raise SourceError(
            f"{path} cannot be written: the directory {path.parent} does not exist.", id="plot-directory-missing"
        )
    if path.is_dir():
        raise SourceError(f"{path} cannot be written: a directory stands there.", id="plot-path-directory")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error.strerror or error}.", id="plot-not-written") from error


def bench(path: Path, result: Mapping[str, Any]) -> None:
    """Draw `rnn_export.runtime.bench.measure.bench`'s result as a PNG; raises SourceError as `check` does."""
    check(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(result["engines"], key=lambda row: row["p50"])
    height = HEAD + ROW * len(rows) + FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.195, FOOT / height, 0.555, ROW * len(rows) / height))
    _axis(axes, rows, result["limits"])
    for at, row in enumerate(rows):
        _engine(axes, at, row)
    _limits(axes, rows, result["limits"])
    _words(figure, axes, result, height)
    _key(figure, height, bool(result["limits"]))
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Whole or not at all; raises SourceError where it cannot be."""
    try:
        with save_atomically(path) as place:
            figure.savefig(place, format="png")
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error.strerror or error}.", id="plot-not-written") from error


def _axis(axes: Any, rows: Sequence[Mapping[str, Any]], limits: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    values = [row[k] for row in rows for k in ("p50", "p99", "cold")] + [limit["us"] for limit in limits]
    low, high = min(values), max(values)
    axes.set_xscale("log")
    xlim = (low * (high / low) ** -0.17, high * (high / low) ** 0.05)
    axes.set(xlim=xlim, ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=[])
    # A short axis has 1, 2, 5 for its ticks; a long one whole decades.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,), numticks=20))
    axes.xaxis.set_minor_locator(LogLocator(subs=range(2, 10), numticks=50) if high / low < 1e5 else NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda us, _: duration(us).replace(".00", "").replace(".0 ", " ")))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda us, _: ""))
    axes.tick_params(axis="x", which="both", length=0, colors=GREY, labelsize=9.5, pad=6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", which="major", color=FAINT, linewidth=1)
    axes.set_axisbelow(True)
    for at in range(len(rows) - 1):
        axes.axhline(at + 0.5, xmin=-0.306, xmax=OVER, color=FAINT, linewidth=0.8, clip_on=False, zorder=0)
    axes.spines[:].set_visible(False)


def _engine(axes: Any, at: int, row: Mapping[str, Any]) -> None:
    plain = "run(dict)" in row["name"]
    color = GREY if plain else COLORS.get(row["backend"], INK)
    if row["cold"] > row["p99"]:
        axes.hlines(at, row["p99"], row["cold"], color=color, linewidth=1, alpha=0.35, linestyle=(0, (1, 2.5)))
    axes.hlines(at, row["p50"], row["p99"], color=color, linewidth=4, alpha=0.3, capstyle="round")
    axes.hlines(at, row["p50"], row["p90"], color=color, linewidth=8, alpha=0.5, capstyle="round")
    axes.plot(row["p50"], at, "o", color=color, markersize=11, markeredgecolor="white", markeredgewidth=1.4, zorder=4)
    axes.plot(row["cold"], at, "D", color="white", markersize=6.5, markeredgecolor=color, markeredgewidth=1.5, zorder=3)
    style = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
    axes.text(-0.03, at, row["name"], color=INK, fontsize=11.5, **style)
    axes.text(MEDIAN, at, duration(row["p50"]), color=color, fontsize=12, fontweight="bold", **style)
    for place, key in ((FASTER, "times_as_fast"), (OVER, "times_the_limit")):
        if row[key] is not None:
            axes.text(place, at, f"{_ratio(row[key])}×", color=INK, fontsize=11, **style)


def _limits(axes: Any, rows: Sequence[Mapping[str, Any]], limits: Sequence[Mapping[str, Any]]) -> None:
    """A line through the rows that it is for; through all of them where there is one."""
    for limit in limits:
        mine = [at for at, row in enumerate(rows) if row["precision"] == limit["precision"] and row["device"] == "cpu"]
        spans = [(-0.5, len(rows) - 0.5)] if len(limits) == 1 else [(at - 0.42, at + 0.42) for at in mine]
        for low, high in spans:
            axes.vlines(limit["us"], low, high, color=LIMIT, linewidth=1.6, linestyle=(0, (4, 2)), zorder=2)
        style = {"textcoords": "offset points", "ha": "right", "va": "center", "color": GREY, "fontsize": 9.5}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.annotate(f"limit\n{duration(limit['us'])}", (limit["us"], mine[0]), (-6, 0), **style)


def _words(figure: Any, axes: Any, result: Mapping[str, Any], height: float) -> None:
    title = f"{Path(result['bundle']).resolve().name}: time of {console.a_step(result)}"
    figure.text(0.025, 1 - 0.42 / height, title, fontsize=17, fontweight="bold", color=INK)
    below = console.on_core(result)
    if result["limits"]:
        limits = [(x["precision"], x["bytes"] / 1e3, x["bytes_per_second"] / 1e9) for x in result["limits"]]
        sizes = (f"{precision} {size:,.0f} kB at {speed:.0f} GB/s" for precision, size, speed in limits)
        below += f" · weights read: {', '.join(sizes)}"
    figure.text(0.025, 1 - 0.75 / height, below, fontsize=10.5, color=GREY)
    heads = [(MEDIAN, "median")]
    if any(row["times_as_fast"] is not None for row in result["engines"]):
        heads.append((FASTER, "times as fast\nas run(dict)"))
    if result["limits"]:
        heads.append((OVER, "times\nthe limit"))
    for place, title in heads:
        where = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "bottom"}
        axes.text(place, -0.55, title, color=GREY, fontsize=9.5, linespacing=1.25, **where)


def _key(figure: Any, height: float, limits: bool) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=GREY, marker="o", linestyle="", markersize=10, label="median", markeredgecolor="white"),
        Line2D([], [], color=GREY, linewidth=8, alpha=0.5, solid_capstyle="round", label="to p90"),
        Line2D([], [], color=GREY, linewidth=4, alpha=0.3, solid_capstyle="round", label="to p99"),
        Line2D([], [], color="white", marker="D", markersize=6.5, markeredgecolor=GREY, label="with cold caches"),
    ]
    if limits:
        label = "limit: every weight read once"
        marks.append(Line2D([], [], color=LIMIT, linewidth=1.6, linestyle=(0, (4, 2)), label=label))
    figure.legend(
        handles=marks, loc="lower center", bbox_to_anchor=(0.5, 0.16 / height), ncols=len(marks), frameon=False,
        fontsize=10, labelcolor=GREY, handletextpad=0.7, columnspacing=2.2,
    )  # fmt: skip


def _ratio(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
