"""Sizes in code and in programs: numbers made of them, lengths of outputs, and programs from sizes alone."""

import cProfile
import math
import operator
import sys

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from rnn_export.export import export
from rnn_export.export.lift.loops.tables.python_tables import rows_of, table_of
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.numbers.symbolic_functions import FreeSizes
from rnn_export.export.lift.rewrite.flat_graph import flat_graph
from rnn_export.export.lift.sized_program import sized_program
from rnn_export.export.lift.streaming.frame_counts import Lengths
from rnn_export.export.lift.trace.tracing import DYNAMIC, export_program
from rnn_export.runtime.replay.ends import lengths_tried

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo import sizes, spectra  # noqa: TID252
from .nets import LoopAfterLoop
from .streams import Call, stepped
from .whole_streams import assert_whole

aten = torch.ops.aten


@pytest.mark.parametrize("period", [1, 3, 5])
def test_a_table_that_repeats_is_as_many_rows_as_its_period(period):
    """A mask of whole blocks: a frame sees those of its block and of what is before it."""

    def blocks(frames):
        block = torch.arange(frames) // period
        return block[None] <= block[:, None]

    rows = rows_of(blocks(160), blocks(224))
    assert len(rows) == period
    assert torch.equal(table_of(rows, torch.arange(50)), blocks(50))


def half(x):
    return torch.as_tensor(x.shape[1] / 2)


def written(x):
    n = torch.tensor(x.shape[1])
    n -= 4
    return x[:, :n] * n


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: x[:, : torch.ceil(half(x)).long()],
        lambda s, x: x[:, : half(x).floor().to(torch.int64)],
        lambda s, x: x[:, : half(x).ceil().int()],
        lambda s, x: x[..., torch.floor(half(x)).long() :],
        lambda s, x: x / torch.as_tensor(x.shape[1]).float().sqrt(),
        lambda s, x: x * (torch.tensor(x.shape[1]) + 1) / 2,
        lambda s, x: x + torch.stack([half(x), torch.as_tensor(x.shape[1], dtype=torch.float32)]).sum(),
        lambda s, x: written(x),
        lambda s, x: x * torch.arange(torch.full((2,), x.shape[1]).to(x.device).max().item()),
        lambda s, x: x[torch.arange(2), torch.full((2,), x.shape[1]) - 1],
    ],
    ids=["ceil", "floor and to", "int", "from there on", "root", "arithmetic", "stacked", "written", "longest", "last"],
)
def test_a_number_made_of_a_size_is_free(forward):
    model = Call(forward)
    with FreeSizes():
        program = torch.export.export(model, (torch.randn(2, 9),), dynamic_shapes=({1: DYNAMIC},)).module()
    for length in (9, 14, 31):
        x = torch.randn(2, length)
        torch.testing.assert_close(program(x), model(x))


def test_a_size_is_not_rounded():
    """ONNX has Ceil of floats alone."""

    def forward(s, x):
        whole, half = math.ceil(2 * x.shape[-1]), math.ceil(x.shape[-1] / 2)
        return F.pad(x, (0, math.floor(whole) - half))

    graph = flat_graph(Call(forward), (torch.randn(1, 1, 8),), ({2: DYNAMIC},)).graph
    assert not any(node.target in (math.ceil, math.floor, operator.truediv) for node in graph.nodes)


def test_a_number_that_calls_change_is_a_state():
    def forward(s, x):
        s.calls += 1
        return x[:, :4] if s.calls > 2 else x[:, 1:5]

    spec = lift(Call(forward, calls=torch.tensor(0)), (torch.randn(1, 6),), time_axis=None).spec
    assert ([s.name for s in spec.states], spec.rows) == (["calls"], 1)


def test_functions_that_make_tables_are_as_they_were():
    row, function = (
        sizes.TABLE["a table that a function makes is looked up"]["chunks and some before"],
        sizes.chunk_mask,
    )
    before = function.__code__, function.__defaults__
    lift(row.built(), row.example, **row.options)
    assert (function.__code__, function.__defaults__) == before


def test_an_export_may_be_profiled():
    with cProfile.Profile() as profile:
        lift(LoopAfterLoop().eval(), (torch.randn(2, 12, 4),))
        profiler = sys.getprofile()
    assert profiler is profile


def test_lengths_are_found_by_running_where_torch_has_no_expression_for_them(monkeypatch):
    """The last frame comes of samples that no whole step has."""
    monkeypatch.setattr(Lengths, "_size", lambda *_: None)

    def forward(s, x):
        spectrum = torch.stft(x, 40, 32, window=torch.ones(40), center=False, return_complex=True)
        return s.g(spectrum.abs().mT)[0]

    model = Call(forward, g=nn.GRU(21, 3, batch_first=True))
    spec = assert_whole(model, torch.randn(2, 400), chunk=32, lengths=range(40, 150, 7)).spec
    assert (spec.delay, spec.tail) == (32, 1)


def test_the_last_of_frames_that_were_channels_is_known_with_the_last_of_the_input():
    def forward(s, x):
        y = s.c(x)
        y = y.reshape(y.shape[0], y.shape[1] // 3, 3, y.shape[2]).transpose(2, 3).flatten(2)
        return y, y[..., -1]

    example = torch.randn(2, 4, 9)
    lifted = lift(Call(forward, c=nn.Conv1d(4, 6, 1)), (example,))
    (frames, last), *_ = stepped(lifted, example)[0]
    assert frames.shape == (2, 2, 3)
    assert torch.equal(last, frames[..., -1])


def test_ends_are_verified_beyond_the_fewest_frames():
    spec = lift(Call(lambda s, x: x.unfold(1, 8, 4).mean(-1)), (spectra.X,), time_axis=1, chunk=4).spec
    assert lengths_tried(spec, 100) == [1, 2, 3, 4, 5, 12, 13, 14, 15]
    assert lengths_tried(spec, 100, shortest=21) == [24, 25, 26, 27]
    assert lengths_tried(spec, 26, shortest=21) == [24, 25, 26]


SPECTRA = {
    "head": (("what is over a count of frames streams", "the head of Vocos"), ("batch", "time*4")),
    "strided": (("windows of samples stream", "strided"), ("batch", "time/4", 16)),
    "complex": (("signals of spectra stream", "a complex signal"), ("batch", "time", 2)),
}


@pytest.mark.parametrize(("place", "shape"), SPECTRA.values(), ids=SPECTRA)
def test_spectra_as_onnx_and_as_c(place, shape, tmp_path):
    row = spectra.TABLE[place[0]][place[1]]
    example = tuple(x[:1] for x in row.example)
    bundle = export(row.built(), example, tmp_path / "it.rnnx", targets=("onnx", "c"), steps=24, **row.options)
    assert [t.shape for t in bundle.spec.outputs] == [shape]


class Convolved(nn.Module):
    """(B, 4, T), by causal convolutions; a gate whose comparison gives booleans."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv1d(4, 4, 3), nn.Buffer(torch.rand(4, 1))

    def forward(self, x):
        y = self.conv(F.pad(x, (2, 0))) * self.scale
        return torch.where(y > x, y.sigmoid(), x) + x.mean(1, keepdim=True)


class Looped(nn.Module):
    """(B, T, 4) in a loop of Python, with a shift of its own."""

    def __init__(self):
        super().__init__()
        self.cell, self.shift = nn.GRUCell(4, 4), nn.Parameter(torch.rand(4))

    def forward(self, x):
        h, seen = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t] + self.shift, h)
            seen.append(h)
        return torch.stack(seen, 1)


@pytest.mark.parametrize("frames", [1, None])
def test_a_program_from_sizes_is_what_torch_exports(frames):
    torch.manual_seed(0)
    lifted = lift(Convolved(), (torch.randn(1, 4, 9),), time_axis=2)
    some = frames or 5
    args, axes = (torch.randn(3, 4, some), torch.randn(3, 4, 2)), [{0} if frames else {0, 2}, {0}]
    ours = sized_program(lifted.step, args, [dict.fromkeys(one, 1) for one in axes])
    theirs = export_program(lifted.step, args, tuple(dict.fromkeys(one, DYNAMIC) for one in axes))
    told, wanted = ([n.target for n in p.graph.nodes if n.op == "call_function"] for p in (ours, theirs))
    assert told == wanted
    for rows, length in ((1, some), (6, frames or 11)):
        given = torch.randn(rows, 4, length), torch.randn(rows, 4, 2)
        for a, b in zip(ours.module(check_guards=False)(*given), theirs.module()(*given), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_loop_is_written_out_in_a_program_from_sizes():
    torch.manual_seed(0)
    lifted = lift(Looped(), (torch.randn(2, 6, 4),), chunk=3)
    program = lifted.program(3)
    assert not any(n.op == "call_module" for n in program.graph.nodes)
    x, h = torch.randn(5, 3, 4), torch.randn(5, 4)
    for a, b in zip(program.module(check_guards=False)(x, h), lifted.step(x, h), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("model", "traces"),
    [
        (nn.GRU(4, 4, 2, batch_first=True), 1),
        pytest.param(Looped(), 4, id="a loop, which is found by its lengths"),
    ],
)
def test_only_the_users_code_is_traced(model, traces, tmp_path, monkeypatch):
    traced, original = [], torch.export.export
    monkeypatch.setattr(
        torch.export, "export", lambda *args, **kwargs: traced.append(args[0]) or original(*args, **kwargs)
    )
    export(model, torch.randn(1, 9, 4), tmp_path / "it.rnnx", time_axis=1)
    assert not any(isinstance(module, fx.GraphModule) for module in traced)
    assert len(traced) <= traces


def test_a_trace_ends_where_a_loop_makes_a_number_of_the_length():
    model, x = Looped(), torch.randn(3, 6, 4)
    flat, turns = FlatModel(model, (x,), {}, None, None), []
    model.cell.register_forward_hook(lambda *_: turns.append(1))
    with raises("axis-made-number", "1", "0", "6"):
        export_program(flat, (x,), ((({1: DYNAMIC},)),))
    assert not turns


def program_of(operator, example, *args, inputs=("x",)):
    """A program, from sizes whose first axis is free, of a graph of one operator."""
    graph = fx.Graph()
    graph.output((graph.call_function(operator, (*(graph.placeholder(name) for name in inputs), *args)),))
    return sized_program(fx.GraphModule({}, graph), (example,) * len(inputs), [{0: 1}] * len(inputs))


def test_a_size_that_an_operator_fixes_is_said():
    with raises("operator-takes-one-size", "0 of 'x'", "3"):
        program_of(aten.reshape.default, torch.zeros(3, 4), (3, 4))


@pytest.mark.parametrize(
    "given",
    [
        lambda graph, x, size: (aten.clamp.default, (x, 0, size)),
        lambda graph, x, size: (aten.mul.Tensor, (x, graph.call_function(operator.add, (size, 1)))),
        lambda graph, x, size: (aten.pow.Tensor_Scalar, (x, graph.call_function(operator.truediv, (size, 4)))),
    ],
)
def test_a_size_that_an_entrywise_operator_takes_is_any(given):
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(*given(graph, x, graph.call_function(aten.sym_size.int, (x, 0)))),))
    module = fx.GraphModule({}, graph)
    program = sized_program(module, (torch.zeros(3, 4),), [{0: 1}]).module(check_guards=False)
    for rows in (2, 3, 5):
        values = 4 * torch.rand(rows, 4)
        torch.testing.assert_close(program(values), module(values), rtol=0, atol=0)


def test_two_axes_that_must_be_equal_are_one_size():
    program = program_of(aten.add.Tensor, torch.zeros(3, 4), inputs=("x", "h"))
    (result,) = program.graph.output_node().args[0]
    assert [str(n.meta["val"].shape[0]) for n in (*program.graph.nodes,)[:2]] == [str(result.meta["val"].shape[0])] * 2


def test_what_lies_otherwise_in_memory_is_copied_before_it_is_read_as_another_shape():
    graph = fx.Graph()
    turned = graph.call_function(aten.permute.default, (graph.placeholder("x"), [0, 2, 1]))
    copied = graph.call_function(aten.clone.default, (turned,), {"memory_format": torch.contiguous_format})
    graph.output((graph.call_function(aten._unsafe_view.default, (copied, [-1, 20])),))
    module, x = fx.GraphModule({}, graph), torch.randn(7, 4, 5)
    program = sized_program(module, (torch.zeros(3, 4, 5),), [{0: 1}])
    torch.testing.assert_close(program.module(check_guards=False)(x), module(x))
