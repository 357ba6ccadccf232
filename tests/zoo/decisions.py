"""Branches on the value of a tensor: resolved if one side is always right, assumed if declared, else refused."""

import inspect

import torch
from torch import nn
from torch.fx._symbolic_trace import is_fx_tracing

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
FRAME, H = X[:, 0], torch.zeros(2, 5)


def at(forward, text="if "):
    """The line of a function that has `text`, as messages name it."""
    lines, first = inspect.getsourcelines(forward)
    return f"decisions.py:{first + next(i for i, line in enumerate(lines) if text in line)}"


def net(forward, **parts):
    """A model of a GRU around which `forward(s, x)` decides."""
    return Call(forward, gru=nn.GRU(4, 5, batch_first=True), **parts)


def asserts(s, x):
    assert torch.isfinite(x).all(), "not finite"
    return s.gru(x)[0]


def torch_asserts(s, x):
    torch._assert((x.abs() < 1e20).all(), "too loud")
    return s.gru(x)[0]


def item(s, x):
    if x.abs().max().item() > 1e20:
        raise ValueError("too loud")
    return s.gru(x)[0]


def helped(s, x):
    s.look(x)
    return s.gru(x)[0]


def look(x):
    if not torch.isfinite(x).all():
        raise ValueError("not finite")


def trained(s, x):
    if s.trained > 0:
        return 2 * s.gru(x)[0]
    return s.gru(x)[0]


def equal(s, x):
    if torch.equal(x, torch.zeros_like(x)):
        return s.gru(torch.zeros_like(x))[0]
    return s.gru(x)[0]


def loud(s, x):
    if x.max() > 100:
        return 2 * s.gru(x)[0]
    return s.gru(x)[0]


def halves(s, x):
    while x.abs().max() > 3:
        x = x / 2
    return s.gru(x)[0]


def clamps_beyond(s, x):
    """Clamping is right on both sides of where it begins."""
    if x.abs().max() < 10:
        return s.gru(x)[0]
    return s.gru(x.clamp(-10, 10))[0]


def clamps_below(s, x):
    """Between 5 and 10, clamping is another way than the fast one."""
    if x.abs().max() < 10:
        return s.gru(x)[0]
    return s.gru(x.clamp(-5, 5))[0]


def silent(s, x):
    """Not only zeros count as silence."""
    if x.abs().max() < 1e-4:
        return s.gru(torch.zeros_like(x))[0]
    return s.gru(x)[0]


def alike_at_both_ends(s, x):
    """For quiet input and for extremely loud input both branches give the same."""
    x = torch.where(x.abs() > 4, x, 0.0)
    if x.mean() > 0:
        x = 1.5 * x
    return s.gru(x.clamp(-6, 6))[0]


def number(s, x):
    return s.gru(x)[0] * float(x.max())


def starts(s, x, h, starts):
    """A step with a fast path for when no episode starts, as policies have it."""
    if torch.all(starts == 0.0):
        h = s.cell(x, h)
        return 1.0 * h, h
    h = s.cell(x, (1.0 - starts)[:, None] * h)
    return 1.0 * h, h


def decided(forward, assume=None, **parts):
    return case(lambda: net(forward, **parts), X, assume=assume or {})


def seen(forward, text, value, why, note="", decides=None, **parts):
    """A guard that is seen through: one assumption, which the notes say."""

    def holds(lifted):
        (assumption,) = lifted.spec.assumptions
        said = (assumption.at, assumption.value, assumption.why) == (at(decides or forward, text), value, why)
        return said and assumption.note in lifted.notes and len(lifted.spec.states) == 1

    return decided(forward, **parts).streams(holds=holds, notes=[note], end=False)


def untold(asked):
    def forward(s, x):
        return s.gru(x)[0] * (1 if asked() else 2)

    return decided(forward).streams(end=False)


RAISES = "the way of false is taken: where it is true, the model raises an exception, and a stream does not"
EITHER = "the way of false is taken, which is right whatever the tensor holds, as was tried with both"
TURN = ("decided-by-value", "was seen to give what the model gives")
TABLE = {
    "guards are seen through and said": {
        "item": seen(item, "if ", False, "raises", RAISES),
        "a helper that raises": seen(helped, "if ", True, "raises", decides=look, look=look),
        "assert": seen(asserts, "assert torch", True, "raises"),
        "torch._assert": seen(torch_asserts, "torch._assert", True, "raises"),
    },
    "ways that give the same are one, and said": {
        "weights": seen(
            trained, "if ", True, "weights", "since nothing that is fed can change it", trained=torch.ones(())
        ),
        "clamping where it changes nothing": seen(clamps_beyond, "if ", False, "either"),
        "equal": seen(equal, "if ", False, "either", EITHER),
    },
    "code that asks whether it is traced goes the way of a call": {
        "compiled": untold(torch.compiler.is_compiling),
        "exported": untold(torch.compiler.is_exporting),
        "compiled, as torch._dynamo says": untold(torch._dynamo.is_compiling),
        "traced by torch.fx": untold(is_fx_tracing),
        "a mean over time that only a call has": decided(
            lambda s, x: s.gru(x)[0] + (0 if torch.compiler.is_compiling() else x.mean(1, keepdim=True)[..., :1])
        ).refused("not-frame-local", "statistics over time look at all frames"),
    },
    "ways that are not always alike are refused": {
        "alike at both ends": decided(alike_at_both_ends).refused(
            "decided-by-value", "neither was seen to give what the model gives"
        ),
        "another close to zero": decided(silent).refused(*TURN),
        "another short of the turn": decided(clamps_below).refused(*TURN),
        "a number": decided(number).refused("number-by-value", "decisions.py:"),
    },
    "what cannot be assumed is refused": {
        "a line without a decision": decided(loud, {at(loud): False, "decisions.py:1": True}).refused(
            "assume-never-asked", " decisions.py:1,"
        ),
        "a loop that never ends": decided(halves, {at(halves, "while"): True}).refused("assumed-loop-endless", 10000),
        "a line of another file": decided(loud, {"other_decisions.py:1": True}).refused(
            "assume-never-asked", "other_decisions.py:1,", advice=True
        ),
        "no bool": decided(loud, {at(loud): False, "decisions.py:1": 1}).refused(
            "assume-malformed", "'decisions.py:1': 1"
        ),
        "no dict": decided(number, ["decisions.py"]).refused("option-refused", "assume is ['decisions.py']"),
        "no line": decided(loud, {"file.py": True}).refused("assume-malformed", "'file.py': True"),
    },
}
