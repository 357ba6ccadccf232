"""A bundle built for a target: the graph or the sources that it lacks are written first, where the onnx extra is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.bundle.code import code_of
from rnn_export.bundle.draft import Draft
from rnn_export.bundle.judgement import judge
from rnn_export.bundle.writing import extend_bundle
from rnn_export.cli.main import ONNX_PACKAGES
from rnn_export.contract.target_options import TargetOptions, check_batch
from rnn_export.contract.target_table import find_target
from rnn_export.errors import BuildError
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.build.c_names import c_name, source_name
from rnn_export.runtime.build.native.native_build import BuiltC, Destination, build_c
from rnn_export.runtime.build.origin import find_row, record_built, with_report
from rnn_export.runtime.build.tensorrt.builder import engine_target, find_builder
from rnn_export.runtime.build.tensorrt.engine_build import BuildOptions, BuiltEngine, build_engine
from rnn_export.runtime.build.wasm.wasm_build import BuiltWasm, build_wasm, has_sources, refuse_rebuild
from rnn_export.runtime.build.wasm.wasm_modules import find_zig
from rnn_export.runtime.recording import Source, read
from rnn_export.runtime.replay.drift import ParityReport

Stage = Callable[[str], None]
STEP = "step.onnx"

ANEW = (
    "the C of the bundle was made and signed by nobody who is trusted here: it was left aside, and written anew from "
    "step.onnx; what was compiled of other sources is dropped"
)


def build_c_target(
    bundle: Bundle,
    precision: str | None,
    destination: Destination,
    calibrate: Source | None,
    rebuild: bool,
    stage: Stage,
    trust: bool = False,
) -> BuiltC:
    """Compile C, with the sources written first where there are none that are trusted, or they are calibrated again."""
    row = find_row(bundle, "c", precision)
    origin: Bundle | Draft = bundle
    untrusted = row is not None and judge(bundle, trust).has_untrusted_sources(row) and STEP in bundle.files
    if row is not None and calibrate is not None:
        destination.find()
        _check_rewrite(bundle, row, rebuild)
    if (row is None or calibrate is not None or untrusted) and _can_write():
        # What is missing is said before anything that takes long.
        destination.find()
        if untrusted and row is not None:
            _refuse_lost_scales(bundle, row, calibrate)
        precision = row.precision if row else precision
        origin = _added(bundle, "c", precision, BuildOptions(), calibrate, stage)
        if untrusted and calibrate is None:
            origin = replace(origin, notes=[*origin.notes, ANEW])
    return build_c(origin, precision, destination, rebuild, stage, trust)


def build_wasm_target(
    bundle: Bundle, precision: str | None, calibrate: Source | None, rebuild: bool, stage: Stage, trust: bool = False
) -> BuiltWasm:
    """Compile C to WebAssembly: that of the bundle where it is trusted, else written from the step."""
    refuse_rebuild(bundle, precision, rebuild)
    find_zig()
    origin: Bundle | Draft = bundle
    if (calibrate is not None or not has_sources(bundle, precision, trust)) and _can_write():
        origin = _added(bundle, "wasm", precision, BuildOptions(), calibrate, stage)
    return build_wasm(origin, precision, rebuild, stage, trust)


def build_engine_target(
    bundle: Bundle, target: str, precision: str | None, options: BuildOptions, stage: Stage, trust: bool = False
) -> BuiltEngine:
    """Build an engine, with the graph written first where there is none."""
    found = engine_target(target, precision)
    origin: Bundle | Draft = bundle
    if find_row(bundle, target, precision) is None and _can_write():
        # What is missing is said before anything that takes long.
        find_builder(found, options.compute)
        origin = _added(bundle, target, precision, options, None, stage)
    return build_engine(origin, target, precision, options, stage, trust)


@dataclass(frozen=True)
class WrittenTarget:
    """A target that was complete as it was written from step.onnx: `row` of it, and how it did here."""

    row: TargetRow
    bytes: int
    report: ParityReport
    notes: Sequence[str]


def write_target(
    bundle: Bundle, target: str, precision: str | None, calibrate: Source | None, rebuild: bool, stage: Stage
) -> WrittenTarget:
    """Write a target without a build: files that a runtime of its own reads."""
    found, row = find_target(target, precision or "fp32", None), find_row(bundle, target, precision)
    if found.from_torch:
        raise BuildError(
            f"target {target!r} {found.from_torch}: export the module with --target {target}.",
            id="build-target-from-torch",
        )
    if not _can_write():
        raise BuildError(
            f"{target} is written where the export extra is: {pip_install('export,cpu')}. A bundle that has "
            "it already is complete: there is nothing to build.",
            id="build-without-export-extra",
        )
    from rnn_export.export.add_target import add_proved, can_add

    if not can_add(target):
        raise BuildError(
            f"target {target!r} is complete when it is exported: there is nothing to build.", id="build-target-complete"
        )
    if row is not None and not rebuild:
        raise BuildError(
            f"{bundle.path} has {target} ({row.precision}): give --rebuild to write it again.", id="build-needs-rebuild"
        )
    if row is not None and row.requires.get("scales") == "calibrated" and calibrate is None:
        raise BuildError(
            f"{target} ({row.precision}) of {bundle.path} has its scales from a recording: give one, --calibrate FILE, "
            "to write it again.",
            id="rebuild-without-recording",
        )
    order = _order(bundle, row.precision if row else precision, BuildOptions(), calibrate)
    draft, (report,) = add_proved(bundle, target, order, stage)
    proved = with_report(draft, report)
    stage("write")
    notes = [*draft.notes, *record_built(bundle, code_of(proved))]
    (row,) = proved.targets
    extend_bundle(bundle, row, proved.files)
    return WrittenTarget(row, sum(map(len, proved.files.values())), report, notes)


def _refuse_lost_scales(bundle: Bundle, row: TargetRow, calibrate: Source | None) -> None:
    if row.requires.get("scales") == "calibrated" and calibrate is None:
        raise BuildError(
            f"the C of {bundle.path} in {row.precision} is not trusted, so it is written anew, but its scales came "
            "from a recording: give one, --calibrate FILE, or trust the key of who signed it, rnn-export trust "
            "KEY.pub.",
            id="untrusted-scales-lost",
        )


def _can_write() -> bool:
    return all(map(find_spec, ONNX_PACKAGES))


def _check_rewrite(bundle: Bundle, row: TargetRow, rebuild: bool) -> None:
    if not _can_write():
        raise BuildError(
            f"{bundle.path} has c ({row.precision}), and its sources are written again only where the export extra is: "
            f"{pip_install('export,cpu')}.",
            id="c-rewrite-without-extra",
        )
    if not rebuild:
        raise BuildError(
            f"{bundle.path} has c ({row.precision}): give --rebuild to write it again; what is compiled for other "
            "machines is dropped then.",
            id="c-rewrite-needs-rebuild",
        )


def _added(
    bundle: Bundle, target: str, precision: str | None, options: BuildOptions, calibrate: Source | None, stage: Stage
) -> Draft:
    from rnn_export.export.add_target import add_target

    return add_target(bundle, target, _order(bundle, precision, options, calibrate), stage)


def _order(bundle: Bundle, precision: str | None, options: BuildOptions, calibrate: Source | None) -> TargetOptions:
    check_batch(options.batch, bundle.spec.rows)
    return TargetOptions(
        precision or "fp32",
        options.state_precision or "fp32",
        batch=options.batch or TargetOptions.batch,
        # A bundle that was renamed keeps the name that its C has.
        name=next((c_name(row) for row in bundle.targets if row.target == "c"), None)
        or source_name(bundle.path.name.removesuffix(".rnnx")),
        calibration=None if calibrate is None else read(calibrate, bundle.spec),
    )
