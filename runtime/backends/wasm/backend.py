"""The step in WebAssembly as browsers run it, here on wasmtime: for the proof, since C of this machine is faster.

A stream has an instance of its own, so that streams on several threads share nothing but the code.
"""

from rnn_export.errors import BackendUnavailable, BundleError
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.wasm.modules import SIMD, WEIGHTS
from rnn_export.runtime.protocols import Artefacts, folder, target_row

try:
    import wasmtime
except ImportError as error:
    raise BackendUnavailable(
        f"wasmtime is not here ({error}): {pip_install('wasm')}.", id="wasmtime-missing"
    ) from error

from rnn_export.runtime.backends.wasm.session import WasmSession


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> WasmSession:
    """Load the bundle's `model.wasm`, which uses vectors of 128 bits."""
    return open_module(artefacts, SIMD, precision, device, threads)


def open_module(
    artefacts: Artefacts, module: str, precision: str | None, device: str | None = None, threads: int = 1
) -> WasmSession:
    """The same with either of the two modules."""
    if device not in (None, "cpu"):
        raise BackendUnavailable(f"wasm has no device {device!r}: use 'cpu'.", id="wasm-device-unknown")
    if threads > 1:
        fix = "Leave threads out, and step several streams at once, each on a thread of its own"
        raise BackendUnavailable(
            f"threads={threads}: a step in WebAssembly runs on one thread. {fix}.", id="wasm-one-thread"
        )
    row = target_row(artefacts, "wasm", precision)
    place = folder("wasm", row.precision)
    if f"{place}/{module}" not in row.files:
        raise BundleError(
            f"target 'wasm' ({row.precision}) has no {module} in the bundle. Build it again, --rebuild.",
            id="wasm-module-missing",
        )
    weights = artefacts.read(f"{place}/{WEIGHTS}") if f"{place}/{WEIGHTS}" in row.files else b""
    try:
        return WasmSession(artefacts.spec, artefacts.read(f"{place}/{module}"), weights, row.precision)
    except (wasmtime.WasmtimeError, wasmtime.Trap, KeyError) as error:
        raise BackendUnavailable(
            f"wasmtime cannot load {place}/{module}: {_first(error)}", id="wasmtime-cannot-load"
        ) from error


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
