"""Backends by name, each imported on use from the folder of that name."""

from collections.abc import Callable
from types import ModuleType

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BackendUnavailable
from rnn_export.lazy import load_module
from rnn_export.platform.trusted_code import Trust
from rnn_export.runtime.gate import behind_gate
from rnn_export.runtime.protocols import Artefacts, Session

# The folders of `rnn_export.runtime.backends`, fastest first: this is the order in which "auto" tries them.
BACKENDS = (
    "tensorrt",
    "native",
    "onnxruntime",
    "openvino",
    "litert",
    "torchscript",
    "wasm",
    "coreml",
    "executorch",
)
# Run where they are asked for alone.
NEVER_AUTO = frozenset({"coreml", "executorch", "wasm"})


def load_backend(name: str) -> ModuleType:
    """The module of a backend; raises as its import does."""
    return load_module(f"rnn_export.runtime.backends.{name}.backend")


def open_address(
    address: str, backend: str, precision: str | None, device: str | None, threads: int, spec: StreamSpec | None = None
) -> tuple[Artefacts, Session]:
    """The model served at `address` and a session on it; raises BackendUnavailable with the reason."""
    open_there: Callable[..., tuple[Artefacts, Session]] = load_backend("remote").open_address
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
        raise BackendUnavailable(
            f"there is no backend {name!r}: choose auto or one of {', '.join(BACKENDS)}.", id="backend-unknown"
        )
    allowed = behind_gate(artefacts, trust)
    session: Session = load_backend(name).open_session(allowed, precision, device, threads)
    return session
