"""Resize: each value of an axis is a weighted sum of a few, with known indices and weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.export.targets.c.code.code_builder import CodeBuilder, refusal
from rnn_export.export.targets.c.code.notation import shape_of
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.platform.arrays import Array

# Where a value of the result lies in the input, in float32 as ONNX Runtime has it, from its place p, the scale s, the
# size n of the input, and the size m of the result.
COORDINATES: Mapping[str, Callable[[Array, np.float32, int, int], Array]] = {
    "half_pixel": lambda p, s, n, m: (p + np.float32(0.5)) / s - np.float32(0.5),
    "pytorch_half_pixel": lambda p, s, n, m: (p + np.float32(0.5)) / s - np.float32(0.5) if m > 1 else 0 * p,
    "half_pixel_symmetric": lambda p, s, n, m: (
        np.float32(n / 2 * (1 - m / (s * n))) + (p + np.float32(0.5)) / s - np.float32(0.5)
    ),
    "align_corners": lambda p, s, n, m: p * np.float32(n - 1) / np.float32(m - 1) if m > 1 else 0 * p,
    "asymmetric": lambda p, s, n, m: p / s,
}
NEAREST: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class Taps:
    """For each value of the result along an axis (values, taps): indices in the input, and weights."""

    places: Array
    weights: Array


def resize(code: CodeBuilder, node: ir.Node) -> None:
    """Axis after axis; raises ExportError for unknown attributes."""
    x, attributes = code.read(node, 0), node.attributes
    mode, coordinates = (
        attributes.get_string("mode", "nearest"),
        attributes.get_string("coordinate_transformation_mode", "half_pixel"),
    )
    policy = attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if mode not in ("nearest", "linear") or coordinates not in COORDINATES or policy != "stretch":
        raise refusal(
            node,
            f"its mode is {mode!r} over {coordinates!r} with the policy {policy!r}, and known are nearest and linear "
            f"over {', '.join(COORDINATES)} with the policy 'stretch'",
            id="c-resize-mode",
        )
    if mode == "linear" and x.c_type != "float":
        raise refusal(node, f"it has no form for {x.c_type} that is not the nearest value", id="c-resize-dtype")
    if attributes.get_int("antialias", 0):
        raise refusal(node, "it smooths (antialias)", id="c-resize-antialias")
    shape, rank = shape_of(node.outputs[0]), len(x.shape)
    axes = [int(axis) % rank for axis in attributes.get_ints("axes", range(rank))]
    given = code.constant(node, 2) if input_of(node, 2) is not None else None
    scales = [shape[a] / x.shape[a] for a in axes] if given is None or not given.size else given.tolist()
    changed = [(axis, s) for axis, s in zip(axes, scales, strict=True) if s != 1 or x.shape[axis] != shape[axis]]
    if not changed:
        code.set_view(node, x)
    for i, (axis, scale) in enumerate(changed):
        made = (*x.shape[:axis], shape[axis], *x.shape[axis + 1 :])
        result = code.new_output(node) if i + 1 == len(changed) else code.alloc(x.c_type, made)
        places = COORDINATES[coordinates](
            np.arange(shape[axis], dtype=np.float32), np.float32(scale), x.shape[axis], shape[axis]
        )
        rounding = NEAREST[attributes.get_string("nearest_mode", "round_prefer_floor")] if mode == "nearest" else None
        _emit(code, x, axis, result, _taps(places, x.shape[axis], rounding))
        x = result


def _taps(places: Array, size: int, rounding: Callable[[Array], Array] | None) -> Taps:
    """The nearest value of an axis, or without a rounding the two around each place; beyond the ends, the last."""
    if rounding is not None:
        nearest = rounding(places).clip(0, size - 1).astype(np.int32)
        return Taps(nearest[:, None], np.ones((len(places), 1), np.float32))
    places = places.clip(0, size - 1)
    below = np.floor(places).astype(np.int32)
    part = (places - below).astype(np.float32)
    above = np.minimum(below + 1, size - 1)
    return Taps(np.stack([below, above], 1), np.stack([1 - part, part], 1))


def _emit(code: CodeBuilder, x: CTensor, axis: int, y: CTensor, taps: Taps) -> None:
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    values, count = taps.places.shape
    places, weights = code.weights.name_of(taps.places), code.weights.name_of(taps.weights) if count > 1 else ""
    with code.loops(["o", "j"], [outer, values]):
        rows = [f"{x.address}[(o * {n} + {places}[j * {count} + {t}]) * {inner} + c]" for t in range(count)]
        terms = rows if count == 1 else [f"{row} * {weights}[j * {count} + {t}]" for t, row in enumerate(rows)]
        code.emit(f"for (int c = 0; c < {inner}; c++)")
        code.emit(f"    {y.address}[(o * {values} + j) * {inner} + c] = {' + '.join(terms)};")
