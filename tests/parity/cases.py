"""The table of cases: a model, its export options, and its user's call of it, which is the truth.

Canonical layout: inputs and outputs (rows, frames, ...), without frames where the contract has no time there; states
(rows, ...).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.models import CustomGRU, CustomGRUCell, CustomLSTM, CustomLSTMCell, SimpleRNN, SimpleRNNCell

from ..models import equations as eq  # noqa: TID252
from ..models import nets, scan_nets  # noqa: TID252
from ..test_silero_example import load_script  # noqa: TID252

Inputs = tuple[Tensor, ...]
States = Mapping[str, Tensor]
Truth = tuple[list[Tensor], dict[str, Tensor]]
Build = Callable[[], tuple[nn.Module, Inputs, dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """`tolerance` is relative to the scale of each tensor.

    `truth` drives the module as its user does; `equation` gives the same in float64 for our own cells;
    `draw(rows, frames)` makes canonical inputs.
    """

    name: str
    tolerance: float
    build: Build
    truth: Callable[[nn.Module, Inputs], Truth]
    equation: Callable[[nn.Module, Inputs], Truth] | None = None
    draw: Callable[[int, int], Inputs] = lambda rows, frames: (torch.randn(rows, frames, 4),)
    core: bool = False


# --- how a user calls it ------------------------------------------------------------------------------------------


def whole(model: nn.Module, inputs: Inputs) -> Truth:
    """One call over the whole sequence, (batch, time, ...); the states stay inside."""
    results = model(*inputs)
    if isinstance(results, dict):
        return list(results.values()), {}
    return list(results) if isinstance(results, tuple) else [results], {}


def in_double(model: nn.Module, inputs: Inputs) -> Truth:
    """As `whole`, for what a parallel scan loses in float32 by itself."""
    outputs, _ = whole(copy.deepcopy(model).double(), tuple(x.double() for x in inputs))
    return [y.float() for y in outputs], {}


def swapped(axis: int, other: int, model: nn.Module, inputs: Inputs) -> Truth:
    """A model of one input and output, with these axes the other way about: of time first, or last."""
    return [model(inputs[0].transpose(axis, other)).transpose(axis, other)], {}


def torch_layer(model: nn.Module, inputs: Inputs) -> Truth:
    """nn.RNN, nn.GRU, nn.LSTM called without a state."""
    (x,) = inputs
    y, last = model(x if model.batch_first else x.transpose(0, 1))
    last = last if isinstance(last, tuple) else (last,)
    return [y if model.batch_first else y.transpose(0, 1)], by_layer(last)


def torch_layer_with_state(model: nn.Module, inputs: Inputs) -> Truth:
    outputs, states = torch_layer(model, inputs)
    names = sorted({name[-1] for name in states}, reverse=True)
    return outputs, {n: torch.stack([v for name, v in states.items() if name[-1] == n], 1) for n in names}


def our_layer(model: nn.Module, inputs: Inputs) -> Truth:
    y, *last = model(inputs[0].transpose(0, 1))
    return [y.transpose(0, 1)], by_layer(last)


def simple_layer(model: nn.Module, inputs: Inputs) -> Truth:
    x = inputs[0].transpose(0, 1)
    y, h = model(x, x.new_zeros(x.shape[1], model.hidden_size))
    return [y.transpose(0, 1)], {"l0.h": h}


def by_layer(last: Any) -> dict[str, Tensor]:
    return {f"l{i}.{n}": value[i] for n, value in zip("hc", last, strict=False) for i in range(len(value))}


def cell(step: Callable[..., Any], states: Mapping[str, int], model: nn.Module, inputs: Inputs) -> Truth:
    """`step(model, frame, *states) -> (outputs, *next states)`, frame after frame from zeros."""
    (x,) = inputs
    now = [x.new_zeros(len(x), size) for size in states.values()]
    frames = []
    for frame in x.unbind(1):
        outputs, *now = step(model, frame, *now)
        frames.append(outputs if isinstance(outputs, tuple) else (outputs,))
    return [torch.stack(one, 1) for one in zip(*frames, strict=True)], dict(zip(states, now, strict=True))


def call(model: nn.Module, *args: Tensor) -> Any:
    return model(*args)


def h_step(model: nn.Module, x: Tensor, h: Tensor) -> Any:
    h = model(x, h)
    return h, h


def hc_step(model: nn.Module, x: Tensor, h: Tensor, c: Tensor) -> Any:
    h, c = model(x, h, c) if isinstance(model, CustomLSTMCell) else model(x, (h, c))
    return h, h, c


def dict_step(model: nn.Module, x: Tensor, h: Tensor, c: Tensor, g: Tensor) -> Any:
    result = model(x, {"h": h, "c": c, "g": g})
    return (result["sum"], result["both"]), *(result["next"][name] for name in "hcg")


def explicit(model: nn.Module, inputs: Inputs) -> Truth:
    zeros = torch.zeros(2, len(inputs[0]), 5)
    y, h, c = model(inputs[0], zeros, zeros)
    return [y], {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}


def pair(model: nn.Module, inputs: Inputs) -> Truth:
    zeros = torch.zeros(1, len(inputs[0]), 5)
    y, (h, c) = model(inputs[0], (zeros, zeros))
    return [y], {"hx.0": h.transpose(0, 1), "hx.1": c.transpose(0, 1)}


def own_loop(model: nn.Module, inputs: Inputs) -> Truth:
    y, h = model(inputs[0], torch.zeros(len(inputs[0]), 5))
    return [y], {"h": h}


def learned(model: nn.Module, inputs: Inputs) -> Truth:
    x = inputs[0]
    y, last = model.gru(x, model.h0.expand(-1, len(x), -1).contiguous())
    return [y], {f"gru.l{i}.h": last[i] for i in range(2)}


def time_third(model: nn.Module, inputs: Inputs) -> Truth:
    """(batch, channels, time, bands) in, (batch, time, ...) out."""
    return [model(inputs[0].transpose(1, 2))], {}


def two_axes(model: nn.Module, inputs: Inputs) -> Truth:
    """The second input and the output are (time, batch, ...)."""
    return [model(inputs[0], inputs[1].transpose(0, 1)).transpose(0, 1)], {}


def own_memory(whole_sequence: bool, batch_axis: int, model: nn.Module, inputs: Inputs) -> Truth:
    """A model with the memory of one stream in its buffers: each row has a copy of it, called with the whole sequence
    or frame after frame. The buffers at the end are the states, named by their paths; a scalar is one of each row.
    """
    outputs, states = [], []
    for row in inputs[0].split(1):
        its_own = copy.deepcopy(model)
        frames = [its_own(row)] if whole_sequence else [its_own(frame)[:, None] for frame in row.unbind(1)]
        outputs.append(torch.cat(frames, 1))
        buffers = {name: value.clone() for name, value in its_own.named_buffers()}
        states.append({n: b.movedim(batch_axis, 0) if b.ndim else b[None] for n, b in buffers.items()})
    return [torch.cat(outputs)], {name: torch.cat([one[name] for one in states]) for name in states[0]}


# --- the equations ------------------------------------------------------------------------------------------------


def by_equation(
    equation: Callable[..., Any], prefix: str, names: Mapping[str, str], model: nn.Module, inputs: Inputs
) -> Truth:
    """A cell (`prefix` "cells.0." gives it the name of its layer) or a layer, from zeros, in float64."""
    weights = {prefix + name: value for name, value in eq.arrays(model).items()}
    x = inputs[0].transpose(0, 1).double().numpy()
    count = 1 if equation.func is eq.simple_rnn else 1 + max(int(n.split(".")[1]) for n in weights)
    shape = (count, x.shape[1], model.hidden_size)
    zeros = [torch.zeros(shape[1:] if equation.func is eq.simple_rnn else shape).numpy() for _ in names]
    y, last = equation(weights, x, tuple(zeros))
    states = {}
    for (letter, name), value in zip(names.items(), last, strict=True):
        rows = [value] if equation.func is eq.simple_rnn else list(value)
        states |= {name.format(i, letter): torch.from_numpy(row) for i, row in enumerate(rows)}
    return [torch.from_numpy(y).transpose(0, 1)], states


LAYER = {"SimpleRNN": {"h": "l{}.{}"}, "GRU": {"h": "l{}.{}"}, "LSTM": {"h": "l{}.{}", "c": "l{}.{}"}}
CELL = {"h": "{1}", "c": "{1}"}


# --- the table ----------------------------------------------------------------------------------------------------


def row(
    name: str,
    make: Callable[[], nn.Module],
    *example: Any,
    truth: Callable[[nn.Module, Inputs], Truth] = whole,
    equation: Callable[[nn.Module, Inputs], Truth] | None = None,
    draw: Callable[[int, int], Inputs] = lambda rows, frames: (torch.randn(rows, frames, 4),),
    core: bool = False,
    **options: Any,
) -> Case:
    """A case of a seeded model in eval mode."""

    def build() -> tuple[nn.Module, Any, dict[str, Any]]:
        torch.manual_seed(0)
        return make().eval(), example, options

    return Case(name, 2e-6, build, truth, equation, draw, core)


def frames_of(*sizes: tuple[int, ...]) -> Callable[[int, int], Inputs]:
    """Inputs of other sizes of a frame."""
    return lambda rows, frames: tuple(torch.randn(rows, frames, *size) for size in sizes)


def layer(kind: Any, name: str, equation: Any, choice: str, layers: int, of: Any, **how: Any) -> Case:
    """One of our layers, with a `choice` of its equation."""
    by = partial(by_equation, partial(equation, **{choice: of}), "", LAYER[kind.__name__.removeprefix("Custom")])
    make = partial(kind, 4, 6, layers, of)
    return row(name, make, TIME_MAJOR, **{"truth": our_layer, "equation": by, "core": layers == 1, **how})


# The same examples in every process: golden vectors are drawn like them.
torch.manual_seed(0)
BATCH_FIRST = torch.randn(2, 7, 4)
TIME_MAJOR = torch.randn(7, 2, 4)
FRAME = torch.randn(2, 4)
TIME_LAST = torch.randn(2, 4, 12)
ONE_FRAME = torch.randn(1, 4)
H = torch.zeros(2, 5)
TURNED = partial(swapped, 0, 1)
LAST = partial(swapped, 1, 2)

CASES = [
    # Our own cells and layers.
    *(
        layer(SimpleRNN, f"SimpleRNN-{φ}", eq.simple_rnn, "nonlinearity", 3, φ, truth=simple_layer, core=True)
        for φ in ("tanh", "relu")
    ),
    *(
        layer(CustomGRU, f"CustomGRU-{layers}-{'after' if after else 'before'}", eq.gru, "reset_after", layers, after)
        for layers, after in ((1, False), (1, True), (2, False), (3, True))
    ),
    *(
        layer(CustomLSTM, f"CustomLSTM-{layers}-{φ}", eq.lstm, "candidate", layers, φ)
        for layers, φ in ((1, "tanh"), (1, "sigmoid"), (2, "sigmoid"), (3, "tanh"))
    ),
    row(
        "SimpleRNNCell",
        partial(SimpleRNNCell, 4, 6, 3),
        FRAME,
        truth=partial(cell, call, {"h": 6}),
        equation=partial(by_equation, partial(eq.simple_rnn), "", {"h": "{1}"}),
        core=True,
    ),
    *(
        row(
            f"CustomGRUCell-{'after' if after else 'before'}",
            partial(CustomGRUCell, 4, 6, after),
            FRAME,
            truth=partial(cell, h_step, {"h": 6}),
            equation=partial(by_equation, partial(eq.gru, reset_after=after), "cells.0.", {"h": "{1}"}),
            core=True,
        )
        for after in (False, True)
    ),
    row(
        "CustomLSTMCell",
        partial(CustomLSTMCell, 4, 6),
        FRAME,
        truth=partial(cell, hc_step, {"h": 6, "c": 6}),
        equation=partial(by_equation, partial(eq.lstm), "cells.0.", CELL),
        core=True,
    ),
    # torch's.
    row("nn.RNN-tanh", partial(nn.RNN, 4, 6), TIME_MAJOR, truth=torch_layer),
    row(
        "nn.RNN-relu-2",
        partial(nn.RNN, 4, 6, 2, nonlinearity="relu", batch_first=True),
        BATCH_FIRST,
        truth=torch_layer,
    ),
    *(
        row(
            f"nn.{kind.__name__}-{layers}{'-batch-first' * first}{'' if bias else '-no-bias'}",
            partial(kind, 4, 6, layers, bias=bias, batch_first=first),
            BATCH_FIRST if first else TIME_MAJOR,
            truth=torch_layer,
            core=layers == 1,
        )
        for kind in (nn.GRU, nn.LSTM)
        for layers, first, bias in ((1, False, True), (2, True, True), (3, True, False))
    ),
    *(
        row(
            f"nn.{kind.__name__}-with-state",
            partial(kind, 4, 6, 2, batch_first=True),
            BATCH_FIRST,
            hx,
            truth=torch_layer_with_state,
        )
        for kind, hx in ((nn.GRU, torch.zeros(2, 2, 6)), (nn.LSTM, (torch.zeros(2, 2, 6), torch.zeros(2, 2, 6))))
    ),
    row("nn.RNNCell", partial(nn.RNNCell, 4, 6, nonlinearity="relu"), FRAME, truth=partial(cell, h_step, {"h": 6})),
    row("nn.GRUCell", partial(nn.GRUCell, 4, 6), FRAME, truth=partial(cell, h_step, {"h": 6}), core=True),
    row("nn.LSTMCell", partial(nn.LSTMCell, 4, 6), FRAME, truth=partial(cell, hc_step, {"h": 6, "c": 6})),
    # Models as users write them.
    row("hidden-layers", partial(nets.Tagger, nn.LSTM, 2), BATCH_FIRST),
    row("hidden-time-major", partial(nets.Tagger, nn.GRU, 1, False), TIME_MAJOR, truth=TURNED),
    row("chunk-of-3", nets.Tagger, BATCH_FIRST, chunk=3),
    row("learned-start", nets.LearnedStart, BATCH_FIRST, truth=learned),
    row(
        "explicit-states",
        nets.Explicit,
        BATCH_FIRST,
        torch.zeros(2, 2, 5),
        torch.zeros(2, 2, 5),
        truth=explicit,
        states={"h": 1, "c": 2},
    ),
    row("hx-tuple", nets.Tuple, BATCH_FIRST, (H[None], H[None]), truth=pair, states={"hx": 1}),
    row(
        "state-tree-and-dict-outputs",
        nets.Dict,
        FRAME,
        dict.fromkeys("hcg", H),
        truth=partial(cell, dict_step, {"memory.h": 5, "memory.c": 5, "memory.g": 5}),
        states={"memory": "next"},
    ),
    row("named-tuple", nets.Named, FRAME, H, truth=partial(cell, call, {"h": 5}), states={"h": "h"}),
    row(
        "several-inputs-and-outputs",
        nets.Several,
        torch.randn(2, 7, 4),
        torch.randn(2, 7, 3),
        torch.randn(2, 2),
        draw=lambda rows, frames: (torch.randn(rows, frames, 4), torch.randn(rows, frames, 3), torch.randn(rows, 2)),
    ),
    row(
        "ids",
        nets.Ids,
        torch.zeros(2, 7, dtype=torch.long),
        draw=lambda rows, frames: (torch.randint(11, (rows, frames)),),
    ),
    row("own-loop", nets.Loop, BATCH_FIRST, H, truth=own_loop, states={"h": 1}),
    row("own-loop-chunk-of-4", nets.Loop, BATCH_FIRST, H, truth=own_loop, states={"h": 1}, chunk=4),
    row("last-frame", nets.LastFrame, BATCH_FIRST, time_axis=1),
    Case(
        "silero-vad",
        1e-5,
        lambda: load_script("model").factory(),
        partial(cell, call, {"context": 64, "h": 128, "c": 128}),
        draw=lambda rows, frames: (0.3 * torch.randn(rows, frames, 512),),
    ),
    # Layers that hide their states.
    row("hidden-behind-strided-convolutions", nets.Waves, torch.randn(2, 7, 32), draw=frames_of((32,))),
    row("hidden-relu-rnn", partial(nets.Tagger, partial(nn.RNN, nonlinearity="relu")), BATCH_FIRST),
    *(row(f"hidden-lstm-projected-{layers}", partial(nets.Projected, layers), BATCH_FIRST) for layers in (1, 2)),
    row("called-twice", nets.Twice, BATCH_FIRST),
    row("shared-in-a-module-list", nets.SharedWeights, BATCH_FIRST),
    row("learned-h-and-c", nets.LearnedPair, BATCH_FIRST),
    row("zeros-passed", nets.ZerosPassed, BATCH_FIRST),
    row(
        "time-on-different-axes",
        nets.TwoAxes,
        torch.randn(2, 7, 4),
        torch.randn(7, 2, 3),
        truth=two_axes,
        draw=frames_of((4,), (3,)),
    ),
    *(
        row(f"outputs-in-a-{name}", partial(nets.Outputs, kind), BATCH_FIRST)
        for name, kind in (("tuple", tuple), ("dict", dict), ("named-tuple", nets.Heads))
    ),
    row("norm-and-softmax-over-features", nets.Features, BATCH_FIRST),
    row("dual-path", nets.DualPath, torch.randn(2, 7, 3, 4), draw=frames_of((3, 4))),
    # The model's own loop over time, its states local.
    row("loop-lstm-cell", nets.LSTMCellLoop, BATCH_FIRST),
    row("loop-lstm-cell-chunk-of-4", nets.LSTMCellLoop, BATCH_FIRST, chunk=4),
    row("loop-gru-cell-by-index", nets.GRUCellByIndex, TIME_MAJOR, truth=TURNED),
    row("loop-rnn-cell-from-none", nets.RNNCellFromNone, BATCH_FIRST),
    row("loop-two-cells", nets.TwoCellsLoop, BATCH_FIRST),
    row("loop-after-loop", nets.LoopAfterLoop, BATCH_FIRST),
    row("loop-relu-gru-by-hand", nets.ReluGRULoop, BATCH_FIRST),
    row("loop-minimal-gated-unit", nets.MinimalGatedLoop, BATCH_FIRST),
    row("loop-leaky-integrator", nets.LeakyLoop, BATCH_FIRST),
    row("loop-after-convolution", nets.ConvThenLoop, BATCH_FIRST),
    # Memory in buffers.
    *(
        row(f"buffer-{name}", kind, ONE_FRAME, truth=partial(own_memory, False, 0))
        for name, kind in (
            ("reassigned", nets.Reassigned),
            ("copied-into", nets.CopiedInto),
            ("born-in-the-first-call", nets.CreatedInTheFirstCall),
            ("not-from-zero", nets.NotFromZero),
            ("nested", nets.NestedMemory),
            ("scalar-counter", nets.RunningMean),
        )
    ),
    row("buffer-over-time", nets.BufferOverTime, BATCH_FIRST[:1], truth=partial(own_memory, True, 1)),
    # Convolutions over time: causal, without padding (a delay), strided.
    row("causal-pad", nets.CausalPad, TIME_LAST, truth=LAST),
    row("causal-pad-chunk-of-3", nets.CausalPad, TIME_LAST, truth=LAST, chunk=3),
    row("causal-grouped", partial(nets.CausalPad, 2), TIME_LAST, truth=LAST),
    row("causal-chomp", nets.CausalChomp, TIME_LAST, truth=LAST),
    row("causal-constant", nets.CausalConstant, TIME_LAST, truth=LAST),
    row("causal-dilated-residual", nets.TCN, TIME_LAST, truth=LAST),
    row("causal-2d-then-gru", nets.Conv2dGRU, torch.randn(2, 1, 12, 8), truth=time_third, draw=frames_of((1, 8))),
    row("token-shift", nets.TokenShift, BATCH_FIRST),
    row("valid", nets.Valid, TIME_LAST, truth=LAST),
    row("valid-chunk-of-4", nets.Valid, TIME_LAST, truth=LAST, chunk=4),
    row("valid-then-gru", nets.ValidGRU, torch.randn(2, 12, 4)),
    row("valid-residual", nets.ValidResidual, TIME_LAST, truth=LAST),
    row("strided-causal", nets.StridedCausal, TIME_LAST, truth=LAST, chunk=2),
    row("strided-valid-then-gru", nets.StridedValidGRU, torch.randn(2, 16, 4), chunk=4),
    # Sums, counts and scans over time.
    row("cumulative-norm", scan_nets.CumulativeNorm, BATCH_FIRST),
    row("min-gru", scan_nets.MinGRU, BATCH_FIRST, truth=in_double),
    # What comes after a frame, and frames in other numbers.
    row("look-ahead", nets.LookAhead, TIME_LAST, truth=LAST, chunk=2),
    row("spectral-mask", nets.Denoiser, torch.randn(2, 64), draw=frames_of(()), chunk=4),
]
