"""Run the file unchanged on ONNX Runtime, as the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_export.errors import BackendUnavailable, ExportError, SourceError, first_line
from rnn_export.export.from_onnx.reading import Source
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.onnxruntime.library import RUN_ERRORS, make_session

# ONNX Runtime tells the way to a node inside of others anew at each level.
_LONGEST = 600


class Original:
    """Runs the file with its own names and layouts; `fixed` are the inputs that are always the same."""

    def __init__(self, source: Source, fixed: Mapping[str, Array]) -> None:
        self.path, self.fixed = source.path, dict(fixed)
        try:
            self._session = make_session(source.packed)
        except BackendUnavailable as error:
            raise SourceError(
                f"{source.path} is held to what ONNX Runtime makes of it, but {error}", id=error.id
            ) from error
        self.shapes = {value.name: value.shape for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; raises ExportError with ONNX Runtime's message on inputs that it refuses."""
        try:
            results = self._session.run(None, {**self.fixed, **feed})
        except RUN_ERRORS as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in feed.items())
            settings = [name for name, value in feed.items() if value.dtype.kind in "iub" and not value.ndim]
            fix = f" What is always the same is no data: --fix {settings[0]}=VALUE." if settings else ""
            raise ExportError(
                f"{self.path} itself fails on {shapes}: {first_line(error)[:_LONGEST]}. Say the shapes that it is made "
                "for, --shape NAME=DIM,DIM (shapes={NAME: (...)}): numbers, and 'batch' where any number of streams "
                f"may be.{fix}",
                id="onnx-original-fails",
            ) from error
        return {name: np.asarray(value) for name, value in zip(self.outputs, results, strict=True)}
