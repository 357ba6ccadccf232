"""Why an operator cannot stream, in words."""

from __future__ import annotations

from torch import fx

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


def name_of(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def reason_of(node: fx.Node) -> str:
    name = name_of(node)
    known = next((why for words, why in REASONS if any(w in name for w in words)), "it mixes frames over time")
    return f"{known} ({name}), so it cannot stream. Use past frames only, kept in a state."
