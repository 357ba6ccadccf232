"""The C of a bundle compiled for a machine, this one or another, tried there, and recorded in the bundle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rnn_export.bundle import Bundle, TargetRow, extend_bundle
from rnn_export.bundle.code import code_of
from rnn_export.bundle.draft import Draft
from rnn_export.errors import BuildError
from rnn_export.platform.installing import pip_install
from rnn_export.platform.trusted_code import Trust
from rnn_export.runtime.backends.native.backend import RECORD
from rnn_export.runtime.backends.native.cpu import host_triple
from rnn_export.runtime.backends.native.record import Record, sources_sha256
from rnn_export.runtime.build.c_names import c_name
from rnn_export.runtime.build.native.compilation import compile_native
from rnn_export.runtime.build.native.compilers import find_compiler
from rnn_export.runtime.build.native.cross import cross_build
from rnn_export.runtime.build.native.machines import find_machine
from rnn_export.runtime.build.native.selftest import SelfTest
from rnn_export.runtime.build.origin import Origin, find_origin, on_disk, prove, record_built
from rnn_export.runtime.protocols import folder
from rnn_export.runtime.replay.drift import ParityReport

TARGET = "c"


@dataclass(frozen=True)
class Destination:
    """The machine that C is compiled for: this one (None), or a row of `machines.MACHINES`.

    `cpu` is the compiler's name of the CPU; None is this very one here, and elsewhere the least of the triple.
    """

    triple: str | None = None
    cpu: str | None = None

    @property
    def here(self) -> bool:
        """True if code compiled for it is run in this process."""
        return self.triple is None or (self.triple == host_triple() and self.cpu is None)

    def find(self) -> str:
        """Its name, its folder in `build/` too; raises BuildError where it is unknown, BackendUnavailable."""
        if not self.here:
            return find_machine(str(self.triple), self.cpu).triple
        find_compiler()
        return host_triple()


@dataclass(frozen=True)
class CPlan:
    """The sources to compile, the machine and the `way`: "reuse" takes a build made here from these very sources."""

    origin: Origin
    destination: Destination
    machine: str
    way: Literal["reuse", "compile", "cross"]

    @property
    def name(self) -> str:
        return c_name(self.origin.row)

    @property
    def folder(self) -> str:
        return folder(TARGET, self.origin.row.precision)

    @property
    def build(self) -> str:
        return f"{self.folder}/build/{self.machine}"

    @property
    def sources(self) -> dict[str, bytes]:
        """The C sources and what belongs to them, by path in the target's folder."""
        return self.origin.c_sources

    @property
    def there(self) -> dict[str, bytes]:
        """Files compiled for the machine already, by path in the bundle."""
        return {path: data for path, data in self.origin.files.items() if path.startswith(f"{self.build}/")}

    def is_of_others(self, bundle: Bundle, path: str) -> bool:
        """True if `path` of the bundle, as it is now, was compiled for another machine from these very sources."""
        if path.startswith(f"{self.build}/") or not path.startswith(f"{self.folder}/build/"):
            return False
        now = {p: bundle.read(p) for p in bundle.files if p.startswith(f"{self.folder}/") and "/build/" not in p}
        return sources_sha256(now) == sources_sha256(self.sources)


@dataclass(frozen=True)
class BuiltC:
    """The result of `build_c`: `bundle` and `row` as they are now, and the `files` that were compiled, by path there.

    `report` is of the golden vectors on the backend `native`, None where it is for another machine; `selftest` is the
    self-test there, else None. The `notes` are of the sources, where they are new, and of trust.
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
    bundle: Bundle | Draft,
    precision: str | None = None,
    destination: Destination = Destination(),
    rebuild: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
    trust: bool | Trust = False,
) -> BuiltC:
    """Compile the sources of the target `c`, prove the build, and write it into the bundle, all at once.

    Args:
        bundle: one that has C sources, or the draft of some, which are written with their builds in place of those that
            are there and of their builds.
        precision: None takes the one that there is.
        destination: the machine.
        rebuild: replace a build that is there for the machine.
        progress: called with the name of each stage.
        trust: True compiles and runs the sources of the bundle unchecked, and the build is trusted as they are.

    Raises BuildError, BackendUnavailable, BundleError, ExportError or ParityError, and leaves the bundle as it was.
    """
    plan = plan_c(bundle, precision, destination, rebuild, trust)
    progress("compile")
    compiled, selftest = _compile(plan)
    others = {path: data for path, data in plan.origin.files.items() if path not in plan.there}
    files, report = {**others, **compiled}, None
    draft = plan.origin.draft(replace(plan.origin.row, files=tuple(files)), files)
    if destination.here:
        draft, report = prove(draft, "native", plan.build, progress)
    progress("write")
    (row,), path = draft.targets, f"{plan.build}/{RECORD}"
    used = [code for code in code_of(draft) if code.machine in (None, plan.machine)]
    notes = [*plan.origin.notes, *record_built(plan.origin.bundle, used)]
    written = extend_bundle(plan.origin.bundle, row, draft.files, plan.is_of_others)
    made = {path: data for path, data in draft.files.items() if path not in others}
    record = Record.from_file(path, made[path])
    return BuiltC(written, row, plan.machine, made, record, report, selftest, notes)


def plan_c(
    bundle: Bundle | Draft,
    precision: str | None,
    destination: Destination,
    rebuild: bool,
    trust: bool | Trust = False,
) -> CPlan:
    """Plan the sources to compile and the way; raises as `build_c` does before it compiles."""
    origin = find_origin(bundle, TARGET, precision, trust)
    if origin is None:
        what, wanted = (f" in {precision}", f" --precision {precision}") if precision else ("", "")
        fix = f"write them where torch is, rnn-export export SOURCE --target c{wanted}"
        raise BuildError(f"{on_disk(bundle).path} has no C sources{what}: {fix}.", id="build-without-sources")
    machine = destination.find()
    plan = CPlan(origin, destination, machine, "compile" if destination.here else "cross")
    if plan.there and not origin.new and not rebuild:
        fix = "give --rebuild to compile it again"
        fix += "" if origin.row.precision == "fp32" else ", or --precision fp32 for that"
        raise BuildError(
            f"{origin.bundle.path} has c ({origin.row.precision}) compiled for {machine}: {fix}.",
            id="build-already-compiled",
        )
    refuse_untrusted_sources(origin)
    reuse = plan.there and origin.new and plan.way == "compile" and destination.cpu is None
    return replace(plan, way="reuse") if reuse else plan


def refuse_untrusted_sources(origin: Origin) -> None:
    """Raise BuildError where sources of the bundle are not trusted: a build is run, here or elsewhere."""
    if origin.judgement.has_untrusted_sources(origin.row):
        anew = "The bundle has no step.onnx to write them anew from: export it again"
        if "step.onnx" in origin.bundle.files:
            extra = pip_install("export,cpu")
            anew = f"`rnn-export build` writes them anew from step.onnx where the export extra is, {extra}"
        raise BuildError(
            f"{origin.bundle.path} has sources of c ({origin.row.precision}), and sources are code: the code "
            f"{origin.judgement.why}. {anew}; or trust the key of who signed them, `rnn-export trust KEY.pub`; "
            "--trust (trust=True) compiles them unchecked.",
            id="build-sources-untrusted",
        )


def _compile(plan: CPlan) -> tuple[dict[str, bytes], SelfTest | None]:
    """The compiled files by path in the bundle; and for another machine the self-test."""
    spec, selftest = plan.origin.bundle.spec, None
    made: Mapping[str, bytes]
    if plan.way == "reuse":
        return plan.there, None
    if plan.way == "compile":
        made = compile_native(plan.sources, plan.name, spec, march=plan.destination.cpu or "native")
    else:
        done = cross_build(plan.sources, plan.name, spec, str(plan.destination.triple), plan.destination.cpu)
        made, selftest = done.files, done.selftest
    return {f"{plan.folder}/{path}": data for path, data in made.items()}, selftest
