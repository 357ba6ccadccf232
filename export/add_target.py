"""Add one more target to an existing bundle, from its step graph."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.bundle.draft import Draft
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import find_target
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.foreign import foreign_graph
from rnn_export.export.planning import PORTABLE
from rnn_export.export.targets.base import StepWriter
from rnn_export.export.targets.registry import find_writer
from rnn_export.platform.export_lock import alone
from rnn_export.platform.threads import one_thread
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.golden import FILE, Golden

STEP = "step.onnx"


def can_add(target: str) -> bool:
    """True if a bundle can gain the target later, from its step.onnx, which is not built anew."""
    return target != PORTABLE and isinstance(find_writer(target), StepWriter)


def add_target(
    bundle: Bundle, target: str, order: TargetOptions, progress: Callable[[str], None] = lambda stage: None
) -> Draft:
    """A draft, to be added to `bundle`, of a target that is written from a step and held to the golden vectors.

    Nothing is written: `build_engine` and `build_c` do that, or `extend_bundle` where there is nothing to build.

    Raises ExportError if the bundle has no step or the target does not take it, ParityError if the target differs
    from the model.
    """
    return add_proved(bundle, target, order, progress)[0]


@alone
@one_thread
def add_proved(
    bundle: Bundle, target: str, order: TargetOptions, progress: Callable[[str], None] = lambda stage: None
) -> tuple[Draft, Sequence[ParityReport]]:
    """As `add_target`, with the parity report of each engine."""
    found = find_target(target, order.precision, order.opset)
    if STEP not in bundle.files:
        raise ExportError(
            f"{bundle.path} has no {STEP} to write {target!r} ({order.precision}) from: export the bundle again, "
            "and it has one.",
            id="graph-missing-for-target",
        )
    order = replace(order.of_rows(bundle.spec.rows), opset=order.opset or found.opset)
    progress("graphs")
    writer, initial = cast(StepWriter, find_writer(target)), bundle.initial_states()
    with foreign_graph(STEP, bundle.read(STEP), bundle.spec) as step:
        written = writer.from_step(step, bundle.spec, initial, found, order)
    requires = writer.requirements(found, order, bundle.spec, written)
    row = TargetRow(target, order.precision, order.opset, tuple(written), requires)
    draft = Draft(bundle.spec, written, (row,), initial, bundle)
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    consequence = "Nothing was written."
    if order.calibration is not None:
        consequence += (
            " The recording that it was calibrated on may be too quiet, too short or of another kind than the one the "
            "bundle was verified on: take a typical one, or leave it out and scales are measured at each step."
        )
    reports = [replay_golden(engine, golden, progress) for engine in writer.engines(draft, found, order)]
    for report in reports:
        report.raise_for_failure(consequence)
    draft = draft.with_files(target, order.precision, writer.golden_files(bundle.spec, order, golden))
    return replace(draft, notes=writer.notes(draft, found, order)), reports
