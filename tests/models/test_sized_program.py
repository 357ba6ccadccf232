"""A lifted model as a torch program from its sizes alone, equal to torch.export's, without tracing it."""

import pytest
import torch
from torch import Tensor, fx, nn

from rnn_export.export import export
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.sized_program import sized_program
from rnn_export.export.lift.trace.tracing import DYNAMIC, export_program

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252

aten = torch.ops.aten


class Convolved(nn.Module):
    """(B, 4, T), by causal convolutions; a gate whose comparison gives booleans."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv1d(4, 4, 3), nn.Buffer(torch.rand(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(nn.functional.pad(x, (2, 0))) * self.scale
        return torch.where(y > x, y.sigmoid(), x) + x.mean(1, keepdim=True)


class Looped(nn.Module):
    """(B, T, 4) in a loop of Python, with a shift of its own."""

    def __init__(self):
        super().__init__()
        self.cell, self.shift = nn.GRUCell(4, 4), nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        h, seen = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t] + self.shift, h)
            seen.append(h)
        return torch.stack(seen, 1)


@pytest.mark.parametrize("frames", [1, None])
def test_it_is_what_torch_exports(frames):
    torch.manual_seed(0)
    lifted = lift(Convolved(), (torch.randn(1, 4, 9),), time_axis=2)
    some = frames or 5
    args, axes = (torch.randn(3, 4, some), torch.randn(3, 4, 2)), [{0} if frames else {0, 2}, {0}]
    ours = sized_program(lifted.step, args, [dict.fromkeys(one, 1) for one in axes])
    theirs = export_program(lifted.step, args, tuple(dict.fromkeys(one, DYNAMIC) for one in axes))

    def told(program):
        return [(n.op, n.target) for n in program.graph.nodes if n.op == "call_function"]

    assert told(ours) == told(theirs)
    for rows, length in ((1, some), (6, frames or 11)):
        given = torch.randn(rows, 4, length), torch.randn(rows, 4, 2)
        for a, b in zip(ours.module(check_guards=False)(*given), theirs.module()(*given), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_loop_is_written_out():
    torch.manual_seed(0)
    lifted = lift(Looped(), (torch.randn(2, 6, 4),), chunk=3)
    program = lifted.program(3)
    assert not any(n.op == "call_module" for n in program.graph.nodes)
    x, h = torch.randn(5, 3, 4), torch.randn(5, 4)
    for a, b in zip(program.module(check_guards=False)(x, h), lifted.step(x, h), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("model", "example", "traces"),
    [
        (Convolved(), torch.randn(1, 4, 9), 1),
        (nn.GRU(4, 4, 2, batch_first=True), torch.randn(1, 9, 4), 1),
        pytest.param(Looped(), torch.randn(1, 9, 4), 4, id="a loop, which is found by its lengths"),
    ],
)
def test_only_the_users_code_is_traced(model, example, traces, tmp_path, monkeypatch):
    traced, original = [], torch.export.export
    monkeypatch.setattr(
        torch.export, "export", lambda *args, **kwargs: traced.append(args[0]) or original(*args, **kwargs)
    )
    export(model, example, tmp_path / "it.rnnx", time_axis=2 if isinstance(model, Convolved) else 1)
    assert not any(isinstance(module, fx.GraphModule) for module in traced)
    assert len(traced) <= traces


def test_a_trace_ends_where_a_loop_makes_a_number_of_the_length():
    model, x = Looped(), torch.randn(3, 6, 4)
    flat, turns = FlatModel(model, (x,), {}, None, None), []
    model.cell.register_forward_hook(lambda *_: turns.append(1))
    with raises("axis-made-number", "1", "0", "6"):
        export_program(flat, (x,), ((({1: DYNAMIC},)),))
    assert not turns


def test_a_size_that_an_operator_fixes_is_said():
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(aten.reshape.default, (x, (3, 4))),))
    with raises("operator-takes-one-size", "0 of 'x'", "3"):
        sized_program(fx.GraphModule({}, graph), (torch.zeros(3, 4),), [{0: 1}])


def test_two_axes_that_must_be_equal_are_one_size():
    graph = fx.Graph()
    x, h = graph.placeholder("x"), graph.placeholder("h")
    graph.output((graph.call_function(aten.add.Tensor, (x, h)),))
    program = sized_program(fx.GraphModule({}, graph), (torch.zeros(3, 4), torch.zeros(3, 4)), [{0: 1}, {0: 1}])
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
