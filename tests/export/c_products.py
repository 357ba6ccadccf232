"""Cases of products with matrices, convolutions and recurrent cells."""

from typing import Any

from .c_sheet import Array, Case, case, const
from .c_values import floats, within


def products() -> list[Case]:
    cases = []
    for k, n in ((1, 1), (3, 5), (17, 4), (33, 17), (5, 64), (7, 65), (40, 130)):
        cases += [case("MatMul", floats(*rows, k), const(floats(k, n))) for rows in ((), (1,), (3,), (5,), (2, 3))]
        cases += [case("Gemm", floats(r, k), const(floats(k, n)), const(floats(n))) for r in (1, 3, 4, 9)]
        cases += [case("MatMul", const(floats(n, k)), floats(k, 1)), case("MatMul", const(floats(n, k)), floats(k))]
    cases += [
        case("MatMul", floats(5), floats(5)),
        case("MatMul", floats(5), floats(5, 3)),
        case("MatMul", floats(3, 5), floats(5)),
        case("MatMul", floats(3, 5), floats(5, 7)),
        case("MatMul", floats(2, 3, 5), floats(5, 7)),
        case("MatMul", floats(2, 3, 5), floats(2, 5, 7)),
        case("MatMul", floats(2, 1, 3, 5), floats(4, 5, 1)),
        case("MatMul", floats(2, 3, 19), floats(19, 1)),
        case("MatMul", floats(2, 3, 9), floats(2, 9, 37)),
        case("MatMul", floats(1, 6), floats(6, 70)),
        case("MatMul", floats(3, 5), floats(2, 5, 7)),
        case("MatMul", floats(2, 3, 5), const(floats(2, 5, 7))),
        case("MatMul", floats(2, 3, 5), const(floats(5))),
        case("MatMul", floats(5), const(floats(2, 5, 3))),
        case("MatMul", const(floats(3, 5)), floats(5, 7)),
        case("MatMul", const(floats(5)), floats(5, 7)),
        case("MatMul", const(floats(3, 5)), floats(1, 5, 1)),
        case("MatMul", const(floats(3, 5)), floats(2, 5, 1)),
    ]
    w, wt = const(floats(5, 17)), const(floats(17, 5))
    for c in ((), (1,), (17,), (1, 17), (3, 17), (3, 1), (1, 1)):
        cases += [
            case("Gemm", floats(3, 5), w, const(floats(*c)), beta=0.5),
            case("Gemm", floats(3, 5), wt, floats(*c), transB=1, beta=-2.5, alpha=0.1),
            case("Gemm", floats(3, 5), w, floats(*c)),
        ]
    cases += [
        case("Gemm", floats(3, 5), w),
        case("Gemm", floats(3, 5), wt, transB=1, alpha=3.0),
        case("Gemm", floats(5, 1), w, const(floats(17)), transA=1),
        case("Gemm", floats(1, 4), const(floats(1, 6)), const(floats(4, 1)), transA=1),
        case("Gemm", floats(1, 4), const(floats(6, 1)), transA=1, transB=1),
        case("Gemm", floats(3, 5), w, const(floats(17)), beta=0.0),
        case("Gemm", floats(2, 5), const(floats(5, 1)), const(floats(2, 1))),
    ]
    return cases


def convolutions() -> list[Case]:
    cases = []

    def add(x: Array, w: Array, bias: bool, **attributes: Any) -> None:
        cases.append(case("Conv", x, const(w), *([const(floats(len(w)))] if bias else []), **attributes))

    add(floats(1, 3, 17), floats(5, 3, 3), False)
    add(floats(1, 1, 64), floats(6, 1, 16), True, strides=[8])
    add(floats(2, 1, 9), floats(6, 1, 9), False)
    add(floats(2, 4, 5), floats(6, 4, 5), True)
    add(floats(2, 4, 5), floats(6, 2, 5), False, group=2)
    add(floats(1, 4, 17), floats(4, 1, 3), True, group=4, pads=[2, 0])
    add(floats(2, 4, 17), floats(8, 1, 3), False, group=4, pads=[1, 1], dilations=[2])
    add(floats(1, 3, 17), floats(5, 3, 3), True, pads=[1, 3], strides=[2], dilations=[2])
    add(floats(2, 3, 1), floats(17, 3, 1), False)
    add(floats(2, 3, 7), floats(17, 3, 1), True)
    add(floats(2, 3, 7), floats(17, 3, 1), False, strides=[3])
    add(floats(1, 2, 7, 9), floats(5, 2, 3, 2), True)
    add(floats(2, 4, 7, 9), floats(6, 2, 3, 2), False, group=2, pads=[1, 0, 2, 1], strides=[2, 3])
    add(floats(1, 4, 1, 9), floats(6, 4, 1, 3), True, pads=[0, 2, 0, 0])
    add(floats(1, 3, 6, 7), floats(3, 1, 3, 3), False, group=3, dilations=[1, 2], pads=[0, 2, 0, 2])
    add(floats(1, 1, 3, 5), floats(70, 1, 3, 5), True)
    add(floats(1, 2, 3, 4, 5), floats(3, 2, 2, 2, 2), False, pads=[0, 1, 0, 1, 0, 0])
    add(floats(1, 1, 17), floats(6, 1, 5), True, dilations=[3])
    add(floats(1, 2, 5), floats(6, 2, 3), True, auto_pad="VALID", kernel_shape=[3])
    add(floats(1, 1, 5), floats(6, 1, 3), True, auto_pad="VALID")
    add(floats(1, 2, 7), floats(6, 2, 4), True, auto_pad="SAME_UPPER", strides=[2])
    add(floats(1, 2, 7, 5), floats(6, 2, 4, 2), True, auto_pad="SAME_LOWER")
    # Many places, of as many outputs as blocks have, one more, and one.
    add(floats(1, 3, 40), floats(7, 3, 4), True)
    add(floats(2, 2, 90), floats(1, 2, 5), False, pads=[4, 1], dilations=[2])
    add(floats(2, 2, 83), floats(4, 2, 5), True, pads=[1, 2], strides=[3])
    add(floats(2, 3, 9, 6), floats(6, 3, 3, 3), True, pads=[1, 1, 1, 1])
    add(floats(1, 4, 12, 11), floats(6, 2, 3, 2), False, group=2, pads=[2, 0, 0, 1], strides=[2, 1], dilations=[1, 2])
    add(floats(2, 5, 8, 9), floats(10, 1, 3, 5), True, group=5, pads=[1, 2, 1, 2], strides=[1, 2])
    add(floats(1, 6, 5, 5), floats(5, 6, 1, 1), True)
    add(floats(1, 2, 6, 5, 7), floats(3, 2, 3, 2, 3), True, pads=[1, 0, 1, 1, 1, 1], strides=[2, 1, 1])
    return cases


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def cell(
    kind: str,
    units: int = 5,
    frames: int = 1,
    rows: int = 1,
    values: int = 3,
    bias: bool = True,
    start: str = "fed",
    out: Any = None,
    **attributes: Any,
) -> Case:
    """`start`: the first states are fed, constant, or left out."""
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    height = GATES[kind] * units
    inputs: list[Any] = [floats(frames, rows, values), *(const(within(ways, height, k)) for k in (values, units))]
    inputs.append(const(within(ways, 2 * height)) if bias else None)
    states = [within(ways, rows, units) for _ in range(2 if kind == "LSTM" else 1)]
    if start != "none":
        inputs += [None, *(states if start == "fed" else map(const, states))]
    names = out or ["Y", "Y_h", *(["Y_c"] if kind == "LSTM" else [])]
    return case(kind, *inputs, out=names, hidden_size=units, **attributes)


def cells() -> list[Case]:
    cases = []
    for kind in GATES:
        forms: list[dict[str, Any]] = [{}] if kind != "GRU" else [{}, {"linear_before_reset": 1}]
        for form in forms:
            for direction in ("forward", "reverse", "bidirectional"):
                own: dict[str, Any] = {**form, "direction": direction}
                cases += [
                    cell(kind, **own),
                    cell(kind, units=17, frames=3, **own),
                    cell(kind, units=16, frames=2, rows=3, bias=False, **own),
                    cell(kind, units=7, frames=3, rows=2, start="none", **own),
                    cell(kind, units=1, values=1, start="constant", **own),
                    cell(kind, frames=3, out=["", "Y_h"], **own),
                    cell(kind, frames=3, out=["Y"], **own),
                ]
            cases += [cell(kind, units=33, values=40, **form)]
    cases += [
        cell("LSTM", frames=3, out=["Y", "", "Y_c"]),
        cell("LSTM", frames=3, out=["", "", "Y_c"], direction="bidirectional"),
        cell("LSTM", frames=2, out=["", "Y_h"], direction="reverse"),
        cell("RNN", frames=3, activations=["Relu"]),
        cell("RNN", frames=3, activations=["Relu", "Relu"], direction="bidirectional"),
    ]
    for start in ("fed", "constant"):
        cases += [
            cell("RNN", frames=3, rows=2, activations=["Tanh", "Relu"], direction="bidirectional", start=start),
            cell("RNN", frames=2, activations=["Sigmoid"], start=start),
            cell("LSTM", frames=2, rows=2, activations=["Sigmoid", "Relu", "Tanh"], start=start),
            cell("LSTM", frames=2, out=["Y", "", "Y_c"], activations=["HardSigmoid", "Softsign", "Tanh"], start=start),
            cell("GRU", frames=2, activations=["Sigmoid", "Relu"], start=start),
            cell("GRU", frames=2, activations=["Sigmoid", "Relu"], linear_before_reset=1, start=start),
            cell("GRU", frames=2, activations=["HardSigmoid", "Tanh"], direction="reverse", start=start),
        ]
    return cases
