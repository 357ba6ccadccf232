"""Small steps written by hand, for the C writer."""

import numpy as np
import onnx

from rnn_export.export.targets.c.writer import sources

from ..runtime.graphs import Model, spec, tensor  # noqa: TID252
from .c_sheet import Step, compiled

X, Y = tensor("x", "batch", 3), tensor("y", "batch", 3)
ONE = {"one": np.float32(1)}


def model(nodes, states=(), inputs=(X,), outputs=(Y,), initial=None, chunk=1, **constants) -> Model:
    made = spec("hand-made", inputs, outputs, states, chunk=chunk)
    return Model(made, nodes, initial=initial or {}, constants={**ONE, **constants})


def written(made: Model, precision="fp32", name="hand") -> dict[str, bytes]:
    initial = {s.name: made.initial.get(s.name, np.zeros(s.row, s.dtype)) for s in made.spec.states}
    graph = onnx.load_from_string(made.graph(made.step, made.spec.chunk))
    graph.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    graph = onnx.shape_inference.infer_shapes(graph)
    return sources(graph.SerializeToString(), made.spec, initial, name, precision)


def step_of(made: Model) -> Step:
    return compiled(written(made), "hand", made.spec)
