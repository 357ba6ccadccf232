"""ONNX Runtime on CPU or CUDA: the bundle's graphs as a session."""

import re
from collections.abc import Mapping
from typing import Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BackendUnavailable, BundleError
from rnn_export.onnx.graph_inspection import inspect_graph
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.onnxruntime.buffers import Graphs, OrtBuffers, OrtStateStore
from rnn_export.runtime.backends.onnxruntime.library import infer_shapes, make_session, ort
from rnn_export.runtime.protocols import Artefacts, Session, StateStore, target_row

GRAPHS = ("step.onnx", "sequence.onnx")


class OrtSession(Session):
    """The step graph and the sequence graph, where there is one."""

    def __init__(self, graphs: Graphs) -> None:
        self.graphs, self.spec, self.device = graphs, graphs.spec, graphs.device
        self.has_sequence = graphs.sequence is not None

    def stream_buffers(self, batch: int) -> OrtBuffers:
        return OrtBuffers(self.graphs, batch)

    def state_store(self) -> StateStore:
        if self.device == "cpu":
            return OrtStateStore(self.graphs)
        from rnn_export.runtime.backends.onnxruntime.cuda_state_store import cuda_state_store

        return cuda_state_store(self.graphs)


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> OrtSession:
    """Load the bundle's ONNX graphs; `device` is None, "cpu", "cuda" or "cuda:N"."""
    _provider(device)
    return graph_session(artefacts.spec, inspected(artefacts, precision), device, threads)


def inspected(artefacts: Artefacts, precision: str | None) -> dict[str, bytes]:
    """The bundle's ONNX graphs by file name, held to the contract."""
    row = target_row(artefacts, "onnx", precision)
    graphs = {name.rsplit("/", 1)[-1]: artefacts.read(name) for name in row.files}
    needed = "sequence.onnx" if artefacts.spec.sequence_only else "step.onnx"
    if needed not in graphs:
        raise BundleError(
            f"target 'onnx' lists {', '.join(row.files)}, but no {needed}. Export the bundle again.",
            id="onnx-target-file-missing",
        )
    for name in GRAPHS:
        if name in graphs:
            inspect_graph(name, graphs[name], artefacts.spec, infer_shapes)
    return graphs


def graph_session(
    spec: StreamSpec,
    graphs: Mapping[str, bytes],
    device: str | None = None,
    threads: int = 1,
    optimise: bool = True,
    profile: str | None = None,
) -> OrtSession:
    """A session of `step.onnx`, of `sequence.onnx` or of both; without `optimise` each node runs as it was written.

    ONNX Runtime's own profile goes into a file whose path begins with `profile`.
    """
    provider, number = _provider(device)
    names = [name for name in GRAPHS if name in graphs]
    sessions = {name: _session(graphs[name], provider, number, threads, optimise, profile) for name in names}
    for name, session in sessions.items():
        _check_names(name, session, spec)
    device = "cpu" if provider == "CPUExecutionProvider" else f"cuda:{number}"
    return OrtSession(Graphs(spec, sessions.get("step.onnx"), sessions.get("sequence.onnx"), device))


def _check_names(graph: str, session: Any, spec: StreamSpec) -> None:
    feeds = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
    gives = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
    for what, values, expected in (("takes", session.get_inputs(), feeds), ("gives", session.get_outputs(), gives)):
        names = [value.name for value in values]
        if names != expected:
            raise BundleError(
                f"{graph} {what} {names}, but the contract says {expected}. Export the bundle again.",
                id="onnx-contract-differs",
            )


def _provider(device: str | None) -> tuple[str, int]:
    named = re.fullmatch("(cpu|cuda)(?::([0-9]+))?", "cpu" if device is None else str(device))
    if named is None or named.group(0).startswith("cpu:"):
        raise BackendUnavailable(
            f"onnxruntime has no device {device!r}: use 'cpu', 'cuda' or 'cuda:N'.", id="onnxruntime-device-unknown"
        )
    provider = f"{named.group(1).upper()}ExecutionProvider"
    if provider not in ort.get_available_providers():
        built = f"onnxruntime {ort.__version__} was built with {', '.join(ort.get_available_providers())}"
        fix = f"{pip_install('gpu')} in place of onnxruntime"
        raise BackendUnavailable(
            f"device {device!r} needs {provider}, but this {built}: {fix}.", id="onnxruntime-provider-missing"
        )
    return provider, int(named.group(2) or 0)


def _session(graph: bytes, provider: str, number: int, threads: int, optimise: bool, profile: str | None = None) -> Any:
    session = make_session(graph, provider, number, threads, optimise, profile=profile)
    # Where the driver is missing, onnxruntime gives a CPU session without a word.
    if session.get_providers()[0] != provider:
        made = f"onnxruntime {ort.__version__} made a session on {', '.join(session.get_providers())}"
        why = "the CUDA driver or libraries are missing or do not fit"
        raise BackendUnavailable(f"{provider} was asked for, but {made}: {why}.", id="onnxruntime-provider-fallback")
    return session
