"""The C of a bundle compiled for a machine, this one or another, tried there, and recorded in the bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rnn_export.bundle import Bundle, TargetRow, extend_bundle, open_bundle
from rnn_export.bundle.draft import Added, Draft
from rnn_export.errors import BuildError
from rnn_export.runtime.backends.api import folder
from rnn_export.runtime.backends.native.cpu import host_triple
from rnn_export.runtime.backends.native.record import Record, sources_sha256
from rnn_export.runtime.build.native.compile import compile_native
from rnn_export.runtime.build.native.compiler import find_compiler
from rnn_export.runtime.build.native.cross import cross_build
from rnn_export.runtime.build.native.machines import find_machine
from rnn_export.runtime.build.native.selftest import SelfTest
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.golden import FILE as GOLDEN
from rnn_export.runtime.replay.golden import Golden

TARGET = "c"


@dataclass(frozen=True)
class BuiltC:
    """What `build_c` did.

    Attributes:
        bundle: as it is now.
        row: of the target.
        triple: the machine.
        files: what was compiled, by path in the bundle.
        record: how it was compiled.
        report: of the golden vectors on the backend `native`; None where it is for another machine.
        selftest: what the self-test said there; None where it is for this machine.
        notes: of the sources, where they are new.
    """

    bundle: Bundle
    row: TargetRow
    triple: str
    files: Mapping[str, bytes]
    record: Record
    report: ParityReport | None
    selftest: SelfTest | None
    notes: Sequence[str] = ()


def build_c(
    path: str | os.PathLike[str],
    precision: str | None = None,
    *,
    triple: str | None = None,
    cpu: str | None = None,
    rebuild: bool = False,
    rewrite: bool = False,
    add: Callable[[Bundle], Added] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> BuiltC:
    """Compile the sources of the target `c` in the bundle `path`, prove what comes out, and write it into the bundle.

    Args:
        path: the directory NAME.rnnx.
        precision: None takes the one that the bundle has.
        triple: the machine: None is this one, else a row of `machines.MACHINES`.
        cpu: what its compiler calls the CPU; None is this very CPU here, and elsewhere the least that the triple means.
        rebuild: compile what is there for the machine already again.
        rewrite: with `rebuild`, also write the sources that are there again, and drop what was compiled of them.
        add: makes the sources where the bundle has none.
        progress: called with the name of each stage.

    Raises BuildError, BackendUnavailable, BundleError, ExportError or ParityError, and leaves the bundle as it was.
    """
    bundle = open_bundle(path)
    row = _row(bundle, precision, add is not None)
    here = triple is None or (triple == host_triple() and cpu is None)
    machine = host_triple() if here else find_machine(str(triple), cpu).triple
    if here:
        find_compiler()
    if rewrite and row is not None:
        _check_rewrite(bundle, row, rebuild, add is not None)
        row = None
    notes: Sequence[str] = ()
    new = row is None
    held: Mapping[str, bytes]
    if row is None:
        assert add is not None
        row, held, notes = add(bundle)
    else:
        held = {name: bundle.read(name) for name in row.files}
    place, name = folder(TARGET, row.precision), str(row.requires["name"])
    sources = {n.rpartition("/")[2]: data for n, data in held.items() if not n.startswith(f"{place}/build/")}
    there = {n.removeprefix(f"{place}/"): data for n, data in held.items() if n.startswith(f"{place}/build/{machine}/")}
    if there and not new and not rebuild:
        raise BuildError(f"{path} has c ({row.precision}) compiled for {machine}: give --rebuild to compile it again.")
    progress("compile")
    selftest, report = None, None
    made: Mapping[str, bytes]
    if here and new and there and cpu is None:
        made = there
    elif here:
        made = compile_native(sources, name, bundle.spec, march=cpu or "native")
    else:
        done = cross_build(sources, name, bundle.spec, str(triple), cpu)
        made, selftest = done.files, done.selftest
    compiled = {f"{place}/{n}": data for n, data in made.items()}
    others = {n: data for n, data in held.items() if not n.startswith(f"{place}/build/{machine}/")}
    row = replace(row, files=(*others, *compiled))
    if here:
        engine = Engine.of(
            Draft(bundle.spec, {**others, **compiled}, (row,), bundle.initial_states()), "native", row.precision
        )
        report = replay_golden(engine, Golden.from_arrays(bundle.arrays(GOLDEN), bundle.spec), progress)
        report.raise_for_failure("The bundle is as it was.")
        compiled[f"{place}/build/{machine}/parity.json"] = (json.dumps(report.to_json(), indent=1) + "\n").encode()
        row = replace(row, files=(*others, *compiled))
    progress("write")
    build = f"{place}/build/{machine}/build.json"
    record = Record.from_file(build, compiled[build])
    digest = sources_sha256(sources)

    def of_others(now: Bundle, name: str) -> bool:
        """Whether a file was compiled meanwhile for another machine, from these very sources."""
        since = {n: now.read(n) for n in now.files if n.startswith(f"{place}/") and "/build/" not in n}
        mine = name.startswith(f"{place}/build/{machine}/") or not name.startswith(f"{place}/build/")
        return not mine and sources_sha256(since) == digest

    written = extend_bundle(bundle, row, {**others, **compiled}, of_others)
    return BuiltC(written, row, machine, compiled, record, report, selftest, notes)


def _row(bundle: Bundle, precision: str | None, may_add: bool) -> TargetRow | None:
    """The row of the sources; None where they are to be written."""
    rows = [row for row in bundle.targets if row.target == TARGET and precision in (None, row.precision)]
    if len(rows) > 1:
        raise BuildError(
            f"{bundle.path} has 'c' in {', '.join(row.precision for row in rows)}: say which, --precision P."
        )
    if not rows and not may_add:
        wanted = f" --precision {precision}" if precision else ""
        raise BuildError(
            f"{bundle.path} has no C sources{f' in {precision}' if precision else ''}: write them where torch is, "
            f"rnn-export export SOURCE --target c{wanted}."
        )
    return rows[0] if rows else None


def _check_rewrite(bundle: Bundle, row: TargetRow, rebuild: bool, may_add: bool) -> None:
    if not may_add:
        raise BuildError(
            f"{bundle.path} has c ({row.precision}), and its sources are written again only where the export extra is: "
            "pip install 'rnn-export[export,cpu]'."
        )
    if not rebuild:
        raise BuildError(
            f"{bundle.path} has c ({row.precision}): give --rebuild to write it again; what is compiled for other "
            "machines is dropped then."
        )
