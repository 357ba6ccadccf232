"""Cases of operators that read and write by indices, and of those that find indices."""

import numpy as np

from .c_sheet import Case, case, const
from .c_values import floats, ints, truth


def indices() -> list[Case]:
    x = floats(3, 4, 5)
    cases = [
        case("GatherElements", x, ints(3, 2, 5, low=-4, high=4), axis=1),
        case("GatherElements", x, ints(2, 4, 5, low=-3, high=3)),
        case("GatherElements", x, const(ints(3, 4, 2, low=0, high=5, dtype=np.int32)), axis=-1),
        case("GatherElements", ints(5), ints(3, low=0, high=5)),
        case("GatherND", x, ints(2, 3, 1, low=-3, high=3)),
        case("GatherND", x, ints(4, 2, low=0, high=3)),
        case("GatherND", x, ints(7, 3, low=-3, high=3)),
        case("GatherND", x, ints(3, 2, 1, low=0, high=4), batch_dims=1),
        case("GatherND", floats(2, 3, 4, 5), ints(2, 3, 2, low=0, high=4), batch_dims=2),
        case("GatherND", truth(3, 4), const(ints(5, 2, low=0, high=3))),
        case("OneHot", ints(3, low=-5, high=5), 5, const([0.5, 2.0], np.float32)),
        case("OneHot", ints(2, 3, low=-9, high=9), 5, floats(2), axis=1),
        case("OneHot", ints(2, 3, low=0, high=4), 4, const([0, 1]), axis=0),
        case("OneHot", ints(1, low=0, high=3), 3, const([0, 1]), axis=-1),
        case("Trilu", floats(4, 5)),
        case("Trilu", floats(2, 4, 5), 1),
        case("Trilu", floats(2, 5, 4), -2, upper=0),
        case("Trilu", ints(3, 3), upper=0),
        case("Trilu", truth(3, 3), 1),
        case("Trilu", floats(4, 5), 7, upper=0),
        case("Add", floats(5), floats(5)),
    ]
    for axis, kind in ((0, np.float32), (1, np.float32), (-1, np.int64)):
        places = np.argsort(floats(3, 4, 5), axis=axis)[:2, :3, :2]
        cases.append(case("ScatterElements", x.astype(kind), places, ints(*places.shape).astype(kind), axis=axis))
    for reduction in ("add", "mul", "max", "min"):
        of = floats(2, 3, 5)
        cases += [
            case("ScatterElements", x, ints(2, 3, 5, low=-3, high=3), of, axis=0, reduction=reduction),
            case("ScatterND", x, ints(2, 2, 1, low=-3, high=3), floats(2, 2, 4, 5), reduction=reduction),
            case("ScatterND", ints(3, 4), ints(5, 2, low=0, high=3), ints(5), reduction=reduction),
        ]
    cases += [
        case("ScatterND", x, np.array([[2], [0]]), floats(2, 4, 5)),
        case("ScatterND", x, const([[-1, 2], [0, -4]]), floats(2, 5)),
        case("ScatterND", x, np.array([[[1, 2, 3]], [[0, 0, 0]]]), floats(2, 1)),
        case("ScatterND", truth(4), np.array([[1], [3]]), truth(2)),
    ]
    return cases


def caches() -> list[Case]:
    """Opset 24 and later."""
    return [
        case("TensorScatter", floats(2, 8, 4), floats(2, 2, 4), np.array([1, 6])),
        case("TensorScatter", floats(2, 8, 4), floats(2, 1, 4)),
        case("TensorScatter", floats(2, 8, 4), floats(2, 3, 4), np.array([7, 0]), mode="circular"),
        case("TensorScatter", floats(2, 3, 5, 4), floats(2, 3, 5, 2), np.array([1, 0]), axis=-1),
        case("TensorScatter", ints(1, 2, 6, 3), ints(1, 2, 1, 3), np.array([5])),
        case("Swish", floats(3, 17)),
        case("Swish", floats(17), alpha=1.7),
        case("RMSNormalization", floats(3, 17), const(floats(17))),
        case("RMSNormalization", floats(2, 3, 5), const(floats(3, 5)), axis=1, epsilon=1e-3),
        case("RMSNormalization", floats(2, 5), floats(5)),
        *functions(),
    ]


def functions() -> list[Case]:
    """Operators that ONNX defines by others."""
    q, k, v = floats(2, 3, 1, 8), floats(2, 3, 5, 8), floats(2, 3, 5, 4)
    angles = floats(2, 3, 4)
    return [
        case("Attention", q, k, v),
        case("Attention", q, k, v, const(floats(1, 5)), scale=0.3),
        case("RotaryEmbedding", floats(2, 2, 3, 8), np.cos(angles), np.sin(angles)),
        case("MeanVarianceNormalization", floats(1, 2, 3, 4)),
    ]


def running() -> list[Case]:
    """Opset 26 for the products."""
    cases = []
    for op in ("CumSum", "CumProd"):
        for attributes in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
            cases += [case(op, floats(2, 5, 3), axis, **attributes) for axis in (0, 1, -1)]
            cases += [
                case(op, ints(7), 0, **attributes),
                case(op, ints(2, 3, dtype=np.int32), const([1]), **attributes),
            ]
    return [*cases, case("CumSum", floats(1, 33), 1)]


def ordered() -> list[Case]:
    cases = []
    x, same = floats(3, 4, 5), ints(3, 4, 5, low=0, high=3).astype(np.float32)
    for op in ("ArgMax", "ArgMin"):
        for axis in (0, 1, -1):
            cases += [case(op, x, axis=axis), case(op, same, axis=axis, keepdims=0)]
            cases += [case(op, same, axis=axis, select_last_index=1)]
        cases += [
            case(op, floats(1, 17), axis=1),
            case(op, ints(5, 3, dtype=np.int32)),
            case(op, floats(7), keepdims=0),
        ]
    for axis in (0, 1, -1):
        cases += [case("Hardmax", x, axis=axis), case("Hardmax", same, axis=axis)]
        for largest in (0, 1):
            cases += [case("TopK", x, [2], out=2, axis=axis, largest=largest)]
            cases += [case("TopK", same, [3], out=2, axis=axis, largest=largest)]
    cases += [
        case("Hardmax", x),
        case("TopK", floats(33), [33], out=2),
        case("TopK", ints(2, 9), [4], out=2),
        case("TopK", ints(9, dtype=np.int32), [4], out=2),
    ]
    return cases
