"""One target more for a bundle that is there already, from its step graph."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from rnn_export.bundle import Bundle, TargetRow, extend_bundle, open_bundle
from rnn_export.errors import ExportError
from rnn_export.export.draft import Draft
from rnn_export.export.lowering import engines, files, requires
from rnn_export.export.order import Order
from rnn_export.runtime.golden import FILE, Golden, replay
from rnn_export.targets import find_target

STEP = "step.onnx"


def add_target(
    path: str | os.PathLike[str], target: str, order: Order, progress: Callable[[str], None] = lambda stage: None
) -> Bundle:
    """Write graph and recipe of a TensorRT target into the bundle `path`, once they do what its golden vectors say.

    Raises ExportError, ParityError or BundleError, and then leaves the bundle as it was.
    """
    bundle = open_bundle(path)
    found = find_target(target, order.precision, order.opset)
    if STEP not in bundle.files:
        raise ExportError(f"{path} has no {STEP} to write {target!r} from: export the bundle again with --target onnx.")
    order = replace(order, opset=order.opset or found.opset)
    progress("graphs")
    written = files(bundle.read(STEP), bundle.spec, found, order)
    row = TargetRow(target, order.precision, order.opset, tuple(written), requires(found, order))
    draft = Draft(bundle.spec, written, (row,), bundle.initial_states())
    golden = Golden.from_arrays(bundle.arrays(FILE), bundle.spec)
    for engine in engines(draft, found, order):
        replay(engine, golden, progress).raise_for_failure("Nothing was written.")
    return extend_bundle(bundle, row, written)
