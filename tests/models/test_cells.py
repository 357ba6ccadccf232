"""The cells are their equations, in every form, and refuse what does not fit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rnn_export.models.gru import CustomGRU, CustomGRUCell
from rnn_export.models.lstm import CustomLSTM, CustomLSTMCell
from rnn_export.models.simple_rnn import SimpleRNN, SimpleRNNCell

from ..messages import raises  # noqa: TID252
from . import equations as eq
from .variants import MAKERS, VARIANTS, B, H, I, O, drift, every_cell, every_form, every_variant, frames, states_of

DYNAMIC = torch.export.Dim.DYNAMIC


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@every_form
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize(("make", "equation"), VARIANTS.values(), ids=VARIANTS)
def test_equals_its_equation_over_1000_steps(make, equation, dtype, bound, form):
    module = make(dtype=dtype)
    x, states = frames(1000, dtype=dtype), states_of(module, dtype=dtype)
    truth, last = equation(eq.arrays(module), x.numpy(), tuple(s.numpy() for s in states))
    ours = form(module)(x, *states)
    assert all(drift(a, b) <= bound for a, b in zip(ours, (truth, *last), strict=True))


@every_form
@every_variant
def test_the_state_fed_back_continues_the_sequence(make, form):
    module, x, outputs = form(make().eval()), frames(30), []
    states = first = states_of(make())
    for piece in x.split(7):
        y, *states = module(piece, *states)
        outputs.append(y)
    torch.testing.assert_close((torch.cat(outputs), *states), module(x, *first), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@every_variant
def test_traces_without_a_warning(make):
    module = make()
    args = (frames(), *states_of(module))
    torch.testing.assert_close(torch.jit.trace(module, args)(*args), module(*args))


@every_cell
def test_a_cell_exports_with_a_dynamic_batch(make, states):
    def args(batch: int) -> tuple[Tensor, ...]:
        return torch.randn(batch, I), *torch.randn(states, batch, H)

    cell = make()
    program = torch.export.export(cell, args(B), dynamic_shapes=({0: DYNAMIC},) * (states + 1))
    for batch in (1, 2, 9):
        feed = args(batch)
        torch.testing.assert_close(program.module()(*feed), cell(*feed))


@pytest.mark.parametrize("variant", ["rnn-tanh", "gru-2-before", "lstm-2-tanh"])
def test_a_layer_exports_with_a_dynamic_batch(variant):
    module = MAKERS[variant]()
    args = (frames(), *states_of(module))
    shapes = ({1: DYNAMIC}, *({args[1].dim() - 2: DYNAMIC},) * (len(args) - 1))
    program = torch.export.export(module, args, dynamic_shapes=shapes)
    feed = (torch.randn(8, 9, I), *states_of(module, batch=9))
    torch.testing.assert_close(program.module()(*feed), module(*feed))


@every_cell
def test_a_cell_takes_one_row_without_a_batch_axis(make, states):
    cell = make()
    x, s = torch.randn(B, I), torch.randn(states, B, H)
    batched, single = cell(x, *s), cell(x[1], *s[:, 1])
    if isinstance(batched, Tensor):
        batched, single = (batched,), (single,)
    torch.testing.assert_close(single, tuple(t[1] for t in batched))


def test_a_simple_rnn_takes_a_sequence_without_a_batch_axis():
    rnn = SimpleRNN(I, H, O)
    x, h = frames(), torch.randn(B, H)
    (output, h_n), (row, h_row) = rnn(x, h), rnn(x[:, 1], h[1])
    assert row.shape == (8, O)
    assert h_row.shape == (H,)
    torch.testing.assert_close((row, h_row), (output[:, 1], h_n[1]))


def test_step_and_forward_of_the_simple_cell_are_one():
    cell = SimpleRNNCell(I, H, O)
    x, h = torch.randn(B, I), torch.randn(B, H)
    torch.testing.assert_close(cell.step(x, h), cell(x, h), rtol=0, atol=0)


# What is refused.

BAD: dict[str, tuple[Callable[[], object], str]] = {
    "size": (lambda: SimpleRNNCell(0, H, O), ("size-not-positive", "input_size is 0")),
    "output size": (lambda: SimpleRNN(I, H, -1), ("size-not-positive", "output_size is -1")),
    "float size": (lambda: CustomGRUCell(I, 2.0), ("size-not-positive", "hidden_size is 2.0")),
    "layers": (lambda: CustomGRU(I, H, 0), ("size-not-positive", "num_layers is 0")),
    "lstm size": (lambda: CustomLSTM(I, 0), ("size-not-positive", "hidden_size is 0")),
    "nonlinearity": (
        lambda: SimpleRNN(I, H, O, "gelu"),
        ("choice-unknown", "nonlinearity is 'gelu'", "'tanh', 'relu'"),
    ),
    "candidate": (lambda: CustomLSTM(I, H, 1, "relu"), ("choice-unknown", "candidate is 'relu'", "'tanh', 'sigmoid'")),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_constructor_values_are_refused(make, message):
    with raises(*message):
        make()


@every_cell
@pytest.mark.parametrize("shape", [(1, H), (H,), (B, 1), (B + 1, H)], ids=str)
def test_a_state_that_would_broadcast_is_refused(make, states, shape):
    cell, x = make(), torch.randn(B, I)
    for wrong in range(states):
        feed = [torch.zeros(shape) if k == wrong else torch.zeros(B, H) for k in range(states)]
        message = rf"[hc] has shape \[{', '.join(map(str, shape))}\], but x \[3, 4\] needs \[3, 6\]"
        with pytest.raises(ValueError, match=message):
            cell(x, *feed)
        with pytest.raises(torch.jit.Error, match=message):
            torch.jit.script(cell)(x, *feed)


SHAPES = r"h_0 has shape .* but x \[8, 3, 4\] needs \[2, 3, 6\]"
FLAT = r"x has shape \[8, 4\], .* \(time, batch, input\)"
HALF = "only one of h_0 and c_0 is given: give both"
ONE = torch.zeros(1, B, H)


def of_shape(*shape):
    return {"gru": {"h_0": torch.zeros(shape)}, "lstm": {"h_0": torch.zeros(shape), "c_0": torch.zeros(shape)}}


@every_form
@pytest.mark.parametrize(
    ("x", "states", "message"),
    [
        (frames(), {"lstm": {"c_0": ONE}}, HALF),
        (torch.randn(8, I), {"gru": {}, "lstm": {}}, FLAT),
        (frames(), {"lstm": {"h_0": ONE}}, HALF),
        *((frames(), of_shape(*shape), SHAPES) for shape in [(2, 1, H), (1, B, H), (3, B, H), (B, H)]),
    ],
    ids=["c_0 alone", "no batch", "h_0 alone", "one row", "a layer", "three layers", "no layers"],
)
def test_what_a_layer_is_given_wrongly_is_refused(x, states, message, form):
    for kind, given in states.items():
        layer = form({"gru": CustomGRU, "lstm": CustomLSTM}[kind](I, H, 2))
        with pytest.raises((ValueError, torch.jit.Error), match=message):
            layer(x, **given)


def test_modules_say_what_they_are():
    assert repr(SimpleRNN(I, H, O, "relu")) == "SimpleRNN(4, 6, 2, nonlinearity='relu')"
    assert repr(CustomGRUCell(I, H, True)) == "CustomGRUCell(4, 6, reset_after=True)"
    assert repr(CustomLSTMCell(I, H)) == "CustomLSTMCell(4, 6, candidate='tanh')"
    assert "4, 6, num_layers=2, reset_after=False" in repr(CustomGRU(I, H, 2))
    assert "4, 6, num_layers=2, candidate='sigmoid'" in repr(CustomLSTM(I, H, 2, "sigmoid"))
