"""Splits complex tensors into the real and imaginary parts that a stream carries, and joins them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def parts_of(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors, with the real and the imaginary part for each complex one."""
    for tensor in tensors:
        yield from (tensor.real, tensor.imag) if tensor.is_complex() else (tensor,)


def named_parts(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    names = part_names(name)[1:] if tensor.is_complex() else [name]
    return list(zip(names, parts_of([tensor]), strict=True))


def part_names(name: str) -> list[str]:
    """The possible names of the leaves of a tensor `name`."""
    return [name, f"{name}.real", f"{name}.imag"]


def joined(left: list[Tensor], is_complex: bool) -> Tensor:
    """Take the next of `left`, or the next two if they are the parts of one."""
    return torch.complex(left.pop(0), left.pop(0)) if is_complex else left.pop(0)
