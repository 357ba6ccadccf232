"""The source of a step: from its graph to the text of every file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files as resources

from rnn_export.arrays import Array
from rnn_export.export.targets.c import programs
from rnn_export.export.targets.c.batched import batched
from rnn_export.export.targets.c.operators import translate
from rnn_export.export.targets.c.program import Program
from rnn_export.export.targets.c.step import prepared
from rnn_export.export.targets.c.text import Texts, initial_statements
from rnn_export.export.targets.c.weights import Weights
from rnn_export.runtime.build.native.names import identifiers
from rnn_export.spec import StreamSpec

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
    graph = prepared(step)
    weights = Weights()
    start = initial_statements(spec, initial, weights)
    program = Program(weights, precision, dict(scales or {}))
    given = {t.name: f"in{i}" for i, t in enumerate(spec.inputs)}
    members = identifiers([s.name for s in spec.states])
    given |= {s.input: f"state->{member}" for s, member in zip(spec.states, members, strict=True)}
    results = translate(graph, program, given)
    texts = Texts(name, spec, program, results, start, precision, batched(step, spec, program))
    source, stack, stack_of_rows = texts.source()
    written = {
        f"{name}.h": texts.header(stack, stack_of_rows),
        f"{name}.c": source,
        "kernels.h": kernels(precision),
        "main.c": programs.main(texts),
        "selftest.c": programs.selftest(texts),
        "CMakeLists.txt": programs.cmake(texts),
    }
    files = {path: text.encode() for path, text in written.items()}
    if texts.large:
        files[f"{name}.bin"] = weights.blob()
    return files


def kernels(precision: str) -> str:
    """The functions that a step is made of, as one header."""
    parts = [
        "/* What steps written by rnn-export are made of. */",
        "#ifndef RNN_KERNELS_H",
        "#define RNN_KERNELS_H",
        "",
    ]
    folder = resources("rnn_export.export.targets.c").joinpath("kernels")
    parts += [folder.joinpath(f"{kernel}.h").read_text() for kernel in (*KERNELS, *("narrow",) * (precision in NARROW))]
    return "\n".join([*parts, "#endif", ""])
