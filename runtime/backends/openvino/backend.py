"""OpenVINO on the CPU: the IR of a bundle as a session, in the precision asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BackendUnavailable, BundleError
from rnn_export.runtime.backends.openvino.buffers import RowsBuffers, StatefulBuffers
from rnn_export.runtime.backends.openvino.graph import ROWS, STATEFUL, STATELESS, WEIGHTS, read_graph
from rnn_export.runtime.backends.openvino.library import cause, ov, settings, version
from rnn_export.runtime.backends.openvino.table_bounds import table_rows
from rnn_export.runtime.protocols import Artefacts, Session, StreamBuffers, target_row


class OpenVinoSession(Session):
    """The step of one stream, and the step of several rows where the model takes them."""

    device = "cpu"

    def __init__(self, spec: StreamSpec, graphs: Mapping[str, Any], precision: str, asked: Mapping[str, Any]) -> None:
        self.spec, self.graphs, self.precision, self.asked = spec, graphs, precision, asked
        self.compiled = {name: _compiled(name, graph, asked) for name, graph in graphs.items()}
        self.tables = table_rows(graphs[STATEFUL])
        self.rows_at_once = ROWS if STATELESS in graphs else None

    def stream_buffers(self, batch: int) -> StreamBuffers:
        if batch == 1:
            return StatefulBuffers(self.spec, self.compiled[STATEFUL], self.tables)
        return RowsBuffers(self.spec, self.compiled[STATELESS], self.tables)

    def by_default(self) -> OpenVinoSession | None:
        usual = settings(self.asked["INFERENCE_NUM_THREADS"], by_default=True)
        other = OpenVinoSession(self.spec, self.graphs, self.precision, usual)
        return other if other.computes_in != self.computes_in else None

    @property
    def computes_in(self) -> str:
        """The precision that OpenVINO reports, "f32" or less."""
        return str(self.compiled[STATEFUL].get_property("INFERENCE_PRECISION_HINT").to_string())


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> OpenVinoSession:
    """Load the bundle's IR; `device` is None or "cpu"."""
    row, spec = target_row(artefacts, "openvino", precision), artefacts.spec
    if device not in (None, "cpu"):
        raise BackendUnavailable(
            f"openvino has no device {device!r} here: it was tried on 'cpu' alone. On a GPU or an NPU of Intel's run "
            "step.xml of the bundle by OpenVINO itself, and hold it to the golden vectors.",
            id="openvino-device-untried",
        )
    names = {name: row.file(name) for name in (STATEFUL, STATELESS, WEIGHTS)}
    needed = (STATEFUL, WEIGHTS) if spec.rows else (STATEFUL, STATELESS, WEIGHTS)
    for name in needed:
        if names[name] is None:
            raise BundleError(
                f"target 'openvino' lists {', '.join(row.files)}, but no {name}. Export the bundle again.",
                id="openvino-file-missing",
            )
    weights = artefacts.read(str(names[WEIGHTS]))
    graphs = {n: read_graph(str(names[n]), artefacts.read(str(names[n])), weights, spec) for n in needed[:-1]}
    return OpenVinoSession(spec, graphs, row.precision, settings(threads))


def _compiled(name: str, graph: Any, asked: Mapping[str, Any]) -> Any:
    try:
        return ov.Core().compile_model(graph, "CPU", dict(asked))
    except RuntimeError as error:
        raise BackendUnavailable(
            f"openvino {version()} cannot compile {name}: {cause(error)}", id="openvino-cannot-compile"
        ) from error
