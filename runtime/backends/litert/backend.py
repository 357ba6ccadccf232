"""LiteRT on the CPU: the step of one stream, its states outside."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnn_export.contract.spec import StreamSpec, TensorSpec, sized
from rnn_export.errors import BackendUnavailable, BundleError, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.litert.embedding_bounds import check_ids, table_rows
from rnn_export.runtime.backends.litert.library import cause, new_interpreter, version
from rnn_export.runtime.backends.litert.model import FILE, Checked, check_model
from rnn_export.runtime.protocols import Artefacts, Session, StreamBuffers, target_row


class LiteRtSession(Session):
    """A file of LiteRT's. Each stream has an interpreter of its own on it; several rows go in sequence."""

    device = "cpu"
    rows_at_once = 1

    def __init__(self, spec: StreamSpec, file: Checked, precision: str, threads: int) -> None:
        self.spec, self.raw, self.precision, self.threads = spec, file.raw, precision, threads
        self.inputs, self.outputs = file.inputs, file.outputs
        self.tables = table_rows(file.model, [(t.name, n) for t, n in zip(spec.inputs, file.inputs, strict=False)])
        # What LiteRT refuses is said here, and not by the first stream.
        self.stream_buffers(1)

    def stream_buffers(self, batch: int) -> StreamBuffers:
        return LiteRtBuffers(self)


class LiteRtBuffers(StreamBuffers):
    """One stream: host arrays, copied into the interpreter and out of it at each step."""

    def __init__(self, session: LiteRtSession) -> None:
        spec, count = session.spec, len(session.spec.inputs)
        self.spec, self.tables = spec, session.tables
        self.inputs = {t.name: _array(t, spec.chunk) for t in spec.inputs}
        self.outputs = {t.name: _array(t, spec.chunk) for t in spec.outputs}
        self.states: list[Array] = []
        try:
            self.interpreter = new_interpreter(session.raw, session.threads)
        except (RuntimeError, ValueError) as error:
            raise BackendUnavailable(
                f"LiteRT {version()} cannot open {FILE}: {cause(error)}", id="litert-cannot-open"
            ) from error
        self.fed = tuple(zip(session.inputs[:count], self.inputs.values(), strict=True))
        self.fed_states = session.inputs[count:]
        self.given = tuple(zip(session.outputs, self.outputs.values(), strict=False))
        self.given_states = session.outputs[len(spec.outputs) :]

    def step(self) -> None:
        interpreter = self.interpreter
        check_ids(self.tables, self.inputs)
        try:
            for number, frame in self.fed:
                interpreter.set_tensor(number, frame)
            for number, state in zip(self.fed_states, self.states, strict=True):
                interpreter.set_tensor(number, state)
            interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise StreamError(f"litert refused the frame: {cause(error)}", id="litert-frame-refused") from error
        for number, output in self.given:
            output[...] = interpreter.get_tensor(number)
        states = [interpreter.get_tensor(number) for number in self.given_states]
        # No call stands between the two, so no interrupt does.
        self.states = states
        self.frames += self.spec.chunk

    def read(self) -> dict[str, Array]:
        return {s.name: state.copy() for s, state in zip(self.spec.states, self.states, strict=True)}

    def write(self, states: Mapping[str, Array]) -> None:
        self.states = [np.array(states[s.name], order="C") for s in self.spec.states]


def open_session(artefacts: Artefacts, precision: str | None, device: str | None, threads: int) -> LiteRtSession:
    """Load the bundle's `step.tflite`; `device` is None or "cpu"."""
    row, spec = target_row(artefacts, "litert", precision), artefacts.spec
    if device not in (None, "cpu"):
        raise BackendUnavailable(
            f"litert has no device {device!r} here: it was tried on 'cpu' alone. On a GPU or an NPU give {FILE} of the "
            "bundle to a delegate of LiteRT's yourself, and hold it to the golden vectors.",
            id="litert-device-untried",
        )
    name = row.file(FILE)
    if name is None:
        raise BundleError(
            f"target 'litert' lists {', '.join(row.files)}, but no {FILE}. Export the bundle again.",
            id="litert-file-missing",
        )
    return LiteRtSession(spec, check_model(name, artefacts.read(name), spec), row.precision, threads)


def _array(tensor: TensorSpec, frames: int) -> Array:
    return np.zeros(sized(tensor.shape, 1, frames), tensor.dtype)
