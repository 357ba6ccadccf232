"""Every layer of torch.nn by frame exports and is right, or is named as one without frames; recurrent operators too."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.export import export
from rnn_export.export.lift.layers import recurrent_ops

WIDTH = 24
LINE, IMAGE, CUBE, FEATURES = (4, 6), (4, 2, 3), (2, 3, 2, 2), (WIDTH,)


class Row(nn.Module):
    """A layer as `call` calls it with a frame (B, 24) of another shape."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], call: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.shape, self.call = layer, shape, call

    def forward(self, x: Tensor) -> Tensor:
        y = self.call(self.layer, x.unflatten(-1, self.shape))
        return y.flatten(1) if y.dim() > 1 else y[:, None]


class Rows(nn.Module):
    """All rows' outputs for a frame, concatenated."""

    def __init__(self, rows: dict[str, Row]) -> None:
        super().__init__()
        self.rows = nn.ModuleDict(rows)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([row(x) for row in self.rows.values()], -1)


def plainly(layer: nn.Module, x: Tensor) -> Any:
    return layer(x)


def rows(shape: tuple[int, ...], *layers: Any) -> dict[str, Row]:
    """By the name of its class, each layer, or pair of a layer and how it is called."""
    pairs = [layer if isinstance(layer, tuple) else (layer, plainly) for layer in layers]
    return {type(layer).__name__: Row(layer, shape, call) for layer, call in pairs}


def of_two(layer: nn.Module, x: Tensor) -> Any:
    return layer(x, x.flip(-1))


LAYERS = {
    "line": lambda: rows(
        LINE, nn.AdaptiveAvgPool1d(3), nn.AdaptiveMaxPool1d(2), nn.AvgPool1d(2), nn.BatchNorm1d(4), nn.CircularPad1d(2),
        nn.ConstantPad1d(2, 0.5), nn.Conv1d(4, 2, 3), nn.ConvTranspose1d(4, 2, 3, 2), nn.Dropout1d(), nn.LPPool1d(2, 2),
        nn.InstanceNorm1d(4), nn.MaxPool1d(2), nn.ReflectionPad1d(2), nn.ReplicationPad1d(2), nn.ZeroPad1d(2),
        nn.Upsample(scale_factor=2), (nn.MultiheadAttention(6, 2, batch_first=True), lambda m, x: m(x, x, x)[0]),
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
        (nn.TransformerDecoderLayer(6, 2, 8, batch_first=True), lambda m, x: m(x, x)),
    ),
    "image": lambda: rows(
        IMAGE, nn.AdaptiveAvgPool2d((1, 3)), nn.AdaptiveMaxPool2d(1), nn.AvgPool2d((2, 1)), nn.BatchNorm2d(4),
        nn.ChannelShuffle(2), nn.CircularPad2d(1), nn.ConstantPad2d(1, 0.5), nn.Conv2d(4, 2, 2), nn.Dropout2d(),
        nn.ConvTranspose2d(4, 2, 2), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LPPool2d(2, (2, 1)),
        nn.LocalResponseNorm(2), nn.MaxPool2d((1, 2)), nn.PixelShuffle(2), nn.ReflectionPad2d(1), nn.Softmax2d(),
        nn.ReplicationPad2d(1), nn.SyncBatchNorm(4), nn.Unfold(2), nn.UpsamplingBilinear2d(scale_factor=2),
        nn.UpsamplingNearest2d(scale_factor=2), nn.ZeroPad2d(1),
        (nn.PixelUnshuffle(2), lambda m, x: m(x.reshape(-1, 3, 2, 4))),
        (nn.Fold((2, 3), (1, 2)), lambda m, x: m(x.reshape(-1, 6, 4))),
    ),
    "cube": lambda: rows(
        CUBE, nn.AdaptiveAvgPool3d(1), nn.AdaptiveMaxPool3d(1), nn.AvgPool3d((3, 1, 2)), nn.BatchNorm3d(2),
        nn.CircularPad3d(1), nn.ConstantPad3d(1, 0.5), nn.Conv3d(2, 2, 2), nn.ConvTranspose3d(2, 2, 2), nn.Dropout3d(),
        nn.InstanceNorm3d(2), nn.LPPool3d(2, (1, 2, 2)), nn.MaxPool3d((1, 2, 2)), nn.ReflectionPad3d(1),
        nn.ReplicationPad3d(1), nn.ZeroPad3d(1),
    ),
    "features": lambda: rows(
        FEATURES, nn.AlphaDropout(), nn.CELU(), nn.Dropout(), nn.ELU(), nn.FeatureAlphaDropout(), nn.GELU(), nn.GLU(),
        nn.Hardshrink(), nn.Hardsigmoid(), nn.Hardswish(), nn.Hardtanh(), nn.Identity(), nn.LeakyReLU(), nn.Mish(),
        nn.LogSigmoid(), nn.PReLU(), nn.RReLU(), nn.ReLU(), nn.ReLU6(), nn.SELU(), nn.SiLU(), nn.Sigmoid(),
        nn.Softplus(), nn.Softshrink(), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(), nn.Threshold(0.1, 20.0),
        nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3), nn.LogSoftmax(-1), nn.RMSNorm(WIDTH), nn.Softmax(-1), nn.Softmin(-1),
        nn.Flatten(), nn.Unflatten(1, (2, -1)), (nn.Bilinear(12, 12, 3), lambda m, x: m(*x.chunk(2, -1))),
        (nn.CosineSimilarity(), of_two), (nn.PairwiseDistance(), of_two),
        (nn.Embedding(5, 3), lambda m, x: m((x * 2).long().abs() % 5)),
    ),
    "losses": lambda: rows(
        FEATURES, (nn.HuberLoss(reduction="none"), of_two), (nn.L1Loss(reduction="none"), of_two),
        (nn.MSELoss(reduction="none"), of_two), (nn.SmoothL1Loss(reduction="none"), of_two),
        (nn.PoissonNLLLoss(reduction="none"), of_two), (nn.BCEWithLogitsLoss(reduction="none"), of_two),
        (nn.HingeEmbeddingLoss(reduction="none"), lambda m, x: m(x, x.sign())),
        (nn.KLDivLoss(reduction="none"), lambda m, x: m(x.log_softmax(-1), x.flip(-1).softmax(-1))),
        (nn.MarginRankingLoss(reduction="none"), lambda m, x: m(x, x.flip(-1), x.sign())),
        (nn.SoftMarginLoss(reduction="none"), lambda m, x: m(x, x.sign())),
        (nn.TripletMarginLoss(reduction="none"), lambda m, x: m(x, x + 1, x.flip(-1))),
        (nn.TripletMarginWithDistanceLoss(reduction="none"), lambda m, x: m(x, x + 1, x.flip(-1))),
    ),
    "functions": lambda: {
        f"f{i}": Row(nn.Identity(), FEATURES, lambda _, x, f=function: f(x)) for i, function in enumerate(FUNCTIONS)
    },
}  # fmt: skip
# Composite functions, some of which compute in place inside.
FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: F.rms_norm(x, (WIDTH,), eps=1e-6),
    lambda x: F.rms_norm(x, (WIDTH,), x[0] * 0 + 2),
    lambda x: F.cosine_similarity(x, x.flip(-1), dim=-1),
    lambda x: F.pairwise_distance(x, x.flip(-1), p=3),
    lambda x: F.normalize(x, dim=-1),
    lambda x: x.nanmean(-1),
    lambda x: x.nansum(-1),
    lambda x: x.quantile(0.3, dim=-1),
    lambda x: x.sort(-1, descending=True)[0],
    lambda x: ((x * 10).long() << 3).float(),
    lambda x: ((x * 99).long() >> 2).float(),
    lambda x: torch.linalg.vector_norm(x, 3, dim=-1),
    lambda x: torch.trapezoid(x, dim=-1),
    lambda x: F.one_hot((x * 2).long().abs() % 5, 5).float(),
)
HAVE_NO_FRAMES = {
    "hold others": "Container DataParallel Module ModuleDict ModuleList ParameterDict ParameterList Sequential "
    "Transformer TransformerDecoder TransformerEncoder",
    "are recurrent, with tests of their own": "GRU GRUCell LSTM LSTMCell RNN RNNBase RNNCell RNNCellBase",
    "draw random numbers": "FractionalMaxPool2d FractionalMaxPool3d",
    "write into storages": "CrossMapLRN2d",
    "are losses of classes or alignments": "AdaptiveLogSoftmaxWithLoss CosineEmbeddingLoss CrossEntropyLoss "
    "CTCLoss LinearCrossEntropyLoss MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss NLLLoss2d",
    "ask values": "GaussianNLLLoss BCELoss",
    "number what they put together": "EmbeddingBag MaxUnpool1d MaxUnpool2d MaxUnpool3d",
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_by_frame_export_and_are_right(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Rows(LAYERS[kind]()).eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    bundle = export(model, (torch.randn(2, WIDTH),), tmp_path / "rows.rnnx", time_axis=None, steps=4, report=False)
    assert bundle.spec.states == ()


def test_no_layer_of_torch_is_unheard_of() -> None:
    classes = {n for n, c in vars(nn).items() if inspect.isclass(c) and issubclass(c, nn.Module)}
    known = {name for make in LAYERS.values() for name in make()} | set(" ".join(HAVE_NO_FRAMES.values()).split())
    assert {name for name in classes - known if not name.startswith("Lazy")} == set()


@pytest.mark.parametrize(("name", "gates", "more"), [("lstm", 4, ()), ("gru", 3, (0,)), ("gru", 3, (1,))])
def test_a_recurrent_operator_over_many_frames_is_its_steps(name: str, gates: int, more: tuple[int, ...]) -> None:
    H, I, states = 5, 3, [torch.randn(1, 2, 5) for _ in range(1 + (name == "lstm"))]  # noqa: E741
    weights = torch.randn(1, gates * H, I), torch.randn(1, gates * H, H), torch.randn(1, 2 * gates * H)
    activations = "Sigmoid,Tanh,Tanh" if name == "lstm" else "Sigmoid,Tanh"
    x = torch.randn(recurrent_ops.MANY + 2, 2, I)
    once = getattr(recurrent_ops, name)(x, *weights, *states, activations, *more)
    steps = getattr(recurrent_ops, f"unrolled_{name}")(x, *weights, *states, activations, *more)
    torch.testing.assert_close(tuple(once), steps)
