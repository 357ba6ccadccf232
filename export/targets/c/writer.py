"""The source of a step: from its graph to the text of every file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files as resources

from rnn_export.arrays import Array
from rnn_export.export.targets.c.batch_step import write_batch_step
from rnn_export.export.targets.c.code_builder import CodeBuilder
from rnn_export.export.targets.c.operators import write_step
from rnn_export.export.targets.c.static_graph import static_graph
from rnn_export.export.targets.c.template_values import initial_statements, template_values
from rnn_export.export.targets.c.weights import Weights
from rnn_export.runtime.build.native.names import identifiers
from rnn_export.runtime.build.native.template import render
from rnn_export.spec import StreamSpec

PACKAGE = "rnn_export.export.targets.c"
KERNELS = ("vector", "functions", "dense", "recurrent", "rows")
NARROW = ("bf16", "int8")


def sources(
    step: bytes,
    spec: StreamSpec,
    initial: Mapping[str, Array],
    name: str,
    precision: str = "fp32",
    scales: Mapping[str, float] | None = None,
) -> dict[str, bytes]:
    """The C of a step by file name, everything `name` made of it.

    `step` is the fp32 step graph, `initial` one row of every state. `scales` are the largest magnitudes of activations
    by name, for int8; what has none is measured at each step.

    Raises ExportError that names node and operator where one cannot be written.
    """
    graph = static_graph(step)
    weights = Weights()
    init = initial_statements(spec, initial, weights)
    code = CodeBuilder(weights, precision, scales)
    addresses = {t.name: f"in{i}" for i, t in enumerate(spec.inputs)}
    members = identifiers([s.name for s in spec.states])
    addresses |= {s.input: f"state->{member}" for s, member in zip(spec.states, members, strict=True)}
    results = write_step(graph, code, addresses)
    values = template_values(spec, init, code, results, write_batch_step(step, spec, code))
    templates = {f"{name}.h": "step.h", f"{name}.c": "step.c"}
    templates |= {file: file for file in ("main.c", "selftest.c", "CMakeLists.txt")}
    files = {file: render(PACKAGE, f"templates/{template}", name, values) for file, template in templates.items()}
    files["kernels.h"] = kernels(precision)
    written = {file: text.encode() for file, text in files.items()}
    return written if weights.embedded else {**written, f"{name}.bin": weights.blob()}


def kernels(precision: str) -> str:
    """The functions that a step is made of, as one header."""
    names = [*KERNELS, *(["narrow"] if precision in NARROW else [])]
    parts = [resources(PACKAGE).joinpath(f"kernels/{name}.h").read_text() for name in names]
    return render(PACKAGE, "templates/kernels.h", "kernels", {"kernels": "\n".join(parts)})
