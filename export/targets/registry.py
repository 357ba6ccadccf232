"""Find the writer of a target by its name: one small module for each, imported when used.

A target's module has the functions of `Writer`; `golden_files` if its programs need the vectors in another form;
`found` if its files hold values for the manifest; `notes` and `fp16_accumulate_engines` if there is more to say of
it than that it was verified.
Its description and its precisions are in its row in `rnn_export.targets`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import TARGETS, Target
from rnn_export.lazy import load_module
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts
from rnn_export.runtime.replay.golden import Golden

if TYPE_CHECKING:
    from rnn_export.export.lift.streaming_model import StreamingModel

WRITERS: Mapping[str, str] = {
    "onnx": "rnn_export.export.targets.onnx.writer",
    "torchscript": "rnn_export.export.targets.torchscript.writer",
    "pt2": "rnn_export.export.targets.pt2.writer",
    "tensorrt": "rnn_export.export.targets.tensorrt.writer",
    "openvino": "rnn_export.export.targets.openvino.writer",
    "litert": "rnn_export.export.targets.litert.writer",
    "coreml": "rnn_export.export.targets.coreml.writer",
    "executorch": "rnn_export.export.targets.executorch.writer",
    "executorch-portable": "rnn_export.export.targets.executorch.writer",
    "c": "rnn_export.export.targets.c.writer",
    "wasm": "rnn_export.export.targets.wasm.writer",
}


class Writer(Protocol):
    """A target's module."""

    def write(self, model: "StreamingModel", target: Target, options: TargetOptions) -> dict[str, bytes]:
        """The files by their path in the bundle; raises ExportError if the model has no such form."""

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The needs of a device to run the files, as in the manifest's row."""

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> Sequence[Engine]:
        """Engines on the files as they were written, to verify them."""


class StepWriter(Writer, Protocol):
    """A target that can also be written from the step graph of a bundle."""

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """The same files as `write`."""


def requirements(
    target: Target, options: TargetOptions, spec: StreamSpec, files: Mapping[str, bytes]
) -> dict[str, Any]:
    """The `requires` of the manifest's row, for the `files` that a target's writer gave."""
    writer = find_writer(target.name)
    found = getattr(writer, "found", None)
    return {**writer.requires(target, options), **({} if found is None else found(spec, files))}


def golden_files(target: str, spec: StreamSpec, options: TargetOptions, golden: Golden) -> dict[str, bytes]:
    """The golden vectors in the target's own form, once it is verified; none where those of the bundle will do."""
    write = getattr(find_writer(target), "golden_files", None)
    files: dict[str, bytes] = {} if write is None else write(spec, options, golden)
    return files


def notes(artefacts: Artefacts, target: Target, options: TargetOptions) -> list[str]:
    """Notes for the user on how a target was written; most have none."""
    said = getattr(find_writer(target.name), "notes", None)
    return [] if said is None else list(said(artefacts, target, options))


def fp16_accumulate_engines(artefacts: Artefacts, target: Target, options: TargetOptions) -> Sequence[Engine]:
    """Engines like a device that adds products of fp16 up in fp16; reported, and held to nothing."""
    found = getattr(find_writer(target.name), "fp16_accumulate_engines", None)
    return [] if found is None else found(artefacts, target, options)


def find_writer(target: str) -> Writer:
    """The module of a target that `rnn_export.targets` has a row for."""
    name = "tensorrt" if TARGETS[target].library else target
    return cast(Writer, load_module(WRITERS[name]))
