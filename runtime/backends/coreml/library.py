"""coremltools on macOS, or why it is not here."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnn_export.errors import BackendUnavailable, StreamError, first_line
from rnn_export.lazy import load_module
from rnn_export.platform.arrays import Array
from rnn_export.platform.installing import pip_install

# The release of macOS from which on a model keeps states.
MACOS = 15


def open_model(package: Path, compute: str) -> Any:
    """The package as coremltools' MLModel; raises BackendUnavailable with the reason."""
    if platform.system() != "Darwin":
        raise BackendUnavailable(
            f"coreml runs on macOS alone, and this is {platform.system()}: verify the bundle on a Mac, `rnn-export "
            "verify NAME.rnnx --backend coreml`.",
            id="coreml-needs-macos",
        )
    release = platform.mac_ver()[0]
    if int(release.partition(".")[0] or 0) < MACOS:
        raise BackendUnavailable(
            f"coreml keeps states from macOS {MACOS} on, and this is macOS {release}: update it.",
            id="coreml-macos-too-old",
        )
    try:
        tools = load_module("coremltools")
    except ImportError as error:
        raise BackendUnavailable(
            f"coremltools is not here ({error}): {pip_install('coreml')}.", id="coremltools-not-here"
        ) from error
    try:
        return tools.models.MLModel(str(package), compute_units=getattr(tools.ComputeUnit, compute))
    except Exception as error:  # Core ML's own errors come as several kinds
        raise BackendUnavailable(
            f"Core ML cannot compile {package.name}: {first_line(error)}", id="coreml-cannot-compile"
        ) from error


class ModelPrediction:
    """One stream's `MLState`, and predictions on it."""

    def __init__(self, model: Any) -> None:
        self.model, self.state = model, model.make_state()

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            given: Mapping[str, Array] = self.model.predict(dict(inputs), self.state)
        except Exception as error:  # Core ML's own errors come as several kinds
            raise StreamError(f"coreml refused the frame: {first_line(error)}", id="coreml-frame-refused") from error
        return given

    def read_state(self, name: str) -> Array:
        value: Array = self.state.read_state(name)
        return value

    def write_state(self, name: str, value: Array) -> None:
        self.state.write_state(name, value)
