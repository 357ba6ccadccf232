"""Operators that move frames stream, with their past in states and their delay reported; others are refused."""

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
from .nets import (
    TCN,
    CausalChomp,
    CausalConstant,
    CausalPad,
    Conv2dGRU,
    DualPath,
    StridedCausal,
    StridedValidGRU,
    TokenShift,
    Valid,
    ValidGRU,
    ValidResidual,
    Waves,
)
from .streams import Call, assert_streams, stepped

X = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)
SOUND = X.mT  # (B, C, T)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def gru(size: int = 4) -> nn.GRU:
    return nn.GRU(size, 5, batch_first=True)


def conv(size: int = 3, **options) -> nn.Conv1d:
    return nn.Conv1d(4, 4, size, **options)


def left(x: Tensor, frames: int) -> Tensor:
    return F.pad(x, (frames, 0))


def joined_front(s, x):
    return s.c(torch.cat([s.front.expand(x.shape[0], -1, -1), x], -1))


def two_branches(s, x):
    a, b = s.a(x), s.b(x)
    return torch.cat([a[..., 4:], b], 1) + x[..., 6:].repeat(1, 2, 1)


def norm_of_windows(s, x):
    return left(x, 3).unfold(-1, 4, 1).pow(2).sum(-1)


def own_cache(s, x):
    whole = torch.cat([s.past, x], -1)
    s.past = whole[..., -2:]
    return s.c(whole)


def mixed_bands_first(s, x):
    """A GRU over time on F*B rows, the band first."""
    b, t, f, c = x.shape
    rows = x.permute(2, 0, 1, 3).reshape(f * b, t, c)
    return s.g(rows)[0].reshape(f, b, t, 5).permute(1, 2, 0, 3)


def bands_conv(s, x):
    """A convolution over time on B*F rows."""
    b, t, f, c = x.shape
    y = s.c(left(x.permute(0, 2, 3, 1).reshape(b * f, c, t), 2))
    return y.reshape(b, f, 4, t).permute(0, 3, 1, 2)


BANDS = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))  # (B, T, F, C)
IMAGE = torch.randn(2, 1, 6, 8, generator=torch.Generator().manual_seed(0))  # (B, 1, T, F)
# By model, example, options, delay.
STREAMS = {
    "padded": (CausalPad(), SOUND, {}, 0),
    "padded, grouped": (CausalPad(2), SOUND, {}, 0),
    "padded, chunk": (CausalPad(), SOUND, {"chunk": 3}, 0),
    "chomp": (CausalChomp(), SOUND, {}, 0),
    "chomp by the length": (
        Call(lambda s, x: torch.relu(s.c(x))[..., : x.shape[-1]], c=conv(padding=2)),
        SOUND,
        {},
        0,
    ),
    "constant": (CausalConstant(), SOUND, {}, 0),
    "frames joined in front": (Call(joined_front, c=conv(), front=nn.Parameter(torch.randn(1, 4, 2))), SOUND, {}, 0),
    "dilated": (TCN(), SOUND, {}, 0),
    "dilated, chunk": (TCN(), SOUND, {"chunk": 4}, 0),
    "time first": (Call(lambda s, x: s.c(left(x.permute(1, 2, 0), 2)).permute(2, 0, 1), c=conv()), X.mT.mT, {}, 0),
    "valid": (Valid(), SOUND, {}, 2),
    "valid, chunk": (Valid(), SOUND, {"chunk": 4}, 2),
    "valid, residual": (ValidResidual(), SOUND, {}, 2),
    "valid, then padded": (
        Call(lambda s, x: s.d(F.pad(s.c(x), (2, 0), value=0.3)), c=conv(), d=conv()),
        SOUND,
        {},
        2,
    ),
    "valid, then a GRU": (ValidGRU(), X, {}, 4),
    "valid, then a GRU, chunk": (ValidGRU(), X, {"chunk": 3}, 6),
    "strided": (StridedCausal(), SOUND, {"chunk": 2}, 0),
    "strided, two strides a chunk": (StridedCausal(), SOUND, {"chunk": 4}, 0),
    "strided, then a GRU": (StridedValidGRU(), X.repeat(1, 2, 1), {"chunk": 4}, 4),
    "strided, then a GRU, long chunk": (StridedValidGRU(), X.repeat(1, 2, 1), {"chunk": 8}, 8),
    "up and down": (
        Call(lambda s, x: s.d(left(s.u(x)[..., :-2], 2)), u=nn.ConvTranspose1d(4, 4, 4, 2), d=conv(4, stride=2)),
        SOUND,
        {},
        0,
    ),
    "down and up": (
        Call(lambda s, x: s.u(s.d(left(x, 2)))[..., :-2], u=nn.ConvTranspose1d(4, 4, 4, 2), d=conv(4, stride=2)),
        SOUND,
        {"chunk": 2},
        0,
    ),
    "in two axes": (Conv2dGRU(), IMAGE, {}, 0),
    "max pool": (Call(lambda s, x: F.max_pool1d(x, 2)), SOUND, {"chunk": 2, "time_axis": 2}, 0),
    "average pool": (Call(lambda s, x: s.g(F.avg_pool1d(x, 2).mT)[0], g=gru()), SOUND, {"chunk": 2}, 0),
    "a running maximum": (Call(lambda s, x: F.max_pool1d(F.pad(x, (2, 0), value=-9.0), 3, 1)), SOUND, {}, 0),
    "unfold": (Call(norm_of_windows), SOUND, {}, 0),
    "every other frame": (Call(lambda s, x: s.g(x[:, ::2])[0], g=gru()), X, {"chunk": 2}, 0),
    "token shift": (TokenShift(), X, {}, 0),
    "its own cache": (Call(own_cache, c=conv(), past=torch.zeros(1, 4, 2)), SOUND[:1], {}, 0),
    "its own cache, chunk": (Call(own_cache, c=conv(), past=torch.zeros(1, 4, 2)), SOUND[:1], {"chunk": 3}, 0),
    "dual path": (DualPath(), BANDS, {}, 0),
    "bands first": (Call(mixed_bands_first, g=gru()), BANDS, {}, 0),
    "bands through a convolution": (Call(bands_conv, c=conv()), BANDS, {"time_axis": 1}, 0),
    "frames as a batch": (Waves(), torch.randn(2, 5, 32), {}, 0),
    "branches of other lags": (Call(two_branches, a=conv(3), b=conv(7)), SOUND, {}, 6),
    "outputs of other lags": (Call(lambda s, x: (s.g(x)[0], s.c(x.mT).mT), g=gru(), c=conv()), X, {}, 2),
    "LayerNorm of each frame": (Call(lambda s, x: s.n(s.c(left(x.mT, 2)).mT), n=nn.LayerNorm(4), c=conv()), X, {}, 0),
    "BatchNorm of the training": (Call(lambda s, x: s.n(s.c(left(x, 2))), n=nn.BatchNorm1d(4), c=conv()), SOUND, {}, 0),
}


@pytest.mark.parametrize(("model", "example", "options", "delay"), STREAMS.values(), ids=STREAMS)
def test_steps_equal_the_whole(model, example, options, delay):
    lifted = assert_streams(model.eval(), example, **options)
    assert (lifted.spec.delay, lifted.dynamic_time) == (delay, True)


def test_what_is_kept_of_a_convolution():
    lifted = lift(Call(lambda s, x: s.net(left(x, 2)), net=nn.Sequential(conv(), nn.ReLU())), (SOUND,))
    assert [(s.name, s.row) for s in lifted.spec.states] == [("net.0.frames", (4, 2))]
    assert lifted.origins[0].kind == "frames"
    assert "the 2 frames before each window of 3" in lifted.origins[0].why
    assert [s.initial for s in lift(CausalConstant().eval(), (SOUND,)).spec.states] == ["stored"]


def test_outputs_of_fewer_frames_say_so():
    spec = lift(StridedCausal().eval(), (SOUND,), chunk=2).spec
    assert spec.outputs[0].shape == ("batch", 5, "time/2")
    spec = lift(StridedValidGRU().eval(), (X.repeat(1, 2, 1),), chunk=4).spec
    assert (spec.outputs[0].shape, spec.delay) == (("batch", "time/4", 5), 4)


def test_a_delay_is_noted():
    notes = lift(Valid().eval(), (SOUND,)).notes
    assert notes == ("the first 2 frames give no output: every output comes so much later than its frame",)


def test_two_inputs_of_other_lags_and_one_that_is_held():
    def forward(s, a, b, scale):
        return s.c(a.mT).mT + s.g(b)[0][:, 2:] * scale[:, None]

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.g = conv(), nn.GRU(3, 4, batch_first=True)

        def forward(self, a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
            return forward(self, a, b, scale)

    lifted = assert_streams(Both().eval(), X, torch.randn(2, 8, 3), torch.randn(2, 4))
    assert lifted.spec.delay == 2
    assert lifted.axes.input_time == (1, 1, None)


# --- until the context is full ------------------------------------------------------------------------------------


class Smooth(nn.Module):
    """A buffer that every frame moves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.full((1, 4), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for frame in x.unbind(1):
            self.level = 0.9 * self.level + 0.1 * frame
            levels.append(self.level)
        return torch.stack(levels, 1)


def explicit(s, x, h):
    y, h = s.g(s.c(x.mT).mT, h)
    return y, h


GATED = {
    "a layer": (Call(lambda s, x: s.g(s.c(x.mT).mT)[0], c=conv(5), g=gru()), (X,), {}, 4, "g.l0.h"),
    "a layer, chunk": (Call(lambda s, x: s.g(s.c(x.mT).mT)[0], c=conv(5), g=gru()), (X,), {"chunk": 2}, 4, "g.l0.h"),
    "a declared state": (
        Call(explicit, c=conv(), g=gru()),
        (X, torch.zeros(1, 2, 5)),
        {"states": {"h": 1}},
        2,
        "h",
    ),
    "a buffer": (Call(lambda s, x: s.m(s.c(x.mT).mT), c=conv(), m=Smooth()), (X[:1],), {}, 2, "m.level"),
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


# --- refusals -----------------------------------------------------------------------------------------------------


def within(function, **parts) -> nn.Module:
    """`function` of (self, x) in a part of a model, behind a GRU."""
    return Call(lambda s, x: s.part(s.g(x)[0]), g=nn.GRU(4, 4, batch_first=True), part=Call(function, **parts))


def attention(s, x):
    return torch.softmax(s.q(x) @ x.mT, -1) @ x


class BothWays(nn.Module):
    """Two names for one sequence, one behind the other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, 2 * x], 1)


AT = "part (test_streaming.py:"
PAST, MASK = "Use past frames only", "Mask all but the last frames"
REFUSED = {
    "attention": (within(attention, q=nn.Linear(4, 4)), ("not-frame-local", AT, "attention", "(matmul)", MASK)),
    "scaled attention": (
        within(lambda s, x: F.scaled_dot_product_attention(x, x, x)),
        ("not-frame-local", AT, "attention", MASK),
    ),
    "softmax": (
        within(lambda s, x: torch.softmax(x, 1) * x),
        ("not-frame-local", AT, "a softmax over time looks at all", PAST),
    ),
    "mean": (
        within(lambda s, x: x - x.mean(1, keepdim=True)),
        ("not-frame-local", AT, "statistics over time", "(mean)", PAST),
    ),
    "BatchNorm": (
        Call(lambda s, x: s.n(s.g(x)[0].mT).mT, g=gru(), n=nn.BatchNorm1d(5, track_running_stats=False)),
        ("no-batch-axis",),
    ),
    "GroupNorm": (
        Call(lambda s, x: s.n(s.g(x)[0].mT).mT, g=nn.GRU(4, 4, batch_first=True), n=nn.GroupNorm(2, 4)),
        ("not-frame-local", "n (test_streaming.py:", "it normalises over time", PAST),
    ),
    "InstanceNorm": (
        Call(lambda s, x: s.n(s.g(x)[0].mT).mT, g=gru(), n=nn.InstanceNorm1d(5)),
        ("not-frame-local", "n (test_streaming.py:", "time", PAST),
    ),
    "LayerNorm": (
        within(lambda s, x: F.layer_norm(x, x.shape[1:])),
        ("length-used-as-value", AT, "(layer_norm)"),
    ),
    "flip": (within(lambda s, x: x + x.flip(1)), ("not-frame-local", AT, "(flip)", PAST)),
    "positions from the end": (
        within(lambda s, x: x + torch.arange(x.shape[1] - 1, -1, -1)[None, :, None]),
        ("positions-over-time", AT),
    ),
    "the length": (within(lambda s, x: x / x.shape[1]), ("length-used-as-value", AT)),
    "a part": (within(lambda s, x: x - x[:, :3:2].sum(1, True)), ("fixed-part-of-sequence", AT)),
    "the last but one": (within(lambda s, x: x - x[:, -2, None]), ("one-frame-taken", AT, "frame -2")),
    "the last frame for all": (within(lambda s, x: x - x[:, -1:]), ("last-frame-for-all", AT)),
    "a circle": (
        within(lambda s, x: F.pad(x.mT, (2, 0), "circular").mT),
        ("circular-padding", AT, "circular"),
    ),
    "behind itself": (within(lambda s, x: s.b(x)[:, : x.shape[1]] * x, b=BothWays()), ("sequences-joined",)),
    "bidirectional": (
        Call(lambda s, x: s.net[0](x)[0], net=nn.ModuleList([nn.LSTM(4, 5, batch_first=True, bidirectional=True)])),
        ("bidirectional-layer", "net.0: the LSTM", "sequence_only"),
    ),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_stream_cannot_have_is_refused(model, message):
    with raises(*message):
        lift(model, (X,), time_axis=1)


def test_the_largest_of_all_frames_is_refused_on_any_noise():
    for seed in range(4):
        torch.manual_seed(seed)
        one = Call(lambda s, x: s.g(x)[0].amax(1), g=nn.GRU(4, 1, batch_first=True))
        loudest = within(lambda s, x: x / x.abs().amax((1, 2), True))
        for model in (one, loudest):
            with raises("not-frame-local", "statistics over time look at all frames (amax)"):
                lift(model, (X,), time_axis=1)


def test_the_last_frames_are_no_output():
    with raises("last-frames-not-kept", AT, 3):
        lift(within(lambda s, x: x[:, -3:].sum(1)), (X,), time_axis=1)
    assert_streams(within(lambda s, x: x[:, -1]), X, time_axis=1)


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


@pytest.mark.parametrize("chunk", [0, -1, True, "x", 1.5, None])
def test_a_chunk_that_is_no_number_of_frames_is_refused(chunk):
    with raises("option-refused", f"chunk is {chunk!r}", "(--chunk N)", kind=LiftError):
        lift(nn.GRU(4, 3).eval(), (X,), chunk=chunk)


def test_what_is_refused_can_be_taken_as_whole_sequences():
    for model in (REFUSED["attention"][0], REFUSED["bidirectional"][0]):
        lifted = lift(model, (X,), time_axis=1, sequence_only=True)
        assert lifted.spec.sequence_only
        assert not lifted.spec.states
        x = torch.randn(3, 11, 4)
        with torch.no_grad():
            torch.testing.assert_close(lifted.module(x)[0], model(x))
        assert "cannot stream" in lifted.notes[0]
    with raises("sequence-only-without-time"):
        lift(nn.GRUCell(4, 5).eval(), (X[:, 0],), sequence_only=True)
    with raises("sequence-only-with-states"):
        lift(model, (X,), time_axis=1, sequence_only=True, chunk=2)


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
