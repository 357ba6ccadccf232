"""Cases of elementwise operators."""

import numpy as np

from .c_sheet import Case, case, const
from .c_values import INT64, SPECIAL, floats, ints, positive, truth, within

# Pairs of shapes, which ONNX stretches to each other.
STRETCHED = [
    ((), ()),
    ((1,), (5,)),
    ((17,), ()),
    ((), (33,)),
    ((3, 5), (5,)),
    ((3, 5), (3, 1)),
    ((3, 1), (1, 5)),
    ((1, 3, 1, 5), (4, 1, 2, 1)),
    ((2, 3, 4), (3, 1)),
    ((2, 3, 4), (2, 1, 4)),
    ((2, 3, 1, 17), (17,)),
    ((2, 1, 3, 17), (2, 5, 3, 17)),
    ((1, 1, 33), (33,)),
    ((2, 3, 4, 5), (1, 1, 1, 1)),
]


WORDS = (
    "Relu Sigmoid Tanh Exp Abs Neg Reciprocal Erf Floor Ceil Softplus Softsign Mish HardSwish HardSigmoid Selu Elu "
    "Celu LeakyRelu ThresholdedRelu Sin Cos Tan Sinh Cosh Atan Round Sign"
)
ALIKE = WORDS.split()


def unary() -> list[Case]:
    cases = [case(op, floats(*shape)) for op in ALIKE for shape in ((), (5,), (2, 3, 17))]
    cases += [case(op, SPECIAL.copy()) for op in ALIKE if op not in ("Sin", "Cos", "Tan", "Sign")]
    cases += [case(op, positive(33)) for op in ("Log", "Sqrt")]
    cases += [case(op, np.array([0, 1, np.inf, np.nan, -1, 1e-30, 1e30], np.float32)) for op in ("Log", "Sqrt")]
    cases += [case(op, within(33)) for op in ("Asin", "Acos")]
    cases += [
        case("HardSigmoid", floats(17), alpha=0.3, beta=-0.1),
        case("Selu", floats(17), alpha=1.5, gamma=-0.5),
        case("Elu", floats(17), alpha=-0.7),
        case("Celu", floats(17), alpha=2.5),
        case("LeakyRelu", floats(17), alpha=-1e-5),
        case("ThresholdedRelu", floats(17), alpha=-0.3),
        case("Neg", ints(7)),
        case("Neg", ints(2, 3, dtype=np.int32)),
        case("Abs", ints(7)),
        case("Abs", ints(7, dtype=np.int32)),
        case("Sign", ints(9)),
        case("Sign", ints(9, dtype=np.int32)),
        case("Not", truth(3, 5)),
        case("Not", truth()),
        case("Identity", floats(2, 3)),
        case("Identity", truth(5)),
        case("Dropout", floats(2, 3)),
        case("Dropout", floats(2, 3), 0.5, const(False)),
    ]
    return cases


def gelu() -> list[Case]:
    """Opset 20."""
    return [
        case("Gelu", floats(3, 33, scale=3)),
        case("Gelu", floats(3, 33, scale=3), approximate="tanh"),
        case("Gelu", floats(17), approximate="none"),
    ]


def binary() -> list[Case]:
    cases = []
    for a, b in STRETCHED:
        for x, y in ((a, b), (b, a)):
            cases += [case("Add", floats(*x), floats(*y)), case("Sub", floats(*x), const(floats(*y)))]
            cases += [case("Mul", const(floats(*x)), floats(*y)), case("Less", floats(*x), floats(*y))]
            cases += [case("Sub", ints(*x), ints(*y)), case("Where", truth(*x), floats(*y), const(floats(*a)))]
            cases += [case("And", truth(*x), truth(*y))]
        cases.append(case("PRelu", floats(*b), const(floats(*b[-1:]))))
    for op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        kinds = (np.float32, np.int64, np.int32)
        for kind in kinds:
            y = (floats(3, 17) if kind == np.float32 else ints(3, 17, low=1)).astype(kind)
            cases.append(case(op, ints(3, 17).astype(kind), y))
            cases.append(case(op, (ints(2, 1, 5) * 3).astype(kind), const(y[:1, :5])))
    for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        for kind in (np.float32, np.int64, np.int32):
            cases.append(case(op, ints(3, 17, low=-2, high=3).astype(kind), ints(17, low=-2, high=3).astype(kind)))
        cases.append(case(op, SPECIAL.copy(), SPECIAL[::-1].copy()))
    cases += [case("Equal", truth(5), truth(5))]
    cases += [case(op, truth(2, 1, 5), truth(3, 1)) for op in ("And", "Or", "Xor")]
    cases += [
        case("Max", floats(3, 1), floats(1, 5), floats(5), const(floats(2, 1, 1))),
        case("Min", floats(3, 1), floats(1, 5), floats(5)),
        case("Max", floats(5)),
        case("Min", ints(5)),
        case("Max", ints(5), ints(3, 1), ints()),
        case("Max", SPECIAL.copy(), SPECIAL[::-1].copy()),
        case("Min", SPECIAL.copy(), SPECIAL[::-1].copy()),
        case("Mul", SPECIAL.copy(), floats(16)),
        case("PRelu", floats(2, 3, 5), floats(3, 1)),
        case("Where", truth(), ints(3), ints(3)),
        case("Where", truth(2, 1, 5), ints(3, 1, dtype=np.int32), ints(dtype=np.int32)),
        case("Where", const(np.array([True, False, True])), floats(4, 3), 0.0),
        case("Where", truth(4, 3), const(np.float32(-np.inf)), floats(4, 3)),
    ]
    return cases


def limits() -> list[Case]:
    cases = []
    for kind in (np.float32, np.int64, np.int32):
        x = ints(2, 17).astype(kind)
        low, high = const(-2, kind), const(3, kind)
        cases += [case("Clip", x, low, high), case("Clip", x, low), case("Clip", x, None, high), case("Clip", x)]
        cases += [case("Clip", x, high, low)]
    cases += [
        case("Clip", SPECIAL.copy(), -2.0, 2.0),
        case("Clip", floats(5), const(-np.inf, np.float32), 0.5),
        case("Clip", ints(5), const(INT64.min), const(INT64.max)),
    ]
    return cases


def powers() -> list[Case]:
    cases = [case("Pow", positive(3, 17), float(e)) for e in (2, 3, 0.5, 1, -1, -0.5, 0, 1.7, -2, 4)]
    cases += [case("Pow", floats(3, 17), const(e)) for e in (2, 3, 1, -1)]
    cases += [
        case("Pow", floats(17), const([[2.0]], np.float32)),
        case("Pow", floats(1), const([2.0, 2, 2], np.float32)),
        case("Pow", positive(3), const([0.5, 2, 3], np.float32)),
        case("Pow", positive(3, 1), floats(5)),
        case("Pow", const(2.0, np.float32), floats(5)),
    ]
    return cases


def casts() -> list[Case]:
    kinds = {"float32": 1, "int64": 7, "int32": 6, "bool": 9}
    given = {"float32": floats(2, 9, scale=9), "int64": ints(2, 9), "int32": ints(9, dtype=np.int32), "bool": truth(9)}
    cases = [case("Cast", x, to=to) for x in given.values() for to in kinds.values()]
    cases += [case("Cast", np.array([0, -0.0, 0.3, np.nan, np.inf, 1e-40], np.float32), to=9)]
    cases += [case("Cast", np.array([2**24 + 1, -(2**40), 2**31 - 1]), to=1)]
    return cases


def remainders() -> list[Case]:
    """And what else whole numbers and truths have of their own."""
    cases = []
    for kind in (np.int64, np.int32):
        x, y = ints(2, 17, dtype=kind), ints(2, 17, low=1, high=5, dtype=kind) * ints(17, dtype=kind).clip(-1, 1)
        y[y == 0] = 3
        cases += [case("Mod", x, y), case("Mod", x, y, fmod=1), case("Div", x, y)]
        cases += [case(f"Bitwise{op}", x, y) for op in ("And", "Or", "Xor")]
        cases += [case("BitwiseNot", x), case("Pow", x, const(2, kind)), case("Pow", x, const([3], kind))]
        cases += [case("Pow", x, const(0, kind)), case("Clip", x, ints(dtype=kind), const(5, kind))]
    cases += [
        case("Mod", floats(3, 17, scale=5), positive(17), fmod=1),
        case("Mod", floats(3, 17, scale=5), const(-1.5, np.float32), fmod=1),
        case("IsNaN", SPECIAL.copy()),
        case("IsInf", SPECIAL.copy()),
        case("IsInf", SPECIAL.copy(), detect_negative=0),
        case("IsInf", SPECIAL.copy(), detect_positive=0),
        case("Sum", floats(3, 1), floats(5), floats(2, 1, 1)),
        case("Sum", floats(3, 17), floats(3, 17)),
        case("Sum", floats(5)),
        case("Mean", floats(3, 1), floats(5), floats(2, 1, 1)),
        case("Mean", floats(3, 17), const(floats(17))),
        case("Mean", floats(5)),
        case("Clip", floats(3, 17), floats(), 0.5),
        case("Clip", floats(17), floats() - 1, positive()),
        case("Clip", floats(17), None, floats()),
        case("Pow", positive(3), ints(3)),
        case("Pow", positive(3), const(5)),
        case("Shrink", floats(17)),
        case("Shrink", floats(17, scale=3), bias=0.3, lambd=1.2),
        case("Asinh", floats(17)),
        case("Acosh", positive(17) + 1),
        case("Atanh", within(17)),
        case("CastLike", floats(3, 5, scale=9), const(ints(1))),
        case("CastLike", ints(3, 5), const(floats(1))),
    ]
    return cases
