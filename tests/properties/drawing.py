"""Parts and plans, drawn at random."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Any

from . import framewise, nets, thresholds
from .flaws import FLAWS
from .plans import BUFFERS, Plan
from .sketches import Sketch, part

# Of a hundred, how many have something that a stream cannot have.
FLAWED = 15
# The largest multiple of frames that chunks are to have.
LONGEST_UNIT = 12


class Pick:
    """Draws in which the first choice is the simplest."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def one(self, *choices: Any) -> Any:
        return choices[self.random.randrange(len(choices))]

    def probability(self, percent: int) -> bool:
        return self.random.randrange(100) >= 100 - percent


def draw_dense(p: Pick) -> Sketch:
    more = {"dead": True} if p.probability(10) else {}
    return part("Dense", width=p.one(4, 3, 5, 6), activation=p.one(*framewise.ACTIVATIONS), **more)


def draw_plain(p: Pick) -> Sketch:
    kind = p.one("Norm", "Softmax", "GLU", "BatchNorm", "Dropout")
    return part(kind, width=p.one(4, 5)) if kind == "GLU" else part(kind)


def draw_layer(p: Pick) -> Sketch:
    cell = p.one("GRU", "LSTM", "RNN")
    more: dict[str, Any] = {}
    if cell == "RNN" and p.probability(50):
        more["relu"] = True
    if cell == "LSTM" and p.probability(25):
        more["proj"] = 2
    elif p.probability(15):
        more["twice"] = True
    start = p.one("none", "none", "zeros", "new_zeros", "learned", "repeated")
    if start != "none" and p.probability(10):
        more["asks"] = True
    if p.probability(4):
        more["deaf"] = True
    return part(
        "Layer",
        cell=cell,
        hidden=p.one(4, 3, 5),
        layers=p.one(8, 10, 12) if p.probability(6) else p.one(1, 1, 2, 3),
        batch_first=not p.probability(40),
        bias=not p.probability(20),
        start=start,
        **more,
    )


def draw_ours(p: Pick) -> Sketch:
    kind = p.one("CustomGRU", "CustomLSTM", "SimpleRNN")
    return part("Ours", layer=kind, hidden=p.one(4, 3), layers=p.one(1, 2), form=p.probability(50))


def draw_cell(p: Pick) -> Sketch:
    kind = p.one("TorchCell", "TorchCell", "ReluGRU", "MinimalGated", "Leaky", "Peephole", "TwoAgo", "Feedback")
    more = {}
    if kind == "TorchCell":
        more["cell"] = p.one("GRUCell", "LSTMCell", "RNNCell", "CustomGRUCell", "CustomLSTMCell")
    return part(kind, hidden=p.one(4, 3, 5), **more)


# Of gates and limits: seen in noise on both sides, rarely, never.
LEVELS = (0.5, 2.0, 20.0)


def draw_gate(p: Pick) -> Sketch:
    kind = p.one("Gate", "Limit", "Detector")
    if kind == "Gate":
        return part(kind, how=p.one(*thresholds.GATES), level=p.one(*LEVELS), keyed=p.probability(30))
    if kind == "Limit":
        return part(kind, how=p.one(*thresholds.LIMITS), level=p.one(*LEVELS))
    return part(kind, level=p.one(*LEVELS))


def draw_memory(p: Pick) -> Sketch:
    if p.probability(50):
        return part(p.one("Squelch", "Limiter", "Hold", "Alarm", "Integrator"), level=p.one(*LEVELS))
    kind = p.one("Average", "Difference", "Ring")
    if kind == "Average":
        return part(kind, counted=p.probability(40))
    return part(kind, width=p.one(4, 3), kernel=p.one(2, 3)) if kind == "Ring" else part(kind)


def draw_loop(p: Pick) -> Sketch:
    inside = draw_memory(p) if p.probability(30) else draw_cell(p)
    styles = ["list", "unbind", "written", "time_first"]
    if inside.options.get("cell") in ("GRUCell", "LSTMCell", "RNNCell"):
        styles.append("none")
    return part("Loop", cell=inside, style=p.one(*styles), head=p.probability(30))


def draw_causal(p: Pick) -> Sketch:
    how = p.one("pad", "chomp", "constant", "cat")
    kernel, dilation = p.one(2, 3, 4), p.one(1, 1, 2, 3)
    return part("Causal", width=p.one(4, 3), kernel=kernel, dilation=dilation, grouped=p.probability(25), how=how)


def draw_separable(p: Pick) -> Sketch:
    return part("Separable", kernel=p.one(2, 3), dilation=p.one(1, 2, 4))


def draw_spectral(p: Pick) -> Sketch:
    return part("Spectral", channels=p.one(2, 1), kernel=p.one(2, 3), band=p.one(1, 2))


def draw_shift(p: Pick) -> Sketch:
    return part("TokenShift", how=p.one("pad", "cat", "module"))


def draw_dual(p: Pick) -> Sketch:
    return part("DualPath", bands=p.one(2, 3), cell=p.one("GRU", "LSTM"), by_view=p.probability(50))


def draw_valid(p: Pick) -> Sketch:
    return part("Valid", width=p.one(4, 3), kernel=p.one(2, 3), dilation=p.one(1, 1, 2), residual=p.probability(30))


def draw_strided(p: Pick) -> Sketch:
    if p.probability(20):
        return part("Pool", average=p.probability(50))
    how, stride = p.one("causal", "full", "valid"), 2
    return part("Strided", width=p.one(4, 3), kernel=stride + p.one(0, 1, 2), stride=stride, how=how)


def draw_running(p: Pick) -> Sketch:
    if p.probability(20):
        return part("Positions", how=p.one("sinus", "turns", "fades"))
    if p.probability(10):
        return part("Latch", how=p.one("cumsum", "cummax", "any"), level=p.one(*LEVELS))
    return part("Running", how=p.one("mean", "norm", "max", "min", "log", "product"))


def draw_scan(p: Pick) -> Sketch:
    return part("Scan", width=p.one(4, 3), how=p.one("log", "associative"))


# --- what looks ahead ---------------------------------------------------------------------------------------------


def draw_centred(p: Pick) -> Sketch:
    """As many frames as before."""
    kind = p.one("Centred", "Centred", "EvenSame", "Following", "CentredPool")
    if kind == "Centred":
        how = p.one("padding", "same", "pad", "value", "cat")
        return part(kind, width=p.one(4, 3), side=p.one(1, 2), dilation=p.one(1, 1, 2), how=how)
    if kind == "EvenSame":
        return part(kind, width=p.one(4, 3), kernel=p.one(2, 4))
    if kind == "Following":
        return part(kind, after=p.one(1, 2))
    return part(kind, side=p.one(1, 2), stride=1, how=p.one("mean", "own", "max"))


def draw_mirrored(p: Pick) -> Sketch:
    """As many frames as before."""
    left, right, how = p.one(1, 2, 3, 0), p.one(1, 2, 0), p.one("pad", "layer", "frames")
    left = left or 1 - min(right, 1)
    return part("Mirrored", width=p.one(4, 3), mode=p.one("reflect", "replicate"), left=left, right=right, how=how)


def draw_longer(p: Pick) -> Sketch:
    """Mirrors that no window takes away again."""
    how, left, right = p.one("short", "alone"), p.one(1, 2, 4), p.one(1, 3)
    return part("Mirrored", width=p.one(4, 3), mode=p.one("reflect", "replicate"), left=left, right=right, how=how)


def draw_band(p: Pick) -> Sketch:
    how = p.one("sdpa", "hand", "module", "slopes", "rotary", "blocks")
    return part("Band", behind=p.one(2, 1, 4), ahead=0 if how == "blocks" else p.one(0, 0, 1, 2), how=how)


def draw_denoiser(p: Pick) -> Sketch:
    return part("Denoiser", window=p.one(4, 8), hop=2)


# What keeps the number of frames.
STEADY = (
    *(draw_layer, draw_layer, draw_loop, draw_dense, draw_causal, draw_plain, draw_ours, draw_separable, draw_shift),
    *(draw_spectral, draw_dual, draw_gate, draw_gate, draw_running, draw_scan, draw_centred, draw_mirrored, draw_band),
)


# --- other rates ----------------------------------------------------------------------------------------------------


def draw_fewer(p: Pick) -> Sketch:
    kind = p.one("strided", "StridedAhead", "CentredPool", "Spectrum", "LastWindow")
    if kind == "LastWindow":
        how, stride = p.one("max", "mean", "own", "power"), p.one(2, 3)
        padding = 0 if how == "power" else p.one(0, 1)
        return part(kind, kernel=p.one(2, 3, 4), stride=stride, padding=padding, how=how, flat=p.probability(50))
    if kind == "StridedAhead":
        stride = p.one(2, 3)
        how = p.one("padding", "filled")
        return part(kind, width=p.one(4, 3), kernel=stride + p.one(1, 0, 2), stride=stride, how=how)
    if kind == "CentredPool":
        return part(kind, side=p.one(1, 2), stride=2, how=p.one("mean", "own", "max"))
    if kind == "Spectrum":
        return part(kind, window=p.one(4, 8), hop=p.one(2, 4), centred=p.probability(50))
    return draw_strided(p)


def draw_more(p: Pick) -> Sketch:
    how = p.one("repeated", "transposed", "trimmed", "cut", "nearest", "linear", "shuffled")
    return part("Up", width=p.one(4, 3), times=p.one(2, 3), how=how)


def draw_resized(p: Pick) -> Sketch:
    made, taken = p.one((3, 2), (2, 1), (1, 2), (2, 3))
    how = p.one("nearest", "nearest-exact", "linear", "bilinear", "bicubic")
    return part("Resized", made=made, taken=taken, how=how, bands=p.one(1, 2))


def draw_between(p: Pick) -> Sketch:
    return part("Between", inside=p.one(*STEADY)(p), how=p.one("transposed", "nearest"))


def draw_overlapped(p: Pick) -> Sketch:
    return part("Overlapped", window=p.one(4, 6), hop=2)


# What changes the number of frames, or of which a chunk has to have several.
OTHER_RATES = (
    *(draw_fewer, draw_fewer, draw_more, draw_more, draw_resized, draw_between, draw_denoiser, draw_overlapped),
    draw_longer,
)


def draw_residual(p: Pick) -> Sketch:
    return part("Residual", inside=p.one(*STEADY)(p), **({"fresh": True} if p.probability(15) else {}))


def draw_branches(p: Pick) -> Sketch:
    left, right = (draw_valid(p) if p.probability(15) else p.one(*STEADY)(p) for _ in range(2))
    return part("Branches", left=left, right=right, how=p.one("cat", "gate"))


def draw_body(p: Pick, own_state: bool) -> tuple[Sketch, ...]:
    """One to four parts; `own_state` leaves out what makes them fewer or more."""
    drawn: list[Sketch] = []
    for _ in range(p.one(1, 2, 2, 3, 3, 4)):
        sketch = p.one(*STEADY, draw_residual, draw_branches)(p)
        if not own_state and p.probability(30):
            sketch = draw_valid(p) if p.probability(15) else p.one(*OTHER_RATES)(p)
            if Plan(body=(*drawn, sketch)).unit > LONGEST_UNIT:
                continue
        drawn.append(sketch)
    return tuple(drawn)


# --- plans --------------------------------------------------------------------------------------------------------


def draw_plan(random: Random) -> Plan:
    p = Pick(random)
    way = p.one(*["whole"] * 6, "frames", "frames", "declared", "buffered")
    plan = Plan(
        way,
        size=p.one(4, 3, 5, 6),
        outputs=p.one("tensor", "tensor", "tensor", "tuple", "dict"),
        batch=p.one(2, 1, 3),
        frames=p.one(6, 4, 7, 9),
        seed=random.randrange(1000),
    )
    plan = _draw_frames(p, plan) if way == "frames" else _draw_whole(p, plan)
    plan = replace(plan, packed=p.probability(15))
    if p.probability(FLAWED):
        return _flawed(p, plan)
    return replace(plan, end=p.one(*nets.ENDS)) if p.probability(12) else plan


def _draw_whole(p: Pick, plan: Plan) -> Plan:
    layout = p.one("btc", "btc", "btc", "tbc", "bct", "bt", "tb", "b1tf", "bctf", "btfc")
    plan = replace(plan, layout=layout, axis=p.probability(15))
    plan = replace(plan, body=draw_body(p, own_state=plan.way != "whole"))
    plan = replace(plan, chunk=plan.unit * p.one(1, 1, 1, 1, 2, 3))
    if plan.way == "declared":
        cell = p.one("GRU", "LSTM")
        memory = p.one("args", "tuple") if cell == "LSTM" else "args"
        return replace(plan, memory=memory, cell=cell, layers=p.one(1, 2))
    if plan.way == "buffered":
        at = p.random.randrange(len(plan.body) + 1)
        buffered = part(
            "BufferedLayer", hidden=p.one(4, 3), layers=p.one(1, 2), how=p.one("reassigned", "copied", "attribute")
        )
        return replace(plan, way="whole", body=(*plan.body[:at], buffered, *plan.body[at:]), batch=1)
    if layout in ("btc", "tbc", "bct"):
        plan = replace(plan, other=p.one(*[""] * 5, "sequence", "held"))
    if p.probability(6) and not plan.ahead:
        return replace(plan, outputs="last")
    if p.probability(12):
        plan = replace(plan, outputs=p.one("faster", "slower"))
        return replace(plan, chunk=math.lcm(plan.chunk, plan.unit))
    return replace(plan, outputs="named") if plan.outputs == "tuple" and p.probability(30) else plan


def _draw_frames(p: Pick, plan: Plan) -> Plan:
    plan = replace(plan, layout="bc", memory=p.one("args", "none", "tuple", "dict", *BUFFERS))
    drawn: list[Sketch] = []
    for i in range(p.one(1, 2, 3, 4)):
        drawer = (
            p.one(draw_cell, draw_memory) if i == 0 or p.probability(40) else p.one(draw_dense, draw_plain, draw_gate)
        )
        sketch = drawer(p)
        drawn.append(part("Norm") if sketch.kind in ("BatchNorm", "Dropout", "Detector") else sketch)
    plan = replace(plan, body=tuple(drawn), batch=1 if plan.memory in BUFFERS else plan.batch)
    return replace(plan, memory="tuple") if plan.memory == "args" and plan.cells > 2 else plan


def _flawed(p: Pick, plan: Plan) -> Plan:
    if plan.way == "frames":
        return replace(plan, body=(*plan.body, part("DataBranch")))
    if plan.unit > 1 and p.probability(30):
        return replace(plan, chunk=plan.unit + 1)
    kind = p.one(*FLAWS)
    options = {key: p.one(*choices) for key, choices in FLAWS[kind].items()}
    at = p.random.randrange(len(plan.body) + 1)
    return replace(plan, body=(*plan.body[:at], part(kind, **options), *plan.body[at:]))
