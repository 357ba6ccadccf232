"""One family of errors. Each message has the finding, the reason why it cannot work and a fix."""

from __future__ import annotations

import copyreg
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

# Options of the command that have another name than the keyword.
OPTIONS = {"states": "--state", "targets": "--target"}


def keyword(name: str, value: Any) -> str:
    """A keyword of export() with the option of the command beside it: `time_axis={'x': 1} (--time-axis x=1)`."""
    option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
    if value is True:
        return f"{name}=True ({option})"
    pairs = value.items() if isinstance(value, Mapping) else ()
    words = [shlex.quote(f"{key}={_word(one)}") for key, one in pairs] or [_word(value)]
    return f"{name}={value!r} ({' '.join(f'{option} {word}' for word in words)})"


def _word(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Advice:
    """Keywords of export() that may be what is meant, and a sentence in which {} stands for them.

    `refused` is the sentence for where they do not help, with {} for the refusal; without one, nothing is said then.
    What is not `shown` is tried alone: whether all ways lead to one refusal.
    """

    keywords: Mapping[str, Any]
    sentence: str
    refused: str = ""
    shown: bool = True

    def __str__(self) -> str:
        return self.sentence.replace("{}", " and ".join(keyword(k, value) for k, value in self.keywords.items()))


ONE_FRAME = Advice({"time_axis": None}, "If one call is one frame, say {}.")
SEQUENCES = Advice({"sequence_only": True}, "If whole sequences are meant, say {}.")


def at_most(frames: int) -> Advice:
    """Advice to bound the frames of a stream."""
    return Advice({"max_frames": frames}, "If streams have so many frames at most, say {}.")


def if_time(axes: Mapping[str, int | None]) -> Advice:
    """Advice to say which axis of each input is time."""
    return Advice({"time_axis": axes}, "If these axes are time, say {}.")


def always(at: str, value: bool) -> Advice:
    """Advice to assume that a decision is always the same; every verification checks it."""
    word = str(value).lower()
    sentence = f"If the tensor that is asked there (before any `not`) is always {word} in a stream, say {{}}."
    return Advice({"assume": {at: value}}, sentence)


# --- public: what a user catches


class RnnExportError(Exception):
    """The root of every error that this toolkit raises on purpose; `id` names its message, see docs/messages.md."""

    # True for a class whose errors are caught inside and never shown: they need no id.
    is_signal: ClassVar[bool] = False

    def __init__(self, message: str = "", *, id: str = "") -> None:
        super().__init__(message)
        self.id = id

    def __reduce__(self) -> Any:
        """By what was made: constructors of subclasses take other arguments than a message."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class SpecError(RnnExportError):
    """A stream contract contradicts itself or cannot be read."""


class SourceError(RnnExportError):
    """Something the user brings cannot be used: a factory, a weights file, a recording."""


class LiftError(RnnExportError):
    """The model cannot become a pure step with named states.

    `advice` ends the message; `lift` tries it first, and leaves out what does not help. `others` are the other ways
    in which the model was read, refused as well.
    """

    def __init__(self, message: str = "", *, advice: Iterable[Advice] = (), id: str = "") -> None:
        super().__init__(message, id=id)
        self.advice, self.others = tuple(advice), tuple[str, ...]()

    def __str__(self) -> str:
        others = f"\nOther readings were refused too: {'; '.join(self.others)}." if self.others else ""
        return " ".join([super().__str__(), *(str(advice) for advice in self.advice if advice.shown)]) + others


class WrongPass(RnnExportError):
    """A pass of lifting changed what a graph computes, or did not leave the graph as it says."""


class ExportError(RnnExportError):
    """A graph cannot be written as asked."""


class BuildError(RnnExportError):
    """An engine cannot be built from a graph here."""


class ParityError(RnnExportError):
    """The exported step does not do what the model does."""


class BundleError(RnnExportError):
    """A bundle is damaged, incomplete, unsafe or in the way."""


class TrustError(RnnExportError):
    """It is unknown what may run here, or a signature or key is not what it should be."""


class BackendUnavailable(RnnExportError):
    """A backend cannot run here or cannot run this bundle."""


class StreamError(RnnExportError):
    """A frame, a state or a snapshot does not fit the stream; the stream's state is unchanged."""


class PoolFull(StreamError):
    """A pool has as many streams as it may have."""


class StreamClosed(StreamError):
    """Streams of a pool that are over: closed, or idle for too long. `ids` are theirs."""

    def __init__(self, message: str, ids: tuple[int, ...] = (), *, id: str = "") -> None:
        super().__init__(message, id=id)
        self.ids = ids


class RoundBroken(StreamError):
    """A round failed when some of its streams were stepped: none may be fed the same frame again."""


class Overloaded(StreamError):
    """More frames wait than may wait."""


class DeadlineExceeded(StreamError):
    """No round took a frame by its deadline; it was not fed."""


class BatcherStopped(StreamError):
    """A batcher takes no frames: it was closed, or its worker died."""


# --- internal: raised and caught inside, or shown to a user as one of the classes above


class NotInBundle(BackendUnavailable):
    """The bundle has no files for a backend, so the backend was never a choice."""


class Untrusted(BackendUnavailable):
    """The bundle has code for a backend, and nothing here says that it may run."""


class ToolUnavailable(BackendUnavailable):
    """A compiler, driver or library of this machine cannot be used: `detail` is the fault, `fix` the remedy."""

    def __init__(self, detail: str, fix: str, *, id: str = "") -> None:
        super().__init__(f"{detail}: {fix}.", id=id)
        self.detail, self.fix = detail, fix


class DeviceError(RnnExportError):
    """A call of a GPU's runtime or driver failed; a backend catches it and names its operation."""

    is_signal = True


class FrozenAxis(LiftError):
    """torch.export made a number of an axis that must be of any size: `axis` of input `port`."""

    def __init__(self, message: str, port: int, axis: int, *, id: str = "") -> None:
        super().__init__(message, id=id)
        self.port, self.axis = port, axis


class BoundedAxis(LiftError):
    """The code fails, or does something else, where axis `axis` of input `port` is longer than `longest`."""

    def __init__(self, port: int, axis: int, longest: int, beyond: str) -> None:
        super().__init__(
            f"axis {axis} of input {port} may only be up to {longest} long: beyond, {beyond}, but a stream has no end. "
            "Let the code take any length.",
            advice=[at_most(longest), ONE_FRAME],
            id="axis-with-end",
        )
        self.port, self.axis, self.longest = port, axis, longest


class WrongChunk(LiftError):
    """A step of `chunk` frames does not fit the strides; `fits` is its least multiple that does.

    `why` names these strides, each with its place.
    """

    def __init__(self, chunk: int, unit: int, why: str) -> None:
        self.fits, self.why = math.lcm(chunk, unit), why
        super().__init__(
            f"chunk={chunk}: the model takes {unit} frames at once (its strides), so a step must have a multiple of "
            f"{unit}.",
            advice=[Advice({"chunk": self.fits}, "Say {}.")],
            id="chunk-not-of-strides",
        )


class TraceFailed(LiftError):
    """torch.export fails, and says why in words of its own."""


class DecidedByValue(LiftError):
    """The code takes a decision by the value of a tensor, in the user's `file` at `line`, as its `source` has it.

    `line` is 0 where the code makes a number of a tensor, and its use is not known. `seen` are its outcomes in calls
    with noise, as verification makes them.
    """

    of_number = False

    def __init__(
        self, file: str, line: int, source: str, tried: str = "", seen: Collection[bool] = (True, False)
    ) -> None:
        at = f"{file.rpartition('/')[2]}:{line}" if line else file
        place = f" at {at}" if at else ""
        known = (
            f"data-dependent control flow{place}: {source}: the code takes a decision by the value of a tensor (if, "
            f"while), which no graph can do{tried}. Compute both and choose with torch.where."
        )
        unknown = (
            f"data-dependent numbers{place}: the code makes a number of the value of a tensor (item(), int(), a size, "
            f"an end of a slice or of a loop), which no graph has{tried}. Compute with the tensor itself, choose with "
            "torch.where, mask what is left out; a number that is always the same can be an attribute of the model, "
            "and a length comes from x.shape."
        )
        if line and not self.of_number:
            ways = [replace(always(at, value), shown=value in seen) for value in (True, False)]
            super().__init__(known, advice=ways, id="decided-by-value")
        else:
            super().__init__(unknown, id="number-by-value")
        self.file, self.line, self.source, self.tried, self.seen = file, line, source, tried, seen

    def computed_both_branches(self, error: BaseException) -> DecidedByValue:
        """The same, where computing both branches failed with `error`."""
        why = f"{self.tried} (and with both ways computed: {Exception.__str__(error).splitlines()[0].rstrip('.')})"
        return self.with_note(why)

    def with_note(self, tried: str) -> DecidedByValue:
        """The same, with the attempts."""
        return DecidedByValue(self.file, self.line, self.source, tried, self.seen)

    @property
    def at(self) -> str:
        """The place as `assume` names it."""
        return f"{self.file.rpartition('/')[2]}:{self.line}"


class NumberByValue(DecidedByValue):
    """The code makes a number of a tensor there; `how` it is computed is None where not from counters alone.

    `is_end` says that it is an end of a slice.
    """

    of_number = True

    def __init__(self, file: str, line: int, source: str, how: Any, tried: str = "", is_end: bool = False) -> None:
        super().__init__(file, line, source, tried)
        self.how, self.is_end = how, is_end

    def with_note(self, tried: str) -> NumberByValue:
        """As of DecidedByValue."""
        return NumberByValue(self.file, self.line, self.source, self.how, tried, self.is_end)


class AssumptionBroken(ParityError):
    """A condition of the user's module, `source` at `at`, is `value`, other than was assumed, `when` it ran."""

    def __init__(self, at: str, source: str, value: bool, when: str = "") -> None:
        super().__init__(
            f"{keyword('assume', {at: not value})} does not hold{when}: {source} asks a tensor that is {value}. "
            "If a stream is fed other values than these, give a recording of them (data=, --data); if not, leave the "
            "assumption out, compute both and choose with torch.where. Nothing was written.",
            id="assumption-broken",
        )
        self.at, self.source, self.value = at, source, value


class SeveralReadings(LiftError):
    """A call can be read in several ways; `advice` has them, and the user must say which is meant."""


class RowsDepend(LiftError):
    """Rows of the batch depend on each other, at `place`; `counted`: by their number alone."""

    def __init__(self, message: str, place: str, counted: bool, *, id: str = "") -> None:
        super().__init__(message, id=id)
        self.place, self.counted = place, counted


class NoBatchAxis(LiftError):
    """No axis holds independent rows; `free` are those, one for each input, along which the model takes other sizes.

    `alone`: along some axis a batch of one gives something else than its row in a larger batch.
    """

    def __init__(
        self,
        message: str,
        free: Sequence[Sequence[int]],
        alone: bool,
        *,
        advice: Iterable[Advice] = (),
        id: str = "",
    ) -> None:
        super().__init__(message, advice=advice, id=id)
        self.free, self.alone = free, alone


class StateMovesByCall(LiftError):
    """A state moves once per call; `has_others`: the model has states of its frames besides."""

    def __init__(self, message: str, has_others: bool, *, id: str = "") -> None:
        super().__init__(message, advice=[ONE_FRAME], id=id)
        self.has_others = has_others


def first_line(error: BaseException) -> str:
    """An exception's message, in one line."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    # TorchScript says last what the code of the user raised.
    return lines[-1] if lines[0].endswith("failed in the TorchScript interpreter.") else lines[0]
