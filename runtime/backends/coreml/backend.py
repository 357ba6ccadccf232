"""Core ML on macOS 15 and later: the package of a bundle as a session. Written without a Mac: not run on hardware."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BackendUnavailable
from rnn_export.runtime.backends.coreml.buffers import PackageBuffers
from rnn_export.runtime.backends.coreml.library import ModelPrediction, open_model
from rnn_export.runtime.backends.coreml.package_inspection import read_package
from rnn_export.runtime.backends.coreml.package_names import BEGUN, PACKAGE, PLACES
from rnn_export.runtime.protocols import Artefacts, Session, StreamBuffers, target_row

# By what `device` is called; in fp32 a Neural Engine has no part.
UNITS = {"cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ane": "CPU_AND_NE", "all": "ALL"}


class CoreMlSession(Session):
    """The step of one stream; rows of streams and pools go in sequence."""

    rows_at_once = 1

    def __init__(self, spec: StreamSpec, model: Any, precision: str, device: str, begun: bool, place: str) -> None:
        self.spec, self.model, self.precision, self.device, self.begun = spec, model, precision, device, begun
        # The package lies there as long as Core ML may read it.
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)

    def stream_buffers(self, batch: int) -> StreamBuffers:
        return PackageBuffers(self.spec, self.precision, self.begun, ModelPrediction(self.model))


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> CoreMlSession:
    """Load the bundle's package; `device` is None or "cpu" for the CPU alone, "gpu", "ane" or "all"."""
    row, where = target_row(artefacts, "coreml", precision), "cpu" if device is None else device
    if where not in UNITS:
        raise BackendUnavailable(
            f"coreml has no device {device!r}: use {', '.join(map(repr, UNITS))}.", id="coreml-device-unknown"
        )
    if threads > 1:
        raise BackendUnavailable(
            f"threads={threads}: Core ML takes as many as it likes. Leave threads out.", id="coreml-threads-option"
        )
    files, program = read_package(artefacts, row)
    place = tempfile.mkdtemp(prefix="rnn-export-")
    try:
        model = open_model(_written(Path(place, PACKAGE), files), UNITS[where])
    except BackendUnavailable:
        shutil.rmtree(place)
        raise
    return CoreMlSession(artefacts.spec, model, row.precision, where, BEGUN in program.states, place)


def _written(package: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = package / PLACES[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return package
