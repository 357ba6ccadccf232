"""Rules of streaming on graphs of one call, states until the context is full, and the frames of a step."""

import re
from fractions import Fraction
from types import ModuleType

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.dependence.cell_layout import AxisLayout, Dependence
from rnn_export.export.lift.ir.dependence.operator_dependence import IndicesMixed
from rnn_export.export.lift.ir.dependence.row_dependence import Rows
from rnn_export.export.lift.ir.fx_nodes import aten
from rnn_export.export.lift.streaming.recorded_runs import record
from rnn_export.export.lift.streaming.rule_context import StreamingContext, receptive_field, rule, rules_of
from rnn_export.export.lift.streaming.rules import RULES
from rnn_export.export.lift.streaming.time_axis import LastFrame, TimeAxisInfo, Unsupported

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.memory import along  # noqa: TID252
from ..zoo.streaming import SOUND, TABLE, X, conv, gru, left, within  # noqa: TID252
from .nets import CausalConstant, StridedCausal
from .streams import Call, assert_streams, stepped


def test_what_is_kept_of_a_convolution():
    lifted = lift(Call(lambda s, x: s.net(left(x, 2)), net=nn.Sequential(conv(), nn.ReLU())), (SOUND,))
    assert [(s.name, s.row) for s in lifted.spec.states] == [("net.0.frames", (4, 2))]
    assert lifted.origins[0].kind == "frames"
    assert "the 2 frames before each window of 3" in lifted.origins[0].why
    assert [s.initial for s in lift(CausalConstant().eval(), (SOUND,)).spec.states] == ["stored"]


# --- until the context is full ------------------------------------------------------------------------------------


def explicit(s, x, h):
    return s.g(s.c(x.mT).mT, h)


LAYER = Call(lambda s, x: s.g(s.c(x.mT).mT)[0], c=conv(5), g=gru())
LEVEL = Call(lambda s, x: s.m(s.c(x.mT).mT), c=conv(), m=Call(along, level=torch.full((1, 4), 0.5)))
START = torch.zeros(1, 2, 5)
# By model, example, options, delay, and the name of a state.
GATED = {
    "a layer, chunk": (LAYER, (X,), {"chunk": 2}, 4, "g.l0.h"),
    "a buffer": (LEVEL, (X[:1],), {}, 2, "m.level"),
    "a layer": (LAYER, (X,), {}, 4, "g.l0.h"),
    "a declared state": (Call(explicit, c=conv(), g=gru()), (X, START), {"states": {"h": 1}}, 2, "h"),
}


@pytest.mark.parametrize(("model", "example", "options", "delay", "name"), GATED.values(), ids=GATED)
def test_nothing_moves_before_the_context_is_full(model, example, options, delay, name):
    lifted = lift(model, example, **options)
    spec, initial = lifted.spec, lifted.initial[name]
    assert spec.delay == delay
    _, states = stepped(lifted, torch.randn(1, 12, 4))
    at = [s.name for s in spec.states].index(name)
    moved = [not torch.equal(after[at][0], initial) for after in states]
    full = delay // spec.chunk
    assert moved == [False] * full + [True] * (len(states) - full)


def test_what_is_not_late_moves_at_once():
    model = Call(lambda s, x: (s.g(x)[0], s.h(s.c(x.mT).mT)[0]), c=conv(), g=gru(), h=gru())
    lifted = assert_streams(model, X)
    _, states = stepped(lifted, X)
    names = [s.name for s in lifted.spec.states]
    assert [bool(states[0][names.index(n)].any()) for n in ("g.l0.h", "h.l0.h")] == [True, False]


# --- refusals, and the frames of a step ---------------------------------------------------------------------------


def test_the_largest_of_all_frames_is_refused_on_any_noise():
    one = Call(lambda s, x: s.g(x)[0].amax(1), g=gru(4, 1))
    loudest = within(lambda s, x: x / x.abs().amax((1, 2), True))
    for seed, model in ((0, one), (1, one), (0, loudest), (1, loudest)):
        torch.manual_seed(seed)
        with raises("not-frame-local", "statistics over time look at all frames (amax)"):
            lift(model, (X,), time_axis=1)


@pytest.mark.parametrize(("chunk", "fits"), [(1, 2), (3, 6)])
def test_a_chunk_that_no_stride_divides_is_refused(chunk, fits):
    values = (f"chunk={chunk}:", 2, 2, f"chunk={fits} (--chunk {fits})")
    with raises("chunk-not-of-strides", *values, kind=LiftError) as refused:
        lift(StridedCausal().eval(), (SOUND,), chunk=chunk)
    assert refused.type is LiftError


class Clockwork(nn.Module):
    """A loop whose second cell goes on every third frame."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.GRUCell(4, 4), nn.GRUCell(4, 4)

    def forward(self, x):
        h = g = torch.zeros(x.shape[0], 4)
        out = []
        for t in range(x.shape[1]):
            h = self.a(x[:, t], h)
            g = self.b(h, g) if t % 3 == 0 else g
            out.append(h + g)
        return torch.stack(out, 1)


LEAST = {
    "convolutions": (
        nn.Sequential(nn.Conv1d(4, 4, 4, 2), nn.Conv1d(4, 3, 3, 3)),
        X.mT,
        6,
        r"the stride of conv1d in 0 and the stride of conv1d in 1",
    ),
    "pool": (
        within(lambda s, x: F.avg_pool1d(x.mT, 2).mT),
        X,
        2,
        r"the stride of avg_pool1d in part \(test_streaming\.py:\d+\)",
    ),
    "spectrum": (
        Call(lambda s, x: torch.stft(x, 8, 4, window=s.w, center=False, return_complex=True).abs().mT, w=torch.ones(8)),
        torch.randn(2, 64),
        4,
        r"the hop of torch\.stft at test_streaming\.py:\d+",
    ),
    "stacked": (
        within(lambda s, x: x.reshape(x.shape[0], -1, 8)),
        X,
        2,
        r"the frames that reshape joins in part \(test_streaming\.py:\d+\)",
    ),
    "clockwork": (Clockwork(), X, 3, r"the frames of one iteration of the loop at test_streaming\.py:\d+"),
    "many": (nn.Sequential(*(nn.Conv1d(4, 4, 2, 2) for _ in range(6))), torch.randn(1, 4, 256), 64, r".* and 2 more"),
    "nothing": (nn.GRU(4, 3, batch_first=True), X, 1, None),
}


@pytest.mark.parametrize(("model", "x", "chunk", "why"), LEAST.values(), ids=LEAST)
def test_a_step_takes_as_few_frames_as_the_strides_need(model, x, chunk, why):
    lifted = lift(model.eval(), (x,))
    assert type(lifted.spec.chunk) is int
    assert lifted.spec == lift(model, (x,), chunk=chunk).spec
    told = [note for note in lifted.notes if note.startswith("chunk")]
    assert len(told) == (why is not None)
    assert why is None or re.fullmatch(f"chunk {chunk} frames: {why}", told[0])


@pytest.mark.parametrize("chunk", [True, 1.5, 0, "x", None])
def test_a_chunk_that_is_no_number_of_frames_is_refused(chunk):
    with raises("option-refused", f"chunk is {chunk!r}", "(--chunk N)", kind=LiftError):
        lift(nn.GRU(4, 3).eval(), (X,), chunk=chunk)


@pytest.mark.parametrize("name", ["attention", "bidirectional", "bidirectional, two layers, from a start"])
def test_what_is_refused_can_be_taken_as_whole_sequences(name):
    model, x = TABLE["what looks at all frames is refused"][name].built(), torch.randn(3, 11, 4)
    lifted = lift(model, (X,), time_axis=1, sequence_only=True)
    assert (lifted.spec.sequence_only, lifted.spec.states) == (True, ())
    with torch.no_grad():
        torch.testing.assert_close(lifted.module(x)[0], model(x))
    assert "cannot stream" in lifted.notes[0]


def test_whole_sequences_have_time_and_no_steps():
    with raises("sequence-only-without-time"):
        lift(nn.GRUCell(4, 5).eval(), (X[:, 0],), sequence_only=True)
    with raises("sequence-only-with-states"):
        lift(within(lambda s, x: x + x.flip(1)), (X,), time_axis=1, sequence_only=True, chunk=2)


# --- a rule alone --------------------------------------------------------------------------------------------------


def one_call(operator, *args) -> tuple[StreamingContext, fx.Node]:
    """A graph of one call on x (B, 4, T), and its node."""
    graph = fx.Graph()
    node = graph.call_function(operator, (graph.placeholder("x"), *args))
    graph.output((node,))
    module = fx.GraphModule(nn.Module(), graph)

    def sample(batch: int, frames: int, seed: int) -> list[Tensor]:
        return [torch.randn(batch, 4, frames, generator=torch.Generator().manual_seed(seed))]

    runs = record(module, sample, *receptive_field(graph, RULES))
    rows = Rows(module, runs.base, runs.other_batch, [AxisLayout(0)], {})
    return StreamingContext(module, nn.Module(), runs, rows, [TimeAxisInfo(AxisLayout(2))], 1), node


def info(lag: int, stride: int = 1) -> TimeAxisInfo:
    return TimeAxisInfo(AxisLayout(2), Fraction(1, stride), lag)


# By operator and arguments: what is known of the result, and the frames that a state keeps.
RULES_ALONE = {
    "padding": (aten.constant_pad_nd.default, ([2, 0],), info(-2), None),
    "padding of channels": (aten.constant_pad_nd.default, ([0, 0, 2, 0],), info(0), None),
    "a cut": (aten.slice.Tensor, (-1, 4, 2**63 - 1), info(4), None),
    "every other frame": (aten.slice.Tensor, (2, 2, 2**63 - 1, 2), info(1, 2), None),
    "the newest frame": (aten.select.int, (2, -1), LastFrame(Fraction(0)), None),
    "a window": (aten.max_pool1d.default, ([3], [1]), info(2), 2),
    "a window with a stride": (aten.max_pool1d.default, ([4], [2]), info(1, 2), 2),
    "windows side by side": (aten.max_pool1d.default, ([2],), info(0, 2), None),
}


@pytest.mark.parametrize(("operator", "args", "result", "kept"), RULES_ALONE.values(), ids=RULES_ALONE)
def test_a_rule_alone(operator, args, result, kept):
    context, node = one_call(operator, *args)
    assert RULES[operator](context, node) == result
    assert [s.initial.shape for s in context.states.found] == ([] if kept is None else [(4, kept)])
    assert [(s.name, s.kind) for s in context.states.found] == ([] if kept is None else [("frames", "frames")])


def test_a_rule_alone_refuses():
    context, node = one_call(aten.constant_pad_nd.default, [2, 1])
    assert RULES[node.target](context, node) == info(-2)
    assert [s.name for s in context.states.found] == ["past_end"]
    context, node = one_call(aten.select.int, 2, -2)
    with raises("one-frame-taken", "the model", "-2"):
        RULES[node.target](context, node)


def test_an_operator_has_one_rule():
    def family(name: str) -> ModuleType:
        module = ModuleType(name)
        module.rule = rule(aten.relu.default)(lambda context, node: Unsupported(LiftError("no")))
        return module

    one = family("one")
    assert rules_of([one, one]) == {aten.relu.default: one.rule}
    with pytest.raises(ValueError, match=r"aten\.relu\.default has two rules: <lambda>, <lambda>"):
        rules_of([one, family("two")])


def test_lags_as_they_are_written_down():
    """The examples of TimeAxisInfo, and its invariants."""
    x, padded = info(0), info(-2)
    assert padded.windowed(3, 1) == (info(0), 2)
    assert x.windowed(3, 1) == (info(2), 2)
    assert padded.windowed(4, 2) == (info(0, 2), 2)
    assert info(4).windowed(1, 2) == (info(2, 2), 0)
    assert info(1).windowed(1, 2) == (info(0, 2), -1)
    assert x.expanded(2, 1) == TimeAxisInfo(AxisLayout(2), Fraction(2), 1)
    waited = info(2).delayed(2)
    assert (waited.lag, waited.slack, waited.least_lag) == (4, 2, 2)
    bands = TimeAxisInfo(AxisLayout(1, 1, 3), Fraction(1, 2), 2, 1, 1)
    assert bands.by_entry() == TimeAxisInfo(AxisLayout(1), Fraction(3, 2), 6, 3, 3)
    assert bands.input_lag == bands.by_entry().input_lag == 4
    for wrong in ({"slack": -1}, {"lag": None, "history": 1}):
        with pytest.raises(AssertionError):
            TimeAxisInfo(AxisLayout(1), **wrong)


# --- which frames a value depends on --------------------------------------------------------------------------------

DEPENDENCES = {
    "frame by frame": (aten.relu.default, (), AxisLayout(2)),
    "time moved": (aten.permute.default, ([2, 0, 1],), AxisLayout(0)),
    "time and batch as one axis": (lambda x: x.mT.reshape(-1, 4), (), AxisLayout(0, 2, 1)),
    "time and channels as one axis": (lambda x: x.mT.reshape(2, -1), (), AxisLayout(1, 1, 4)),
    "the last frame": (lambda x: 2 * x[..., -1], (), Dependence.LAST),
    "no frame": (aten.zeros_like.default, (), AxisLayout(2)),
    "a number, whatever goes in": (lambda x: torch.ones(2), (), None),
    "a sum over time": (aten.cumsum.default, (2,), None),
    "all frames": (aten.amax.default, ([2],), None),
    "a flip": (aten.flip.default, ([2],), None),
    "a product of frames": (lambda x: x.mT @ x, (), None),
}


@pytest.mark.parametrize(("operator", "args", "answer"), DEPENDENCES.values(), ids=DEPENDENCES)
def test_which_frames_a_result_depends_on(operator, args, answer):
    context, node = one_call(operator, *args)
    (x,) = context.inputs
    if answer is None:
        with pytest.raises(IndicesMixed):
            context.operators.dependences(node, {x: AxisLayout(2)})
    else:
        assert context.operators.dependences(node, {x: AxisLayout(2)}) == [answer]
