"""Decomposes operators such as stft, fold and interpolation into windows, products and sums.

Sources: the docstrings of torch.stft, torch.istft and torch.nn.Fold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import guard_or_false

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.fx_nodes import END, aten, named_args
from rnn_export.export.lift.ir.node_writer import NodeWriter
from rnn_export.export.lift.ir.source_location import place_of
from rnn_export.export.lift.rewrite.resampling import rate_of

# Below it a sum of windows is taken for 0, as torch does.
TINY = 1e-11


def spectrum(write: NodeWriter, node: fx.Node) -> fx.Node:
    """torch.stft of (B, L) or (L,), padded first: frames times the window, each transformed."""
    given = named_args(node)
    x, size = given["self"], given["n_fft"]
    hop = given.get("hop_length") or size // 4
    if given.get("center"):
        half, rank = size // 2, write.value_of(x).dim()
        for _ in range(3 - rank):
            x = write.call(aten.unsqueeze.default, x, 0)
        x = write.call(aten.pad.default, x, [half, half], given.get("pad_mode") or "reflect")
        for _ in range(3 - rank):
            x = write.call(aten.squeeze.dim, x, 0)
    window, taken = _window(write, given, size), size
    if given.get("align_to_window"):
        # The first frame begins where its window does, and is filled up on both sides.
        taken = given.get("win_length") or size
        window = None if window is None else window[(size - taken) // 2 :][:taken]
    frames = write.call(aten.unfold.default, x, -1, taken, hop)
    if window is not None:
        frames = write.call(aten.mul.Tensor, frames, write.constant(window))
    if taken < size:
        frames = write.call(aten.constant_pad_nd.default, frames, [(size - taken) // 2, (size - taken + 1) // 2])
    one_sided = given.get("onesided")
    is_real = not write.value_of(x).is_complex()
    transform = aten.fft_rfft.default if is_real and one_sided is not False else aten.fft_fft.default
    norm = "ortho" if given.get("normalized") else None
    found = write.call(aten.transpose.int, write.call(transform, frames, None, -1, norm), -1, -2)
    return found if given.get("return_complex") else write.call(aten.view_as_real.default, found)


def signal(write: NodeWriter, node: fx.Node) -> fx.Node:
    """torch.istft of (B, F, T) or (F, T): inverse transforms, overlap-added, divided by the squared windows' sum."""
    given = named_args(node)
    transforms, size = given["self"], given["n_fft"]
    hop, centred = given.get("hop_length") or size // 4, given.get("center", True)
    frames = write.call(aten.transpose.int, transforms, -1, -2)
    norm = "ortho" if given.get("normalized") else None
    if given.get("return_complex"):
        frames = write.call(aten.fft_ifft.default, frames, None, -1, norm)
    else:
        # Of all frequencies it takes the first half.
        frames = write.call(aten.fft_irfft.default, frames, size, -1, norm)
    window = _window(write, given, size)
    window = torch.ones(size) if window is None else window
    added = _added(write, write.call(aten.mul.Tensor, frames, write.constant(window)), hop)
    one = write.call(aten.slice.Tensor, frames, -1, 0, 1)
    one = write.call(aten.abs.default, one) if given.get("return_complex") else one
    shares = write.call(aten.ones_like.default, one)
    weights = _added(write, write.call(aten.mul.Tensor, shares, write.constant(window * window)), hop)
    start = size // 2 if centred else 0
    length = given.get("length")
    if length is not None:
        end: Any = write.call(torch.sym_sum, [length, start]) if isinstance(length, fx.Node) else length + start
    else:
        end = -start if start else END
    added, weights = (write.call(aten.slice.Tensor, value, -1, start, end) for value in (added, weights))
    # Where no frame is yet, or none any more.
    is_there = write.call(aten.gt.Scalar, weights, TINY)
    return write.call(aten.div.Tensor, added, write.call(aten.where.ScalarOther, is_there, weights, 1.0))


def _window(write: NodeWriter, given: dict[str, Any], size: int) -> Tensor | None:
    """The window, centred among zeros; None if it is all ones by default."""
    node, length = given.get("window"), given.get("win_length") or size
    if node is None:
        held: Tensor | None = None if length == size else torch.ones(length)
    else:
        held = _held(write, node)
    return None if held is None else torch.nn.functional.pad(held, [(size - length) // 2, (size - length + 1) // 2])


def _held(write: NodeWriter, node: fx.Node) -> Tensor:
    """The value of a constant of the module; raises LiftError if it depends on inputs."""
    if node.op == "call_function" and all(isinstance(n, fx.Node) for n in node.all_input_nodes):
        values = [_held(write, n) for n in node.all_input_nodes]
        numbers = dict(zip(node.all_input_nodes, values, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: numbers[n])
        target: Any = node.target
        result: Tensor = target(*args, **kwargs)
        return result
    if node.op != "get_attr":
        raise LiftError(
            f"{place_of(node)}: the window is computed from the input, so it is another one in each call.",
            id="window-computed",
        )
    held: Any = write.module
    for name in str(node.target).split("."):
        held = getattr(held, name)
    return torch.as_tensor(held).detach()


def _added(write: NodeWriter, frames: fx.Node, hop: int) -> fx.Node:
    """Frames (..., T, N) overlap-added at a hop of `hop` samples: (..., (T - 1) hop + N)."""
    size = int(write.value_of(frames).shape[-1])
    count = -(-size // hop)
    if count * hop > size:
        frames = write.call(aten.constant_pad_nd.default, frames, [0, count * hop - size])
    parts = []
    for place in range(count):
        part = write.call(aten.slice.Tensor, frames, -1, place * hop, (place + 1) * hop)
        parts.append(write.call(aten.constant_pad_nd.default, part, [0, 0, place, count - 1 - place]))
    total = parts[0]
    for part in parts[1:]:
        total = write.call(aten.add.Tensor, total, part)
    samples = write.call(aten.flatten.using_ints, total, -2, -1)
    return samples if count * hop == size else write.call(aten.slice.Tensor, samples, -1, 0, size - count * hop)


def folded(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """Columns (B, C K, T) overlap-added along one axis; the other has size 1."""
    given = named_args(node)
    taken, sizes, kernel = given["self"], given["output_size"], given["kernel_size"]
    along = 1 if kernel[0] == 1 else 0
    if kernel[1 - along] != 1 or sizes[1 - along] != 1 or any(n != 1 for n in given["dilation"]):
        return None
    before = given["padding"][along]
    if given["padding"][1 - along] or not isinstance(before, int) or write.value_of(taken).dim() != 3:
        return None
    frames = write.call(aten.unflatten.int, taken, 1, [-1, kernel[along]])
    added = _added(write, write.call(aten.transpose.int, frames, -1, -2), given["stride"][along])
    if before:
        added = write.call(aten.slice.Tensor, added, -1, before, END)
    added = write.call(aten.slice.Tensor, added, -1, 0, sizes[along])
    return write.call(aten.unsqueeze.default, added, -2 if along else -1)


def columns(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """Windows of (B, C, H, W) as columns (B, C K, places): along one axis, or along both one after the other."""
    given = named_args(node)
    x, kernel, padding = given["self"], given["kernel_size"], given["padding"]
    shape = write.value_of(x).shape
    if len(shape) != 4 or any(n != 1 for n in given["dilation"]):
        return None
    whole = _columns_of_whole(write, x, kernel, given)
    if whole is not None or not all(isinstance(n, int) for n in (*kernel, *padding)):
        return whole
    if any(padding):
        x = write.call(aten.constant_pad_nd.default, x, [padding[1]] * 2 + [padding[0]] * 2)
    along = 1 if kernel[0] == 1 else 0
    if shape[3 - along] == 1 and kernel[1 - along] == 1 and not padding[1 - along]:
        x = write.call(aten.squeeze.dim, x, 3 - along)
        windows = write.call(aten.unfold.default, x, -1, kernel[along], given["stride"][along])
        return write.call(aten.flatten.using_ints, write.call(aten.transpose.int, windows, -1, -2), 1, 2)
    for axis, size, stride in zip((2, 3), kernel, given["stride"], strict=True):
        x = write.call(aten.unfold.default, x, axis, size, stride)
    columns = write.call(aten.permute.default, x, [0, 1, 4, 5, 2, 3])
    return write.call(aten.flatten.using_ints, write.call(aten.flatten.using_ints, columns, 1, 3), 2, 3)


def _columns_of_whole(write: NodeWriter, x: fx.Node, kernel: Any, given: dict[str, Any]) -> fx.Node | None:
    """Columns of windows along one axis of (B, C, H, W) that span the other, maybe symbolic one; or None."""
    shape = write.value_of(x).shape
    held = [write.value_of(n) if isinstance(n, fx.Node) else n for n in kernel]
    # Where torch.export freezes both, both are numbers.
    wholes = [a for a in (1, 0) if not given["padding"][a] and rate_of(shape[2 + a], held[a]) == 1]
    other = 1 - wholes[0] if wholes else None
    if other is None or not isinstance(kernel[other], int):
        return None
    if padding := given["padding"][other]:
        x = write.call(aten.constant_pad_nd.default, x, [padding] * 2 if other else [0, 0, padding, padding])
    # (B, C, L, T, K), or (B, C, T, L, K)
    windows = write.call(aten.unfold.default, x, 2 + other, kernel[other], given["stride"][other])
    order = [0, 1, 2, 4, 3] if other else [0, 1, 4, 3, 2]
    return write.call(aten.flatten.using_ints, write.call(aten.permute.default, windows, order), 1, 3)


def filtered_by_rows(write: NodeWriter, node: fx.Node) -> fx.Node | None:
    """A convolution of (1, B C, T), each channel as a row, if all have one filter and their number is symbolic."""
    if not _is_shared(node):
        return None
    given = named_args(node)
    filters, sizes = given["weight"].args
    rows = write.call(aten.transpose.int, given["input"], 0, 1)
    one = write.call(aten.expand.default, filters, [1, *sizes[1:]])
    places = (given["stride"], given["padding"], given["dilation"])
    return write.call(aten.transpose.int, write.call(node.target, rows, one, None, *places, 1), 0, 1)


def _is_shared(node: fx.Node) -> bool:
    given = named_args(node)
    taken, weight = given["input"].meta["val"], given["weight"]
    if given["bias"] is not None or weight.target is not aten.expand.default or taken.dim() != weight.meta["val"].dim():
        return False
    rows, groups = taken.shape[:2]
    number: Any = given["groups"].meta["val"] if isinstance(given["groups"], fx.Node) else given["groups"]
    repeats = weight.meta["val"].shape[0]
    if not isinstance(groups, torch.SymInt):
        return False
    same = guard_or_false(groups == number) and guard_or_false(groups == repeats)
    return bool(same) and isinstance(rows, int) and rows == 1
