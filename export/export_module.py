"""A bundle from a PyTorch module: lift, write, verify, keep."""

import os
from collections.abc import Sequence
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
from rnn_export.contract.spec import StateSpec, TensorSpec
from rnn_export.errors import ExportError, LiftError
from rnn_export.export.export_options import ExportOptions
from rnn_export.export.keeping import keep, with_evidence
from rnn_export.export.lift.model.disable_compile import eager
from rnn_export.export.lift.stages import lift
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.planning import Plan, check_place, check_runtime, fitted, plan_of
from rnn_export.export.targets.registry import find_writer
from rnn_export.export.verify.assumptions import assumptions_seen
from rnn_export.export.verify.coverage import not_exercised
from rnn_export.export.verify.verification import verify_model
from rnn_export.platform.arrays import Arrays


@eager
def export_module(
    model: nn.Module, example_inputs: Sequence[Any] | Tensor, path: str | os.PathLike[str], options: ExportOptions
) -> tuple[Bundle, list[str]]:
    """Export a module for `rnn_export.export.api.export`, with notes; see there."""
    progress = options.progress
    check_place(Path(path), options.force)
    check_runtime()
    plan = plan_of(options, Path(path))
    _refuse_other_floats(model, example_inputs)
    lifted = lift(model, example_inputs, replace(options, progress=lambda stage: progress(f"lift: {stage}")))
    _refuse_results_of_other_floats(lifted)
    plan, recorded = fitted(plan, lifted.spec, options)
    progress("graphs")
    plan, draft = _draft(lifted, plan, options.targets)
    draft, evidence = _verified(lifted, draft, plan, recorded, options)
    progress("write")
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "numpy": np.__version__}
    return keep(draft, evidence, path, options.force, versions, options.report)


def _refuse_other_floats(model: nn.Module, example: Any) -> None:
    """Refuse parameters and inputs wider than fp32 before any work; `lift` names those that are narrower."""
    example = (example,) if isinstance(example, Tensor) else tuple(example)
    parameters = [*model.named_parameters()] if isinstance(model, nn.Module) else []
    inputs = [(f"example_inputs{pytree.keystr(at)}", leaf) for at, leaf in pytree.tree_flatten_with_path(example)[0]]
    for name, tensor in (*parameters, *inputs):
        if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
            raise ExportError(f"{name} is float64: {FLOAT32}", id="float64-tensor")


FLOAT32 = "every target is written from a float32 model. Call model.float() and give float32 example inputs."


def _refuse_results_of_other_floats(lifted: StreamingModel) -> None:
    """Refuse other floats made by a buffer or the code."""
    spec = lifted.spec
    tensors: list[TensorSpec | StateSpec] = [*spec.inputs, *spec.outputs, *spec.states]
    for tensor in tensors:
        if tensor.dtype.startswith("float") and tensor.dtype != "float32":
            raise ExportError(
                f"{tensor.name!r} is {tensor.dtype}, made so by a buffer or by the code (.double(), an array of "
                "numpy's): every target is written from a float32 model. Keep it float32 there.",
                id="float64-result",
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
    lifted: StreamingModel, draft: Draft, plan: Plan, recorded: Arrays | None, options: ExportOptions
) -> tuple[Draft, dict[str, bytes]]:
    """`draft` with the self-tests of its targets, and the evidence files; raises ParityError."""
    engines = [e for target, order in plan for e in find_writer(target.name).engines(draft, target, order)]
    step, precision = draft.files.get("step.onnx"), plan[0][1].precision
    report, vectors = verify_model(
        lifted, engines, step, recorded, options.steps, options.tolerance, options.progress, precision, options.accept
    )
    source = "noise" if recorded is None else "recording"
    return with_evidence(
        replace(draft, notes=[*lifted.notes, *draft.notes]), plan, report, vectors, options.progress,
        source=source, assumptions=assumptions_seen(lifted), not_exercised=not_exercised(lifted, vectors),
    )  # fmt: skip
