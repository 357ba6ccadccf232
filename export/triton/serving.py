"""How a model is served, as the options of `rnn-export triton` say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rnn_export.errors import ExportError
from rnn_export.runtime.backends.remote.wire import BYTES, TENSORS
from rnn_export.runtime.registry import BACKENDS

# Triton's numbers are of 32 bits.
LARGEST = 2**31 - 1
# By backend of Triton, the form in which states travel.
WIRE_KINDS = {"python": BYTES, "onnxruntime": TENSORS, "tensorrt": TENSORS}


@dataclass(frozen=True)
class Serving:
    """How a model is served: the options of `write_repository`."""

    name: str
    backend: str
    precision: str
    streams: int
    batch: int
    idle_s: float
    delay_us: int
    runtime_backend: str = "auto"

    @property
    def wire_kind(self) -> str:
        return WIRE_KINDS[self.backend]

    def check(self) -> None:
        """Raise ExportError where an option is out of its range, or does not go with another one."""
        if self.backend not in WIRE_KINDS:
            raise ExportError(f"Triton's backend is one of {', '.join(WIRE_KINDS)}, not {self.backend!r}.")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.name):
            raise ExportError(
                f"the model cannot be called {self.name!r}: its name is a folder and part of an address, so it has "
                "letters, digits, '_', '-' and '.' alone. Choose one with --name."
            )
        if not 0.001 <= self.idle_s <= LARGEST:
            raise ExportError(f"--idle {self.idle_s}: give seconds from 0.001 to {LARGEST}.")
        numbers = {"streams": (self.streams, 1), "batch": (self.batch, 1), "delay-us": (self.delay_us, 0)}
        for flag, (number, least) in numbers.items():
            if type(number) is not int or not least <= number <= LARGEST:
                raise ExportError(f"--{flag} {number!r}: give a whole number from {least} to {LARGEST}.")
        if self.batch > self.streams:
            raise ExportError(
                f"--batch {self.batch} is more than --streams {self.streams}: no step can have more rows than there "
                "are streams. Choose a smaller batch or more streams."
            )
        if self.runtime_backend != "auto" and self.backend != "python":
            raise ExportError(
                f"--runtime-backend {self.runtime_backend} is for --backend python, where our runtime runs: leave it "
                "out."
            )
        if self.runtime_backend not in ("auto", *BACKENDS):
            raise ExportError(f"--runtime-backend {self.runtime_backend}: choose auto or one of {', '.join(BACKENDS)}.")
