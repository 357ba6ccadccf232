"""Describe an ONNX file that is no bundle yet, and what `export` would make of it."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError, RnnExportError
from rnn_export.export.export_options import ExportOptions
from rnn_export.export.from_onnx.ports import Port, ports
from rnn_export.export.from_onnx.reading import graphs_of, read_source
from rnn_export.export.onnx_file import bring
from rnn_export.export.planning import check_runtime
from rnn_export.platform.last_resort import last_resort
from rnn_export.platform.threads import one_thread


@dataclass(frozen=True)
class FileDescription:
    """An ONNX file as `export` sees it: `spec` and `notes`, or the `error` it raises.

    Attributes:
        operators: the number of nodes of each, at any depth.
        comes_back: by input that is a state, the output that it comes back as.
    """

    opset: int
    producer: str
    operators: Mapping[str, int]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    comes_back: Mapping[str, str]
    spec: StreamSpec | None
    notes: Sequence[str]
    error: RnnExportError | None


@last_resort(ExportError)
@one_thread
def describe_file(file: str | os.PathLike[str], options: ExportOptions) -> FileDescription:
    """Look at `file` as `export` would. Raises SourceError where it is no ONNX."""
    source = read_source(file)
    operators = Counter(node.op_type for graph in graphs_of(source.model.graph) for node in graph.node)
    taken, given = ports(source.model.graph.input), ports(source.model.graph.output)
    comes_back: dict[str, str] = {}
    spec, notes, error = None, list[str](), None
    try:
        check_runtime()
        found = bring(source, options)
        comes_back = {pair.input: pair.output for pair in found.layout.pairs}
        _, notes = found.step(meant=options.states is not None)
        spec = found.spec
        notes += [
            _one_number(port)
            for name, port in taken.items()
            if name not in comes_back and name not in (options.fixed or {})
        ]
    except RnnExportError as why:
        error = why
    notes = [note for note in notes if note]
    ends = tuple(taken.values()), tuple(given.values())
    return FileDescription(source.opset, source.producer, operators, *ends, comes_back, spec, notes, error)


def _one_number(port: Port) -> str:
    if port.shape not in ((), (1,)) or port.dtype.startswith("float"):
        return ""
    return f"{port.name!r} is one number: where it is always the same, as a sample rate is, say --fix {port.name}=N"
