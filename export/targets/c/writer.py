"""The target `c`: one step in C99, with no dependency, verified as this machine compiles it."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib.resources import files as resources
from typing import Any

from rnn_export.contract.precision import TOLERANCES
from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.export.targets.base import StepWriter
from rnn_export.export.targets.c.batch_step import write_batch_step
from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.constants import Weights
from rnn_export.export.targets.c.int8_calibration import scales
from rnn_export.export.targets.c.operator_table import write_step
from rnn_export.export.targets.c.static_graph import static_graph
from rnn_export.export.targets.c.template_values import golden_values, initial_statements, template_values
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime.build.c_names import identifiers
from rnn_export.runtime.build.native.compilation import compile_native
from rnn_export.runtime.build.template import render
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder
from rnn_export.runtime.replay.golden import Golden

PACKAGE = "rnn_export.export.targets.c"
KERNELS = ("vector", "functions", "dense", "recurrent", "rows")
NARROW = ("bf16", "int8")
# Beside the sources: programs, and what CMake, Arduino, ESP-IDF and Zephyr read of this one folder.
AROUND = ("main.c", "selftest.c", "CMakeLists.txt", "library.properties", "idf_component.yml")
ZEPHYR = ("zephyr/module.yml", "zephyr/CMakeLists.txt", "zephyr/Kconfig")


class Writer(StepWriter):
    """The writer of C."""

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """The sources of the step, and the library that this machine's compiler makes of them."""
        calibrated = None if options.calibration is None else scales(step, spec, initial, options.calibration)
        files = sources(step, spec, initial, options.name, options.precision, calibrated)
        files |= compile_native(files, options.name, spec)
        return {f"{folder('c', options.precision)}/{name}": data for name, data in files.items()}

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The name that the sources go by, and how activations are scaled in int8."""
        if options.precision != "int8":
            return {"name": options.name}
        return {"name": options.name, "scales": "at run time" if options.calibration is None else "calibrated"}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        return [Engine.of(artefacts, "native", options.precision)]

    def golden_files(self, spec: StreamSpec, options: TargetOptions, golden: Golden) -> dict[str, bytes]:
        """The golden vectors as `golden.h`, for the self-test."""
        if golden.precision != options.precision:
            golden = replace(golden, tolerance=TOLERANCES[options.precision])
        header = render(PACKAGE, "templates/golden.h", "golden", golden_values(spec, golden))
        return {f"{folder('c', options.precision)}/golden.h": header.encode()}


def sources(
    step: bytes,
    spec: StreamSpec,
    initial: Arrays,
    name: str,
    precision: str = "fp32",
    scales: Mapping[str, float] | None = None,
) -> dict[str, bytes]:
    """The C of a step by file name, everything `name` made of it.

    `step` is the fp32 step graph, `initial` one row of every state. `scales` are the largest magnitudes of activations
    by name, for int8; one without is measured at each step.

    Raises ExportError that names node and operator if one cannot be written.
    """
    graph = static_graph(step)
    weights = Weights()
    init = initial_statements(spec, initial, weights)
    code = CodeBuilder(weights, precision, scales, "state->way", by_team=True, note_member="state->wrong_index")
    addresses = {t.name: f"in{i}" for i, t in enumerate(spec.inputs)}
    members = identifiers([s.name for s in spec.states])
    addresses |= {s.input: f"state->{member}" for s, member in zip(spec.states, members, strict=True)}
    results = write_step(graph, code, addresses)
    values = template_values(spec, init, code, results, write_batch_step(step, spec, code))
    templates = {f"{name}.{suffix}": f"step.{suffix}" for suffix in ("h", "hpp", "c")}
    templates |= {file: file for file in (*AROUND, *ZEPHYR)}
    if not weights.embedded:
        templates[f"{name}_weights.S"] = "weights.S"
    files = {file: render(PACKAGE, f"templates/{template}", name, values) for file, template in templates.items()}
    files["kernels.h"] = kernels(precision, code.more_kernels)
    if code.phases:
        files["rnn_team.h"] = render(PACKAGE, "templates/rnn_team.h", name, {})
    written = {file: text.encode() for file, text in files.items()}
    return written if weights.embedded else {**written, f"{name}.bin": weights.blob()}


def kernels(precision: str, more: Collection[str] = ()) -> str:
    """The functions that a step calls, as one header; of the other files only those in `more`."""
    names = [*KERNELS, *["narrow"] * (precision in NARROW), *sorted(more)]
    parts = [resources(PACKAGE).joinpath(f"kernels/{name}.h").read_text() for name in names]
    return render(PACKAGE, "templates/kernels.h", "kernels", {"kernels": "\n".join(parts)})
