"""Every variant of the cells beside its equation, and the inputs of the tests of the cells."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnn_export.models.gru import CustomGRU, CustomGRUCell
from rnn_export.models.lstm import CustomLSTM, CustomLSTMCell
from rnn_export.models.simple_rnn import SimpleRNN, SimpleRNNCell

from . import equations as eq

B, I, H, O = 3, 4, 6, 2  # noqa: E741

VARIANTS = {
    **{f"rnn-{φ}": (partial(SimpleRNN, I, H, O, φ), partial(eq.simple_rnn, nonlinearity=φ)) for φ in ("tanh", "relu")},
    **{
        f"gru-{layers}-{'after' if after else 'before'}": (
            partial(CustomGRU, I, H, layers, after),
            partial(eq.gru, reset_after=after),
        )
        for layers in (1, 2, 3)
        for after in (False, True)
    },
    **{
        f"lstm-{layers}-{φ}": (partial(CustomLSTM, I, H, layers, φ), partial(eq.lstm, candidate=φ))
        for layers in (1, 2, 3)
        for φ in ("tanh", "sigmoid")
    },
}
MAKERS = {name: make for name, (make, _) in VARIANTS.items()}
CELLS = {
    "rnn": (partial(SimpleRNNCell, I, H, O), 1),
    "gru-before": (partial(CustomGRUCell, I, H), 1),
    "gru-after": (partial(CustomGRUCell, I, H, True), 1),
    "lstm": (partial(CustomLSTMCell, I, H), 2),
}
FORMS = {"eager": lambda module: module, "torchscript": torch.jit.script}

every_variant = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
every_cell = pytest.mark.parametrize(("make", "states"), CELLS.values(), ids=CELLS)
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def states_of(module: nn.Module, batch: int = B, **kind: object) -> tuple[Tensor, ...]:
    """Random first states; a SimpleRNN has no layer axis, an LSTM has two states."""
    shape = (batch, H) if isinstance(module, SimpleRNNCell) else (module.num_layers, batch, H)
    return tuple(torch.randn(*shape, **kind) for _ in range(1 + isinstance(module, CustomLSTM)))


def frames(time: int = 8, **kind: object) -> Tensor:
    return torch.randn(time, B, I, **kind)


def drift(ours: Tensor, truth: np.ndarray) -> float:
    """The largest difference, relative to the scale of the true tensor."""
    return float(np.abs(ours.detach().double().numpy() - truth).max() / np.abs(truth).max())
