"""Output of commands for a person: tables and progress, on a terminal that may be narrow or none."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from rnn_export.cli.voice import voice
from rnn_export.platform.terminal_text import visible

TICKS = ((1e6, "s"), (1e3, "ms"), (1, "µs"), (1e-3, "ns"))

if TYPE_CHECKING:
    from rich.console import Console

    from rnn_export.contract.spec import StreamSpec
    from rnn_export.runtime.engine import Engine


def say(text: str, err: bool = False) -> None:
    """A line, or a few, of text from outside, too; on stderr none with --quiet."""
    if err and voice().quiet:
        return
    click.echo(visible(text, lines=True), err=err)


def note(text: str) -> None:
    say(f"note: {text}", err=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(title=visible(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(visible(str(cell)) for cell in row))
    console = _stdout()
    if console.is_terminal:
        console.print(shown)
        return
    # What fills a cell up to its width is nothing to a file.
    with console.capture() as captured:
        console.print(shown)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _print(line: str) -> None:
    _stdout().print(visible(line))


def _stdout() -> Console:
    """The console of stdout, 160 wide where it is no terminal."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)


def contract(spec: StreamSpec, origins: Mapping[str, Mapping[str, str]] | None = None) -> None:
    """Print the contract of a stream; with `origins`, by state its kind and why it is one, these too."""
    rows = [("input", t.name, t.dtype, _shape(t.shape), "") for t in spec.inputs]
    rows += [("output", t.name, t.dtype, _shape(t.shape), "") for t in spec.outputs]
    for s in spec.states if origins is None else ():
        rows.append(("state", s.name, s.dtype, _shape(s.shape), f"from {s.initial}, returned as {s.output}"))
    table("Stream", ("kind", "name", "dtype", "shape", ""), rows)
    if origins:
        found = [(s, _shape(s.shape), s.bytes, origins[s.name]) for s in spec.states]
        states = [(s.name, why["kind"], shape, s.initial, size, why["why"]) for s, shape, size, why in found]
        table("States", ("state", "kind", "shape", "starts from", "bytes", "why"), states)
    for s in (s for s in spec.states if s.parts):
        columns = ("state", "entries of a row", "shape", *(("kind", "why") if origins else ()))
        lie = [(p.name, f"{p.offset} to {p.offset + p.size - 1}", _shape(p.shape)) for p in s.parts]
        whys = [(origins[p.name]["kind"], origins[p.name]["why"]) if origins else () for p in s.parts]
        table(f"Packed in {s.name}", columns, [(*row, *why) for row, why in zip(lie, whys, strict=True)])
    _print(spec.summary)


def parity(report: Mapping[str, Any]) -> None:
    """Print a parity report, in the form of `ParityReport.to_json`: each check with the worst of its tensors."""
    from rnn_export.contract.parity_json import extent, worst_of_checks
    from rnn_export.runtime.replay.figures import figures_text

    rows = []
    for d in worst_of_checks(report):
        verdict = "ok" if d["step"] is None else f"step {d['step']}"
        rows.append((d["check"], d["tensor"], d["kind"], f"{d['relative']:.1e}", f"{d['error']:.1e}", verdict))
    title = f"Parity on {report['backend']} ({report['device']}), {extent(report)} x {report['rows']} rows"
    table(title, ("check", "worst tensor", "worst input", "relative error", "absolute", ""), rows)
    if figures := report.get("figures"):
        say(f"task: {figures_text(figures)}")
    judged = {kind for _, _, kind, *_ in rows}
    not_judged = {kind: why for kind, why in report.get("not_judged", {}).items() if kind not in judged}
    for why in dict.fromkeys(not_judged.values()):
        say(f"not judged: {', '.join(kind for kind, its in not_judged.items() if its == why)}: {why}")
    if sides := report.get("not_exercised"):
        # The source line alone, where there is one behind the path of the module.
        place = str(sides[0]["place"]).rpartition("(")[2].removesuffix(")")
        more = f" and {len(sides) - 1} more" if len(sides) > 1 else ""
        branches, them = ("1 branch", "it") if len(sides) == 1 else (f"{len(sides)} branches", "them")
        say(f"not exercised: {branches} ({place}{more}): a recording that reaches {them} proves more: --data")


def verdict(report: Mapping[str, Any]) -> None:
    """Print the line on a report that is ok, green on a terminal."""
    from rnn_export.contract.parity_json import verdict_of

    click.secho(visible(verdict_of(report)), fg="green")


def by_default(report: Mapping[str, Any] | None) -> None:
    """Note the error of a library in its own default precision; None where that is what was asked."""
    if report is not None:
        worst = max(math.inf if d["relative"] is None else d["relative"] for d in report["drifts"])
        verdict = "within the tolerance too" if report["ok"] else "outside the tolerance"
        note(
            f"{report['backend']} by itself computes in less than is asked of it here: its largest relative error is "
            f"{worst:.1e} then, {verdict}. Ask for the same in a program of your own."
        )


def targets(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the target table, plain data as `rnn_export.contract.target_table.table_rows` gives it."""
    # Modules of which the same is to be said share a row.
    alike: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells = (" ".join(row["precisions"]), row["needs"], row["ran"], row["cannot"])
        alike.setdefault(cells, []).append(row)
    shown = [
        (" ".join(row["target"] for row in group), precisions, ", ".join(row["summary"] for row in group), *cells)
        for (precisions, *cells), group in alike.items()
    ]
    table("Targets", ("target", "precisions", "what it is", "needs", "was run on", "cannot"), shown)
    columns = ("target", "GPU", "JetPack (TensorRT)", "newest opset", "GiB", "what to know")
    graphs = []
    for row in (row for row in rows if row["opset"]):
        packs = ", ".join(f"{pack['name']} ({pack['tensorrt']})" for pack in row["jetpacks"])
        memory = " ".join(map(str, row["memory"]))
        graphs.append((row["target"], " ".join(row["compute"]), packs, row["opset"], memory, row["note"]))
    table("Graphs and engines", columns, graphs)
    pages = ", ".join(dict.fromkeys(row["page"] for row in rows))
    say(f"From the bundle to a running program: {pages}")
    say("NPUs of Qualcomm and Rockchip take the step of the target tensorrt: docs/targets/qnn.md and rknn.md")
    say("Servers of NVIDIA Triton are written by rnn-export triton: docs/targets/triton.md")


def bench(result: Mapping[str, Any]) -> None:
    """Print the result of `rnn_export.runtime.bench.measure.bench`, the fastest first, and notes on it."""
    engines = sorted(result["engines"], key=lambda row: row["p50"])
    absent = "not measured" if result["limit_missing"] else ""
    rows = [
        (
            row["name"],
            *(_digits(row[key]) for key in ("p50", "p90", "p99")),
            f"{row['steps_per_second']:,.0f}",
            "" if row["times_as_fast"] is None else _digits(row["times_as_fast"]),
            absent if row["times_the_limit"] is None else _digits(row["times_the_limit"]),
            _digits(row["cold"]),
            "not counted" if row["allocations"] is None else f"{row['allocations']:g}",
            f"{row['error']:.1e}",
        )
        for row in engines
    ]
    speeds = ("steps/s", "x run(dict)", "x limit")
    columns = ("engine", "median", "p90", "p99", *speeds, "cold", "allocations", "error")
    table(f"{result['bundle']}: µs of {a_step(result)} {on_core(result)}", columns, rows)
    for line in _about(result):
        _print(line)
    _skipped(result)


def _skipped(result: Mapping[str, Any]) -> None:
    if result["skipped"]:
        reasons = [(s["backend"], s["precision"] or "", s["reason"]) for s in result["skipped"]]
        table("Not timed", ("backend", "precision", "why"), reasons)


def profile(result: Mapping[str, Any]) -> None:
    """Print `rnn_export.runtime.bench.profile.profile`'s result: a table for each engine, in the order of its step."""
    for found in result["profiles"]:
        rows = [
            (o["layer"], o["type"], f"{o['calls']:g}", _digits(o["us"]), f"{o['share']:.1%}")
            for o in found["operators"]
        ]
        clock = "" if found["clock"] is None else f", {found['clock'] * 1e3:.0f} ns of the clock taken off each"
        title = f"{found['name']}: {_digits(found['us'])} µs of {a_step(result)} {on_core(result)}{clock}"
        table(title, ("layer", "operator", "runs", "µs", "share"), rows)
    _skipped(result)


def a_step(result: Mapping[str, Any]) -> str:
    chunk = result["frames_a_step"]
    return "a step" if chunk == 1 else f"a step of {chunk} frames"


def on_core(result: Mapping[str, Any]) -> str:
    return "on core {core} of {cpu}".format_map(result["machine"])


def _about(result: Mapping[str, Any]) -> Iterator[str]:
    for limit in result["limits"]:
        yield (
            f"limit {limit['precision']}: {limit['bytes']:,} bytes of weights, which this core reads at "
            f"{limit['bytes_per_second'] / 1e9:.1f} GB/s: {_digits(limit['us'])} µs"
        )
    if result["limit_missing"]:
        yield f"limit: {result['limit_missing']}"
    for row in result["engines"]:
        if row["steps_a_sample"] > 1:
            yield f"{row['name']}: p90 and p99 are of means of {row['steps_a_sample']} steps, for the clock is too slow"
    if result["preempted"]:
        yield f"{_taken_away(result)}: on a quiet machine p99 is lower"
    yield f"cold: right after {result['swept_bytes'] / 2**20:.0f} MiB of other memory were read and written"
    missing = result["allocations_missing"]
    yield f"allocations: {missing or 'of a step, from the heap: those of C, and of objects of Python'}"


def load_test(result: Mapping[str, Any]) -> None:
    """Print a point for each number of live streams, and how many are held."""
    shown = (("rounds", 0), ("batch", 1), ("p50", 2), ("p99", 2), ("worst", 1))
    rows = [
        (p["streams"], *(f"{p[key]:.{digits}f}" for key, digits in shown), "yes" if p["held"] else "no")
        for p in result["points"]
    ]
    columns = ("streams", "rounds/s", "rows a round", "p50 ms", "p99 ms", "worst ms", "held")
    table(f"{result['source']}: latency of a frame from when it was due", columns, rows)
    frames, time = f"{result['frames_per_second']:g} frames/s", duration(result["frame_ms"] * 1e3)
    where = f"{result['backend']} {result['precision']} on {result['device']}"
    say(f"{live_streams(result)} of {frames} (p99 < {time}), {where}")
    if result["preempted"]:
        say(f"{_taken_away(result)}: on a quiet machine latencies are lower, and more streams may be held")


def _taken_away(result: Mapping[str, Any]) -> str:
    return f"the core was taken away {result['preempted']:,} times meanwhile"


def live_streams(result: Mapping[str, Any]) -> str:
    """Who holds how many, as far as it was tried."""
    held, fewest = result["held"], min(p["streams"] for p in result["points"])
    count = f"{held or fewest:,} live {'stream' if (held or fewest) == 1 else 'streams'}"
    if held:
        count = f"at least {count}" if result["at_least"] else count
    else:
        count = f"fewer than {count}" if fewest > 1 else "no live stream"
    return f"{result['held_by']} {'hold' if result['held_by'].endswith('s') else 'holds'} {count}"


def duration(us: float) -> str:
    """Three digits and a unit: "7.84 µs"."""
    size, unit = next(((s, u) for s, u in TICKS if us >= s), TICKS[-1])
    value = us / size
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0}f}"


def _shape(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def speed(result: Mapping[str, Any]) -> str:
    rest = f", the last {result['left']} are no whole chunk and gave nothing" if result["left"] else ""
    chunk = result["frames_a_step"]
    each = f"{result['us_per_frame'] * chunk:.1f} µs a {'frame' if chunk == 1 else f'step of {chunk}'}"
    where = f"{result['backend']} ({result['precision']})"
    line = f"{result['frames']} frames{rest} in {result['seconds']:.3f} s on {where}, {each}"
    return line + (f", {result['real_time']:.0f} x real time" if result["real_time"] else "")


def skipped_backends(engine: Engine) -> None:
    """Note why the fastest backends that the bundle has something for do not run here."""
    for reason in engine.skipped_backends:
        note(f"{engine.backend} ({engine.precision}) runs, passed over was {reason}")


def moves(engine: Engine) -> None:
    """Note whether a stream on servers had to go from one to another."""
    counts = engine.metrics() if engine.backend == "remote" else {"moves": 0}
    if counts["moves"]:
        times = "once" if counts["moves"] == 1 else f"{counts['moves']} times"
        gap = f"{counts['gap_s'] * 1e3:.0f} ms"
        note(f"{times} a server was lost or too slow, and the stream went on at another; the longest took {gap}")
