"""The info of a value's frames: their axis, the frames that a step has, or why a stream cannot have them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from torch import fx

from rnn_export.errors import Advice, LiftError
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout
from rnn_export.export.lift.ir.fx_nodes import stands_for
from rnn_export.export.lift.ir.source_location import place_of


@dataclass(frozen=True)
class Reflections:
    """Boundary padding by a sequence's own frames: `left` before its first frame, `right` after its last.

    `mode` is "reflect" or "replicate" (`reflect_padding`). `right` is the most, if it changes with the length; `inner`
    is the sequence without the padding.
    """

    mode: str
    left: int
    right: int
    inner: fx.Node

    def reach(self, frames: int) -> int:
        """The distance of the first of `frames` such frames from the one repeated."""
        return 2 * frames if self.mode == "reflect" else frames


@dataclass(frozen=True)
class TimeAxisInfo:
    """A value that has frames.

    A step takes `chunk` frames of the input and brings n = chunk * rate new frames of the value. In step s, counted
    from 0, the value holds its frames

        s * n - lag - history  <=  j  <  (s + 1) * n - lag

    in order; with one frame a step and no history, that is frame s - lag. Frames j < 0 do not exist: with lag > 0 a
    stream begins with `lag` frames that are none of the sequence, and at an output they are its delay. With lag < 0
    the first -lag frames are known before the stream begins, as the zeros of a padding on the left are.

    What becomes of an input x of rate 1 and lag 0:

        value                                    rate  lag  because
        F.pad(x, (2, 0))                         1     -2   its two zeros stand before the stream begins
        conv of size 3 on that padding           1      0   it keeps a history of 2 frames
        conv of size 3 on x                      1      2   it keeps a history of 2; its frame 0 needs frame 2 of x
        conv of size 4, stride 2, on the padding 1/2    0   it keeps a history of 2 frames
        x[:, 4:]                                 1      4   its frame 0 is frame 4 of x
        x[:, 4:][:, ::2]                         1/2    2   its frame 0 is frame 4 of x, which is two of its own late
        conv_transpose of size 4, stride 2       2      0   it keeps a history of 1, whose frames add to the next
        x[:, 4:] + conv of size 3 on x           1      4   the convolution waits for 2 frames, its slack

    Attributes:
        layout: the layout of the frames.
        rate: frames for each frame of the input.
        lag: the delay of its frames; None for a value whose frames are all alike, at any time.
        history: frames at the front of each step that the step before had too. Negative for the argument of a window
            with a stride that leaves out the first frames of a step.
        slack: the part of the lag that is waiting alone, for others or for a whole step.
        mirrors: the boundary padding that is not filled in yet.
    """

    layout: AxisLayout
    rate: Fraction = Fraction(1)
    lag: int | None = 0
    history: int = 0
    slack: int = 0
    reflections: Reflections | None = None

    def __post_init__(self) -> None:
        assert self.slack >= 0
        assert self.lag is not None or self.history == self.slack == 0

    @property
    def least_lag(self) -> int:
        """The lag that it would have without waiting."""
        return (self.lag or 0) - self.slack

    @property
    def input_lag(self) -> Fraction:
        """The lag in frames of the input."""
        return Fraction(self.lag or 0) / self.rate

    def by_entry(self) -> TimeAxisInfo:
        """The same value with every entry of a frame, along its axis, taken as a frame of its own."""
        size = self.layout.inner
        return TimeAxisInfo(
            replace(self.layout, inner=1),
            self.rate * size,
            None if self.lag is None else self.lag * size,
            self.history * size,
            self.slack * size,
        )

    def moving(self) -> TimeAxisInfo:
        """The same value, its frames no longer taken to be all alike."""
        return replace(self, lag=self.lag or 0)

    def delayed(self, frames: int) -> TimeAxisInfo:
        """The value, `frames` frames later."""
        return replace(self, lag=(self.lag or 0) + frames, slack=self.slack + frames)

    def windowed(self, size: int, stride: int) -> tuple[TimeAxisInfo, int]:
        """The result of a window over `size` frames, every `stride`; and the history that it needs of this value."""
        lag, least = (((n + size - 1) // stride) for n in (self.lag or 0, self.least_lag))
        result = replace(self, rate=self.rate / stride, lag=lag, history=0, slack=lag - least)
        return result, stride * lag - (self.lag or 0)

    def expanded(self, stride: int, cut: int) -> TimeAxisInfo:
        """The result of making `stride` frames of each, without the first `cut` of the sequence."""
        lag = (self.lag or 0) * stride + cut
        return replace(self, rate=self.rate * stride, lag=lag, history=0, slack=self.slack * stride)


@dataclass(frozen=True)
class LastFrame:
    """A value as of the newest frame, which is `input_lag` frames of the input late."""

    input_lag: Fraction


@dataclass(frozen=True)
class FirstFrames:
    """A value of the first frames of a sequence, the same in all of it, known at the end of step number `steps`."""

    steps: int


@dataclass(frozen=True)
class Unsupported:
    """A value that a stream cannot have: an error only where it is used."""

    error: LiftError


# Of one value; None where it depends on no frame.
Info = TimeAxisInfo | LastFrame | FirstFrames | Unsupported | None
# Of a node, by result where it has several.
NodeInfo = Info | list[Info]


def refusal(node: fx.Node, reason: str, *advice: Advice, id: str) -> LiftError:
    """A LiftError with source location, reason and advice."""
    return LiftError(f"{place_of(node)}: {reason}", advice=advice, id=id)


# The beginnings of the names of operators that have a stride; others put frames together.
STRIDED = ("conv", "max_pool", "avg_pool", "unfold", "slice")


def stride_of(node: fx.Node) -> str:
    """The PyTorch name of what makes one frame of several."""
    if node.op == "call_module":
        return "frames of one iteration of the loop"
    name = stands_for(node)
    if name.endswith("stft"):
        return f"hop of torch.{name}"
    return f"stride of {name}" if name.startswith(STRIDED) else f"frames that {name} joins"
