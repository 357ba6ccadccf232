"""The writer of each target, found by name and imported when used."""

from collections.abc import Mapping

from rnn_export.contract.target_table import TARGETS
from rnn_export.export.targets.base import TargetWriter
from rnn_export.lazy import load_module

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


def find_writer(target: str) -> TargetWriter:
    """The writer of a target that the target table has a row for."""
    name = "tensorrt" if TARGETS[target].library else target
    writer: TargetWriter = load_module(WRITERS[name]).Writer()
    return writer
