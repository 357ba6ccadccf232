"""One server: a channel to it, and its answers decoded."""

import threading
import time
from contextlib import suppress
from typing import Any

from rnn_export.errors import BackendUnavailable, StreamError
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.remote.server_config import ServedModel, read_config

try:
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
except ImportError as error:
    raise BackendUnavailable(
        f"tritonclient is not here ({error}): {pip_install('remote')}.", id="tritonclient-missing"
    ) from error

# Seconds in which a server that failed is asked last; those it may take to end a sequence, for which nobody waits; and
# those for a channel to close, which some never do.
DOWN, END, CLOSE = 5.0, 30.0, 1.0
CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Left alone, a channel whose server is gone tries again after up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Another engine's channel to a server that came back would still be waiting.
    ("grpc.use_local_subchannel_pool", 1),
]
# What Triton says of a sequence that it does not have, or no longer has.
LOST = "must specify the START flag"


class EndpointFailed(Exception):
    """Why a server did not do its part; another one may."""


class SequenceLost(Exception):
    """The server does not have the sequence: it ended, or was idle for too long."""


class Endpoint:
    """A server "host:port" of the model `name`, which may take `seconds` for an answer. Any thread may call."""

    def __init__(self, address: str, name: str, seconds: float) -> None:
        self.address, self.name, self.seconds = address, name, seconds
        self.channels: list[Any] = []
        self.connect()
        self.down_until = 0.0
        self.checked = False
        self.ending: set[Any] = set()

    def connect(self) -> None:
        """Use a fresh channel from now on: one in which the making of a call was interrupted may never answer again."""
        # All of them are kept, since gRPC closes those that are dropped, and waits for that call.
        self.channels.append(grpc.insecure_channel(self.address, CHANNEL))
        self.stub = GRPCInferenceServiceStub(self.channels[-1])

    @property
    def down(self) -> bool:
        """True if it failed a short while ago."""
        return time.monotonic() < self.down_until

    def fail(self, reason: str) -> EndpointFailed:
        """The error to raise, and from now on it is asked last."""
        self.down_until = time.monotonic() + DOWN
        return EndpointFailed(reason)

    def fetch_model(self, seconds: float) -> ServedModel:
        """Its model; raises EndpointFailed, or BackendUnavailable where rnn-export did not write it."""
        return self._model(self.ask(seconds), seconds)

    def ask(self, seconds: float) -> Any:
        """A future of its config."""
        return self.stub.ModelConfig.future(pb.ModelConfigRequest(name=self.name), timeout=seconds)

    def _model(self, future: Any, seconds: float) -> ServedModel:
        return read_config(self.name, self.receive(future, f"{seconds * 1e3:.0f} ms passed without an answer").config)

    def difference(self, model: ServedModel, asked: Any) -> str:
        """Why its model, by the future `asked`, is not `model`; empty where it is."""
        try:
            difference = model.difference(self._model(asked, self.seconds))
        except (EndpointFailed, BackendUnavailable, StreamError) as error:
            difference = str(error)
        self.checked = not difference
        if difference:
            self.fail(difference)
        return difference

    def check(self, model: ServedModel) -> None:
        """Raise EndpointFailed unless it serves the same as the others do."""
        if self.checked:
            return
        if difference := self.difference(model, self.ask(self.seconds)):
            raise EndpointFailed(difference)

    def send(self, request: Any) -> Any:
        """A future for `receive`."""
        return self.stub.ModelInfer.future(request, timeout=self.seconds)

    def receive(self, future: Any, timeout_reason: str | None = None) -> Any:
        """The answer; raises EndpointFailed, SequenceLost, or StreamError where the model refused the frame."""
        code = future.code()
        if code is grpc.StatusCode.OK:
            return future.result()
        text = future.details()
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            if LOST in text:
                self.checked = False
                raise SequenceLost(text)
            raise StreamError(f"{self.address} refused the frame: {text}", id="remote-frame-refused")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            slow = f"{self.seconds * 1e3:.0f} ms passed; is the server over capacity (--streams), or deadline_ms short?"
            raise self.fail(timeout_reason or slow)
        # Whatever comes back at this address may serve something else.
        self.checked = False
        raise self.fail(f"{code.name}: {text}")

    def end(self, request: Any) -> None:
        """Send the last request of a sequence, and do not wait."""
        with suppress(Exception):  # also where the interpreter is on its way out
            future = self.stub.ModelInfer.future(request, timeout=END)
            # A future that nobody holds is cancelled.
            self.ending.add(future)
            future.add_done_callback(self.ending.discard)

    def close(self, deadline: float) -> None:
        """Close its channels when all sequences have ended, or at `deadline` of the monotonic clock."""
        with suppress(Exception):
            while self.ending and time.monotonic() < deadline:
                time.sleep(0.002)
            closing = [threading.Thread(target=channel.close, daemon=True) for channel in self.channels]
            for thread in closing:
                thread.start()
            for thread in closing:
                thread.join(CLOSE)
