"""Windows over time as steps of one state, `h`, beside ONNX Runtime's closed loop."""

import numpy as np
import onnxruntime as ort

from ..runtime.graphs import Model, state, tensor  # noqa: TID252
from .c_models import model, step_of

ENDS = {"end": np.array([2**63 - 1]), "two": np.array([2]), "last": np.array([-1]), "-3": np.array([-3])}
RANDOM = np.random.default_rng(0)


def kernels(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


JOIN = ("Concat", ["h", "x"], ["all"], {"axis": 2})
MOVE = ("Slice", ["all", "[1]", "end", "two"], ["h.next"], {})
MOVE_2 = ("Slice", ["all", "two", "end", "last"], ["h.next"], {})
CONV = ("Conv", ["all", "w", "b"], ["y"], {})


def window(nodes, x, h, y, w) -> Model:
    """A step of nodes over frames, state, output and kernels of these shapes; one with an output `old` gives it."""
    outputs = [tensor("y", "batch", *y)]
    if "old" in nodes[-1][2]:
        outputs.append(tensor("old", "batch", *h))
    constants = {**ENDS, "b": kernels(y[0])} | ({} if w is None else {"w": w})
    return model(nodes, [state("h", *h)], [tensor("x", "batch", *x)], outputs, **constants)


def follows(made, steps: int) -> None:
    """A closed loop beside ONNX Runtime's."""
    session = ort.InferenceSession(made.graph(made.step, 1), providers=["CPUExecutionProvider"])
    step, random = step_of(made), np.random.default_rng(1)
    states = {s.input: np.zeros((1, *s.row), np.float32) for s in made.spec.states}
    for _ in range(steps):
        x = random.standard_normal((1, *made.spec.inputs[0].shape[1:])).astype(np.float32)
        got = step({"x": x})
        names = [*(t.name for t in made.spec.outputs), *(s.output for s in made.spec.states)]
        want = dict(zip(names, session.run(names, {"x": x, **states}), strict=True))
        states = {s.input: want[s.output] for s in made.spec.states}
        for t in made.spec.outputs:
            np.testing.assert_allclose(got[t.name], want[t.name], rtol=0, atol=1e-5, err_msg=t.name)
        for name, value in step.states().items():
            np.testing.assert_array_equal(value, states[name][0])
