"""The target `coreml`: one step as a package of Core ML's (`step.mlpackage`), its state inside, for one stream.

Core ML runs on Apple's systems alone. coremltools converts here, and the package is read back and executed in numpy,
in the closed loop of every target: the program is verified, and was not run on hardware.
"""

from typing import TYPE_CHECKING, Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.errors import ExportError
from rnn_export.export.targets.base import StepWriter
from rnn_export.export.targets.coreml.mil_interpreter import MilSession, check_known
from rnn_export.platform.arrays import Arrays
from rnn_export.platform.isolated_process import run_isolated
from rnn_export.runtime.backends.coreml.mil import read_program
from rnn_export.runtime.backends.coreml.package_inspection import check_program, manifest, read_package
from rnn_export.runtime.backends.coreml.package_names import DTYPES, MANIFEST, MODEL, PACKAGE, PLACES, WEIGHTS
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder, target_row

if TYPE_CHECKING:
    from torch import fx

    from rnn_export.export.lift.streaming_model import StreamingModel

NOT_RUN = (
    "coreml was not run on hardware: its program was executed in numpy. On a Mac, `rnn-export verify NAME.rnnx "
    "--backend coreml` holds Core ML itself to the golden vectors."
)


class Writer(StepWriter):
    """The writer of Core ML."""

    def write(self, model: "StreamingModel", target: Target, options: TargetOptions) -> dict[str, bytes]:
        """The files of `step.mlpackage`."""
        from rnn_export.export.targets.torch_step.aten_step import aten_step

        _check_states(model.spec)
        initial = {name: value.cpu().numpy() for name, value in model.initial.items()}
        return _converted(aten_step(model), model.spec, initial, options)

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """The same from a step graph, which is written in torch's operators first."""
        from rnn_export.export.targets.torch_step.aten_step import step_of_graph

        _check_states(spec)
        return _converted(step_of_graph(step, spec), spec, initial, options)

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The oldest systems on which a model keeps states, its precision, and that of its states."""
        states = {"fp32": "pairs of fp16, which hold fp32", "fp16": "fp16"}[options.precision]
        return {"ios": "18", "macos": "15", "compute": options.precision, "states": states}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        """On the interpreter, from the bytes of the files."""
        _, program = read_package(artefacts, target_row(artefacts, "coreml", options.precision))
        return [Engine(artefacts, "coreml in numpy", MilSession(artefacts.spec, program, options.precision))]

    def notes(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[str]:
        return [NOT_RUN]


def _check_states(spec: StreamSpec) -> None:
    for state in spec.states:
        if state.dtype not in DTYPES:
            raise ExportError(
                f"state {state.name!r} is {state.dtype}, which Core ML does not compute in: keep it as one of "
                f"{', '.join(DTYPES)}, or leave coreml out.",
                id="coreml-state-dtype",
            )


def _converted(step: "fx.GraphModule", spec: StreamSpec, initial: Arrays, options: TargetOptions) -> dict[str, bytes]:
    from rnn_export.export.targets.coreml.mil_program import traced

    given = {"step.pt": traced(step, spec, initial, options.precision)}
    words = {"spec": spec.to_json(), "precision": options.precision}
    made = run_isolated("rnn_export.export.targets.coreml.coreml_conversion", "convert", given, words)
    try:
        program = read_program(made[MODEL], made[WEIGHTS])
        check_known(program)
        check_program(program, spec, options.precision)
    except ValueError as error:
        raise ExportError(
            f"what coremltools makes of the step is none that a bundle holds: {error}. Leave coreml out, or write that "
            "part of the model otherwise.",
            id="coreml-package-unusable",
        ) from error
    place = f"{folder('coreml', options.precision)}/{PACKAGE}"
    return {f"{place}/{PLACES[name]}": data for name, data in {**made, MANIFEST: manifest()}.items()}
