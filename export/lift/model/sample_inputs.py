"""Seeded inputs and states to try a model on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

# Of the example: a threshold far above it would hide what a model does.
SCALES = (1.0, 30.0, 1000.0)
# With so many values an example shows its range.
FEW = 8


class Noise:
    """Seeded tensors like the examples: floats in their range, ids below the rows of every embedding."""

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        rows = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
        self.rows = min(rows, default=None)

    def like(self, example: Tensor, sizes: Mapping[int, int]) -> Tensor:
        """A tensor like `example`, but with `sizes[axis]` along each given axis."""
        return self.shaped(example, [sizes.get(axis, size) for axis, size in enumerate(example.shape)])

    def shaped(self, example: Tensor, shape: Sequence[int]) -> Tensor:
        """A tensor of the kind of `example` in another shape."""
        if example.is_floating_point():
            return self._floats(example.detach().double().flatten(), shape).to(example)
        if example.dtype == torch.bool:
            return torch.randint(2, shape, generator=self.generator).to(example)
        rows = self.rows or max(int(example.max()) + 1, 1)
        return torch.randint(rows, shape, generator=self.generator).to(example)

    def between(self, values: Tensor, rows: int) -> Tensor:
        """Values (rows, *row) between those of (n, *row), entry by entry; integers are some of them."""
        shape = (rows, *values.shape[1:])
        low, high = (values.gather(0, torch.randint(len(values), shape, generator=self.generator)) for _ in range(2))
        if not values.is_floating_point():
            return low
        return low + (high - low) * torch.rand(shape, generator=self.generator).to(values)

    def _floats(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """Values between those of the example; if it has few, normal ones of its magnitude and sign."""
        if len(torch.unique(values)) > FEW:
            low, high = (values[torch.randint(len(values), shape, generator=self.generator)] for _ in range(2))
            return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)
        size = float(values.abs().max()) or 1.0
        normal = size * torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return normal.abs() if values.min() >= 0 and values.any() else normal
