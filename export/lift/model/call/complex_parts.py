"""What a stream has of a tensor: itself, or of one that is complex the real and the imaginary part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def parts_of(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """What a stream has of tensors: of one that is complex, the real and the imaginary part."""
    for tensor in tensors:
        yield from (tensor.real, tensor.imag) if tensor.is_complex() else (tensor,)


def named_parts(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    names = part_names(name)[1:] if tensor.is_complex() else [name]
    return list(zip(names, parts_of([tensor]), strict=True))


def part_names(name: str) -> list[str]:
    """What a leaf may be called of a tensor called `name`."""
    return [name, f"{name}.real", f"{name}.imag"]


def joined(left: list[Tensor], is_complex: bool) -> Tensor:
    """The next of `left`, or the next two where they are the parts of one."""
    return torch.complex(left.pop(0), left.pop(0)) if is_complex else left.pop(0)
