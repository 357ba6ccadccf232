"""The contract of a target's writer: the files that it writes, and the engines that they are verified on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts
from rnn_export.runtime.replay.golden import Golden

if TYPE_CHECKING:
    from rnn_export.export.lift.streaming_model import StreamingModel


class TargetWriter(ABC):
    """Writes the files of one target; its row in the target table says what the target is."""

    @abstractmethod
    def write(self, model: "StreamingModel", target: Target, options: TargetOptions) -> dict[str, bytes]:
        """The files by their path in the bundle; raises ExportError for a model that the target cannot express."""

    @abstractmethod
    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The requirements of a device that runs the files, as the manifest's row has them."""

    @abstractmethod
    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> Sequence[Engine]:
        """Engines on the files as they were written, to verify them."""

    def requirements(
        self, target: Target, options: TargetOptions, spec: StreamSpec, files: Mapping[str, bytes]
    ) -> dict[str, Any]:
        """The `requires` of the manifest's row for the written `files`."""
        return {**self.requires(target, options), **self.found(spec, files)}

    def found(self, spec: StreamSpec, files: Mapping[str, bytes]) -> dict[str, Any]:
        """Facts about the written `files` that the manifest's row has too."""
        return {}

    def golden_files(self, spec: StreamSpec, options: TargetOptions, golden: Golden) -> dict[str, bytes]:
        """The golden vectors in a form of the target's own, once it is verified."""
        return {}

    def notes(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[str]:
        """Notes for the user on how the target was written."""
        return []

    def fp16_accumulate_engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> Sequence[Engine]:
        """Engines like a device that adds products of fp16 up in fp16; reported, and held to nothing."""
        return ()


class StepWriter(TargetWriter):
    """A target that can also be written from the step graph of a bundle."""

    def write(self, model: "StreamingModel", target: Target, options: TargetOptions) -> dict[str, bytes]:
        """The files from the step graph of the model; a target that starts from torch writes them in its own way."""
        # `from_step` needs no torch.
        from rnn_export.export.graph.step import required_step

        initial = {name: np.asarray(value.cpu()) for name, value in model.initial.items()}
        return self.from_step(required_step(model), model.spec, initial, target, options)

    @abstractmethod
    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """The same files as `write`, from the fp32 step graph of a bundle."""
