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
from ..models.nets import Dict, Explicit, Ids, LastFrame, LearnedStart, Loop, Named, Several, Tagger, Tuple  # noqa: TID252
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


def time_major(model: nn.Module, inputs: Inputs) -> Truth:
    return [model(inputs[0].transpose(0, 1)).transpose(0, 1)], {}


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


def silero(model: nn.Module, inputs: Inputs) -> Truth:
    return cell(lambda model, *args: model(*args), {"context": 64, "h": 128, "c": 128}, model, inputs)


def learned(model: nn.Module, inputs: Inputs) -> Truth:
    x = inputs[0]
    y, last = model.gru(x, model.h0.expand(-1, len(x), -1).contiguous())
    return [y], {f"gru.l{i}.h": last[i] for i in range(2)}


def time_last(model: nn.Module, inputs: Inputs) -> Truth:
    """(batch, channels, time) in and out."""
    return [model(inputs[0].transpose(1, 2)).transpose(1, 2)], {}


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


LAYER = "l{}.{}"
CELL = "{1}"


# --- the table ----------------------------------------------------------------------------------------------------


def of(make: Callable[[], nn.Module], *example: Any, **options: Any) -> Build:
    """A seeded model in eval mode with its example and options."""

    def build() -> tuple[nn.Module, Any, dict[str, Any]]:
        torch.manual_seed(0)
        return make().eval(), example, options

    return build


# The same examples in every process: golden vectors are drawn like them.
torch.manual_seed(0)
BATCH_FIRST = torch.randn(2, 7, 4)
TIME_MAJOR = torch.randn(7, 2, 4)
FRAME = torch.randn(2, 4)
TIME_LAST = torch.randn(2, 4, 12)
ONE_FRAME = torch.randn(1, 4)
OURS = 2e-6
TORCHS = 2e-6

CASES = [
    # Our own cells and layers.
    *(
        Case(
            f"SimpleRNN-{φ}",
            OURS,
            of(partial(SimpleRNN, 4, 6, 3, φ), TIME_MAJOR),
            simple_layer,
            partial(by_equation, partial(eq.simple_rnn, nonlinearity=φ), "", {"h": LAYER}),
            core=True,
        )
        for φ in ("tanh", "relu")
    ),
    *(
        Case(
            f"CustomGRU-{layers}-{'after' if after else 'before'}",
            OURS,
            of(partial(CustomGRU, 4, 6, layers, after), TIME_MAJOR),
            our_layer,
            partial(by_equation, partial(eq.gru, reset_after=after), "", {"h": LAYER}),
            core=layers == 1,
        )
        for layers, after in ((1, False), (1, True), (2, False), (3, True))
    ),
    *(
        Case(
            f"CustomLSTM-{layers}-{φ}",
            OURS,
            of(partial(CustomLSTM, 4, 6, layers, φ), TIME_MAJOR),
            our_layer,
            partial(by_equation, partial(eq.lstm, candidate=φ), "", {"h": LAYER, "c": LAYER}),
            core=layers == 1,
        )
        for layers, φ in ((1, "tanh"), (1, "sigmoid"), (2, "sigmoid"), (3, "tanh"))
    ),
    Case(
        "SimpleRNNCell",
        OURS,
        of(partial(SimpleRNNCell, 4, 6, 3), FRAME),
        partial(cell, lambda model, *args: model(*args), {"h": 6}),
        partial(by_equation, partial(eq.simple_rnn), "", {"h": CELL}),
        core=True,
    ),
    *(
        Case(
            f"CustomGRUCell-{'after' if after else 'before'}",
            OURS,
            of(partial(CustomGRUCell, 4, 6, after), FRAME),
            partial(cell, h_step, {"h": 6}),
            partial(by_equation, partial(eq.gru, reset_after=after), "cells.0.", {"h": CELL}),
            core=True,
        )
        for after in (False, True)
    ),
    Case(
        "CustomLSTMCell",
        OURS,
        of(partial(CustomLSTMCell, 4, 6), FRAME),
        partial(cell, hc_step, {"h": 6, "c": 6}),
        partial(by_equation, partial(eq.lstm), "cells.0.", {"h": CELL, "c": CELL}),
        core=True,
    ),
    # torch's.
    Case("nn.RNN-tanh", TORCHS, of(partial(nn.RNN, 4, 6), TIME_MAJOR), torch_layer),
    Case(
        "nn.RNN-relu-2",
        TORCHS,
        of(partial(nn.RNN, 4, 6, 2, nonlinearity="relu", batch_first=True), BATCH_FIRST),
        torch_layer,
    ),
    *(
        Case(
            f"nn.{kind.__name__}-{layers}{'-batch-first' * first}{'' if bias else '-no-bias'}",
            TORCHS,
            of(partial(kind, 4, 6, layers, bias=bias, batch_first=first), BATCH_FIRST if first else TIME_MAJOR),
            torch_layer,
            core=layers == 1,
        )
        for kind in (nn.GRU, nn.LSTM)
        for layers, first, bias in ((1, False, True), (2, True, True), (3, True, False))
    ),
    *(
        Case(
            f"nn.{kind.__name__}-with-state",
            TORCHS,
            of(partial(kind, 4, 6, 2, batch_first=True), BATCH_FIRST, hx),
            torch_layer_with_state,
        )
        for kind, hx in ((nn.GRU, torch.zeros(2, 2, 6)), (nn.LSTM, (torch.zeros(2, 2, 6), torch.zeros(2, 2, 6))))
    ),
    Case(
        "nn.RNNCell", TORCHS, of(partial(nn.RNNCell, 4, 6, nonlinearity="relu"), FRAME), partial(cell, h_step, {"h": 6})
    ),
    Case("nn.GRUCell", TORCHS, of(partial(nn.GRUCell, 4, 6), FRAME), partial(cell, h_step, {"h": 6}), core=True),
    Case("nn.LSTMCell", TORCHS, of(partial(nn.LSTMCell, 4, 6), FRAME), partial(cell, hc_step, {"h": 6, "c": 6})),
    # Models as users write them.
    Case("hidden-layers", TORCHS, of(partial(Tagger, nn.LSTM, 2), BATCH_FIRST), whole),
    Case("hidden-time-major", TORCHS, of(partial(Tagger, nn.GRU, 1, False), TIME_MAJOR), time_major),
    Case("chunk-of-3", TORCHS, of(Tagger, BATCH_FIRST, chunk=3), whole),
    Case("learned-start", TORCHS, of(LearnedStart, BATCH_FIRST), learned),
    Case(
        "explicit-states",
        TORCHS,
        of(Explicit, BATCH_FIRST, torch.zeros(2, 2, 5), torch.zeros(2, 2, 5), states={"h": 1, "c": 2}),
        explicit,
    ),
    Case(
        "hx-tuple",
        TORCHS,
        of(Tuple, BATCH_FIRST, (torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)), states={"hx": 1}),
        pair,
    ),
    Case(
        "state-tree-and-dict-outputs",
        TORCHS,
        of(Dict, FRAME, {name: torch.zeros(2, 5) for name in "hcg"}, states={"memory": "next"}),
        partial(cell, dict_step, {"memory.h": 5, "memory.c": 5, "memory.g": 5}),
    ),
    Case(
        "named-tuple",
        TORCHS,
        of(Named, FRAME, torch.zeros(2, 5), states={"h": "h"}),
        partial(cell, lambda model, *args: model(*args), {"h": 5}),
    ),
    Case(
        "several-inputs-and-outputs",
        TORCHS,
        of(Several, torch.randn(2, 7, 4), torch.randn(2, 7, 3), torch.randn(2, 2)),
        whole,
        draw=lambda rows, frames: (torch.randn(rows, frames, 4), torch.randn(rows, frames, 3), torch.randn(rows, 2)),
    ),
    Case(
        "ids",
        TORCHS,
        of(Ids, torch.zeros(2, 7, dtype=torch.long)),
        whole,
        draw=lambda rows, frames: (torch.randint(11, (rows, frames)),),
    ),
    Case("own-loop", TORCHS, of(Loop, BATCH_FIRST, torch.zeros(2, 5), states={"h": 1}), own_loop),
    Case("own-loop-chunk-of-4", TORCHS, of(Loop, BATCH_FIRST, torch.zeros(2, 5), states={"h": 1}, chunk=4), own_loop),
    Case("last-frame", TORCHS, of(LastFrame, BATCH_FIRST, time_axis=1), whole),
    Case(
        "silero-vad",
        1e-5,
        lambda: load_script("model").factory(),
        silero,
        draw=lambda rows, frames: (0.3 * torch.randn(rows, frames, 512),),
    ),
    # Layers that hide their states.
    Case(
        "hidden-behind-strided-convolutions",
        TORCHS,
        of(nets.Waves, torch.randn(2, 7, 32)),
        whole,
        draw=lambda rows, frames: (torch.randn(rows, frames, 32),),
    ),
    Case("hidden-relu-rnn", TORCHS, of(partial(Tagger, partial(nn.RNN, nonlinearity="relu")), BATCH_FIRST), whole),
    *(
        Case(f"hidden-lstm-projected-{layers}", TORCHS, of(partial(nets.Projected, layers), BATCH_FIRST), whole)
        for layers in (1, 2)
    ),
    Case("called-twice", TORCHS, of(nets.Twice, BATCH_FIRST), whole),
    Case("shared-in-a-module-list", TORCHS, of(nets.SharedWeights, BATCH_FIRST), whole),
    Case("learned-h-and-c", TORCHS, of(nets.LearnedPair, BATCH_FIRST), whole),
    Case("zeros-passed", TORCHS, of(nets.ZerosPassed, BATCH_FIRST), whole),
    Case(
        "time-on-different-axes",
        TORCHS,
        of(nets.TwoAxes, torch.randn(2, 7, 4), torch.randn(7, 2, 3)),
        two_axes,
        draw=lambda rows, frames: (torch.randn(rows, frames, 4), torch.randn(rows, frames, 3)),
    ),
    *(
        Case(f"outputs-in-a-{name}", TORCHS, of(partial(nets.Outputs, kind), BATCH_FIRST), whole)
        for name, kind in (("tuple", tuple), ("dict", dict), ("named-tuple", nets.Heads))
    ),
    Case("norm-and-softmax-over-features", TORCHS, of(nets.Features, BATCH_FIRST), whole),
    Case(
        "dual-path",
        TORCHS,
        of(nets.DualPath, torch.randn(2, 7, 3, 4)),
        whole,
        draw=lambda rows, frames: (torch.randn(rows, frames, 3, 4),),
    ),
    # The model's own loop over time, its states local.
    Case("loop-lstm-cell", TORCHS, of(nets.LSTMCellLoop, BATCH_FIRST), whole),
    Case("loop-lstm-cell-chunk-of-4", TORCHS, of(nets.LSTMCellLoop, BATCH_FIRST, chunk=4), whole),
    Case("loop-gru-cell-by-index", TORCHS, of(nets.GRUCellByIndex, TIME_MAJOR), time_major),
    Case("loop-rnn-cell-from-none", TORCHS, of(nets.RNNCellFromNone, BATCH_FIRST), whole),
    Case("loop-two-cells", TORCHS, of(nets.TwoCellsLoop, BATCH_FIRST), whole),
    Case("loop-after-loop", TORCHS, of(nets.LoopAfterLoop, BATCH_FIRST), whole),
    Case("loop-relu-gru-by-hand", TORCHS, of(nets.ReluGRULoop, BATCH_FIRST), whole),
    Case("loop-minimal-gated-unit", TORCHS, of(nets.MinimalGatedLoop, BATCH_FIRST), whole),
    Case("loop-leaky-integrator", TORCHS, of(nets.LeakyLoop, BATCH_FIRST), whole),
    Case("loop-after-convolution", TORCHS, of(nets.ConvThenLoop, BATCH_FIRST), whole),
    # Memory in buffers.
    *(
        Case(f"buffer-{name}", TORCHS, of(kind, ONE_FRAME), partial(own_memory, False, 0))
        for name, kind in (
            ("reassigned", nets.Reassigned),
            ("copied-into", nets.CopiedInto),
            ("born-in-the-first-call", nets.CreatedInTheFirstCall),
            ("not-from-zero", nets.NotFromZero),
            ("nested", nets.NestedMemory),
            ("scalar-counter", nets.RunningMean),
        )
    ),
    Case("buffer-over-time", TORCHS, of(nets.BufferOverTime, BATCH_FIRST[:1]), partial(own_memory, True, 1)),
    # Convolutions over time: causal, without padding (a delay), strided.
    Case("causal-pad", TORCHS, of(nets.CausalPad, TIME_LAST), time_last),
    Case("causal-pad-chunk-of-3", TORCHS, of(nets.CausalPad, TIME_LAST, chunk=3), time_last),
    Case("causal-grouped", TORCHS, of(partial(nets.CausalPad, 2), TIME_LAST), time_last),
    Case("causal-chomp", TORCHS, of(nets.CausalChomp, TIME_LAST), time_last),
    Case("causal-constant", TORCHS, of(nets.CausalConstant, TIME_LAST), time_last),
    Case("causal-dilated-residual", TORCHS, of(nets.TCN, TIME_LAST), time_last),
    Case(
        "causal-2d-then-gru",
        TORCHS,
        of(nets.Conv2dGRU, torch.randn(2, 1, 12, 8)),
        time_third,
        draw=lambda rows, frames: (torch.randn(rows, frames, 1, 8),),
    ),
    Case("token-shift", TORCHS, of(nets.TokenShift, BATCH_FIRST), whole),
    Case("valid", TORCHS, of(nets.Valid, TIME_LAST), time_last),
    Case("valid-chunk-of-4", TORCHS, of(nets.Valid, TIME_LAST, chunk=4), time_last),
    Case("valid-then-gru", TORCHS, of(nets.ValidGRU, torch.randn(2, 12, 4)), whole),
    Case("valid-residual", TORCHS, of(nets.ValidResidual, TIME_LAST), time_last),
    Case("strided-causal", TORCHS, of(nets.StridedCausal, TIME_LAST, chunk=2), time_last),
    Case("strided-valid-then-gru", TORCHS, of(nets.StridedValidGRU, torch.randn(2, 16, 4), chunk=4), whole),
    # Sums, counts and scans over time.
    Case("cumulative-norm", TORCHS, of(scan_nets.CumulativeNorm, BATCH_FIRST), whole),
    Case("min-gru", TORCHS, of(scan_nets.MinGRU, BATCH_FIRST), in_double),
    # What comes after a frame, and frames in other numbers.
    Case("look-ahead", TORCHS, of(nets.LookAhead, TIME_LAST, chunk=2), time_last),
    Case(
        "spectral-mask",
        TORCHS,
        of(nets.Denoiser, torch.randn(2, 64), chunk=4),
        whole,
        draw=lambda rows, frames: (torch.randn(rows, frames),),
    ),
]
