"""Parts that work frame by frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Part, silenced

ACTIVATIONS = {
    kind.__name__: kind
    for kind in (
        *(nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Softplus),
        *(nn.ReLU6, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink),
    )
}


class Dense(Part):
    """`dead`: all but the first two features are zero."""

    def __init__(self, size: int, width: int, activation: str, dead: bool = False) -> None:
        super().__init__(width)
        self.linear, self.activation = nn.Linear(size, width), ACTIVATIONS[activation]()
        if dead:
            silenced(self.linear, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class Norm(Part):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Softmax(Part):
    """A softmax over the features."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, dim=-1)


class GLU(Part):
    def __init__(self, size: int, width: int) -> None:
        super().__init__(width)
        self.linear = nn.Linear(size, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.linear(x), -1)


class BatchNorm(Part):
    """With the statistics of the training."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.norm = nn.BatchNorm1d(size)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Dropout(Part):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x)
