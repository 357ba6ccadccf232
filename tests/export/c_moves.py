"""Cases of operators that move values."""

from typing import Any

import numpy as np

from .c_sheet import Case, case, const
from .c_values import INT64, floats, ints, random, truth


def shapes() -> list[Case]:
    x = floats(2, 3, 4)
    cases = [case("Reshape", x, shape) for shape in ([4, 6], [-1], [0, -1], [2, 1, 3, 4], [24, 1])]
    cases += [
        case("Squeeze", floats(1, 3, 1, 2)),
        case("Squeeze", floats(1, 3, 1, 2), [-2]),
        case("Squeeze", floats(1, 1, 1), [0, 1, 2]),
        case("Unsqueeze", floats(3), [0, -1]),
        case("Unsqueeze", floats(), [0, 1]),
        case("Unsqueeze", truth(2, 3), [1]),
        case("Flatten", x),
        case("Flatten", x, axis=0),
        case("Flatten", x, axis=-1),
        case("Flatten", x, axis=3),
        case("Flatten", floats(5)),
    ]
    for shape in ((), (5,), (3, 5), (1, 5), (2, 3, 4), (2, 1, 4), (2, 3, 4, 5), (1, 3, 1, 5)):
        cases += [case("Transpose", floats(*shape))]
        if not shape:
            continue
        for _ in range(4 if len(shape) > 2 else 1):
            cases += [case("Transpose", floats(*shape), perm=random.permutation(len(shape)).tolist())]
    cases += [case("Transpose", ints(3, 5)), case("Transpose", truth(2, 3, 5), perm=[0, 2, 1])]
    return cases


def joined() -> list[Case]:
    x = floats(4, 5, 3)
    cases = [
        case("Concat", floats(2, 3), floats(1, 3), axis=0),
        case("Concat", floats(2, 3), const(floats(2, 1)), floats(2, 17), axis=1),
        case("Concat", floats(2, 3, 1), floats(2, 1, 1), axis=-2),
        case("Concat", floats(5), floats(1), axis=0),
        case("Concat", floats(2, 3), axis=1),
        case("Concat", ints(2, 3), ints(2, 2), axis=-1),
        case("Concat", truth(2, 1, 3), truth(2, 1, 3), axis=1),
        case("Split", floats(7), [1, 5, 1], out=3, axis=0),
        case("Split", floats(3, 6), out=2, axis=-1, num_outputs=2),
        case("Split", floats(3, 7), out=3, axis=1, num_outputs=3),
        case("Split", floats(6, 3), [2, 4], out=2),
        case("Split", floats(2, 5, 3), [1, 3, 1], out=3, axis=1),
        case("Split", floats(1, 5), [2, 3], out=2, axis=1),
        case("Split", ints(4, 2), [3, 1], out=2, axis=0),
        case("Expand", floats(3, 1), [2, 3, 5]),
        case("Expand", floats(3, 5), [1]),
        case("Expand", floats(), [2, 17]),
        case("Expand", floats(2, 1, 3, 1), [1, 4, 1, 5]),
        case("Expand", ints(1, 3), [2, 3]),
        case("Expand", truth(3, 1), [3, 4]),
        case("Tile", floats(3), [2]),
        case("Tile", floats(2, 3), [3, 2]),
        case("Tile", floats(2, 1, 3), [1, 4, 1]),
        case("Tile", ints(2, 3), [1, 2]),
        case("Tile", floats(2, 3, 2), [2, 2, 2]),
    ]
    cuts: list[tuple[Any, ...]] = [
        ([1], [3]),
        ([1], [3], [1]),
        ([-2], [INT64.max], [0]),
        ([0, 1], [4, 2], [0, 2]),
        ([-1], [INT64.min], [0], [-1]),
        ([-1], [-100], [1], [-2]),
        ([3], [0], [0], [-1]),
        ([3], [-4], [0], [-1]),
        ([100], [0], [1], [-1]),
        ([0], [5], [1], [2]),
        ([1, 0], [INT64.max, INT64.max], [-2, -1], [3, 2]),
        ([-1, -1, -1], [INT64.min] * 3, [0, 1, 2], [-1, -1, -1]),
        ([-100], [2], [0]),
        ([2], [3], [0]),
        ([1], [2], [1]),
    ]
    cases += [case("Slice", x, *cut) for cut in cuts]
    cases += [case("Slice", ints(7), [5], [INT64.min], [0], [-2]), case("Slice", truth(3, 4), [1], [3], [1])]
    return cases


def gathered() -> list[Case]:
    table, x = const(floats(7, 5)), floats(3, 4, 5)
    return [
        case("Gather", table, np.array([3])),
        case("Gather", table, np.array(-1)),
        case("Gather", table, np.array([[0, 6], [-7, -1]]), axis=0),
        case("Gather", table, np.array([4, -5, 0]), axis=1),
        case("Gather", table, np.array([1, 2], np.int32), axis=-1),
        case("Gather", x, const([2, 0]), axis=1),
        case("Gather", x, const(1), axis=1),
        case("Gather", x, const(-1), axis=0),
        case("Gather", x, const([-1]), axis=2),
        case("Gather", x, const([[1, -1], [0, 0]]), axis=-1),
        case("Gather", x, const(2), axis=-1),
        case("Gather", floats(5), const(-2)),
        case("Gather", ints(5), np.array([1, 4])),
        case("Gather", ints(5, 2, dtype=np.int32), np.array([1, 4])),
        case("Gather", truth(5), const([3])),
        case("Gather", truth(5, 3), np.array([3, 0])),
    ]


def padded() -> list[Case]:
    cases = []
    for mode in ("constant", "reflect", "edge"):
        cases += [
            case("Pad", floats(5), [2, 3], mode=mode),
            case("Pad", floats(3, 4), [0, 2, 1, 3], mode=mode),
            case("Pad", floats(2, 3, 17), [0, 0, 4, 0, 0, 0], mode=mode),
            case("Pad", floats(2, 3, 1, 4), [0, 1, 0, 3, 0, 2, 0, 0], mode=mode),
            case("Pad", floats(2, 3, 5), [1, 2], None, [-1], mode=mode),
            case("Pad", floats(2, 3, 5), [2, 1, 1, 0], None, [2, 0], mode=mode),
            case("Pad", floats(3, 4), [0, 0, 0, 0], mode=mode),
        ]
    cases += [
        case("Pad", floats(3, 4), [1, 0, 0, 1], 0.1),
        case("Pad", floats(3), [1, 1], const(-np.inf, np.float32)),
        case("Pad", floats(3), [1, 1], const(np.inf, np.float32)),
        case("Pad", floats(3), [1, 1], const(np.nan, np.float32)),
        case("Pad", ints(3), [1, 1], const(-7)),
        case("Pad", ints(3, dtype=np.int32), [1, 1]),
        case("Pad", truth(3), [1, 2], const(True)),
        case("Pad", truth(3), [1, 2]),
        case("Pad", floats(1, 4), [3, 0, 2, 0], mode="edge"),
        case("Pad", floats(3, 5), [0, -1, 1, -2]),
        case("Pad", floats(3, 5), [-1, 2, 0, -3], 0.5),
        case("Pad", floats(3, 5), [1, 0, 0, 2], floats()),
    ]
    return cases


def wrapped() -> list[Case]:
    """Opset 19."""
    return [
        case("Pad", floats(5), [2, 3], mode="wrap"),
        case("Pad", floats(2, 3, 4), [0, 1, 3, 0, 2, 4], mode="wrap"),
        case("Pad", floats(2, 3, 4), [1, 2], None, [-1], mode="wrap"),
    ]
