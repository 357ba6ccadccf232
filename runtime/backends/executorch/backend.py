"""ExecuTorch on the CPU: the step of one stream, its states in buffers of the method.

ExecuTorch has one pool of threads for the whole process, which no engine may resize for the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import BackendUnavailable, BundleError, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.executorch.library import cause, open_program, torch
from rnn_export.runtime.backends.executorch.program import FILE, METHOD, buffer_name, check_program, form
from rnn_export.runtime.protocols import Artefacts, Session, StreamBuffers, target_row
from rnn_export.runtime.protocols.counted_states import CountedBuffers

# The first of these that a bundle has.
TARGETS = ("executorch", "executorch-portable")


class ExecuTorchSession(Session):
    """A file of ExecuTorch's. Each stream has a program of its own on it; several rows go in sequence."""

    device = "cpu"
    rows_at_once = 1

    def __init__(self, spec: StreamSpec, raw: bytes, precision: str) -> None:
        self.spec, self.raw, self.precision = spec, raw, precision

    def stream_buffers(self, batch: int) -> StreamBuffers:
        return ExecuTorchBuffers(self)


class ExecuTorchBuffers(CountedBuffers):
    """One stream: host arrays that are copied in and out, and states as the memory that the method keeps them in."""

    def __init__(self, session: ExecuTorchSession) -> None:
        spec = session.spec
        try:
            # The method is nothing without its program, nor that without the session's bytes.
            self.session, self.program = session, open_program(session.raw)
            self.method = self.program.load_method(METHOD)
        except RuntimeError as error:
            raise BackendUnavailable(
                f"ExecuTorch cannot open {FILE} once more: {cause(error)}", id="executorch-cannot-reopen"
            ) from error
        self.inputs = {t.name: np.zeros(shape, dtype) for t in spec.inputs for dtype, shape in [form(t, spec.chunk)]}
        self.fed = [torch.from_numpy(a) for a in self.inputs.values()]
        self.given = [t.numpy() for t in self.method.get_outputs(clone_outputs=False)]
        self.outputs = {t.name: a.copy() for t, a in zip(spec.outputs, self.given, strict=True)}
        self.states = {s.name: self.method.get_attribute(buffer_name(n)).numpy() for n, s in enumerate(spec.states)}
        super().__init__(self.method.execute, spec.chunk)

    def step(self) -> None:
        try:
            self.method.set_inputs(self.fed)
            self.turn()
        except RuntimeError as error:
            raise StreamError(f"executorch refused the frame: {cause(error)}", id="executorch-frame-refused") from error
        for output, given in zip(self.outputs.values(), self.given, strict=True):
            output[...] = given

    def read(self) -> dict[str, Array]:
        return {name: state.copy() for name, state in self.states.items()}

    def write(self, states: Mapping[str, Array]) -> None:
        # One call of C, which no interrupt cuts apart.
        deque(map(np.copyto, self.states.values(), [states[name] for name in self.states]), maxlen=0)


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> ExecuTorchSession:
    """Load the bundle's `step.pte`; `device` is None or "cpu"."""
    if device not in (None, "cpu"):
        raise BackendUnavailable(
            f"executorch has no device {device!r} here: it was tried on 'cpu' alone. For a GPU or an NPU lower the "
            "step by ExecuTorch's own partitioner for it, and hold it to the golden vectors.",
            id="executorch-device-untried",
        )
    if threads > 1:
        why = "ExecuTorch has one pool of threads for the whole process, so an engine has no number of its own"
        raise BackendUnavailable(f"threads={threads}: {why}. Leave threads out.", id="executorch-threads-option")
    there = {row.target for row in artefacts.targets}
    return open_target(artefacts, next((name for name in TARGETS if name in there), TARGETS[0]), precision)


def open_target(artefacts: Artefacts, target: str, precision: str | None) -> ExecuTorchSession:
    """Open the named one of the two targets."""
    row, spec = target_row(artefacts, target, precision), artefacts.spec
    name = row.file(FILE)
    if name is None:
        raise BundleError(
            f"target {target!r} lists {', '.join(row.files)}, but no {FILE}. Export the bundle again.",
            id="executorch-file-missing",
        )
    raw = artefacts.read(name)
    check_program(name, raw, spec)
    return ExecuTorchSession(spec, raw, row.precision)
