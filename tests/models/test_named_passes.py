"""Passes over a lifted graph: each is checked on sample inputs, written down, and named where it is wrong."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from rnn_export.export.lift.ir import passes
from rnn_export.export.lift.ir.fx_nodes import aten, results
from rnn_export.export.lift.ir.normal_form import is_normal
from rnn_export.export.lift.ir.passes import Pass, apply_rules, end_stage, rules, run_passes
from rnn_export.export.lift.rewrite import flat_graph
from rnn_export.export.lift.rewrite.flat_graph import FLAT
from rnn_export.export.lift.trace.tracing import export_program

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252


class Net(nn.Module):
    def forward(self, x):
        return x.relu() * 2 + x.mean(-1, keepdim=True)


@dataclass
class Traced:
    module: torch.fx.GraphModule
    args: tuple[torch.Tensor, ...]


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setenv(passes.CHECK, "1")
    args = (torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),)
    module = export_program(Net(), args, ({},)).module(check_guards=False)
    return Traced(module, args)


def double(write, node):
    return write.call(aten.add.Tensor, node.args[0], node.args[0])


def triple(write, node):
    return write.call(aten.mul.Tensor, node.args[0], 3)


def test_a_rule_writes_nodes_in_the_place_of_one(traced):
    apply_rules(traced.module, {aten.mul.Tensor: double}, "doubles")
    targets = [node.target for node in traced.module.graph.nodes]
    assert aten.mul.Tensor not in targets
    (x,) = traced.args
    (y,) = torch.utils._pytree.tree_leaves(torch.fx.Interpreter(traced.module).run(x))
    torch.testing.assert_close(y, Net()(x))


def test_a_right_pass_runs_and_a_wrong_one_fails_under_its_name(traced):
    run_passes("test", [rules("doubles", {aten.mul.Tensor: double})], traced)
    with raises("pass-changes-results", "'means'", "[0]"):
        run_passes("test", [rules("means", {aten.mean.dim: triple})], traced)


def test_a_pass_may_change_values_where_it_says_so(traced):
    wrong = rules("means", {aten.mean.dim: triple}, changes_values=lambda subject: True)
    run_passes("test", [wrong], traced)


def test_a_graph_that_no_longer_runs_is_the_last_pass(traced):
    def break_it(subject):
        next(n for n in subject.module.graph.nodes if n.target is aten.mean.dim).update_arg(1, [7])

    with raises("pass-breaks-run", "'axes'"):
        run_passes("test", [Pass("axes", break_it)], traced)


def has_no_products(graph):
    return not any(node.target is aten.mul.Tensor for node in graph.nodes)


def test_what_a_pass_ensures_is_looked_at_and_what_it_requires_must_stand_before(traced):
    doubles = rules("doubles", {aten.mul.Tensor: double}, ensures=(has_no_products,))
    needs = Pass("sums", lambda subject: None, requires=(has_no_products,))
    with raises("pass-requirement-missing", "'sums'", "has_no_products"):
        run_passes("test", [needs], traced)
    idle = Pass("idle", lambda subject: None, ensures=(has_no_products,))
    with raises("pass-promise-broken", "'idle'", "has_no_products"):
        run_passes("test", [idle], traced)
    run_passes("test", [doubles, needs], traced)


@pytest.mark.parametrize(
    ("target", "args"),
    [
        pytest.param(aten.transpose.int, (0, 1), id="another name for permute"),
        pytest.param(aten.add_.Tensor, (1,), id="in place"),
    ],
)
def test_a_stage_leaves_a_graph_in_normal_form(traced, target, args):
    end_stage("streaming", traced.module, is_normal)
    graph = traced.module.graph
    with graph.inserting_before(graph.output_node()):
        graph.call_function(target, (next(iter(graph.nodes)), *args))
    with raises("pass-promise-broken", "'streaming'", "is_normal"):
        end_stage("streaming", traced.module, is_normal)


def test_nothing_is_checked_unless_it_is_asked_for(traced, monkeypatch):
    monkeypatch.delenv(passes.CHECK)
    run_passes("test", [rules("means", {aten.mean.dim: triple})], traced)
    assert len(results(traced.module.graph)) == 1


def test_a_dump_has_a_file_for_each_pass_that_changed_the_graph(traced, monkeypatch, tmp_path):
    monkeypatch.setenv(passes.DUMP, str(tmp_path))
    run_passes("test", [rules("doubles", {aten.mul.Tensor: double}), rules("none", {aten.cos.default: double})], traced)
    assert sorted(path.name for path in (tmp_path / "000-test").iterdir()) == ["00-before.txt", "01-doubles.txt"]
    text = (tmp_path / "000-test" / "01-doubles.txt").read_text()
    assert re.search(r"^relu: float32\[2, 3\] = relu.default\(x\)  # .*test_named_passes.py:\d+", text, re.M)


class Attends(nn.Module):
    """Attention to the last four frames."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        frames = torch.arange(x.shape[1])
        back = frames[:, None] - frames
        return self.attention(x, x, x, attn_mask=(back < 0) | (back > 3))[0]


def test_a_planted_error_in_attention_is_found_under_its_name(monkeypatch):
    """A window that is off by one frame."""
    real = flat_graph.narrow_attention

    def off_by_one(module, args, context, chunk):
        real(module, args, context, chunk)
        for node in module.graph.nodes:
            if node.target is aten.unfold.default:
                node.args = (write_shifted(module, node), *node.args[1:])

    def write_shifted(module, node):
        with module.graph.inserting_before(node):
            return module.graph.call_function(aten.roll.default, (node.args[0], [1], [node.args[1]]))

    monkeypatch.setenv(passes.CHECK, "1")
    x = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    assert lift(Attends().eval(), (x,)).spec.states
    monkeypatch.setattr(flat_graph, "narrow_attention", off_by_one)
    with raises("pass-changes-results", "'attention'", "[0]"):
        lift(Attends().eval(), (x,))


def test_every_pass_of_lifting_has_a_name_of_its_own():
    names = [one.name for one in (*FLAT, flat_graph.FOLDED, flat_graph.RAGGED)]
    assert len(names) == len({*names})


def test_the_page_has_every_pass_in_order():
    page = (Path(__file__).parents[2] / "docs" / "wrong-results.md").read_text()
    listed = re.findall(r"^\| `([a-z ]+)` \| .* \| `[a-z_/]+\.py`", page, re.M)
    assert listed == [one.name for one in (*FLAT, flat_graph.FOLDED, flat_graph.RAGGED)]
