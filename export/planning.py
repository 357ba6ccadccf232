"""Plan an export before any work: the targets with their options, and checks that it can work here."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rnn_export.bundle.atomic import BUNDLE
from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions, check_batch
from rnn_export.contract.target_table import TARGETS, Target, find_targets
from rnn_export.errors import BackendUnavailable, BundleError, ExportError
from rnn_export.export.export_options import ExportOptions
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime import recording
from rnn_export.runtime.build.c_names import source_name
from rnn_export.runtime.registry import load_backend

# In every bundle, whatever else is: what runs, is verified and gains other targets anywhere.
PORTABLE = "onnx"
# Targets, each with what is asked of it.
Plan = Sequence[tuple[Target, TargetOptions]]


def fitted(plan: Plan, spec: StreamSpec, options: ExportOptions) -> tuple[Plan, Arrays | None]:
    """`plan` for one contract, with the calibration recording; and the verification recording by input."""
    check_batch(options.batch, spec.rows)
    plan = [(target, order.of_rows(spec.rows)) for target, order in plan]
    recorded = None if options.data is None else recording.read(options.data, spec)
    if options.calibrate is not None:
        calibration = recording.read(options.calibrate, spec)
        plan = [(t, replace(o, calibration=calibration) if o.precision == "int8" else o) for t, o in plan]
    return plan, recorded


def check_place(path: Path, force: bool) -> None:
    """Refuse a bad `path` before the work; the writer checks again."""
    is_bundle = BUNDLE.is_at(path)
    if os.path.lexists(path) and not (force and is_bundle):
        advice = "give force=True (--force) to replace it, or choose" if is_bundle else "it is no bundle: choose"
        raise BundleError(f"{path} exists: {advice} another name.", id="bundle-path-exists")
    if not path.absolute().parent.is_dir():
        raise BundleError(
            f"{path} cannot be written: the directory {path.absolute().parent} does not exist.",
            id="bundle-directory-missing",
        )


def plan_of(options: ExportOptions, path: Path) -> Plan:
    """The targets, each with its options, and the portable one; raises ExportError where two do not agree."""
    targets = find_targets(options.targets, options.precision, options.opset)
    portable, batch = TARGETS[PORTABLE], options.batch
    if (batch is not None or options.state_precision is not None) and not any(target.library for target in targets):
        raise ExportError(
            "batch (--batch) and state_precision (--state-precision) are for targets that an engine is built for: "
            "leave them out.",
            id="engine-options-without-engine",
        )
    name, batch = source_name(path.name.removesuffix(".rnnx")), TargetOptions.batch if batch is None else batch
    order = TargetOptions(options.precision, options.state_precision or "fp32", batch=batch, name=name)
    plan = [(target, replace(order, opset=target.opset and (options.opset or target.opset))) for target in targets]
    return plan if portable in targets else [*plan, (portable, TargetOptions(opset=portable.opset, name=name))]


def check_runtime() -> None:
    """Require ONNX Runtime, which verifies everything before it is kept."""
    try:
        load_backend("onnxruntime")
    except BackendUnavailable as error:
        raise ExportError(
            f"what is exported is verified on ONNX Runtime, which cannot be imported here ({error.__cause__}): pip "
            "install '.[export,cpu]' in a checkout of rnn-export, or '.[export,gpu]' for CUDA. One of the two: their "
            "wheels of ONNX Runtime overwrite each other.",
            id="onnxruntime-not-importable",
        ) from error
