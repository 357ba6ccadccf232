"""The target `openvino`: one step as OpenVINO's IR, its state inside.

`step.xml` takes one stream, whose states are OpenVINO's own variables: its user feeds frames, and calls
`reset_state` for a new stream. `rows.xml` takes several streams at once and has the states as inputs and outputs, for
pools; a model of one row has none. Both read their weights from `step.bin`. All sizes in them are numbers.
"""

from typing import Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.errors import ExportError
from rnn_export.export.targets.base import StepWriter
from rnn_export.platform.arrays import Arrays, pack_arrays
from rnn_export.platform.isolated_process import run_isolated
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder


class Writer(StepWriter):
    """The writer of OpenVINO."""

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """`step.xml`, `step.bin` and, where several rows are taken, `rows.xml`.

        OpenVINO reads the step in a process of its own.
        """
        if options.calibration is not None:
            raise ExportError(
                "openvino in int8 has its weights alone in int8, which needs no recording: leave calibrate "
                "(--calibrate) out.",
                id="openvino-int8-calibration",
            )
        stored = {s.name: initial[s.name] for s in spec.states if s.initial == "stored"}
        given = {"step.onnx": step, "initial.npz": pack_arrays(stored)}
        words = {"spec": spec.to_json(), "precision": options.precision}
        made = run_isolated("rnn_export.export.targets.openvino.ir_conversion", "convert", given, words)
        return {f"{folder('openvino', options.precision)}/{name}": data for name, data in made.items()}

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The oldest OpenVINO that reads the files; each file tells its writer."""
        return {"openvino": target.min_version}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        return [Engine.of(artefacts, "openvino", options.precision)]
