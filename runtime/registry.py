"""Backends by name, each imported on use."""

from collections.abc import Callable, Mapping

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BackendUnavailable
from rnn_export.lazy import load_module
from rnn_export.platform.trusted_code import Trust
from rnn_export.runtime.gate import behind_gate
from rnn_export.runtime.protocols import Artefacts, Session

# Fastest first: this is the order in which "auto" tries them.
BACKENDS: Mapping[str, str] = {
    "tensorrt": "rnn_export.runtime.backends.tensorrt.backend",
    "native": "rnn_export.runtime.backends.native.backend",
    "onnxruntime": "rnn_export.runtime.backends.onnxruntime.backend",
    "openvino": "rnn_export.runtime.backends.openvino.backend",
    "litert": "rnn_export.runtime.backends.litert.backend",
    "torchscript": "rnn_export.runtime.backends.torchscript.backend",
    "wasm": "rnn_export.runtime.backends.wasm.backend",
    "coreml": "rnn_export.runtime.backends.coreml.backend",
    "executorch": "rnn_export.runtime.backends.executorch.backend",
}
# Run where they are asked for alone.
NEVER_AUTO = frozenset({"coreml", "executorch", "wasm"})

REMOTE = "rnn_export.runtime.backends.remote.backend"


def open_address(
    address: str, backend: str, precision: str | None, device: str | None, threads: int, spec: StreamSpec | None = None
) -> tuple[Artefacts, Session]:
    """The model served at `address` and a session on it; raises BackendUnavailable with the reason."""
    open_there: Callable[..., tuple[Artefacts, Session]] = load_module(REMOTE).open_address
    return open_there(address, backend, precision, device, threads, spec)


def open_session(
    name: str,
    artefacts: Artefacts,
    precision: str | None,
    device: str | None,
    threads: int,
    trust: bool | Trust = False,
) -> Session:
    """Open a session of the backend `name`, behind the gate; raises BackendUnavailable with the reason."""
    if name not in BACKENDS:
        raise BackendUnavailable(f"there is no backend {name!r}: choose auto or one of {', '.join(BACKENDS)}.")
    allowed = behind_gate(artefacts, trust)
    session: Session = load_module(BACKENDS[name]).open_session(allowed, precision, device, threads)
    return session
