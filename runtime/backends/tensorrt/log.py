"""A builder's messages, kept in order, and their meaning where it gives no engine."""

import re
from collections import deque
from typing import Any

# As TensorRT 7 to 10 have been seen to say it (NVIDIA/TensorRT issues 477, 840, 4258; torch2trt issue 661).
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|could not be allocated|error allocating|allocation fail|insufficient (GPU )?memory",
    re.I,
)
_NO_MEMORY = re.compile(r"increas\w* the (allowed )?workspace|workspace limit|Could not find any implementation", re.I)
# An engine goes on logging for as long as it runs.
LINES = 20_000


class BuilderLog:
    """Its `logger` is given to the library `trt`; from INFO up, the last lines are kept."""

    def __init__(self, trt: Any) -> None:
        self.lines: deque[tuple[str, str]] = deque(maxlen=LINES)
        base, add = trt.ILogger, self.add
        methods = {"__init__": lambda this: base.__init__(this), "log": lambda this, level, text: add(level.name, text)}
        self.logger = type("Logger", (base,), methods)()

    def add(self, level: str, text: str) -> None:
        """Keep a line; TensorRT's levels are INTERNAL_ERROR, ERROR, WARNING, INFO and VERBOSE."""
        if level != "VERBOSE":
            self.lines.append((level, text.strip()))

    @property
    def text(self) -> str:
        """All lines that were kept, with their levels."""
        return "".join(f"[{level}] {line}\n" for level, line in self.lines)

    def errors(self) -> str:
        """The last three different errors in one line, or that there are none."""
        errors = [" ".join(line.split()) for level, line in self.lines if level in ("ERROR", "INTERNAL_ERROR")]
        return "; ".join(line.rstrip(".") for line in list(dict.fromkeys(errors))[-3:]) or "its log gives no reason"

    def failure(self, memory: int | None) -> str:
        """Why there is no engine, and what to do; `memory` is the limit in bytes that the builder was given."""
        if _OUT_OF_MEMORY.search(self.text):
            less = "with --memory" if memory is None else f"to less than {memory / 2**20:.0f} MiB with --memory"
            others = "what else uses the GPU, on a Jetson also the desktop (sudo systemctl isolate multi-user.target)"
            advice = f"Memory ran out: hold the builder {less}, close {others}"
        elif memory is not None and _NO_MEMORY.search(self.text):
            advice = f"It may have been held too short: allow more than {memory / 2**20:.0f} MiB with --memory"
        else:
            advice = "Export the bundle again for this target, or in another --precision"
        return f"{self.errors()}. {advice}."
