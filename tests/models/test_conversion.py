from functools import partial

import pytest
import torch
from torch import Tensor, nn

from rnn_export.models.gru import CustomGRU
from rnn_export.models.lstm import CustomLSTM
from rnn_export.models.simple_rnn import SimpleRNN

from ..messages import raises  # noqa: TID252
from .variants import B, H, I, O, drift, frames

EXACT = [(torch.float32, 1e-6), (torch.float64, 1e-12)]
every_dtype = pytest.mark.parametrize(("dtype", "bound"), EXACT, ids=str)
every_depth = pytest.mark.parametrize("layers", [1, 2, 3])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def run_torch(rnn: nn.RNNBase, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Call a torch layer as ours are called: flat states in, flat results out."""
    output, last = rnn(x, states if isinstance(rnn, nn.LSTM) else states[0])
    return (output, *last) if isinstance(rnn, nn.LSTM) else (output, last)


def draw(layers: int, count: int, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...]]:
    return frames(1000, dtype=dtype), tuple(torch.randn(count, layers, B, H, dtype=dtype).unbind())


def assert_equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], bound: float) -> None:
    assert all(drift(a, b.detach().double().numpy()) <= bound for a, b in zip(ours, theirs, strict=True))


@every_dtype
@every_depth
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("ours", "kind", "count"), [(CustomGRU, nn.GRU, 1), (CustomLSTM, nn.LSTM, 2)])
def test_from_torch_equals_torch_over_1000_steps(ours, kind, count, bias, layers, dtype, bound):
    theirs = kind(I, H, layers, bias=bias, dtype=dtype)
    x, states = draw(layers, count, dtype)
    assert_equal(ours.from_torch(theirs)(x, *states), run_torch(theirs, x, states), bound)


@every_dtype
@every_depth
@pytest.mark.parametrize(
    ("make", "count"), [(partial(CustomGRU, reset_after=True), 1), (CustomLSTM, 2)], ids=["gru", "lstm"]
)
def test_to_torch_equals_ours_over_1000_steps(make, count, layers, dtype, bound):
    ours = make(I, H, layers, dtype=dtype)
    x, states = draw(layers, count, dtype)
    assert_equal(ours(x, *states), run_torch(ours.to_torch(), x, states), bound)


@every_dtype
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_simple_rnn_from_torch_equals_torch_over_1000_steps(nonlinearity, bias, dtype, bound):
    rnn = nn.RNN(I, H, nonlinearity=nonlinearity, bias=bias, dtype=dtype)
    head = nn.Linear(H, O, bias=bias, dtype=dtype)
    x, (h,) = draw(1, 1, dtype)
    output, h_n = rnn(x, h)
    assert_equal(SimpleRNN.from_torch(rnn, head)(x, h[0]), (head(output), h_n[0]), bound)


@every_dtype
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_simple_rnn_to_torch_equals_ours_over_1000_steps(nonlinearity, dtype, bound):
    ours = SimpleRNN(I, H, O, nonlinearity, dtype=dtype)
    rnn, head = ours.to_torch()
    x, (h,) = draw(1, 1, dtype)
    output, h_n = rnn(x, h)
    assert_equal(ours(x, h[0]), (head(output), h_n[0]), bound)


@pytest.mark.parametrize(
    "ours", [SimpleRNN(I, H, O, "relu"), CustomGRU(I, H, 2, True), CustomLSTM(I, H, 2)], ids=["rnn", "gru", "lstm"]
)
def test_there_and_back_is_the_same_weights(ours):
    there = ours.to_torch()
    back = ours.from_torch(*there) if isinstance(there, tuple) else ours.from_torch(there)
    assert repr(back) == repr(ours)
    assert back.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(back.state_dict()[name], value) for name, value in ours.state_dict().items())


def test_the_single_bias_goes_to_bias_ih():
    rnn, _ = SimpleRNN(I, H, O).to_torch()
    gru = CustomGRU(I, H, 1, True).to_torch()
    lstm = CustomLSTM(I, H).to_torch()
    assert not rnn.bias_hh_l0.any()
    assert not lstm.bias_hh_l0.any()
    assert not gru.bias_hh_l0[: 2 * H].any()
    assert gru.bias_hh_l0[2 * H :].all()


@pytest.mark.parametrize("device", ["meta"] + ["cuda"] * torch.cuda.is_available())
@pytest.mark.parametrize("training", [True, False])
def test_device_dtype_and_mode_are_kept(device, training):
    kind = {"device": device, "dtype": torch.float64}
    rnn = SimpleRNN.from_torch(nn.RNN(I, H, **kind).train(training), nn.Linear(H, O, **kind))
    gru = CustomGRU.from_torch(nn.GRU(I, H, 2, **kind).train(training))
    lstm = CustomLSTM.from_torch(nn.LSTM(I, H, 2, **kind).train(training))
    for module in (rnn, gru, lstm, *rnn.to_torch(), gru.to_torch(), lstm.to_torch()):
        assert {(p.device.type, p.dtype) for p in module.parameters()} == {(device, torch.float64)}
        assert module.training is training


def test_the_conversion_shares_no_memory_with_its_source():
    rnn, head, gru = nn.RNN(I, H), nn.Linear(H, O), nn.GRU(I, H)
    ours = nn.ModuleList([SimpleRNN.from_torch(rnn, head), CustomGRU.from_torch(gru)])
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with torch.no_grad():
        for weight in (*rnn.parameters(), *head.parameters(), *gru.parameters()):
            weight.zero_()
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


def test_dropout_that_is_not_at_work_is_no_obstacle():
    x = frames()
    still = nn.GRU(I, H, 2, dropout=0.5).eval()
    torch.testing.assert_close(CustomGRU.from_torch(still)(x), still(x))


REFUSED = {
    "bidirectional": (lambda: CustomGRU.from_torch(nn.GRU(I, H, bidirectional=True)), ("from-torch-bidirectional",)),
    "projection": (lambda: CustomLSTM.from_torch(nn.LSTM(I, H, proj_size=2)), ("from-torch-projection", 2)),
    "batch first": (lambda: CustomLSTM.from_torch(nn.LSTM(I, H, batch_first=True)), ("from-torch-batch-first",)),
    "dropout": (lambda: CustomGRU.from_torch(nn.GRU(I, H, 2, dropout=0.5)), ("from-torch-dropout", 0.5)),
    "kind": (lambda: CustomGRU.from_torch(nn.LSTM(I, H)), ("from-torch-wrong-layer", "nn.GRU", "LSTM")),
    "depth": (lambda: SimpleRNN.from_torch(nn.RNN(I, H, 2), nn.Linear(H, O)), ("simple-rnn-layers", 2)),
    "head size": (lambda: SimpleRNN.from_torch(nn.RNN(I, H), nn.Linear(7, O)), ("simple-rnn-head-size", 7, 6)),
    "head dtype": (
        lambda: SimpleRNN.from_torch(nn.RNN(I, H), nn.Linear(H, O).double()),
        ("simple-rnn-head-dtype", "torch.float64 on cpu", "torch.float32 on cpu"),
    ),
    "rnn bidirectional": (
        lambda: SimpleRNN.from_torch(nn.RNN(I, H, bidirectional=True), nn.Linear(2 * H, O)),
        ("from-torch-bidirectional",),
    ),
    "reset before": (lambda: CustomGRU(I, H).to_torch(), ("gru-reset-differs",)),
    "sigmoid": (lambda: CustomLSTM(I, H, 1, "sigmoid").to_torch(), ("lstm-sigmoid-candidate",)),
}


@pytest.mark.parametrize(("convert", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_equal_is_refused_with_advice(convert, message):
    with raises(*message):
        convert()
