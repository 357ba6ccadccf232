"""The target `wasm`: the step in C as WebAssembly, in a package for browsers and Node, verified on wasmtime."""

from typing import Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.export.targets.base import StepWriter
from rnn_export.export.targets.c.int8_calibration import scales
from rnn_export.export.targets.c.writer import sources
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime.build.wasm.wasm_build import engines as both_modules
from rnn_export.runtime.build.wasm.web_package import GOLDEN, golden_json, package
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder
from rnn_export.runtime.replay.golden import Golden


class Writer(StepWriter):
    """The writer of WebAssembly."""

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """The package, compiled here."""
        calibrated = None if options.calibration is None else scales(step, spec, initial, options.calibration)
        written = sources(step, spec, initial, options.name, options.precision, calibrated)
        files = package(written, options.name, spec, options.precision)
        return {f"{folder('wasm', options.precision)}/{name}": data for name, data in files.items()}

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The name that the package goes by."""
        return {"name": options.name}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        return both_modules(artefacts, options.precision)

    def golden_files(self, spec: StreamSpec, options: TargetOptions, golden: Golden) -> dict[str, bytes]:
        """The golden vectors as JSON, for `selftest()`."""
        return {f"{folder('wasm', options.precision)}/{GOLDEN}": golden_json(spec, golden, options.precision)}
