"""`export`: one call from a model to a verified bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from rnn_export import __version__
from rnn_export.atomic import is_bundle
from rnn_export.bundle import Bundle, TargetRow
from rnn_export.errors import BundleError, ExportError
from rnn_export.export.draft import Draft
from rnn_export.export.graph import sequence_graph, step_graph
from rnn_export.export.verify import verify
from rnn_export.models.axes import TimeAxis
from rnn_export.models.lift import StreamingModel, lift
from rnn_export.models.signature import OutputRef
from rnn_export.runtime import golden, recording
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.parity import TOLERANCES, Tolerance
from rnn_export.spec import StateSpec, TensorSpec
from rnn_export.targets import find_target


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
    precision: str = "fp32",
    opset: int | None = None,
    chunk: int = 1,
    data: recording.Source | None = None,
    steps: int = 256,
    atol: float | None = None,
    rtol: float | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Bundle:
    """Lift `model` into one pure step, write it as ONNX, verify it in a closed loop, and write the bundle `path`.

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
        targets, precision, opset: what is written; see `rnn_export.targets`.
        chunk: frames per step.
        data: a recording to verify on: an array (time, ...) or (rows, time, ...), a dict of them by input, or a file.
        steps: frames of the closed loop, at least four steps of them; a recording is used up to here.
        atol, rtol: override the tolerance: an error may reach atol + rtol * (largest magnitude so far).
        force: replace a bundle that is already there.
        progress: called with the name of each stage.

    Returns the bundle, open. Raises LiftError, ExportError, ParityError, SourceError or BundleError, and then leaves
    nothing.
    """
    _check_place(Path(path), force)
    rows = [find_target(name, precision, opset) for name in targets]
    if not rows:
        raise ExportError("targets is empty: name at least one, for example targets=('onnx',).")
    if len(set(targets)) < len(targets):
        raise ExportError(f"targets names one twice: {', '.join(targets)}.")
    for name, value in (("steps", steps), ("chunk", chunk), ("sample_rate", 1 if sample_rate is None else sample_rate)):
        if type(value) is not int or value < 1:
            raise ExportError(f"{name} is {value!r}, but must be an int of at least 1.")
    usual = TOLERANCES[precision]
    tolerance = Tolerance(usual.atol if atol is None else atol, usual.rtol if rtol is None else rtol)
    progress("lift")
    lifted = lift(
        model,
        example_inputs,
        time_axis=time_axis,
        states=states,
        initial=initial,
        input_names=input_names,
        output_names=output_names,
        sample_rate=sample_rate,
        chunk=chunk,
    )
    _refuse_other_floats(lifted, precision)
    heard = None if data is None else recording.read(data, lifted.spec)
    opset = opset or rows[0].opset
    progress("graphs")
    draft = _draft(lifted, precision, opset)
    engine = Engine.of(draft, "onnxruntime")
    report, vectors = verify(lifted, engine, draft.read("step.onnx"), heard, steps, tolerance, progress)
    progress("write")
    evidence = {"source": "noise" if data is None else "recording", "notes": list(lifted.notes), **report.to_json()}
    proof = {
        "parity.json": (json.dumps(evidence, indent=1) + "\n").encode(),
        golden.FILE: vectors.thinned().to_npz(),
    }
    return draft.write(path, _producer(), proof, force)


def _check_place(path: Path, force: bool) -> None:
    """Find out before the work, not after it; the writer checks again."""
    if os.path.lexists(path) and not (force and is_bundle(path)):
        advice = "give force=True (--force) to replace it, or choose" if is_bundle(path) else "it is no bundle: choose"
        raise BundleError(f"{path} exists: {advice} another name.")
    if not path.absolute().parent.is_dir():
        raise BundleError(f"{path} cannot be written: the directory {path.absolute().parent} does not exist.")


def _refuse_other_floats(lifted: StreamingModel, precision: str) -> None:
    spec = lifted.spec
    tensors: list[TensorSpec | StateSpec] = [*spec.inputs, *spec.outputs, *spec.states]
    for tensor in tensors:
        if tensor.dtype.startswith("float") and tensor.dtype != "float32":
            raise ExportError(
                f"{tensor.name!r} is {tensor.dtype}, but {precision} is written from a float32 model: "
                "call model.float() and give float32 example inputs."
            )


def _draft(lifted: StreamingModel, precision: str, opset: int) -> Draft:
    graphs = {"step.onnx": step_graph(lifted, opset), "sequence.onnx": sequence_graph(lifted, opset)}
    files = {name: graph for name, graph in graphs.items() if graph is not None}
    initial = {name: np.asarray(value.cpu()) for name, value in lifted.initial.items()}
    return Draft(lifted.spec, files, (TargetRow("onnx", precision, opset, tuple(files), {}),), initial)


def _producer() -> dict[str, str]:
    return {"rnn-export": __version__, "torch": torch.__version__, "onnx": onnx.__version__, "numpy": np.__version__}
