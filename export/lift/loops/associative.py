"""torch's `associative_scan` as a loop from frame to frame, which capture rolls up like a model's own."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops import associative_scan
from torch.utils import _pytree as pytree


@contextlib.contextmanager
def sequential_scans() -> Iterator[None]:
    """Let `torch._higher_order_ops.associative_scan` combine one frame after the other inside of the block."""
    # The package has a function of its module's name.
    module = associative_scan.__globals__
    before = module["generic_associative_scan"]
    try:
        module["generic_associative_scan"] = _sequential
        yield
    finally:
        module["generic_associative_scan"] = before


def _sequential(operator: Any, leaves: Sequence[Tensor], dim: int = 0, additional_inputs: Any = ()) -> list[Tensor]:
    """The running combination of `leaves` along axis 0; `operator` combines two frames, leaf by leaf."""
    combine = {**operator.keywords}
    # One frame has no axis that `combine_fn` would be mapped over: what torch.vmap holds takes it.
    combine["combine_fn"] = inspect.getclosurevars(combine["combine_fn"]).nonlocals["func"]
    carried = [leaf.select(0, 0) for leaf in leaves]
    frames = [carried]
    for t in range(1, leaves[0].shape[0]):
        carried = pytree.tree_leaves(operator.func(*carried, *(leaf.select(0, t) for leaf in leaves), **combine))
        frames.append(carried)
    return [torch.stack(leaf) for leaf in zip(*frames, strict=True)]
