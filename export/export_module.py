"""A bundle from a PyTorch module: lift, write, verify, keep."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export.bundle import Bundle, TargetRow
from rnn_export.bundle.draft import Draft
from rnn_export.contract.choices import Chunk, Precision
from rnn_export.contract.precision import Tolerance
from rnn_export.contract.spec import StateSpec, TensorSpec
from rnn_export.errors import ExportError, LiftError
from rnn_export.export.keeping import keep, with_evidence
from rnn_export.export.lift.axes.axes import TimeAxis
from rnn_export.export.lift.model.call.output_parts import OutputRef
from rnn_export.export.lift.model.disable_compile import eager
from rnn_export.export.lift.stages import lift
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.planning import (
    Plan,
    check_calibration,
    check_chunk,
    check_counts,
    check_place,
    check_runtime,
    fitted,
    plan_of,
    tolerance_of,
)
from rnn_export.export.targets.registry import find_writer
from rnn_export.export.verify.assumptions import assumptions_seen
from rnn_export.export.verify.coverage import not_exercised
from rnn_export.export.verify.verification import verify_model
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime import recording
from rnn_export.runtime.replay.figures import Accept


@eager
def export_module(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor,
    path: str | os.PathLike[str],
    *,
    time_axis: TimeAxis,
    states: Mapping[str, OutputRef | None] | None,
    initial: Mapping[str, Tensor] | None,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    sample_rate: int | None,
    targets: Sequence[str],
    precision: Precision,
    state_precision: Precision | None,
    opset: int | None,
    batch: tuple[int, int, int] | None,
    chunk: Chunk,
    data: recording.Source | None,
    calibrate: recording.Source | None,
    steps: int,
    atol: float | None,
    rtol: float | None,
    accept: Accept | None,
    sequence_only: bool,
    assume: Mapping[str, bool] | None,
    max_frames: int | None,
    max_context: int | None,
    pack_states: bool,
    force: bool,
    report: bool,
    progress: Callable[[str], None],
) -> tuple[Bundle, list[str]]:
    """Export a module for `rnn_export.export.api.export`; see there for each argument."""
    check_place(Path(path), force)
    check_runtime()
    plan = plan_of(targets, precision, state_precision, opset, batch, Path(path))
    if sequence_only and tuple(targets) != ("onnx",):
        raise ExportError(
            "sequence_only (--sequence-only) writes whole sequences, which the target onnx alone has: leave the others "
            "out."
        )
    one = {"sample_rate": sample_rate, "max_frames": max_frames, "max_context": max_context}
    check_chunk(chunk)
    check_counts(steps=steps, **{name: 1 if n is None else n for name, n in one.items()})
    check_calibration(calibrate, precision)
    tolerance = tolerance_of(precision, atol, rtol)
    _refuse_other_floats(model, example_inputs)
    lifted = lift(
        model, example_inputs, time_axis=time_axis, states=states, initial=initial, input_names=input_names,
        output_names=output_names, sample_rate=sample_rate, chunk=chunk, sequence_only=sequence_only, assume=assume,
        max_frames=max_frames, max_context=max_context, pack_states=pack_states,
        progress=lambda stage: progress(f"lift: {stage}"),
    )  # fmt: skip
    _refuse_results_of_other_floats(lifted)
    plan, recorded = fitted(plan, lifted.spec, batch, data, calibrate)
    progress("graphs")
    plan, draft = _draft(lifted, plan, targets)
    draft, evidence = _verified(lifted, draft, plan, recorded, steps, tolerance, progress, accept)
    progress("write")
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "numpy": np.__version__}
    return keep(draft, evidence, path, force, versions, report)


def _refuse_other_floats(model: nn.Module, example: Any) -> None:
    """Refuse parameters and inputs wider than fp32 before any work; `lift` names those that are narrower."""
    example = (example,) if isinstance(example, Tensor) else tuple(example)
    parameters = [*model.named_parameters()] if isinstance(model, nn.Module) else []
    inputs = [(f"example_inputs{pytree.keystr(at)}", leaf) for at, leaf in pytree.tree_flatten_with_path(example)[0]]
    for name, tensor in (*parameters, *inputs):
        if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
            raise ExportError(f"{name} is float64: {FLOAT32}")


FLOAT32 = "every target is written from a float32 model. Call model.float() and give float32 example inputs."


def _refuse_results_of_other_floats(lifted: StreamingModel) -> None:
    """Refuse other floats made by a buffer or the code."""
    spec = lifted.spec
    tensors: list[TensorSpec | StateSpec] = [*spec.inputs, *spec.outputs, *spec.states]
    for tensor in tensors:
        if tensor.dtype.startswith("float") and tensor.dtype != "float32":
            raise ExportError(
                f"{tensor.name!r} is {tensor.dtype}, made so by a buffer or by the code (.double(), an array of "
                "numpy's): every target is written from a float32 model. Keep it float32 there."
            )


def _draft(lifted: StreamingModel, plan: Plan, asked: Sequence[str]) -> tuple[Plan, Draft]:
    """Write all targets with their options; return the plan of them and the unverified draft.

    A model that torch's own formats can hold and ONNX cannot has no portable graph, which is noted.
    """
    files: dict[str, bytes] = {}
    rows, done, notes = [], [], []
    for target, options in plan:
        writer = find_writer(target.name)
        try:
            written = writer.write(lifted, target, options)
        except (ExportError, LiftError) as error:
            if target.name in asked:
                raise
            notes.append(f"the bundle has no portable graph, step.onnx, beside {', '.join(asked)}: {error}")
            continue
        done.append((target, options))
        requires = writer.requirements(target, options, lifted.spec, written)
        rows.append(TargetRow(target.name, options.precision, options.opset, tuple(written), requires))
        files |= written
    initial = {name: np.asarray(value.cpu()) for name, value in lifted.initial.items()}
    return done, Draft(lifted.spec, files, tuple(rows), initial, notes=notes)


def _verified(
    lifted: StreamingModel,
    draft: Draft,
    plan: Plan,
    recorded: Arrays | None,
    steps: int,
    tolerance: Tolerance,
    progress: Callable[[str], None],
    accept: Accept | None,
) -> tuple[Draft, dict[str, bytes]]:
    """`draft` with the self-tests of its targets, and the evidence files; raises ParityError."""
    engines = [e for target, options in plan for e in find_writer(target.name).engines(draft, target, options)]
    step, precision = draft.files.get("step.onnx"), plan[0][1].precision
    report, vectors = verify_model(lifted, engines, step, recorded, steps, tolerance, progress, precision, accept)
    source = "noise" if recorded is None else "recording"
    return with_evidence(
        replace(draft, notes=[*lifted.notes, *draft.notes]), plan, report, vectors, progress,
        source=source, assumptions=assumptions_seen(lifted), not_exercised=not_exercised(lifted, vectors),
    )  # fmt: skip
