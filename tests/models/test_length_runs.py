"""Single entries of values made of sizes are those of the whole values, for each operator that has a rule."""

import pytest
import torch
from torch.nn import functional as F

from rnn_export.export.lift.ir.dependence.length_runs import ENTRIES, LengthRun, Untried
from rnn_export.export.lift.ir.fx_nodes import args_of

from .streams import Call

aten, K, T = torch.ops.aten, torch.arange(7), torch.arange(42.0).reshape(6, 7)
CASES = {
    "full": lambda: torch.full((3, 4), 2.0) + T.new_full([4], 3.0) + torch.zeros_like(torch.ones(4)) + torch.zeros(4),
    "like others": lambda: T.new_ones(4) - T.new_zeros(4) + torch.ones_like(T[0, :4]) * torch.full_like(T[0, :4], 2),
    "arange": lambda: torch.arange(5) * torch.arange(2, 7) - torch.arange(1.0, 3.5, 0.5),
    "triangles": lambda: T.tril(1) + T.triu(-1) * 2,
    "flip": lambda: T.flip(0, 1),
    "cat": lambda: torch.cat([T, T[:2] + 1, -T], 0),
    "pad": lambda: F.pad(T, (2, -1, -2, 3), value=5.0) + aten.constant_pad_nd(T, (1, 0, 0, 1)),
    "index_select": lambda: T.index_select(1, K.flip(0)),
    "gather": lambda: T.gather(1, (T.long() * 3) % 7),
    "embedding": lambda: F.embedding(torch.arange(6).reshape(2, 3), T),
    "index": lambda: T[K[:3] - 2],
    "index by two": lambda: T[K[:3, None], K[None, :4]],
    "index apart": lambda: T.reshape(3, 2, 7)[K[:3], :, K[:3]],
    "products": lambda: (T % 3 @ T.mT)[None].bmm((T[:, :6] % 3).mm(T[:, 1:] % 3)[None] * torch.ones(1, 6, 6)),
    "repeat": lambda: T.repeat(2, 1, 3),
    "repeat_interleave": lambda: T.repeat_interleave(3, 1),
    "sums": lambda: T.reshape(2, 3, 7).sum((0, 2)),
    "kept sums": lambda: T.reshape(2, 3, 7).sum((0, 2), True) + T.amax(1, True)[:3],
    "all and any": lambda: (T > 3).all(1) ^ (T > 40).any(0)[:6],
    "means and extrema": lambda: T.mean(1) + T.amin(1) - T.amax(1),
    "a sum of ones": lambda: torch.ones(6, 1).expand(6, 5).sum(1),
    "views": lambda: T.reshape(3, 14).mT[1::2].unsqueeze(1).expand(-1, 4, -1).reshape(4, 21)[2:, 3],
    "parts": lambda: T.split(3, 1)[1] + T.unbind(0)[2][:3],
    "windows": lambda: T.unfold(1, 3, 2) + T.as_strided((6, 3, 3), (7, 2, 1)),
}


def traced(case):
    """The graph of a function without arguments, and the node of its result."""
    module = torch.export.export(Call(lambda s, x: case()), (T,), strict=False).module(check_guards=False)
    (result,) = args_of(module.graph.output_node())[0]
    return module, result


@pytest.mark.parametrize("name", CASES)
def test_entries_are_those_of_the_whole_value(name, monkeypatch):
    module, node = traced(CASES[name])
    run = LengthRun(module, {})
    whole, places = run.whole(node), torch.meshgrid(*map(torch.arange, run.of_shape(node).shape), indexing="ij")
    monkeypatch.setattr(run, "whole", None)
    assert run.at(node, places).expand(whole.shape).equal(whole)


def test_each_rule_has_a_case():
    used = {node.target for case in CASES.values() for node in traced(case)[0].graph.nodes}
    assert {str(target) for target in ENTRIES if target not in used} == set()


def test_a_running_sum_has_no_single_entries_and_is_computed_whole():
    module, node = traced(lambda: torch.ones(5).cumsum(0))
    run = LengthRun(module, {})
    with pytest.raises(Untried):
        run._at(node, [torch.tensor([3])])
    assert run.at(node, [torch.tensor([3])]).item() == 4
