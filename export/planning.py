"""Plan an export before any work: the targets with their options, and checks that it can work here."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rnn_export.bundle.atomic import BUNDLE
from rnn_export.contract.choices import Precision, chunk_problem
from rnn_export.contract.precision import TOLERANCES, Tolerance
from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions, check_batch
from rnn_export.contract.target_table import TARGETS, Target, find_targets
from rnn_export.errors import BackendUnavailable, BundleError, ExportError
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime import recording
from rnn_export.runtime.build.c_names import source_name
from rnn_export.runtime.registry import load_backend

# In every bundle, whatever else is: what runs, is verified and gains other targets anywhere.
PORTABLE = "onnx"
# Targets, each with what is asked of it.
Plan = Sequence[tuple[Target, TargetOptions]]


def fitted(
    plan: Plan,
    spec: StreamSpec,
    batch: tuple[int, int, int] | None,
    data: recording.Source | None,
    calibrate: recording.Source | None,
) -> tuple[Plan, Arrays | None]:
    """`plan` for one contract, with the calibration recording; and the verification recording by input."""
    check_batch(batch, spec.rows)
    plan = [(target, options.of_rows(spec.rows)) for target, options in plan]
    recorded = None if data is None else recording.read(data, spec)
    if calibrate is not None:
        calibration = recording.read(calibrate, spec)
        plan = [(t, replace(o, calibration=calibration) if o.precision == "int8" else o) for t, o in plan]
    return plan, recorded


def check_place(path: Path, force: bool) -> None:
    """Refuse a bad `path` before the work; the writer checks again."""
    is_bundle = BUNDLE.is_at(path)
    if os.path.lexists(path) and not (force and is_bundle):
        advice = "give force=True (--force) to replace it, or choose" if is_bundle else "it is no bundle: choose"
        raise BundleError(f"{path} exists: {advice} another name.")
    if not path.absolute().parent.is_dir():
        raise BundleError(f"{path} cannot be written: the directory {path.absolute().parent} does not exist.")


def plan_of(
    names: Sequence[str],
    precision: Precision,
    state_precision: Precision | None,
    opset: int | None,
    batch: tuple[int, int, int] | None,
    path: Path,
) -> Plan:
    """The targets by name, each with its options, and the portable one; raises ExportError where two do not agree."""
    targets = find_targets(names, precision, opset)
    portable = TARGETS[PORTABLE]
    if (batch is not None or state_precision is not None) and not any(target.library for target in targets):
        raise ExportError(
            "batch (--batch) and state_precision (--state-precision) are for targets that an engine is built for: "
            "leave them out."
        )
    name, batch = source_name(path.name.removesuffix(".rnnx")), TargetOptions.batch if batch is None else batch
    options = TargetOptions(precision, state_precision or "fp32", batch=batch, name=name)
    plan = [(target, replace(options, opset=target.opset and (opset or target.opset))) for target in targets]
    return plan if portable in targets else [*plan, (portable, TargetOptions(opset=portable.opset, name=name))]


def check_runtime() -> None:
    """Require ONNX Runtime, which verifies everything before it is kept."""
    try:
        load_backend("onnxruntime")
    except BackendUnavailable as error:
        raise ExportError(
            f"what is exported is verified on ONNX Runtime, which cannot be imported here ({error.__cause__}): pip "
            "install '.[export,cpu]' in a checkout of rnn-export, or '.[export,gpu]' for CUDA. One of the two: their "
            "wheels of ONNX Runtime overwrite each other."
        ) from error


def check_counts(**counts: object) -> None:
    """Raise ExportError if one of them is no whole number from 1 on."""
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ExportError(f"{name} is {value!r}, but must be an int of at least 1.")


def check_chunk(chunk: object) -> None:
    """Raise ExportError if `chunk` is neither "auto" nor a whole number from 1 on."""
    if problem := chunk_problem(chunk):
        raise ExportError(problem)


def check_calibration(calibrate: object, precision: Precision) -> None:
    """Refuse `calibrate` for other than int8."""
    if calibrate is not None and precision != "int8":
        raise ExportError(f"calibrate (--calibrate) is for precision int8, not for {precision}: leave it out.")


def tolerance_of(precision: Precision, atol: float | None, rtol: float | None) -> Tolerance:
    """The tolerance asked for, or else that of the precision."""
    usual = TOLERANCES[precision]
    return Tolerance(usual.atol if atol is None else atol, usual.rtol if rtol is None else rtol)
