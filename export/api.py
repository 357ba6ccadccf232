"""`export`: one call from a model to a verified bundle."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from rnn_export.bundle import Bundle
from rnn_export.contract.choices import Chunk, Precision
from rnn_export.errors import ExportError
from rnn_export.export.export_options import ExportOptions
from rnn_export.platform.export_lock import alone
from rnn_export.platform.last_resort import last_resort
from rnn_export.platform.progress import Progress, report_stages
from rnn_export.platform.threads import one_thread
from rnn_export.runtime import recording
from rnn_export.runtime.replay.figures import Accept

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rnn_export.export.lift.axes.axes import TimeAxis
    from rnn_export.export.lift.model.call.output_parts import OutputRef

# Arguments of a call of `export` that are no options.
CALL = ("model", "example_inputs", "path", "progress")
LOG = logging.getLogger(__package__)
# The stages of an export: libraries, four of lifting, graphs, reference, up to nine checks, second opinion, writing.
STAGES = 18


def export(
    model: nn.Module | str | os.PathLike[str],
    example_inputs: Sequence[Any] | Tensor | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    time_axis: TimeAxis = "auto",
    states: Mapping[str, OutputRef | None] | None = None,
    initial: Mapping[str, Any] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    sample_rate: int | None = None,
    targets: Sequence[str] = ("onnx",),
    precision: Precision = "fp32",
    state_precision: Precision | None = None,
    opset: int | None = None,
    batch: tuple[int, int, int] | None = None,
    chunk: Chunk = "auto",
    data: recording.Source | None = None,
    calibrate: recording.Source | None = None,
    steps: int = 256,
    atol: float | None = None,
    rtol: float | None = None,
    accept: Accept | None = None,
    sequence_only: bool = False,
    assume: Mapping[str, bool] | None = None,
    max_frames: int | None = None,
    max_context: int | None = None,
    pack_states: bool = False,
    fixed: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    force: bool = False,
    report: bool = True,
    progress: Progress = None,
    recurrent_form: Mapping[FunctionType, FunctionType] | None = None,
) -> Bundle:
    """Lift `model` into one pure step, write it as `targets`, verify each in a closed loop, write the bundle `path`.

    Args:
        model: in eval mode, on the CPU; a copy of it is worked with. Or the path of an ONNX file that is a step
            already: `export("model.onnx", path="NAME.rnnx")`, which needs no torch.
        example_inputs: a tuple of tensors that `model` can be called with, with a batch axis.
        path: the directory NAME.rnnx.
        time_axis: "auto" finds it by running the model; None for a model that takes one frame per call; an axis for
            every input; or {input: axis or None}.
        states: argument to output, for a model that takes and returns its states: {"h": 1, "c": 2}. They start at
            zeros; a number in one, such as `pos` in {"h": h, "pos": 0}, starts as in the example. None in place of an
            output says that an argument is no state, {} that there are none at all. Of an ONNX file, input to output;
            pairs that name and shape tell are found.
        initial: {state: tensor} for states that start elsewhere; one row, without the batch axis.
        input_names, output_names: in the order of forward's data arguments and results.
        sample_rate: Hz, where an input is part of a signal.
        targets, precision: the files written beside the portable graph, which is fp32 and in every bundle; see
            `rnn_export.targets`.
        state_precision: of the states between two steps, where a target is written in less than fp32: fp32 unless said
            otherwise.
        opset: of the ONNX graphs, where a target has such; None takes the target's own.
        batch: (fewest, usual, most) streams in one step, for targets that an engine is built for; (1, 1, 8) if None.
        chunk: frames per step; "auto" takes the fewest that the strides and hops of the model need, and notes which
            these are. Of an ONNX file it takes those of a fixed axis that `shapes` calls time, or else one.
        data: a recording to verify on, in place of noise like the example; the other kinds of input are tried in any
            case. An array (time, ...) or (rows, time, ...), a dict of them by input, a file, or columns of a .csv:
            `rnn_export.runtime.recording.Csv("load.csv", ["load", "temp"])`.
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
            always true, or False, on what a stream is fed: the value of the tensor, before any `not`. It stands in the
            contract, and is checked on all that is verified.
        max_frames: the most frames of one stream, where the model has a table of so many positions, or attends to all
            frames before: a stream that is fed more raises StreamError, until it is reset.
        max_context: the attention window in frames, the newest among them, where the model attends to all frames
            before. Up to so many frames a stream is the model; beyond, it is held to the model with all frames farther
            back masked. It stands in the contract.
        pack_states: pack states of float32, but counters, into one, for runtimes that want few tensors; the contract
            has their offsets.
        fixed: {input: value} for inputs of an ONNX file that are always the same, such as a sampling rate.
        shapes: {"input": ("batch", 512)} for inputs of an ONNX file that leave open how large an axis is in a step:
            numbers, "batch" for any number of streams, "time" for an axis of frames.
        force: replace a bundle that is already there.
        report: write report.html into the bundle, what it is and how it was verified on one page.
        progress: called with the name of each stage. None shows a bar on a terminal, a line in a notebook, and
            elsewhere logs each stage at INFO; False shows and logs nothing.
        recurrent_form: {chunkwise: recurrent} for functions of the model's code that take many frames at once and give
            no state, and functions of the same arguments and results that go over single frames: a stream is made of
            these, and held to the model with its own.

    Code in the bundle (C, TorchScript) is recorded as made here, so that `load` runs it. Notes on the bundle, and the
    reason if this user can have no record, are warnings of the logger "rnn_export.export". In a process there is one
    export at a time: a second thread waits. While it lasts, torch and BLAS have one thread in all of the process,
    unless a weight of `model` has 4 million elements or more; afterwards they have as many as before.

    Returns the bundle, open. Raises LiftError, ExportError, ParityError, SourceError or BundleError, and then leaves
    nothing.
    """
    keywords = {name: value for name, value in locals().items() if name not in CALL}
    return export_with(model, example_inputs, path, ExportOptions(**keywords), progress=progress)


@last_resort(ExportError, callbacks=("progress",), name="export")
@alone
@one_thread
def export_with(
    model: nn.Module | str | os.PathLike[str],
    example_inputs: Sequence[Any] | Tensor | None,
    path: str | os.PathLike[str] | None,
    options: ExportOptions,
    *,
    progress: Progress = None,
) -> Bundle:
    """`export` with its keywords as `options`."""
    if path is None:
        raise ExportError('export needs a path to write to: path="NAME.rnnx".', id="no-bundle-path")
    is_file = isinstance(model, str | os.PathLike)
    own, other = ("an ONNX file", "a PyTorch module") if is_file else ("a PyTorch module", "an ONNX file")
    wrong = ["example_inputs"] * (is_file and example_inputs is not None) + options.set_for(other)
    if wrong:
        raise ExportError(
            f"{' and '.join(wrong)} is said of {other}, and not of {own}: leave it out.", id="option-of-other-source"
        )
    if not is_file and example_inputs is None:
        raise ExportError(
            "a PyTorch module is exported with example_inputs, a tuple of tensors to call it with.",
            id="no-example-inputs",
        )
    with report_stages("export", STAGES, progress, LOG) as stage:
        stage("libraries")
        options = replace(options, progress=stage)
        if isinstance(model, str | os.PathLike):
            from rnn_export.export.onnx_file import export_onnx

            bundle, notes = export_onnx(model, path, options)
        else:
            from rnn_export.export.export_module import export_module

            bundle, notes = export_module(model, cast(Any, example_inputs), path, options)
    # Logged once the progress bar has left the terminal.
    for note in notes:
        LOG.warning("%s", note)
    return bundle
