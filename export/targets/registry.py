"""What writes a target's files, and what they are verified on. One small file each, found by name, imported when used.

A target's module has the functions of `Writer`. What it is, and in which precisions, stands in its row in
`rnn_export.targets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from rnn_export.arrays import Array
from rnn_export.export.lift.api import StreamingModel
from rnn_export.lazy import load_module
from rnn_export.runtime.backends.api import Artefacts
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.replay.golden import Golden
from rnn_export.spec import StreamSpec
from rnn_export.target_options import Order
from rnn_export.targets import TARGETS, Target

WRITERS: Mapping[str, str] = {
    "onnx": "rnn_export.export.targets.onnx",
    "torchscript": "rnn_export.export.targets.torchscript",
    "pt2": "rnn_export.export.targets.pt2",
    "tensorrt": "rnn_export.export.targets.tensorrt.target",
    "c": "rnn_export.export.targets.c.target",
}


class Writer(Protocol):
    """A target's module."""

    def write(self, model: StreamingModel, target: Target, order: Order) -> dict[str, bytes]:
        """The files by their path in the bundle; raises ExportError where the model cannot be said so."""

    def requires(self, target: Target, order: Order) -> dict[str, Any]:
        """What a device needs to run the files, as it stands in the manifest's row."""

    def engines(self, artefacts: Artefacts, target: Target, order: Order) -> Sequence[Engine]:
        """Engines on the files as they were written, to verify them."""

    def proof(self, spec: StreamSpec, order: Order, golden: Golden) -> dict[str, bytes]:
        """Files that hold the golden vectors in the target's own form, once it is verified."""


class StepWriter(Writer, Protocol):
    """A target that can also be written from the step graph of a bundle."""

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Mapping[str, Array], target: Target, order: Order
    ) -> dict[str, bytes]:
        """The same files as `write`."""


def find_writer(target: str) -> Writer:
    """The module of a target that `rnn_export.targets` has a row for."""
    name = "tensorrt" if TARGETS[target].library else target
    return cast(Writer, load_module(WRITERS[name]))
