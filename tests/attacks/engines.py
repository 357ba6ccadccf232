"""Engines of the running sum on each backend; hardware and servers are stand-ins."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from rnn_export.bundle import open_bundle
from rnn_export.runtime import Engine, load

from ..runtime.graphs import SUM  # noqa: TID252
from ..runtime.host_engine import host_engine  # noqa: TID252
from ..runtime.native_toys import model_sources, with_native  # noqa: TID252
from ..runtime.test_torchscript import Sum, written  # noqa: TID252
from ..runtime.triton_stand_in import StandIn  # noqa: TID252

NATIVE = "rnn_export.runtime.backends.native.backend.numpy_major"


@contextmanager
def engines(names: tuple[str, ...]) -> Iterator[dict[str, Callable[[], Engine]]]:
    """Functions that load it, by name of the backend: "ctypes" is native without its compiled step."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        onnx, native, script = folder / "onnx.rnnx", folder / "native.rnnx", folder / "script.rnnx"
        SUM.write(onnx)

        def compiled() -> Engine:
            if not native.exists():
                with_native(SUM.write(native), model_sources("sum"), "sum")
            return load(native, "native")

        def without_stepper() -> Engine:
            with mock.patch(NATIVE, return_value=0):
                return compiled()

        def remote() -> Engine:
            server = StandIn(SUM, "bytes").start()
            stack.callback(server.stop)
            return load(f"grpc://{server.address}/m?deadline_ms=20000")

        known = {
            "onnxruntime": lambda: load(onnx, "onnxruntime"),
            "native": compiled,
            "ctypes": without_stepper,
            "torchscript": lambda: load(written(script, SUM, Sum()), "torchscript"),
            "tensorrt (stand-in)": lambda: host_engine(open_bundle(onnx)),
            "remote (stand-in)": remote,
        }
        yield {name: known[name] for name in names or known}
