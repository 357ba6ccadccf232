"""The defects of the teaching notebook that these cells come from, one test each."""

import copy
import itertools
from functools import partial

import pytest
import torch
from torch import Tensor

from rnn_export.models.gru import CustomGRU, CustomGRUCell
from rnn_export.models.lstm import CustomLSTM, CustomLSTMCell
from rnn_export.models.simple_rnn import SimpleRNN, SimpleRNNCell

from .variants import MAKERS, B, H, I, O, every_cell, every_form, frames, states_of

# Two layers stand for any number; test_cells.py holds each of those to its equation.
LAYERED = [MAKERS[name] for name in ("gru-2-after", "lstm-2-tanh", "gru-2-before")]
every_kind = pytest.mark.parametrize("make", [*LAYERED, MAKERS["rnn-tanh"]])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def gates(names, biases):
    return {**{f"W{k}": (H, I + H) for k in names}, **{f"b{k}": (H,) for k in biases}}


@pytest.mark.parametrize(
    ("cell", "shapes"),
    [
        (SimpleRNNCell(I, H, O), {"Wxh": (H, I), "Whh": (H, H), "Why": (O, H), "bh": (H,), "by": (O,)}),
        (CustomGRUCell(I, H), gates("rzh", "rzh")),
        (CustomGRUCell(I, H, True), gates("rzh", ["r", "z", "h", "hh"])),
        (CustomLSTMCell(I, H), gates("fioc", "fioc")),
    ],
    ids=["rnn", "gru-before", "gru-after", "lstm"],
)
def test_the_parameters_exist_after_construction(cell, shapes):
    assert {name: tuple(p.shape) for name, p in cell.named_parameters()} == shapes
    assert all(p.requires_grad for p in cell.parameters())


@every_cell
def test_every_gate_has_its_own_bias(make, states):
    cell = make()
    args = (torch.randn(B, I), *torch.randn(states, B, H))

    def shifted(bias: str) -> Tensor:
        other = copy.deepcopy(cell)
        with torch.no_grad():
            other.get_parameter(bias).add_(0.5)
        results = other(*args)
        return results if isinstance(results, Tensor) else torch.cat([r.flatten() for r in results])

    results = [shifted(name) for name, _ in cell.named_parameters() if name.startswith("b")]
    for one, other in itertools.combinations(results, 2):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("batch", [1, H, 2 * H])
@every_kind
def test_batch_and_hidden_are_not_mixed_up(make, batch):
    module = make()
    x, states = torch.randn(5, batch, I), states_of(module, batch)
    results = module(x, *states)
    row = module(x[:, -1:], *(s[..., -1:, :] for s in states))
    torch.testing.assert_close(row, tuple(r[..., -1:, :] for r in results))


@pytest.mark.parametrize("layer", [CustomGRU, CustomLSTM])
def test_the_module_list_holds_every_layer(layer):
    module = layer(I, H, 3)
    assert {name.split(".")[1] for name in module.state_dict()} == {"0", "1", "2"}
    assert [cell.input_size for cell in module.cells] == [I, H, H]
    assert all(p.dtype == torch.float64 for p in module.to(torch.float64).parameters())


@every_form
@pytest.mark.parametrize("make", LAYERED)
def test_no_state_means_zeros(make, form):
    module, x = make(), frames()
    zeros = tuple(torch.zeros_like(s) for s in states_of(module))
    torch.testing.assert_close(form(module)(x), module(x, *zeros), rtol=0, atol=0)


@every_form
@every_kind
def test_the_callers_tensors_are_not_written(make, form):
    args = (frames(), *states_of(make()))
    before = [t.clone() for t in args]
    form(make())(*args)
    torch.testing.assert_close(list(args), before, rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cpu", "meta"] + ["cuda"] * torch.cuda.is_available())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@every_kind
def test_results_keep_dtype_and_device(make, dtype, device):
    module, kind = make(device=device, dtype=dtype), {"device": device, "dtype": dtype}
    x = frames(**kind)
    results = [*module(x, *states_of(module, **kind)), *(() if isinstance(module, SimpleRNN) else module(x))]
    assert {(r.dtype, r.device.type) for r in results} == {(dtype, device)}


@every_kind
def test_gradients_flow_to_inputs_states_and_weights(make):
    module = make(dtype=torch.float64)
    args = [t.requires_grad_() for t in (frames(3, dtype=torch.float64), *states_of(module, dtype=torch.float64))]
    assert torch.autograd.gradcheck(module, args)
    torch.stack([r.square().sum() for r in module(*args)]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


@pytest.mark.parametrize(
    "make",
    [partial(SimpleRNN, 16, 64, 16), partial(CustomGRU, 16, 64, 2), partial(CustomLSTM, 16, 64, 2)],
    ids=["rnn", "gru", "lstm"],
)
def test_fresh_weights_are_small_and_do_not_saturate(make):
    module = make()
    for weight in module.parameters():
        assert weight.abs().max() <= 1 / 8
        assert weight.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.25)
    start = (torch.zeros(B, 64),) if isinstance(module, SimpleRNN) else ()
    h_n = module(torch.randn(50, B, 16), *start)[1]
    assert h_n.abs().max() < 0.95


def test_reset_parameters_draws_anew():
    cell = CustomGRUCell(I, H)
    before = cell.Wr.detach().clone()
    cell.reset_parameters()
    assert not torch.equal(cell.Wr, before)
