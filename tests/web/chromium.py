"""A headless Chromium, driven through its own pipe: no driver and no package in between."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

# As root Chromium has no sandbox; audio starts without a click, and the microphone is a file.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
    "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream", "--no-first-run", "--disable-extensions", "--disable-background-networking",
)  # fmt: skip
SECONDS = 60.0


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """One page. `microphone` is a WAV file that it hears, over and over."""

    def __init__(self, program: str, microphone: Path | None = None) -> None:
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        to_read, self.to = os.pipe()
        self.back, to_write = os.pipe()
        command = [program, *FLAGS, f"--user-data-dir={self.profile.name}", "--window-size=1000,760"]
        if microphone is not None:
            command.append(f"--use-file-for-fake-audio-capture={microphone}")
        # It reads commands from 3 and writes answers to 4.
        shell = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - until __exit__
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", *command, "about:blank"],
            pass_fds=(to_read, to_write), stdout=self.log, stderr=self.log,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self.count, self.buffer, self.session = 0, b"", ""
        self.said: list[str] = []
        (page,) = [t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Runtime", "Page", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.to)
        os.close(self.back)
        self.log.close()
        self.profile.cleanup()

    def open(self, url: str) -> None:
        """Go to `url`, and wait until its scripts have run."""
        self._ask("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, code: str) -> Any:
        """Return the JSON result of `code`, an async function body, in the page; its exceptions are raised here."""
        how = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        given = self._ask("Runtime.evaluate", expression=f"(async () => {{ {code} }})()", **how)
        if "exceptionDetails" in given:
            thrown = given["exceptionDetails"]
            raise RuntimeError(thrown.get("exception", {}).get("description", thrown["text"]))
        return given["result"].get("value")

    def choose(self, file_input: str, path: Path) -> None:
        """Choose `path` in the file input that the expression gives."""
        found = self._ask("Runtime.evaluate", expression=file_input)["result"]["objectId"]
        self._ask("DOM.setFileInputFiles", files=[str(path)], objectId=found)

    def wait(self, condition: str) -> None:
        """Until an expression is true in the page."""
        end = time.monotonic() + SECONDS
        while not self.run(f"return Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} is not so after {SECONDS} s; the page said {self.said}")
            time.sleep(0.05)

    def emulate(self, scheme: str, width: int, height: int = 800) -> None:
        """Set the preferred scheme, "light" or "dark", and the size of the window."""
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"]))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            answer = self._read(end)
            if answer.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.said.append(json.dumps(answer["params"])[:500])
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.back], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self.back, 1 << 16) if ready else b""
            if not part:
                self.log.seek(0)
                raise RuntimeError(f"Chromium does not answer: {self.log.read()[-2000:].decode(errors='replace')}")
            self.buffer += part
        whole, _, self.buffer = self.buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(whole)
        return answer
