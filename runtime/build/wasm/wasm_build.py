"""The package of the target `wasm`: built from the C of a bundle, proved, and recorded in the bundle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rnn_export.bundle import Bundle, TargetRow, extend_bundle
from rnn_export.bundle.code import code_of
from rnn_export.bundle.draft import Draft
from rnn_export.errors import BuildError
from rnn_export.lazy import load_module
from rnn_export.platform.trusted_code import Trust
from rnn_export.runtime.backends.wasm.modules import SCALAR, SIMD
from rnn_export.runtime.build.c_names import c_name
from rnn_export.runtime.build.origin import find_origin, find_row, on_disk, record_built, with_report
from rnn_export.runtime.build.wasm.wasm_modules import find_zig
from rnn_export.runtime.build.wasm.web_package import GOLDEN, golden_json, package
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.golden import FILE, Golden

TARGET = "wasm"


@dataclass(frozen=True)
class BuiltWasm:
    """The result of `build_wasm`: `bundle` and `row` as they are now, and the `files` of the package by path there.

    `report` is of the golden vectors on the module with vectors; the other one passed as well.
    """

    bundle: Bundle
    row: TargetRow
    files: Mapping[str, bytes]
    report: ParityReport
    notes: Sequence[str] = ()


def engines(artefacts: Artefacts, precision: str) -> list[Engine]:
    """One on each module, since a browser chooses; raises BackendUnavailable where wasmtime is not here."""
    # wasmtime is imported when it is used.
    backend = load_module("rnn_export.runtime.backends.wasm.backend")
    return [Engine(artefacts, TARGET, backend.open_module(artefacts, file, precision)) for file in (SIMD, SCALAR)]


def build_wasm(
    bundle: Bundle | Draft,
    precision: str | None = None,
    rebuild: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
    trust: bool | Trust = False,
) -> BuiltWasm:
    """Compile the C of `bundle` to WebAssembly, prove the build, and write it into the bundle, all at once.

    Args:
        bundle: one that has C sources, of the target `c`; or the draft of a package that was written from a step.
        precision: None takes the one that there is.
        rebuild: replace the build that is there.
        progress: called with the name of each stage.
        trust: True compiles and runs the sources of the bundle unchecked, and the build is trusted as they are.

    Raises BuildError, BackendUnavailable, BundleError or ParityError, and leaves the bundle as it was.
    """
    before = on_disk(bundle)
    if isinstance(bundle, Bundle):
        refuse_rebuild(bundle, precision, rebuild)
    find_zig()
    progress("compile")
    draft = bundle if isinstance(bundle, Draft) else package_from_c(bundle, precision, trust)
    (row,), golden = draft.targets, Golden.from_arrays(before.arrays(FILE), before.spec)
    reports = [replay_golden(engine, golden, progress) for engine in engines(draft, row.precision)]
    for report in reports:
        report.raise_for_failure("The bundle is as it was.")
    if not isinstance(bundle, Draft):
        files = {f"{folder(TARGET, row.precision)}/{GOLDEN}": golden_json(before.spec, golden, row.precision)}
        draft = draft.with_files(TARGET, row.precision, files)
    draft = with_report(draft, reports[0])
    (row,) = draft.targets
    progress("write")
    notes = [*draft.notes, *record_built(before, code_of(draft))]
    return BuiltWasm(extend_bundle(before, row, draft.files), row, draft.files, reports[0], notes)


def refuse_rebuild(bundle: Bundle, precision: str | None, rebuild: bool) -> None:
    """Raise BuildError where the package is there already."""
    row = find_row(bundle, TARGET, precision)
    if row is not None and not rebuild:
        raise BuildError(
            f"{bundle.path} has wasm ({row.precision}): give --rebuild to build it again.", id="wasm-needs-rebuild"
        )


def has_sources(bundle: Bundle, precision: str | None, trust: bool | Trust = False) -> bool:
    """True if there are C sources to build from, that may be compiled."""
    origin = find_origin(bundle, "c", precision, trust)
    return origin is not None and not origin.judgement.has_untrusted_sources(origin.row)


def package_from_c(bundle: Bundle, precision: str | None = None, trust: bool | Trust = False) -> Draft:
    """The package without golden vectors, to be added to `bundle`, of its C; raises as `build_wasm`."""
    origin = find_origin(bundle, "c", precision, trust)
    if origin is None:
        what = f" in {precision}" if precision else ""
        raise BuildError(
            f"{bundle.path} has no C sources{what} to compile: write them where torch is, rnn-export build "
            f"{bundle.path} --target wasm, or rnn-export export SOURCE --target wasm.",
            id="wasm-without-sources",
        )
    if origin.judgement.has_untrusted_sources(origin.row):
        raise BuildError(
            f"{bundle.path} has sources of c ({origin.row.precision}), and sources are code: the code "
            f"{origin.judgement.why}. Trust the key of who signed them, `rnn-export trust KEY.pub`; --trust "
            "(trust=True) compiles them unchecked.",
            id="wasm-sources-untrusted",
        )
    name, precision = c_name(origin.row), origin.row.precision
    files = package(origin.c_sources, name, bundle.spec, precision)
    written = {f"{folder(TARGET, precision)}/{file}": data for file, data in files.items()}
    row = TargetRow(TARGET, precision, None, tuple(written), {"name": name})
    return origin.draft(row, written)
