"""Random graphs: lifetimes of values, views of them and states that move, in memory that is reused."""

import numpy as np
import onnxruntime as ort
import pytest

from ..runtime.graphs import state, tensor  # noqa: TID252
from .c_models import Model, model, step_of

STEPS = 4


class Drawn:
    """A graph of so many nodes over matrices of few shapes, every value by its name and shape."""

    def __init__(self, seed: int, size: int) -> None:
        self.random = np.random.default_rng(seed)
        self.shapes = {"x": (1, 12), "h": (1, 12), "g": (1, 12)}
        self.nodes: list[tuple] = []
        self.constants: dict[str, np.ndarray] = {}
        for _ in range(size):
            self.random.choice(KINDS)(self)

    def any(self) -> str:
        """The newest values more often."""
        names = list(self.shapes)
        return names[-1 - min(int(self.random.exponential(6)), len(names) - 1)]

    def constant(self, value, dtype=None) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def node(self, op, inputs, shapes, **attributes) -> None:
        names = [f"v{len(self.shapes) + i}" for i in range(len(shapes))]
        self.nodes.append((op, inputs, names, attributes))
        self.shapes |= dict(zip(names, shapes, strict=True))

    # --- kinds of nodes

    def alone(self) -> None:
        name = self.any()
        self.node(str(self.random.choice(["Tanh", "Sigmoid", "Neg", "Abs", "Identity"])), [name], [self.shapes[name]])

    def pair(self) -> None:
        a = self.any()
        alike = [n for n, shape in self.shapes.items() if shape in (self.shapes[a], (1, 1))]
        b = str(self.random.choice(alike))
        self.node(str(self.random.choice(["Add", "Sub", "Mul", "Max", "Min"])), [a, b], [self.shapes[a]])

    def turned(self) -> None:
        name = self.any()
        self.node("Transpose", [name], [self.shapes[name][::-1]], perm=[1, 0])

    def reshaped(self) -> None:
        name = self.any()
        size = int(np.prod(self.shapes[name]))
        rows = int(self.random.choice([n for n in (1, 2, 3, 4, 12) if size % n == 0]))
        self.node("Reshape", [name, self.constant([rows, size // rows])], [(rows, size // rows)])

    def cut(self) -> None:
        name, axis = self.any(), int(self.random.integers(2))
        rows = list(self.shapes[name])
        if rows[axis] > 1:
            first = int(self.random.integers(rows[axis] - 1))
            rest = rows[axis] - first
            rows[axis] = rest
            given = [self.constant([v]) for v in (first, 9999, axis)]
            self.node("Slice", [name, *given], [tuple(rows)])

    def parted(self) -> None:
        name = self.any()
        rows, columns = self.shapes[name]
        if columns > 1:
            at = int(self.random.integers(1, columns))
            self.node("Split", [name, self.constant([at, columns - at])], [(rows, at), (rows, columns - at)], axis=1)

    def joined(self) -> None:
        a = self.any()
        rows, columns = self.shapes[a]
        alike = [n for n, shape in self.shapes.items() if shape[0] == rows and shape[1] + columns <= 48]
        if alike:
            b = str(self.random.choice(alike))
            self.node("Concat", [a, b], [(rows, columns + self.shapes[b][1])], axis=1)

    def product(self) -> None:
        name, n = self.any(), int(self.random.choice([3, 5, 12, 17]))
        rows, k = self.shapes[name]
        w = self.constant(self.random.uniform(-1, 1, (k, n)) / k, np.float32)
        self.node("MatMul", [name, w], [(rows, n)])
        if self.random.random() < 0.6:
            other = self.constant(self.random.uniform(-1, 1, n), np.float32)
            same = [m for m, shape in self.shapes.items() if shape == (rows, n)]
            other = other if self.random.random() < 0.5 else str(self.random.choice(same))
            self.node("Add", [list(self.shapes)[-1], other], [(rows, n)])

    def row(self) -> None:
        name = self.any()
        if self.random.random() < 0.5:
            self.node("Softmax", [name], [self.shapes[name]], axis=int(self.random.integers(2)))
        else:
            self.node("ReduceMean", [name], [(1, 1)])

    def model(self) -> Model:
        """Outputs and next states are whatever has their shape, the inputs and the states themselves among it."""
        twelve = [name for name, shape in self.shapes.items() if shape == (1, 12)]
        ends = {}
        for name in ("y", "z", "h.next", "g.next"):
            ends[name] = str(self.random.choice(twelve if self.random.random() < 0.5 else twelve[-4:]))
        nodes = [*self.nodes, *(("Identity", [source], [name], {}) for name, source in ends.items())]
        outputs = [tensor(name, "batch", 12) for name in ("y", "z")]
        return model(nodes, [state("h", 12), state("g", 12)], [tensor("x", "batch", 12)], outputs, **self.constants)


KINDS = [
    *(Drawn.alone, Drawn.pair, Drawn.pair, Drawn.turned, Drawn.reshaped, Drawn.reshaped, Drawn.cut, Drawn.parted),
    *(Drawn.joined, Drawn.joined, Drawn.product, Drawn.row),
]


@pytest.mark.parametrize("seed", range(12))
def test_a_random_graph(seed):
    made = Drawn(seed, 10 + 7 * seed).model()
    session = ort.InferenceSession(made.graph(made.step, 1), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    step, states = step_of(made), {name: np.zeros((1, 12), np.float32) for name in ("h", "g")}
    random = np.random.default_rng(seed)
    for _ in range(STEPS):
        x = random.standard_normal((1, 12)).astype(np.float32)
        want = dict(zip(names, session.run(names, {"x": x, **states}), strict=True))
        got = step({"x": x})
        states = {name: want[f"{name}.next"] for name in states}
        found = {**got, **{f"{name}.next": value[None] for name, value in step.states().items()}}
        for name, value in want.items():
            np.testing.assert_allclose(
                found[name], value, rtol=0, atol=2e-6 * max(1, np.abs(value).max()), err_msg=name
            )
