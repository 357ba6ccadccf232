"""One target more for a bundle that is there already, from its step graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.errors import ExportError
from rnn_export.export.lowering import engines, files, notes, requires
from rnn_export.export.order import Order
from rnn_export.runtime.build.engine import Added
from rnn_export.runtime.draft import Draft
from rnn_export.runtime.golden import FILE, Golden, replay
from rnn_export.targets import find_target

STEP = "step.onnx"


def graph_of(bundle: Bundle, target: str, order: Order, progress: Callable[[str], None] = lambda stage: None) -> Added:
    """Row and files of a TensorRT target, graph and recipe, once they do what the golden vectors of `bundle` say.

    Raises ExportError or ParityError.
    """
    found = find_target(target, order.precision, order.opset)
    if STEP not in bundle.files:
        raise ExportError(
            f"{bundle.path} has no {STEP} to write {target!r} ({order.precision}) from: export the bundle again with "
            "--target onnx."
        )
    order = replace(order, opset=order.opset or found.opset)
    progress("graphs")
    written = files(bundle.read(STEP), bundle.spec, found, order)
    row = TargetRow(target, order.precision, order.opset, tuple(written), requires(found, order))
    draft = Draft(bundle.spec, written, (row,), bundle.initial_states())
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    for engine in engines(draft, found, order):
        replay(engine, golden, progress).raise_for_failure("Nothing was written.")
    return Added(row, written, notes(draft, found, order))
