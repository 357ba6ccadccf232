"""A real Triton server on a repository that `rnn-export triton` wrote, for as long as a test needs it."""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .needs import need_server

READY_S = 60.0


class Server:
    """Triton as REPO/launch starts it, on free ports of the loopback.

    It is killed with its Python stubs by `stop`, at the end of `with`, when this process ends, and by the kernel when
    the thread that started it dies. After `kill` or `stop`, `start` starts it again at the same address.

    Attributes:
        grpc: "127.0.0.1:port".
        http: the same of HTTP.
        process: of the server that runs, or ran last.
    """

    def __init__(self, repository: str | os.PathLike[str], *options: str, exit_timeout_s: int = 5) -> None:
        self.repository = Path(repository)
        self.options, self.exit_timeout_s = options, exit_timeout_s
        self.process: subprocess.Popen[bytes] | None = None
        self._ports = _free_ports()
        self._shared = f"triton-{secrets.token_hex(6)}-"
        descriptor, name = tempfile.mkstemp(prefix="triton-", suffix=".log")
        os.close(descriptor)
        self._log = Path(name)
        atexit.register(self._forget)

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self._ports[1]}"

    @property
    def log(self) -> str:
        """All that the server has said."""
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> Server:
        """Start it and wait until it is ready; raises RuntimeError with its log where it does not become so."""
        assert not self.running, "it runs already"
        program = need_server()
        grpc, http, metrics = map(str, self._ports)
        command = [
            *("setpriv", "--pdeathsig", "KILL", "--", str(self.repository / "launch")),
            *("--grpc-port", grpc, "--http-port", http, "--metrics-port", metrics),
            *("--exit-timeout-secs", str(self.exit_timeout_s), "--allow-gpu-metrics=false"),
            *("--pinned-memory-pool-byte-size=0", f"--backend-config=python,shm-region-prefix-name={self._shared}"),
            *self.options,
        ]
        environment = {**os.environ, "TRITONSERVER": str(program), "OMP_NUM_THREADS": "1"}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_until_ready(self) -> None:
        import tritonclient.grpc as client

        assert self.process is not None
        deadline = time.monotonic() + READY_S
        with client.InferenceServerClient(self.grpc) as triton:
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    raise RuntimeError(f"Triton ended with {self.process.returncode}:\n{self.log[-4000:]}")
                with suppress(client.InferenceServerException):
                    if triton.is_server_ready(client_timeout=1.0):
                        return
                time.sleep(0.05)
        raise RuntimeError(f"Triton is not ready after {READY_S:.0f} s:\n{self.log[-4000:]}")

    def drain(self) -> None:
        """SIGTERM: sequences that are open go on until they end or `exit_timeout_s` is over; new ones are refused."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to it and its stubs, as when the machine is lost."""
        if self.process is None:
            return
        # It leads its own group, whose id is its own.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for leftover in Path("/dev/shm").glob(f"{self._shared}*"):
            leftover.unlink(missing_ok=True)

    def stop(self) -> None:
        """The end, at once: no test waits for what Triton still has to say."""
        self.kill()

    def _forget(self) -> None:
        self.stop()
        self._log.unlink(missing_ok=True)

    def __enter__(self) -> Server:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _free_ports() -> tuple[int, int, int]:
    sockets = [socket.socket() for _ in range(3)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        grpc, http, metrics = (one.getsockname()[1] for one in sockets)
        return grpc, http, metrics
    finally:
        for one in sockets:
            one.close()
