#!/usr/bin/env python
"""One table of the parity cases on every runtime, and what a step costs on each: writes docs/runtimes.md.

scripts/runtimes.py cases [RUNTIME ...]     each runtime in a process of its own; what is there already is kept
scripts/runtimes.py step [--core N]         the nets that are timed, every backend in turn on one core
scripts/runtimes.py int8                    LiteRT in int8 beside fp32: bytes, and the error step by step
scripts/runtimes.py page                    docs/runtimes.md of all that
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "silero_vad"), str(HERE.parent)]

import model as silero  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from native_speed import SPEECH  # noqa: E402
from torch import nn  # noqa: E402

from rnn_export import separate  # noqa: E402
from rnn_export.bundle import Bundle, TargetRow, open_bundle  # noqa: E402
from rnn_export.bundle.draft import Draft  # noqa: E402
from rnn_export.contract.target_options import TargetOptions  # noqa: E402
from rnn_export.contract.target_table import TARGETS  # noqa: E402
from rnn_export.errors import RnnExportError  # noqa: E402
from rnn_export.export import export  # noqa: E402
from rnn_export.export.add_target import add_target, can_add  # noqa: E402
from rnn_export.export.lift.options import LiftOptions  # noqa: E402
from rnn_export.export.lift.stages import lift  # noqa: E402
from rnn_export.export.targets.litert.writer import Writer as LiteRT  # noqa: E402
from rnn_export.export.targets.registry import find_writer  # noqa: E402
from rnn_export.lazy import load_module  # noqa: E402
from rnn_export.platform.threads import one_thread  # noqa: E402
from rnn_export.runtime.bench.measure import bench  # noqa: E402
from rnn_export.runtime.engine import Engine  # noqa: E402
from rnn_export.runtime.recording import read  # noqa: E402
from rnn_export.runtime.replay.checks import replay_golden  # noqa: E402
from rnn_export.runtime.replay.drift import Drift  # noqa: E402
from rnn_export.runtime.replay.golden import FILE, Golden  # noqa: E402
from tests.parity.cases import CASES, Case  # noqa: E402
from tests.zoo import store  # noqa: E402

KEPT = HERE.parent / "out" / "runtimes"
PAGE = HERE.parent / "docs" / "runtimes.md"
Figures = Iterator[tuple[str, float]]


@dataclass(frozen=True)
class Runtime:
    """A column of the table: a target, what ran its files here, and the package whose version stands in that."""

    target: str
    ran_on: str
    package: str = ""


RUNTIMES = (
    Runtime("onnx", "ONNX Runtime {}", "onnxruntime"),
    Runtime("c", "the C of this machine's compiler"),
    Runtime("torchscript", "torch {}", "torch"),
    Runtime("openvino", "OpenVINO {}", "openvino"),
    Runtime("litert", "LiteRT {}", "ai-edge-litert"),
    Runtime("executorch", "ExecuTorch {}, XNNPACK", "executorch"),
    Runtime("executorch-portable", "ExecuTorch {}, its own kernels", "executorch"),
    Runtime("coreml", "its program (of coremltools {}) executed in numpy, not run on hardware", "coremltools"),
    Runtime("wasm", "wasmtime {}", "wasmtime"),
    Runtime("tensorrt", "its graph on ONNX Runtime {}, not run on hardware", "onnxruntime"),
)
# What a step is timed on: targets that are exported together, and the backends that they run on.
TIMED = ("onnx", "c", "torchscript", "openvino", "litert", "executorch", "wasm")


# --- the cases


def measured(case: Case, target: str) -> dict[str, Any]:
    """The largest error of one case's golden vectors relative to scale, or the reason of a refusal."""
    bundle = open_bundle(store.bundle(case.name))
    try:
        draft, row = written(case, bundle, target), TARGETS[target]
        golden, worst = Golden.from_arrays(bundle.arrays(FILE), bundle.spec), 0.0
        for engine in find_writer(target).engines(draft, row, TargetOptions(opset=row.opset)):
            report = replay_golden(engine, golden)
            report.raise_for_failure("")
            worst = max([worst, *map(relative, report.drifts)])
        return {"error": worst}
    except RnnExportError as error:
        return {"refused": f"{type(error).__name__}: {error}"}


def relative(drift: Drift) -> float:
    """The relative error; for an entry tiny beside the others of its tensor, relative to theirs."""
    return min(drift.relative, drift.error / drift.scale) if drift.scale else drift.relative


def written(case: Case, bundle: Bundle, target: str) -> Bundle | Draft:
    """The target of a case: of its bundle, from the step of that, or where that does not give it, from the model."""
    if any(row.target == target for row in bundle.targets):
        return bundle
    row, options = TARGETS[target], TargetOptions(opset=TARGETS[target].opset)
    if can_add(target):
        return add_target(bundle, target, options)
    model, example, how = case.build()
    files = find_writer(target).write(lift(model, example, LiftOptions(**how)), row, options)
    return Draft(bundle.spec, files, (TargetRow(target, "fp32", None, tuple(files), {}),), bundle.initial_states())


def in_this_process(module: str, function: str, files: Mapping[str, bytes], words: Mapping[str, Any]) -> Any:
    """As `run_isolated`, in this process: the imports of a converter take longer than its work."""
    return getattr(load_module(module), function)(files, words)


def cases(target: str) -> None:
    """All cases of one runtime, kept as they come."""
    separate.run_isolated = in_this_process
    file = KEPT / f"{target}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for case in CASES:
        if case.name not in found:
            found[case.name] = measured(case, target)
            print(f"{target}, {case.name}: {found[case.name]}", file=sys.stderr, flush=True)
            file.write_text(json.dumps(found, indent=1) + "\n")


def all_cases(names: Sequence[str]) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    for target in names or [runtime.target for runtime in RUNTIMES]:
        done = subprocess.run([sys.executable, "-W", "ignore", __file__, "one", target], check=False)
        print(f"{target}: ended with {done.returncode}", file=sys.stderr)


def parity() -> Figures:
    """For `scripts/bench`: by runtime how many cases it takes, and the largest error."""
    all_cases(())
    for runtime in RUNTIMES:
        found = kept(runtime.target)
        errors = [one["error"] for one in found.values() if "error" in one]
        yield f"{runtime.target}: cases of {len(CASES)} that it takes", len(errors)
        yield f"{runtime.target}: largest relative error", max(errors, default=float("nan"))


def measured_runtimes() -> list[Runtime]:
    """Those of which all cases were tried."""
    return [runtime for runtime in RUNTIMES if len(kept(runtime.target)) == len(CASES)]


def kept(name: str) -> dict[str, Any]:
    file = KEPT / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


# --- the cost of a step


def nets() -> Iterator[tuple[str, nn.Module, tuple[torch.Tensor, ...], dict[str, Any]]]:
    """The nets that are timed."""
    for inputs, hidden in ((8, 16), (64, 128)):
        torch.manual_seed(0)
        yield f"LSTM {inputs}→{hidden}", nn.LSTM(inputs, hidden).eval(), (torch.zeros(1, 1, inputs),), {}
    yield "Silero VAD", *silero.factory()


def steps(core: int | None = None) -> dict[str, Any]:
    """The time of a step in µs, every runtime in turn on one core: median and error, by net and engine."""
    found: dict[str, Any] = {}
    for name, net, example, options in nets():
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "net.rnnx"
            bundle = export(net, example, place, **{**options, "targets": TIMED, "steps": 64})
            backends = [TARGETS[target].backend for target in TIMED]
            result = bench(place, backends, trust=True, core=core)
            found["machine"] = result["machine"]
            found[name] = {
                engine["name"]: {"us": engine["p50"], "error": engine.get("error")} for engine in result["engines"]
            }
            if "wasm" in TIMED:
                found[name]["wasm in Node"] = {"us": node_step(bundle)}
            print(name, found[name], file=sys.stderr, flush=True)
    return found


def node_step(bundle: Bundle) -> float:
    """In Node, called from JavaScript: the fastest of many short rounds."""
    import web_figures

    from tests.web.node import node

    frame = np.random.default_rng(0).standard_normal(bundle.spec.inputs[0].frame).astype(np.float32) / 10
    opened = "const model = await load(), { frame, count } = given;"
    given = {"frame": frame.reshape(-1).tolist(), "count": 50}
    return float(node(bundle.path / "targets" / "wasm-fp32", opened + web_figures.TIMED, given))


def cost() -> Figures:
    """For `scripts/bench`."""
    for name, engines in steps().items():
        if name != "machine":
            for engine, result in engines.items():
                yield f"{name}: {engine}, step, µs", result["us"]


# --- LiteRT in int8

AT = (1, 10, 100, 1000)


def int8() -> dict[str, Any]:
    """By net and by how values are scaled: bytes of the file, and the largest error relative to scale up to a step.

    On noise like that of the calibration, or on the recording; what is over the tolerance is told.
    """
    separate.run_isolated = in_this_process
    found: dict[str, Any] = {}
    for name, net, example, options in nets():
        with tempfile.TemporaryDirectory() as folder:
            heard = SPEECH if name == "Silero VAD" else noise(example[0].shape[-1], 2 * AT[-1])
            bundle = export(net, example, Path(folder) / "net.rnnx", **{**options, "data": heard, "steps": AT[-1]})
            golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
            recording = read(heard, bundle.spec)
            for title, order in (
                ("fp32", TargetOptions()),
                ("int8, scales at run time", TargetOptions("int8")),
                ("int8, calibrated", TargetOptions("int8", calibration=recording)),
            ):
                draft = litert_draft(bundle, order)
                report = replay_golden(Engine.of(draft, "litert", order.precision), golden)
                curves = [d.curve for d in report.drifts if d.check == "step" and d.kind == "recording"]
                errors = {at: max((e for curve in curves for n, e in curve if n <= at), default=0.0) for at in AT}
                size = sum(map(len, draft.files.values()))
                found[f"{name}, {title}"] = {"bytes": size, "errors": errors, "ok": report.ok}
                print(f"{name}, {title}", found[f"{name}, {title}"], file=sys.stderr, flush=True)
    return found


def noise(width: int, frames: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((frames, width)).astype(np.float32)


def litert_draft(bundle: Bundle, order: TargetOptions) -> Draft:
    """As `add_target` writes it, also where it is not near enough to the model."""
    row, initial = TARGETS["litert"], bundle.initial_states()
    files = LiteRT().from_step(bundle.read("step.onnx"), bundle.spec, initial, row, order)
    return Draft(bundle.spec, files, (TargetRow("litert", order.precision, None, tuple(files), {}),), initial, bundle)


# --- the page


def page() -> None:
    """`docs/runtimes.md`: what was kept, between the lines that the page has for it."""
    text = PAGE.read_text()
    for name, lines in (
        ("summary", summary()),
        ("steps", step_table()),
        ("int8", int8_table()),
        ("cases", case_table()),
    ):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, rest = text.split(begin)
        text = before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1]
    PAGE.write_text(text)


def summary() -> Iterator[str]:
    yield "| target | run by | cases taken | largest error, relative | refused |"
    yield "|---|---|---|---|---|"
    for runtime in measured_runtimes():
        found = kept(runtime.target)
        errors = [one["error"] for one in found.values() if "error" in one]
        refused = [name for name, one in found.items() if "refused" in one]
        ran_on = runtime.ran_on.format(_version(runtime.package) if runtime.package else "")
        reasons = f"{len(refused)}: {', '.join(f'`{name}`' for name in refused)}" if refused else ""
        worst = f"{max(errors):.1e}" if errors else ""
        taken = f"{len(errors)} of {len(CASES)}"
        yield f"| `{runtime.target}` | {ran_on} | {taken} | {worst} | {reasons} |"


def step_table() -> Iterator[str]:
    found = kept("steps")
    yield "| µs a step (against `native`) | " + " | ".join(name for name in found if name != "machine") + " |"
    yield "|---|" + "---|" * (len(found) - 1)
    engines = next(result for name, result in found.items() if name != "machine")
    for engine in engines:
        cells = [_cell(result, engine) for name, result in found.items() if name != "machine"]
        yield f"| {engine} | " + " | ".join(cells) + " |"


def int8_table() -> Iterator[str]:
    found = kept("int8")
    yield "| | bytes | " + " | ".join(f"error to step {at}" for at in AT) + " | |"
    yield "|---|---|" + "---|" * (len(AT) + 1)
    for name, result in found.items():
        errors = " | ".join(f"{error:.0e}" for error in result["errors"].values())
        yield f"| {name} | {result['bytes']:,} | {errors} | {'' if result['ok'] else 'refused: over the tolerance'} |"


def _cell(result: Mapping[str, Any], engine: str) -> str:
    native = next(one["us"] for name, one in result.items() if name.startswith("native"))
    return f"{result[engine]['us']:.3g} ({result[engine]['us'] / native:.1f}x)" if engine in result else ""


def case_table() -> Iterator[str]:
    """Errors by case and runtime; the reasons of what is refused stand below it."""
    found = {runtime.target: kept(runtime.target) for runtime in measured_runtimes()}
    yield "| case | " + " | ".join(f"`{target}`" for target in found) + " |"
    yield "|---|" + "---|" * len(found)
    reasons: dict[str, int] = {}
    for case in CASES:
        cells = []
        for result in found.values():
            one = result[case.name]
            reason = one.get("refused")
            number = reasons.setdefault(reason, len(reasons) + 1) if reason else 0
            cells.append(f"refused ({number})" if number else f"{one['error']:.0e}")
        yield f"| {case.name} | " + " | ".join(cells) + " |"
    if reasons:
        yield ""
    for reason, number in reasons.items():
        yield f"{number}. {' '.join(reason.split())[:400]}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@one_thread
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cases", "one", "step", "int8", "page"))
    parser.add_argument("runtimes", nargs="*", metavar="RUNTIME")
    parser.add_argument("--core", type=int)
    given = parser.parse_args()
    if unknown := {*given.runtimes} - {runtime.target for runtime in RUNTIMES}:
        parser.error(f"there is no runtime {', '.join(unknown)}")
    if given.what == "cases":
        all_cases(given.runtimes)
    elif given.what == "one":
        cases(*given.runtimes)
    elif given.what in ("step", "int8"):
        KEPT.mkdir(parents=True, exist_ok=True)
        name, found = ("steps", steps(given.core)) if given.what == "step" else ("int8", int8())
        (KEPT / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    else:
        page()


if __name__ == "__main__":
    main()
