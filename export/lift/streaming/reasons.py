"""Why an operator cannot stream, in words."""

from __future__ import annotations

from torch import fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.program.fx import place_of

# By words in the name of an operator, the first that fits.
REASONS = (
    (("cumsum", "cumprod"), "a running sum over time: keep it in a buffer that each frame adds to"),
    (
        ("attention", "matmul", "bmm", "baddbmm", "einsum"),
        "attention, or another product over time, looks at all frames",
    ),
    (("softmax",), "a softmax over time looks at all frames"),
    (
        ("batch_norm", "instance_norm", "group_norm", "layer_norm"),
        "it normalises over time, with statistics of all frames",
    ),
    (("mean", "sum", "var", "std", "amax", "amin", "max", "min", "norm"), "statistics over time look at all frames"),
    (("flip", "roll", "sort", "topk"), "it moves frames over time"),
    (("fft", "stft"), "a transform over time looks at all frames"),
    (("view", "reshape", "flatten", "unflatten"), "a reshape cuts through time"),
    (("unbind", "split", "chunk"), "it takes the frames of the sequence apart"),
)


LAST_FRAME_FOR_ALL = "a value as of the last frame is used for every frame: that looks at the end first."


def refusal(node: fx.Node, reason: str) -> LiftError:
    """The error that says where in the model, and why."""
    return LiftError(f"{place_of(node)}: {reason}")


def name_of(node: fx.Node) -> str:
    """The name of an operator, as PyTorch's users know it."""
    return str(node.target).removeprefix("aten.").partition(".")[0]


def why_not_frame_local(node: fx.Node) -> str:
    """The reason for an operator whose frames depend on others."""
    name = name_of(node)
    known = next((why for words, why in REASONS if any(w in name for w in words)), "it mixes frames over time")
    return f"{known} ({name}), so it cannot stream. Use past frames only, kept in a state."
