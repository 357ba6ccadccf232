"""The theory of streams as one program: a model of whole sequences becomes a step with states.

    python docs/lifting_in_400_lines.py

It lifts Linear, LSTM, Conv1d, padding, slices and sums from scratch, with torch alone; rnn_export is not used. Read it
from top to bottom, in half an hour.

**The question.** A model was trained on whole sequences: x of shape (batch, time, features) goes in at once. A device
gets one frame after the other. We want a step, `output, states = step(frame, states)`, whose outputs are those of the
model, to the last frame, for sequences of any length.

**The answer.** Each value inside the model is a sequence too. Lifting walks through the model once, in the order in
which it computes, and keeps four facts of each value (class `Value`). A rule per operator says what becomes of the
facts, and which state the operator needs. The rules put together are the step.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

# 1. The facts


@dataclass(frozen=True)
class Value:
    """The facts of a value. T is the number of frames of the input, unknown until the stream ends; frames count from 0.

    **Lag.** Step t takes frame t of the input, and computes frame t - lag of this value. A convolution of size 3 over x
    has a lag of 2: its frame 0 needs frame 2 of x. A value with two zeros padded on the left has a lag of -2: its
    frames 0 and 1 are known before the first step.

    **Extra.** Of T frames of the input the value has T + extra. So a stream knows where the value ends.

    **Theorem 1.** lag + extra >= 0 for every value. Proof: at step t the input has at least t + 1 frames, so frame j is
    known to exist only if j < t + 1 + extra. Step t computes frame t - lag; if lag + extra were negative, nobody could
    know whether it exists. The input has 0 + 0; padding takes from the lag no more than it adds to extra; a convolution
    adds to the lag what it takes from extra. Only a slice breaks it, so `cut` repairs it.
    """

    axis: int  # the axis of time
    lag: int
    extra: int
    before: Tensor  # its first max(0, -lag) frames, known before the first step

    def history(self, frames: int) -> Tensor:
        """The last frames before step 0: zeros where there are none, of which nothing that exists is computed."""
        shape = list(self.before.shape)
        shape[self.axis] = frames
        joined = torch.cat([torch.zeros(shape), self.before], self.axis)
        return joined.narrow(self.axis, joined.shape[self.axis] - frames, frames)


States = dict[str, Tensor]


class LiftError(Exception):
    """A model that these rules cannot lift: the text says which operator, why and what to do."""


# 2. The step


class Step(nn.Module):
    """One step of the lifted model: takes frame t of the input, gives frame t - lag of the output.

    Two states are of no operator: `step`, the number t of this step, and `length`, T. While the stream goes on, T is a
    number that no stream reaches; when it ends, `length` is set. So the end is a state as well, and the step is one
    graph, before and after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[str, tuple[str, ...], Callable[..., Tensor]]] = []
        self.layers = nn.ModuleList()  # so that their parameters belong to the step
        self.start: States = {"step": torch.tensor(0), "length": torch.tensor(2**62)}
        self.facts: dict[str, Value] = {}
        self.output = ""

    def forward(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Frame t, with an axis of time of 1, and the states; the frame of the output, and the next states."""
        values, following = {"input": frame}, dict(states)
        for name, sources, compute in self.operators:
            values[name] = compute(following, *(values[source] for source in sources))
        following["step"] = states["step"] + 1
        return values[self.output], following

    def add(self, name: str, facts: Value, sources: tuple[str, ...], compute: Callable[..., Tensor]) -> str:
        """A further operator: its facts, and what it computes of the states and the frames of its sources."""
        self.operators.append((name, sources, compute))
        known = facts.before.narrow(facts.axis, 0, max(0, -facts.lag))
        self.facts[name] = Value(facts.axis, facts.lag, facts.extra, known)
        return name


# 3. The rules: each says what becomes of the facts, and adds what a step computes


def each_frame(step: Step, name: str, sources: list[str], function: Callable[..., Tensor]) -> str:
    """An operator that looks at one frame at a time (Linear, ReLU, a sum) keeps lag and extra, and has no state.

    Values that meet are brought to the largest lag: frame j goes with frame j, so the earlier ones wait. The frames
    before the first step go through the operator as well. This is where "the state starts at zero" is wrong: Linear
    makes of a padded zero its bias, and a convolution behind it must find the bias in its history.
    """
    facts = [step.facts[source] for source in sources]
    if len({(value.axis, value.extra) for value in facts}) > 1:
        raise LiftError(f"{name}: its arguments have unlike numbers of frames, or axes of time. Cut or transpose one.")
    lag = max(value.lag for value in facts)
    sources = [later(step, source, lag) for source in sources]
    known = function(*(step.facts[source].before for source in sources))
    facts_here = Value(facts[0].axis, lag, facts[0].extra, known)
    return step.add(name, facts_here, tuple(sources), lambda states, *frames: function(*frames))


def later(step: Step, source: str, lag: int) -> str:
    """The value with a larger lag: it waits in a state, a queue of frames that each step moves on by one."""
    facts, queue = step.facts[source], f"{source}.waits_until_{lag}"
    if lag == facts.lag or queue in step.start:
        return source if lag == facts.lag else queue
    step.start[queue] = facts.history(lag - facts.lag)

    def wait(states: States, frame: Tensor) -> Tensor:
        joined = torch.cat([states[queue], frame], facts.axis)
        states[queue] = joined.narrow(facts.axis, 1, lag - facts.lag)
        return joined.narrow(facts.axis, 0, 1)

    return step.add(queue, Value(facts.axis, lag, facts.extra, facts.before), (source,), wait)


def pad(step: Step, name: str, source: str, left: int, right: int) -> str:
    """Zeros on both sides of time: those on the left are known early, those on the right only at the end.

    **Theorem 2.** To feed zeros at the end of a stream is not the padding: of two padded convolutions the second pads
    its own input, and the first makes something else than zero of a frame of zeros. So each padded value is replaced by
    zeros, where it is padded, by the number of its frame.
    """
    facts = step.facts[source]

    def mask(states: States, frame: Tensor) -> Tensor:
        number = states["step"] - facts.lag
        return torch.where((number >= 0) & (number < states["length"] + facts.extra), frame, 0.0)

    known = facts.history(left + facts.before.shape[facts.axis])
    return step.add(name, Value(facts.axis, facts.lag - left, facts.extra + left + right, known), (source,), mask)


def convolve(step: Step, name: str, source: str, layer: nn.Conv1d) -> str:
    """A convolution whose windows reach over span + 1 frames: it keeps the last span frames of its input in a state.

    One rule for each idea: a padded one is a padding, and a convolution without.
    """
    if layer.stride != (1,) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise LiftError(f"{name}: these rules know Conv1d of stride 1, padded with zeros. rnn_export knows more.")
    if step.facts[source].axis != 2:
        raise LiftError(f"{name}: time is on axis {step.facts[source].axis}, and Conv1d has it on 2. Transpose it.")
    if layer.padding[0]:
        source = pad(step, f"{name}.padded", source, layer.padding[0], layer.padding[0])
    facts, span, state = step.facts[source], (layer.kernel_size[0] - 1) * layer.dilation[0], f"{name}.history"

    def valid(frames: Tensor) -> Tensor:
        return F.conv1d(frames, layer.weight, layer.bias, dilation=layer.dilation, groups=layer.groups)

    def slide(states: States, frame: Tensor) -> Tensor:
        window = torch.cat([states[state], frame], 2)
        states[state] = window.narrow(2, 1, span)
        return valid(window)

    step.layers.append(layer)
    step.start[state] = facts.history(span)
    frames = max(0, -facts.lag - span)  # of the result before the first step
    known = valid(facts.history(span + max(frames, 1))).narrow(2, 0, frames)
    return step.add(name, Value(2, facts.lag + span, facts.extra - span, known), (source,), slide)


def recur(step: Step, name: str, source: str, layer: nn.LSTM) -> str:
    """A recurrent layer carries h and c from frame to frame.

    It may not move before its first frame is there: with a lag of 2, steps 0 and 1 bring frames that do not exist, and
    would leave their mark in h for ever. So it is held still in these steps. With a lag of -2 it has two frames before
    the first step: the states start behind them.
    """
    facts, h, c = step.facts[source], f"{name}.h", f"{name}.c"
    if layer.bidirectional:
        raise LiftError(f"{name}: its backward direction begins at the last frame. Train it with one direction.")
    if facts.axis != (1 if layer.batch_first else 0):
        raise LiftError(f"{name}: time is on axis {facts.axis}, not on that of the layer. Transpose it.")
    batch, frames = facts.before.shape[1 - facts.axis], facts.before.shape[facts.axis]
    sizes = layer.proj_size or layer.hidden_size, layer.hidden_size
    zeros = torch.zeros(layer.num_layers, batch, sizes[0]), torch.zeros(layer.num_layers, batch, sizes[1])
    before, behind = layer(facts.history(max(frames, 1)), zeros)
    step.start[h], step.start[c] = behind if frames else zeros

    def advance(states: States, frame: Tensor) -> Tensor:
        output, moved = layer(frame, (states[h], states[c]))
        for state, new in zip((h, c), moved, strict=True):
            states[state] = torch.where(states["step"] >= facts.lag, new, states[state])
        return torch.as_tensor(output)

    step.layers.append(layer)
    return step.add(name, Value(facts.axis, facts.lag, facts.extra, before), (source,), advance)


def cut(step: Step, name: str, source: str, start: int, end: int) -> str:
    """`x[:, start : T - end]`: frame j is frame j + start of x, known so much earlier; the last frames are left out.

    **Theorem 3.** What is cut off at the end costs a delay only if it was known too early. A causal convolution,
    `conv(pad(x, (2, 2)))[..., :-2]`, costs none; a shift by two frames, `pad(x, (2, 0))[..., :-2]`, waits in a queue of
    two. Both follow from theorem 1: the lag is at least -extra. (Of fewer frames than that, Python cuts what there is.)
    """
    extra = step.facts[source].extra - start - end
    lag = max(step.facts[source].lag + start, -extra)
    source = later(step, source, lag - start)
    facts = step.facts[source]
    known = facts.before.narrow(facts.axis, min(start, facts.before.shape[facts.axis]), max(0, -lag))
    return step.add(name, Value(facts.axis, lag, extra, known), (source,), lambda states, frame: frame)


def transpose(step: Step, name: str, source: str, one: int, other: int) -> str:
    """Two axes change places, and time with them."""
    facts = step.facts[source]
    axis = {one: other, other: one}.get(facts.axis, facts.axis)
    known = Value(axis, facts.lag, facts.extra, facts.before.transpose(one, other))
    return step.add(name, known, (source,), lambda states, frame: frame.transpose(one, other))


# 4. The walk

FRAME_LAYERS = nn.Linear | nn.ReLU | nn.Tanh | nn.Sigmoid
FRAME_FUNCTIONS = {operator.add, operator.sub, operator.mul, operator.neg, torch.add, torch.relu, torch.tanh, F.relu}


def lift(model: nn.Module, example: Tensor) -> Step:
    """The step of a model of one input (batch, time, features) and one output; LiftError if an operator has no rule.

    torch.fx gives the operators in their order, with layers as they are. rnn_export uses torch.export in place of it,
    which sees through any Python.
    """
    step, names = Step(), {}
    step.facts["input"] = Value(1, 0, 0, example[:, :0])
    with torch.no_grad():
        for node in fx.Tracer().trace(model).nodes:
            if node.op == "placeholder":
                names[node] = "input"
            elif node.op == "output":
                if not isinstance(node.args[0], fx.Node):
                    raise LiftError("The model gives several outputs. Wrap it in a module that gives one.")
                step.output = names[node.args[0]]
            else:
                sources = [names[argument] for argument in node.args if isinstance(argument, fx.Node)]
                layer = model.get_submodule(str(node.target)) if node.op == "call_module" else None
                names[node] = lift_operator(step, node, sources, layer)
    return step


def lift_operator(step: Step, node: fx.Node, sources: list[str], layer: nn.Module | None) -> str:
    """The table of rules: adds the operator of a node of the graph to the step; its name there."""
    name, target, arguments, options = node.name, node.target, node.args, dict[str, Any](node.kwargs)
    rank = step.facts[sources[0]].before.ndim if sources else 0
    if isinstance(layer, nn.Conv1d):
        return convolve(step, name, sources[0], layer)
    if isinstance(layer, nn.LSTM) and len(arguments) == 1:
        return recur(step, name, sources[0], layer)
    if isinstance(layer, FRAME_LAYERS):
        if isinstance(layer, nn.Linear) and step.facts[sources[0]].axis == rank - 1:
            raise LiftError(f"{name}: time is the last axis, so it mixes all frames. Transpose before it.")
        step.layers.append(layer)
        return each_frame(step, name, sources, layer)
    if target is F.pad:
        return lift_pad(step, name, sources[0], *arguments[1:], **options)
    if target == "transpose":
        one, other = (axis % rank for axis in arguments[1:] if isinstance(axis, int))
        return transpose(step, name, sources[0], one, other)
    if target is operator.getitem:
        return lift_index(step, node, sources[0], arguments[1])
    if target in FRAME_FUNCTIONS and sources and callable(target):
        function = target

        def compute(*frames: Tensor) -> Tensor:
            left = iter(frames)
            return torch.as_tensor(function(*(next(left) if isinstance(each, fx.Node) else each for each in arguments)))

        return each_frame(step, name, sources, compute)
    raise LiftError(f"{name}: no rule knows {layer or target}. Add one, or export the model with rnn_export.")


def lift_pad(step: Step, name: str, source: str, widths: Any, mode: Any = "constant", value: Any = 0) -> str:
    """`F.pad` over time alone, with zeros."""
    facts = step.facts[source]
    pairs = dict(enumerate(zip(widths[::2], widths[1::2], strict=True)))  # from the last axis on
    left, right = pairs.pop(facts.before.ndim - 1 - facts.axis, (0, 0))
    if mode != "constant" or value or left < 0 or right < 0 or any(any(pair) for pair in pairs.values()):
        raise LiftError(f"{name}: these rules know padding over time, with zeros. rnn_export knows more.")
    return pad(step, name, source, left, right)


def lift_index(step: Step, node: fx.Node, source: str, index: Any) -> str:
    """`x[...]`: a slice of time is cut, and one of other axes looks at one frame; `[0]` of a layer is its output."""
    if isinstance(node.args[0], fx.Node) and node.args[0].op == "call_module" and f"{source}.h" in step.start:
        if index == 0:
            return source
        raise LiftError(f"{node.name}: the last state of a layer is a state of the step already. Leave it out.")
    facts, index = step.facts[source], index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        place = index.index(Ellipsis)
        index = index[:place] + (slice(None),) * (facts.before.ndim - len(index) + 1) + index[place + 1 :]
    if not all(isinstance(entry, slice) for entry in index):
        raise LiftError(f"{node.name}: an index that is no slice changes the axes. Write a slice.")
    time = index[facts.axis] if facts.axis < len(index) else slice(None)
    if time.step not in (None, 1) or (time.start or 0) < 0 or (time.stop is not None and time.stop >= 0):
        raise LiftError(f"{node.name}: these rules know x[a:-b] over time, a and b >= 0. rnn_export knows more.")
    others = tuple(slice(None) if axis == facts.axis else entry for axis, entry in enumerate(index))
    source = each_frame(step, f"{node.name}.others", [source], lambda frame: frame[others])
    return cut(step, node.name, source, time.start or 0, -(time.stop or 0))


# 5. The stream


class Stream:
    """Frames in, frames out: calls a step, keeps its states, and gives those frames of the output that exist."""

    def __init__(self, step: Step, run: Callable[[Tensor, States], tuple[Tensor, States]] | None = None) -> None:
        """`run` computes the step in place of it: a graph exported of it, for example."""
        self.facts, self.run, self.states = step.facts[step.output], run or step, dict(step.start)
        self.blank = torch.zeros_like(step.facts["input"].history(1))

    @torch.no_grad()
    def step(self, frame: Tensor) -> Tensor:
        """The frames of the output that frame t makes known: as a rule one, none in the first `lag` steps."""
        number = int(self.states["step"]) - self.facts.lag
        output, self.states = self.run(frame, self.states)
        exists = 0 <= number < int(self.states["length"]) + self.facts.extra
        output = output.narrow(self.facts.axis, 0, 1 if exists else 0)
        return torch.cat([self.facts.before, output], self.facts.axis) if number == -self.facts.lag else output

    def finish(self) -> Tensor:
        """The frames that only the end makes known: sets T, and steps until the output is as long as the model's."""
        length = int(self.states["step"])
        self.states["length"] = torch.tensor(length)
        found = [self.step(self.blank) for _ in range(self.facts.extra + self.facts.lag)]  # theorem 1: not below 0
        return torch.cat([self.facts.before.narrow(self.facts.axis, 0, 0), *found], self.facts.axis)


def streamed(stream: Stream, x: Tensor) -> Tensor:
    """The output of a whole sequence (batch, time, features), frame by frame."""
    outputs = [stream.step(x[:, t : t + 1]) for t in range(x.shape[1])]
    return torch.cat([*outputs, stream.finish()], stream.facts.axis)


# 6. The proof on an example


class Example(nn.Module):
    """A causal convolution beside one that looks a frame ahead, and an LSTM over their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.lstm, self.head = nn.Linear(3, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 2)
        self.causal, self.ahead = nn.Conv1d(8, 8, 3, padding=2), nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, 3) to (batch, time, 2)."""
        y = torch.relu(self.dense(x)).transpose(1, 2)
        z = self.causal(y)[..., :-2] + self.ahead(y)
        output: Tensor = self.head(self.lstm(z.transpose(1, 2))[0])
        return output


def main() -> None:
    """Prints the facts of the example, and the largest error of its stream against the model."""
    torch.manual_seed(0)
    model = Example().eval()
    step = lift(model, torch.zeros(1, 1, 3))
    print("value                            lag  extra  frames known before")
    for name, facts in step.facts.items():
        print(f"{name:32s} {facts.lag:3d}  {facts.extra:5d}  {facts.before.shape[facts.axis]:3d}")
    print("states:", ", ".join(f"{name} {list(state.shape)}" for name, state in step.start.items()))
    exported = torch.export.export(step, (torch.zeros(1, 1, 3), step.start)).module()
    for length in (1, 2, 7, 200):
        x = torch.randn(1, length, 3)
        with torch.no_grad():
            wanted = model(x)
        for kind, stream in (("step", Stream(step)), ("exported step", Stream(step, exported))):
            error = float((streamed(stream, x) - wanted).abs().max())
            print(f"{length} frames, {kind}: largest error {error:.1e}")
            assert error < 1e-5, error


if __name__ == "__main__":
    main()
