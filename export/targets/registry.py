"""What writes a target's files, and what they are verified on. One small file each, found by name, imported when used.

A target's module has the functions of `Writer`; `golden_files` where its programs need the vectors in another form;
`found` where its files hold what the manifest is to say; `notes` and `fp16_accumulate_engines` where there is more to
say of it than that it was verified.
What it is, and in which precisions, stands in its row in `rnn_export.targets`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from rnn_export.arrays import Arrays
from rnn_export.lazy import load_module
from rnn_export.runtime.backends.api import Artefacts
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.golden import Golden
from rnn_export.spec import StreamSpec
from rnn_export.target_options import TargetOptions
from rnn_export.targets import TARGETS, Target

if TYPE_CHECKING:
    from rnn_export.export.lift.streaming_model import StreamingModel

WRITERS: Mapping[str, str] = {
    "onnx": "rnn_export.export.targets.onnx",
    "torchscript": "rnn_export.export.targets.torchscript",
    "pt2": "rnn_export.export.targets.pt2",
    "tensorrt": "rnn_export.export.targets.tensorrt.writer",
    "openvino": "rnn_export.export.targets.openvino.writer",
    "litert": "rnn_export.export.targets.litert",
    "coreml": "rnn_export.export.targets.coreml",
    "executorch": "rnn_export.export.targets.executorch",
    "executorch-portable": "rnn_export.export.targets.executorch",
    "c": "rnn_export.export.targets.c.writer",
    "wasm": "rnn_export.export.targets.wasm",
}


class Writer(Protocol):
    """A target's module."""

    def write(self, model: "StreamingModel", target: Target, options: TargetOptions) -> dict[str, bytes]:
        """The files by their path in the bundle; raises ExportError where the model cannot be said so."""

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """What a device needs to run the files, as it stands in the manifest's row."""

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
    """What stands in the manifest's row of the `files` that a target's writer gave, as `requires`."""
    writer = find_writer(target.name)
    found = getattr(writer, "found", None)
    return {**writer.requires(target, options), **({} if found is None else found(spec, files))}


def golden_files(target: str, spec: StreamSpec, options: TargetOptions, golden: Golden) -> dict[str, bytes]:
    """The golden vectors in the target's own form, once it is verified; none where those of the bundle will do."""
    write = getattr(find_writer(target), "golden_files", None)
    files: dict[str, bytes] = {} if write is None else write(spec, options, golden)
    return files


def notes(artefacts: Artefacts, target: Target, options: TargetOptions) -> list[str]:
    """What a user should know of how a target was written; most have nothing to say."""
    said = getattr(find_writer(target.name), "notes", None)
    return [] if said is None else list(said(artefacts, target, options))


def fp16_accumulate_engines(artefacts: Artefacts, target: Target, options: TargetOptions) -> Sequence[Engine]:
    """What a device may compute that adds products of fp16 up in fp16; reported, and held to nothing."""
    found = getattr(find_writer(target.name), "fp16_accumulate_engines", None)
    return [] if found is None else found(artefacts, target, options)


def find_writer(target: str) -> Writer:
    """The module of a target that `rnn_export.targets` has a row for."""
    name = "tensorrt" if TARGETS[target].library else target
    return cast(Writer, load_module(WRITERS[name]))
