"""The time of a step by operator, from the clock in the C of a step or from ONNX Runtime's own profile."""

import ctypes
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rnn_export.bundle import Bundle, open_bundle
from rnn_export.errors import BackendUnavailable, BuildError, StreamError
from rnn_export.onnx.onnx_file import Node, read_model
from rnn_export.platform.threads import no_collections
from rnn_export.runtime.bench.candidates import Candidate, candidates, runner_of
from rnn_export.runtime.bench.this_machine import describe, pinned
from rnn_export.runtime.bench.timing import pilot
from rnn_export.runtime.build.c_names import c_name
from rnn_export.runtime.build.native.compilation import compile_native
from rnn_export.runtime.build.native.native_build import refuse_untrusted_sources
from rnn_export.runtime.build.origin import find_origin
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.gate import behind_gate
from rnn_export.runtime.registry import open_session
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.golden import FILE, Golden

PROFILED = ("native", "onnxruntime")
SECONDS = 2.0
# What ONNX Runtime keeps of a profile is a million events.
EVENTS = 500_000
_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class Operator:
    """An operator over a profile: its layer (path of a module, or its output), its type, its runs, µs in all."""

    layer: str
    type: str
    calls: int
    us: float


@dataclass(frozen=True)
class Profiled:
    """An engine whose operators are timed: `read` gives them for a number of last steps, at most `most`."""

    engine: Engine
    read: Callable[[int], list[Operator]]
    start: Callable[[], None] = lambda: None
    most: int = 10**9


def profile(
    path: str | os.PathLike[str],
    backends: Sequence[str] = (),
    steps: int | None = None,
    seconds: float = SECONDS,
    core: int | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    trust: bool = False,
) -> dict[str, Any]:
    """The time of each operator of a step, on one core, in µs, for each of `PROFILED` that the bundle has.

    The arguments are those of `bench`. Raises BackendUnavailable without a profile, StreamError without a step.
    """
    bundle = open_bundle(path)
    if bundle.spec.sequence_only:
        raise StreamError(
            f"{path} takes whole sequences only: it has no step that could be timed.", id="no-step-to-time"
        )
    if others := [name for name in backends if name not in PROFILED]:
        raise BackendUnavailable(
            f"{', '.join(others)} does not tell operators apart: profile {' or '.join(PROFILED)}.",
            id="profile-backend-unable",
        )
    found, skipped = [], []
    with pinned(core) as chosen, no_collections():
        for candidate in candidates(bundle, backends or PROFILED):
            progress(candidate.backend)
            try:
                found.append(_profile(bundle, candidate, steps, seconds, trust))
            except (BackendUnavailable, BuildError) as error:
                skipped.append({"backend": candidate.backend, "precision": candidate.precision, "reason": str(error)})
        machine = describe(chosen)
    if not found:
        reasons = "".join(f"\n  {s['backend']}: {s['reason']}" for s in skipped)
        raise BackendUnavailable(f"nothing of {bundle.path} can be profiled here.{reasons}", id="profile-nothing-found")
    shown = {"bundle": str(path), "frames_a_step": bundle.spec.chunk, "machine": machine}
    return {**shown, "profiles": found, "skipped": skipped}


def _profile(bundle: Bundle, candidate: Candidate, steps: int | None, seconds: float, trust: bool) -> dict[str, Any]:
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    with _OPEN[candidate.backend](bundle, candidate, golden, trust) as profiled:
        subject = runner_of(profiled.engine, candidate, golden, 0.0).subject
        count = steps or max(1, int(seconds * 1e9 / pilot(subject)))
        count = min(count, profiled.most)
        subject.warm()
        profiled.start()
        subject.run(count)
        operators = profiled.read(count)
    clock = sum(o.us for o in operators if o.type == "clock") / count
    rows = [_row(o, count, clock) for o in operators if o.type != "clock"]
    total = sum(row["us"] for row in rows)
    for row in rows:
        row["share"] = row["us"] / total if total else 0.0
    shown = {"name": candidate.name, "backend": candidate.backend, "precision": candidate.precision, "steps": count}
    return {**shown, "us": total, "clock": clock if candidate.backend == "native" else None, "operators": rows}


def _row(operator: Operator, steps: int, clock: float) -> dict[str, Any]:
    """The row of one step, less the time of reading the clock."""
    calls = operator.calls / steps
    us = max(0.0, operator.us / steps - calls * clock)
    return {"layer": operator.layer, "type": operator.type, "calls": calls, "us": us}


@contextmanager
def _native(bundle: Bundle, candidate: Candidate, golden: Golden, trust: bool) -> Iterator[Profiled]:
    """Its sources compiled once more, with their clock, and held to the golden vectors like any other build."""
    origin = find_origin(bundle, "c", candidate.precision, trust)
    if origin is None:
        raise BackendUnavailable(
            "the bundle has no C sources: rnn-export build NAME.rnnx --target c writes them.",
            id="profile-without-sources",
        )
    refuse_untrusted_sources(origin)
    sources, name = origin.c_sources, c_name(origin.row)
    if b"RNN_PROFILE" not in sources.get(f"{name}.h", b""):
        raise BackendUnavailable(
            "its C sources were written before they had a profile: export the bundle again.", id="profile-old-sources"
        )
    made = compile_native(sources, name, bundle.spec, extension=False, profile=True)
    place = f"targets/c-{origin.row.precision}"
    files = {f"{place}/{path}": data for path, data in (*sources.items(), *made.items())}
    draft = origin.draft(replace(origin.row, files=tuple(files)), files)
    session: Any = open_session("native", draft, origin.row.precision, None, 1)
    engine, call = Engine(draft, "native", session), session.compiled.call
    replay_golden(engine, golden).raise_for_failure("It was not profiled.")
    counted = _Counters(call)
    yield Profiled(engine, counted.read, counted.start)


class _Counters:
    """The table of operators in a library that was compiled with RNN_PROFILE: nanoseconds since it was loaded."""

    def __init__(self, call: Any) -> None:
        self.call, self.before = call, [(0, 0)]
        for name, kind in (("layer", ctypes.c_char_p), ("type", ctypes.c_char_p)):
            getattr(call, f"rnn_operator_{name}").restype = kind
        for name in ("calls", "ticks"):
            getattr(call, f"rnn_operator_{name}").restype = ctypes.c_uint64
        self.count = int(call.rnn_operators())

    def now(self) -> list[tuple[int, int]]:
        return [(self.call.rnn_operator_calls(i), self.call.rnn_operator_ticks(i)) for i in range(self.count)]

    def start(self) -> None:
        self.before = self.now()

    def read(self, steps: int) -> list[Operator]:
        def text(what: str, i: int) -> str:
            return str(getattr(self.call, f"rnn_operator_{what}")(i).decode())

        spans = zip(self.before, self.now(), strict=True)
        taken = [(calls - c, (ticks - t) / 1e3) for (c, t), (calls, ticks) in spans]
        return [Operator(text("layer", i), text("type", i), calls, us) for i, (calls, us) in enumerate(taken)]


@contextmanager
def _onnxruntime(bundle: Bundle, candidate: Candidate, golden: Golden, trust: bool) -> Iterator[Profiled]:
    """A session of the step that keeps ONNX Runtime's own profile."""
    from rnn_export.runtime.backends.onnxruntime.backend import graph_session, inspected

    step = inspected(behind_gate(bundle, trust), candidate.precision)["step.onnx"]
    nodes = {node.name: node for node in read_model(step).nodes}
    with tempfile.TemporaryDirectory(prefix="rnn-export-") as folder:
        session = graph_session(bundle.spec, {"step.onnx": step}, profile=str(Path(folder, "profile")))

        def read(steps: int) -> list[Operator]:
            return _events(Path(session.graphs.step.end_profiling()), nodes, steps)

        yield Profiled(Engine(bundle, "onnxruntime", session), read, most=EVENTS // max(1, 3 * len(nodes)))


def _events(path: Path, nodes: dict[str, Node], steps: int) -> list[Operator]:
    """The last `steps` runs of each node, in the order of a step; ONNX Runtime counts whole microseconds."""
    durations: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            durations[event["name"].removesuffix(_KERNEL), event["args"]["op_name"]].append(event["dur"])
    return [
        Operator(_layer(name, nodes), kind, min(len(taken), steps), float(sum(taken[-steps:])))
        for (name, kind), taken in durations.items()
    ]


def _layer(name: str, nodes: dict[str, Node]) -> str:
    """The layer of ONNX Runtime's node `name`, which begins with its origin's name."""
    origin = max((known for known in nodes if known and name.startswith(known)), key=len, default="")
    node = nodes.get(origin)
    return name if node is None else node.module or node.outputs[0]


_OPEN: dict[str, Callable[[Bundle, Candidate, Golden, bool], Any]] = {"native": _native, "onnxruntime": _onnxruntime}
