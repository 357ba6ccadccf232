"""The class of a session's streams: a plain one, one on top of a compiled type, or one without a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from rnn_export.contract.snapshot import Snapshot
from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.core.types import Frames, Y
from rnn_export.runtime.protocols import Session
from rnn_export.runtime.stream import Stream


class SequenceStream(Stream[Y]):
    """A stream of a model that takes whole sequences only: it runs each of them, and has no step."""

    def step(self, x: Frames, out: object = None) -> NoReturn:
        raise _no_step()

    def finish(self, held: object = None) -> NoReturn:
        raise _no_step()

    def snapshot(self) -> NoReturn:
        raise _no_step()

    def restore(self, snapshot: bytes) -> NoReturn:
        raise _no_step()

    def _run(self, inputs: dict[str, Array], before: Snapshot) -> Mapping[str, Array | None]:
        given = self._buffers.run(inputs)
        self._pending = dict(before.pending)
        return given


def _no_step() -> StreamError:
    why = "the model needs whole sequences (it was exported with sequence_only). Give each of them to run(xs)"
    return StreamError(f"this bundle cannot stream: {why}.", id="sequence-only-bundle")


def stream_class(spec: StreamSpec, session: Session) -> type[Stream[Any]]:
    """The class of a session's streams: see `runtime.stream`."""
    if spec.sequence_only:
        return SequenceStream
    if session.stepper is None:
        return Stream
    return type("Stream", (session.stepper, Stream), {"__doc__": Stream.__doc__, "__module__": Stream.__module__})
