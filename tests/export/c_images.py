"""Cases of pools, transposed convolutions, changes of size, and norms over channels."""

from typing import Any

import numpy as np

from .c_sheet import Case, case, const
from .c_values import floats, ints


def more_pools() -> list[Case]:
    """Sizes that are rounded up, and padding that is computed; of opset 19."""
    cases = []
    for op in ("MaxPool", "AveragePool", "LpPool"):
        for padding in ("SAME_UPPER", "SAME_LOWER"):
            cases += [case(op, floats(1, 2, 7), kernel_shape=[4], strides=[2], auto_pad=padding)]
            cases += [case(op, floats(1, 2, 7, 5), kernel_shape=[2, 3], auto_pad=padding)]
        cases += [case(op, floats(2, 3, 9), kernel_shape=[3], strides=[2], pads=[1, 1])]
        # ONNX Runtime's LpPool gives fewer values than ONNX says.
        if op != "LpPool":
            cases += [
                case(op, floats(1, 2, 8), kernel_shape=[3], strides=[2], ceil_mode=1),
                case(op, floats(1, 2, 8, 9), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=1),
            ]
        cases += [case(f"Global{op}", floats(2, 3, *sizes)) for sizes in ((7,), (4, 5), (1,))]
    cases += [
        case("AveragePool", floats(1, 2, 9), kernel_shape=[3], dilations=[2]),
        case("AveragePool", floats(1, 2, 9), kernel_shape=[3], dilations=[3], pads=[2, 1], count_include_pad=1),
        case("LpPool", floats(1, 2, 9), kernel_shape=[3], p=1, dilations=[2]),
        case("LpPool", floats(1, 2, 9), kernel_shape=[3], p=3),
        case("GlobalLpPool", floats(1, 2, 9), p=1),
        case("MaxPool", floats(2, 3, 9), out=2, kernel_shape=[3], strides=[2], pads=[1, 1]),
        case("MaxPool", floats(1, 2, 5, 7), out=2, kernel_shape=[2, 3], pads=[1, 0, 0, 2]),
    ]
    return cases


def transposed() -> list[Case]:
    cases = []

    def add(x: Any, w: Any, bias: bool, **attributes: Any) -> None:
        outputs = w.shape[1] * attributes.get("group", 1)
        extra = [const(floats(outputs))] if bias else []
        cases.append(case("ConvTranspose", x, const(w), *extra, **attributes))

    add(floats(1, 3, 1), floats(3, 5, 4), True)
    add(floats(1, 3, 1), floats(3, 5, 4), False, strides=[2])
    add(floats(2, 3, 7), floats(3, 17, 4), True, strides=[2])
    add(floats(1, 3, 7), floats(3, 2, 3), True, strides=[2], pads=[1, 1], output_padding=[1])
    add(floats(1, 4, 7), floats(4, 3, 3), True, group=2, dilations=[2], pads=[0, 2])
    add(floats(2, 4, 1), floats(4, 1, 6), True, group=4, strides=[3])
    add(floats(2, 4, 5), floats(4, 1, 2), False, group=4, strides=[3], output_padding=[2])
    add(floats(1, 3, 5), floats(3, 70, 1), True)
    add(floats(1, 2, 4, 5), floats(2, 3, 3, 2), True)
    add(floats(2, 4, 4, 5), floats(4, 3, 3, 2), False, group=2, strides=[2, 3], pads=[1, 0, 2, 1])
    add(floats(1, 2, 1, 5), floats(2, 3, 1, 4), True, strides=[1, 2], pads=[0, 1, 0, 1], output_padding=[0, 1])
    add(floats(1, 2, 4, 3), floats(2, 2, 2, 3), True, dilations=[2, 1])
    add(floats(1, 2, 3, 2, 3), floats(2, 2, 2, 2, 2), True, strides=[2, 1, 2])
    add(floats(1, 2, 5), floats(2, 3, 4), True, strides=[2], output_shape=[9])
    add(floats(1, 2, 5), floats(2, 3, 4), True, strides=[2], auto_pad="SAME_UPPER")
    add(floats(1, 2, 5), floats(2, 3, 3), True, strides=[2], auto_pad="SAME_LOWER")
    add(floats(1, 2, 5), floats(2, 3, 3), True, auto_pad="VALID", strides=[2])
    return cases


def resized() -> list[Case]:
    cases = []
    for way in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"):
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
            own = {"coordinate_transformation_mode": way, "nearest_mode": rounding}
            cases += [case("Resize", floats(1, 2, 7), None, None, [1, 2, 10], **own)]
        linear = {"coordinate_transformation_mode": way, "mode": "linear"}
        cases += [
            case("Resize", floats(1, 2, 7), None, None, [1, 2, 10], **linear),
            case("Resize", floats(2, 3, 4, 5), None, const([1, 1, 2, 1.5], np.float32), **linear),
            case("Resize", floats(1, 2, 7), None, const([1, 1, 0.6], np.float32), **linear),
        ]
    cases += [
        case("Resize", floats(2, 3, 5), None, const([1, 1, 3], np.float32)),
        case(
            "Resize",
            floats(2, 3, 5, 4),
            None,
            const([1, 1, 2, 3], np.float32),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        case("Resize", floats(2, 3, 8), None, const([0.5], np.float32), axes=[2]),
        case("Resize", floats(2, 3, 1), None, const([1, 1, 4], np.float32), mode="linear"),
        case("Resize", floats(2, 3, 5), None, const([1, 1, 1], np.float32)),
        case("Resize", ints(1, 2, 5, dtype=np.int32), None, const([1, 1, 2], np.float32)),
        case("DepthToSpace", floats(2, 8, 3, 4), blocksize=2),
        case("DepthToSpace", floats(1, 18, 2, 1), blocksize=3, mode="CRD"),
        case("SpaceToDepth", floats(2, 3, 4, 6), blocksize=2),
    ]
    return cases


def channel_norms() -> list[Case]:
    """Opset 21."""
    cases = []
    for shape in ((2, 6, 5), (1, 4, 2), (2, 2, 3, 17), (1, 3, 33)):
        channels = shape[1]
        own = [const(floats(channels)), const(floats(channels))]
        cases += [
            case("InstanceNormalization", floats(*shape) + 2, *own),
            case("InstanceNormalization", floats(*shape), *own, epsilon=1e-2),
            case("GroupNormalization", floats(*shape) + 2, *own, num_groups=channels // 2 or 1 if channels != 3 else 3),
            case("GroupNormalization", floats(*shape), *own, num_groups=1, epsilon=1e-2),
        ]
    for p in (1, 2):
        cases += [case("LpNormalization", floats(2, 3, 5), p=p, axis=axis) for axis in (0, 1, -1)]
        cases += [case("LpNormalization", np.zeros((2, 3), np.float32), p=p)]
    cases += [
        case("LayerNormalization", floats(2, 3, 5), floats(5), floats(5)),
        case("LayerNormalization", floats(2, 3, 5), floats(3, 5), axis=1),
        case("LayerNormalization", floats(2, 5), const(floats(5)), floats(5)),
    ]
    return cases


def channel_norms_of_old() -> list[Case]:
    """Opset 18, with a scale for each group."""
    own = [const(floats(3)), const(floats(3))]
    return [case("GroupNormalization", floats(2, 6, 5), *own, num_groups=3)]
