"""Cases of operators over several values at once."""

import numpy as np

from .c_sheet import Case, case, const
from .c_values import SPECIAL, floats, ints, positive, truth

REDUCED = ("Sum", "Mean", "SumSquare", "L1", "L2", "Max", "Min", "Prod")


def reductions() -> list[Case]:
    cases = []
    for name in REDUCED:
        for axes in ([0], [-1], [1, 3], [0, 1, 2, 3], [-2, 0], [3, 1]):
            cases.append(case(f"Reduce{name}", floats(2, 3, 5, 4), axes, keepdims=len(axes) % 2))
        cases += [
            case(f"Reduce{name}", floats(2, 17)),
            case(f"Reduce{name}", floats(33), [0], keepdims=0),
            case(f"Reduce{name}", floats(1, 5), [0]),
            case(f"Reduce{name}", floats(2, 3), const([], np.int64)),
            case(f"Reduce{name}", floats()),
        ]
    cases += [case("ReduceLogSum", positive(3, 17), axes) for axes in ([1], [0], [-1, 0])]
    cases += [case("ReduceLogSumExp", floats(3, 4, 5, scale=9) + 70, axes) for axes in ([1], [0], [-1, 0], [0, 1, 2])]
    cases += [case("ReduceLogSumExp", np.array([[-np.inf, -np.inf], [np.inf, 0], [0, -np.inf]], np.float32), [1])]
    for name in ("Sum", "Mean", "SumSquare", "L1", "Max", "Min", "Prod"):
        cases += [case(f"Reduce{name}", ints(2, 3, 4, low=-3, high=4, dtype=np.int32), axes) for axes in ([1], [0, 2])]
        if name in ("Sum", "Max", "Min", "Prod"):
            cases += [case(f"Reduce{name}", ints(2, 3, 4, low=-3, high=4), [-1], keepdims=0)]
    for name in ("Sum", "Mean", "Max", "Min", "Prod"):
        cases += [case(f"Reduce{name}", floats(2, 3), const([], np.int64), noop_with_empty_axes=1)]
        cases += [case(f"Reduce{name}", floats(2, 3), noop_with_empty_axes=1)]
    cases += [case("ReduceMax", SPECIAL[:-1].copy()), case("ReduceMin", SPECIAL[:-1].copy())]
    return cases


def reductions_of_old() -> list[Case]:
    """With axes as an attribute, up to opset 17."""
    cases = [case(f"Reduce{n}", floats(2, 3, 5), axes=[-1, 0], keepdims=k) for n in REDUCED[1:] for k in (0, 1)]
    return [*cases, case("ReduceMean", floats(2, 3, 5)), case("ReduceSum", floats(2, 3, 5), [1], keepdims=0)]


def reductions_of_truths() -> list[Case]:
    """Opset 20."""
    return [case(f"Reduce{name}", truth(3, 4, 2), axes) for name in ("Max", "Min") for axes in ([1], [0, -1])]


def norms() -> list[Case]:
    cases = []
    for op in ("Softmax", "LogSoftmax"):
        for shape in ((5,), (1,), (3, 17), (2, 3, 4), (2, 3, 4, 5), (1, 1)):
            cases += [case(op, floats(*shape, scale=4), axis=axis) for axis in range(-1, len(shape))]
        cases += [case(op, floats(3, 33)), case(op, floats(1, 5, scale=200)), case(op, floats(5) + 80)]
    for shape, axis in (((17,), -1), ((3, 33), -1), ((3, 33), 0), ((2, 3, 5), 1), ((2, 3, 5), -2), ((2, 3, 4, 5), -3)):
        own = shape[axis:]
        cases += [
            case("LayerNormalization", floats(*shape), const(floats(*own)), const(floats(*own)), axis=axis),
            case("LayerNormalization", floats(*shape) + 3, const(floats(*own)), axis=axis, epsilon=1e-3),
        ]
    cases += [
        case("LayerNormalization", floats(2, 3, 5), const(floats(5)), const(floats(3, 5)), axis=-2),
        case("LayerNormalization", floats(4, 1), const(floats(1)), const(floats(1))),
        case("LayerNormalization", floats(2, 5), const(floats(5)), None),
        case("LayerNormalization", floats(2, 5), const(floats(1)), const(floats())),
    ]
    for shape in ((2, 3), (1, 3, 17), (2, 3, 4, 5), (1, 1, 5)):
        four = [const(floats(shape[1])), const(floats(shape[1])), const(floats(shape[1])), const(positive(shape[1]))]
        cases += [case("BatchNormalization", floats(*shape), *four)]
        cases += [case("BatchNormalization", floats(*shape), *four, epsilon=0.1, momentum=0.5)]
    return cases


def pools() -> list[Case]:
    cases = []
    for op in ("MaxPool", "AveragePool"):
        cases += [
            case(op, floats(1, 3, 17), kernel_shape=[3]),
            case(op, floats(2, 3, 17), kernel_shape=[4], strides=[3]),
            case(op, floats(1, 3, 17), kernel_shape=[3], pads=[2, 1], strides=[2]),
            case(op, floats(1, 2, 7, 9), kernel_shape=[2, 3]),
            case(op, floats(2, 2, 7, 9), kernel_shape=[3, 3], pads=[1, 0, 2, 1], strides=[2, 3]),
            case(op, floats(1, 1, 5), kernel_shape=[5]),
            case(op, floats(1, 2, 5), kernel_shape=[2], auto_pad="VALID"),
            case(op, floats(1, 1, 4, 5, 6), kernel_shape=[2, 2, 3], pads=[1, 0, 0, 0, 1, 1]),
        ]
    cases += [
        case("MaxPool", floats(1, 3, 17), kernel_shape=[3], dilations=[2], pads=[1, 2]),
        case("MaxPool", floats(1, 3, 8, 8), kernel_shape=[3, 2], dilations=[2, 3]),
        case("AveragePool", floats(1, 3, 17), kernel_shape=[3], pads=[1, 2], count_include_pad=1),
        case("AveragePool", floats(1, 3, 5, 5), kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1),
    ]
    return cases
