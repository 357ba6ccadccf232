"""`export`: one call from a model to a verified bundle."""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export import __version__
from rnn_export.arrays import Arrays, pack_arrays
from rnn_export.bundle import INITIAL_STATES, Bundle, TargetRow, write_bundle
from rnn_export.bundle.atomic import BUNDLE
from rnn_export.bundle.code import code_of, record
from rnn_export.bundle.draft import Draft
from rnn_export.choices import Precision
from rnn_export.errors import BackendUnavailable, BundleError, ExportError, LiftError
from rnn_export.export.lift.api import lift
from rnn_export.export.lift.axes import TimeAxis
from rnn_export.export.lift.program.signature import OutputRef
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.readme import README, bundle_readme
from rnn_export.export.targets.registry import find_writer, fp16_accumulate_engines, golden_files, notes
from rnn_export.export.verify.assumptions import assumptions_seen
from rnn_export.export.verify.coverage import not_exercised
from rnn_export.export.verify.verification import verify_model
from rnn_export.lazy import load_module
from rnn_export.precision import TOLERANCES, Tolerance
from rnn_export.runtime import recording
from rnn_export.runtime.build.names import source_name
from rnn_export.runtime.registry import BACKENDS
from rnn_export.runtime.replay import golden
from rnn_export.runtime.replay.checks import replay_golden
from rnn_export.runtime.replay.figures import Accept
from rnn_export.spec import StateSpec, TensorSpec
from rnn_export.target_options import TargetOptions, check_batch
from rnn_export.targets import TARGETS, Target, find_targets

# In every bundle, whatever else is: what runs, is verified and gains other targets anywhere.
PORTABLE = "onnx"
# Targets, each with what is asked of it.
Plan = Sequence[tuple[Target, TargetOptions]]
LOG = logging.getLogger(__package__)
ACCUMULATES = "a GPU may add up in fp16 as well; an engine is held to the model where it is built"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def export(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor,
    path: str | os.PathLike[str],
    *,
    time_axis: TimeAxis = "auto",
    states: Mapping[str, OutputRef | None] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    sample_rate: int | None = None,
    targets: Sequence[str] = ("onnx",),
    precision: Precision = "fp32",
    state_precision: Precision | None = None,
    opset: int | None = None,
    batch: tuple[int, int, int] | None = None,
    chunk: int = 1,
    data: recording.Source | None = None,
    calibrate: recording.Source | None = None,
    steps: int = 256,
    atol: float | None = None,
    rtol: float | None = None,
    accept: Accept | None = None,
    sequence_only: bool = False,
    assume: Mapping[str, bool] | None = None,
    max_frames: int | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Bundle:
    """Lift `model` into one pure step, write it as `targets`, verify each in a closed loop, write the bundle `path`.

    Args:
        model: in eval mode, on the CPU; a copy of it is worked with.
        example_inputs: a tuple of tensors that `model` can be called with, with a batch axis.
        path: the directory NAME.rnnx.
        time_axis: "auto" finds it by running the model; None for a model that takes one frame per call; an axis for
            every input; or {input: axis or None}.
        states: argument to output, for a model that takes and returns its states: {"h": 1, "c": 2}. They start at
            zeros. None in place of an output says that an argument is no state, {} that there are none at all.
        initial: {state: tensor} for states that start elsewhere; one row, without the batch axis.
        input_names, output_names: in the order of forward's data arguments and results.
        sample_rate: Hz, where an input is a piece of a signal.
        targets, precision: what is written beside the portable graph, which is fp32 and in every bundle; see
            `rnn_export.targets`.
        state_precision: of the states between two steps, where a target is written in less than fp32: fp32 unless said
            otherwise.
        opset: of the ONNX graphs, where a target has such; None takes the target's own.
        batch: (fewest, usual, most) streams in one step, for targets that an engine is built for; (1, 1, 8) if None.
        chunk: frames per step.
        data: a recording to verify on, in place of noise like the example; the other kinds of input are tried in any
            case. An array (time, ...) or (rows, time, ...), a dict of them by input, or a file.
        calibrate: a recording for the scales of activations in int8, as `data`; None measures them at each step.
        steps: of the closed loop, of `chunk` frames each; four and those of the delay at least. A recording is used up
            to here. Of whole sequences, frames.
        atol, rtol: override the tolerance: an error may reach atol + rtol * (largest magnitude so far).
        accept: a function of (model outputs, stream outputs) over the closed loop, each an array (rows, frames, ...),
            or a dict of them by name where there are several. It gives figures of the task (accuracy, SNR), a number or
            a dict of numbers, which the report keeps, or nothing; False, or an assert that fails, refuses what is
            exported. Of a recording of one row, row 0 begins at its start and row 1 half-way.
        sequence_only: for a model that needs whole sequences (a bidirectional layer, attention): the bundle has no step
            and no state, and cannot stream.
        assume: {"file.py:190": True} where the code decides by the value of a tensor (`if mask.all():`), and that is
            always true, or False, on what a stream is fed: what the tensor is, before any `not`. It stands in the
            contract, and is checked on all that is verified.
        max_frames: the most frames of one stream, where the model has a table of so many positions: a stream that is
            fed more raises StreamError, until it is reset.
        force: replace a bundle that is already there.
        progress: called with the name of each stage.

    Code in the bundle (C, TorchScript) is recorded as made here, so that `load` runs it. What there is to know of the
    bundle, and that this user can have no record, are warnings of the logger "rnn_export.export".

    Returns the bundle, open. Raises LiftError, ExportError, ParityError, SourceError or BundleError, and then leaves
    nothing.
    """
    _check_place(Path(path), force)
    _check_runtime()
    plan = _plan(targets, precision, state_precision, opset, batch, Path(path))
    if sequence_only and tuple(targets) != ("onnx",):
        raise ExportError(
            "sequence_only writes whole sequences, which the target onnx alone has: leave the others out."
        )
    counts = {"steps": steps, "chunk": chunk, "sample_rate": 1 if sample_rate is None else sample_rate}
    counts["max_frames"] = 1 if max_frames is None else max_frames
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ExportError(f"{name} is {value!r}, but must be an int of at least 1.")
    if calibrate is not None and precision != "int8":
        raise ExportError(f"calibrate is for precision int8, not for {precision}: leave it out.")
    usual = TOLERANCES[precision]
    tolerance = Tolerance(usual.atol if atol is None else atol, usual.rtol if rtol is None else rtol)
    _refuse_other_floats(model, example_inputs)
    progress("lift")
    lifted = lift(
        model, example_inputs, time_axis=time_axis, states=states, initial=initial, input_names=input_names,
        output_names=output_names, sample_rate=sample_rate, chunk=chunk, sequence_only=sequence_only, assume=assume,
        max_frames=max_frames,
    )  # fmt: skip
    _refuse_results_of_other_floats(lifted)
    check_batch(batch, lifted.spec.rows)
    plan = [(target, options.of_rows(lifted.spec.rows)) for target, options in plan]
    recorded = None if data is None else recording.read(data, lifted.spec)
    if calibrate is not None:
        calibration = recording.read(calibrate, lifted.spec)
        plan = [(t, replace(o, calibration=calibration) if o.precision == "int8" else o) for t, o in plan]
    progress("graphs")
    plan, draft = _draft(lifted, plan, targets)
    draft, evidence = _verified(lifted, draft, plan, recorded, steps, tolerance, progress, accept)
    progress("write")
    files = {**draft.files, **evidence}
    if stored := {s.name: draft.initial[s.name] for s in draft.spec.states if s.initial == "stored"}:
        files[INITIAL_STATES] = pack_arrays(stored)
    page = bundle_readme(Path(path).name, draft.spec, draft.targets, json.loads(evidence["parity.json"]))
    files[README] = page.encode()
    weights = count_weights(files["step.onnx"]) if "step.onnx" in files else None
    why = record(code_of(draft))
    made_by = {"rnn-export": __version__, "torch": torch.__version__, "onnx": onnx.__version__, "numpy": np.__version__}
    bundle = write_bundle(
        path, spec=draft.spec, producer=made_by, files=files, targets=draft.targets, weights=weights, force=force
    )
    for note in (*draft.notes, *([f"load() will not run the code of {path} without trust=True: {why}"] if why else ())):
        LOG.warning("%s", note)
    return bundle


def _check_place(path: Path, force: bool) -> None:
    """Find out before the work, not after it; the writer checks again."""
    is_bundle = BUNDLE.is_at(path)
    if os.path.lexists(path) and not (force and is_bundle):
        advice = "give force=True (--force) to replace it, or choose" if is_bundle else "it is no bundle: choose"
        raise BundleError(f"{path} exists: {advice} another name.")
    if not path.absolute().parent.is_dir():
        raise BundleError(f"{path} cannot be written: the directory {path.absolute().parent} does not exist.")


def _plan(
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
        raise ExportError("batch and state_precision are for targets that an engine is built for: leave them out.")
    name, batch = source_name(path.name.removesuffix(".rnnx")), TargetOptions.batch if batch is None else batch
    options = TargetOptions(precision, state_precision or "fp32", batch=batch, name=name)
    plan = [(target, replace(options, opset=target.opset and (opset or target.opset))) for target in targets]
    return plan if portable in targets else [*plan, (portable, TargetOptions(opset=portable.opset, name=name))]


def _check_runtime() -> None:
    """Everything that is written is driven by ONNX Runtime before it is kept."""
    try:
        load_module(BACKENDS["onnxruntime"])
    except BackendUnavailable as error:
        raise ExportError(
            f"what is exported is verified on ONNX Runtime, which cannot be imported here ({error.__cause__}): pip "
            "install '.[export,cpu]' in a checkout of rnn-export, or '.[export,gpu]' for CUDA. One of the two: their "
            "wheels of ONNX Runtime overwrite each other."
        ) from error


def _refuse_other_floats(model: nn.Module, example: Any) -> None:
    """Parameters and inputs wider than fp32, before anything is made of them; `lift` names those that are narrower."""
    example = (example,) if isinstance(example, Tensor) else tuple(example)
    parameters = [*model.named_parameters()] if isinstance(model, nn.Module) else []
    inputs = [(f"example_inputs{pytree.keystr(at)}", leaf) for at, leaf in pytree.tree_flatten_with_path(example)[0]]
    for name, tensor in (*parameters, *inputs):
        if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
            raise ExportError(f"{name} is float64: {FLOAT32}")


FLOAT32 = "every target is written from a float32 model. Call model.float() and give float32 example inputs."


def _refuse_results_of_other_floats(lifted: StreamingModel) -> None:
    """Buffers and code of a model can make them of float32."""
    spec = lifted.spec
    tensors: list[TensorSpec | StateSpec] = [*spec.inputs, *spec.outputs, *spec.states]
    for tensor in tensors:
        if tensor.dtype.startswith("float") and tensor.dtype != "float32":
            raise ExportError(f"{tensor.name!r} is {tensor.dtype}: {FLOAT32}")


def _draft(lifted: StreamingModel, plan: Plan, asked: Sequence[str]) -> tuple[Plan, Draft]:
    """All targets, written as each has its options, and the plan of them; nothing of it is verified.

    A model that torch's own formats can hold and ONNX cannot has no portable graph, which is noted.
    """
    files: dict[str, bytes] = {}
    rows, done, said = [], [], []
    for target, options in plan:
        writer = find_writer(target.name)
        try:
            written = writer.write(lifted, target, options)
        except (ExportError, LiftError) as error:
            if target.name in asked:
                raise
            said.append(f"the bundle has no portable graph, step.onnx, beside {', '.join(asked)}: {error}")
            continue
        done.append((target, options))
        requires = writer.requires(target, options)
        rows.append(TargetRow(target.name, options.precision, options.opset, tuple(written), requires))
        files |= written
    initial = {name: np.asarray(value.cpu()) for name, value in lifted.initial.items()}
    return done, Draft(lifted.spec, files, tuple(rows), initial, notes=said)


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
    """`draft` with the self-tests of its targets, and the files that are the evidence; raises ParityError."""
    engines = [e for target, options in plan for e in find_writer(target.name).engines(draft, target, options)]
    step, precision = draft.files.get("step.onnx"), plan[0][1].precision
    report, vectors = verify_model(lifted, engines, step, recorded, steps, tolerance, progress, precision, accept)
    others = [engine for target, options in plan for engine in fp16_accumulate_engines(draft, target, options)]
    said = [*lifted.notes, *draft.notes, *(note for target, options in plan for note in notes(draft, target, options))]
    draft = replace(draft, notes=[*said, *([ACCUMULATES] if others else ())])
    evidence = {
        "source": "noise" if recorded is None else "recording",
        "notes": list(draft.notes),
        "assumptions": assumptions_seen(lifted),
        **report.to_json(),
        "not_exercised": not_exercised(lifted, vectors),
        "fp16_accumulate": [replay_golden(engine, vectors, progress).to_json() for engine in others],
    }
    for target, options in plan:
        draft = draft.with_files(
            target.name, options.precision, golden_files(target.name, lifted.spec, options, vectors)
        )
    text = json.dumps(evidence, indent=1) + "\n"
    return draft, {"parity.json": text.encode(), golden.FILE: vectors.beginning(lifted.spec).thinned().to_npz()}


def count_weights(model: bytes) -> int:
    """The floats among the constants of an ONNX graph: the memory that holds them bounds how fast a step can be.

    A table that is only looked up in counts for nothing: a step reads one row of it.
    """
    graph = onnx.load_from_string(model).graph
    constants = [(tensor.name, tensor) for tensor in graph.initializer]
    tables, read = set(), set()
    for node in graph.node:
        looked_up = 1 if node.op_type == "Gather" else 0
        tables |= set(node.input[:looked_up])
        read |= set(node.input[looked_up:])
        constants += [(node.output[0], a.t) for a in node.attribute if a.HasField("t")]
    floats = [(name, tensor) for name, tensor in constants if tensor.data_type in FLOATS]
    return sum(math.prod(tensor.dims) for name, tensor in floats if name in read or name not in tables)
