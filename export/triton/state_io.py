"""The step of a stream as a graph whose sessions can move: it tells the states after a step and begins from given ones.

Triton keeps the states of its onnxruntime and tensorrt backends itself and shows them to nobody. So each state is an
input too, NAME.seed, which counts where `rnn_seed` is above 0.5, and an output, NAME.snap: one of its own, since Triton
fails on batches where an output is the state itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rnn_export.arrays import Array
from rnn_export.errors import ExportError
from rnn_export.export.triton.wire import SEED, TENSORS, TYPES, Wire, dims, seed, snap, state_dims
from rnn_export.layout import canonical, graph_layout
from rnn_export.spec import BATCH, StreamSpec, TensorSpec

INSIDE = "step/"
# What Where has in ONNX Runtime and in TensorRT, and Triton keeps between steps.
KEPT = (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64)


def movable(step: bytes, spec: StreamSpec) -> bytes:
    """`step` with the inputs and outputs of the wire "tensors", and beside them the states as `spec` names them.

    Every tensor is (batch, ...) and of the dtype that it has on the wire; the states are of the dtype that they have in
    the graph. Raises ExportError where the graph is not one of `spec`, or has states that Triton cannot keep.
    """
    model = onnx.load_from_string(step)
    _check_names(model.graph, spec)
    kinds = state_kinds(step, spec)
    inner = onnx.compose.add_prefix(model, INSIDE).graph
    outer = _Outer()
    chosen = outer.add("Greater", [SEED, outer.constant(f"{SEED}.half", np.float32(0.5))], f"{SEED}.chosen")
    for tensor in spec.inputs:
        outer.face(tensor.name, INSIDE + tensor.name, tensor, tensor.frame, graph_layout)
    for state in spec.states:
        own, shape = seed(state), state_dims(state)
        picked = outer.reshape(chosen, f"{own}.chosen", [1] * len(shape))
        typed = outer.add("Cast", [own], f"{own}.typed", to=_kind(kinds[state.name]))
        begun = outer.add("Where", [picked, typed, state.input], f"{own}.begun")
        outer.reshape(begun, INSIDE + state.input, state.row)
    outer.nodes += inner.node
    for tensor in spec.outputs:
        outer.face(INSIDE + tensor.name, tensor.name, tensor, dims(tensor, spec.chunk), canonical)
    for state in spec.states:
        outer.reshape(INSIDE + state.output, state.output, state_dims(state))
        row = outer.reshape(INSIDE + state.output, f"{snap(state)}.row", state_dims(state))
        outer.add("Cast", [row], snap(state), to=_kind(state.dtype))
    wire = Wire.of(spec, TENSORS)
    kept = [(s, _kind(kinds[s.name]), state_dims(s)) for s in spec.states]
    graph = helper.make_graph(
        outer.nodes,
        "movable step",
        [
            *(_info(p.name, _kind(p.dtype), p.dims) for p in wire.inputs),
            *(_info(state.input, kind, row) for state, kind, row in kept),
        ],
        [
            *(_info(p.name, _kind(p.dtype), p.dims) for p in wire.outputs),
            *(_info(state.output, kind, row) for state, kind, row in kept),
        ],
        [*outer.constants, *inner.initializer],
        value_info=inner.value_info,
    )
    model.graph.CopyFrom(graph)
    # Its inference of shapes holds what the outer graph says to what the inner one gives.
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def state_kinds(graph: bytes, spec: StreamSpec) -> dict[str, str]:
    """The dtype, numpy's, that each state has in a step graph, by its name.

    Raises ExportError where Triton cannot keep one.
    """
    kinds = {value.name: value.type.tensor_type.elem_type for value in onnx.load_from_string(graph).graph.input}
    for state in spec.states:
        if kinds[state.input] not in KEPT:
            name = TensorProto.DataType.Name(kinds[state.input]).lower()
            raise ExportError(
                f"state {state.name!r} is {name} in the graph, which Triton's onnxruntime and tensorrt backends cannot "
                "begin from a given value. Serve the model with --backend python."
            )
    return {s.name: str(helper.tensor_dtype_to_np_dtype(kinds[s.input])) for s in spec.states}


def check_config(config: Mapping[str, Any], graph: bytes) -> None:
    """Raise ExportError where a config has other tensors than the graph: Triton finds that in a request only."""
    states = config["sequence_batching"]["state"]
    said = (
        {f["name"]: (f["data_type"], f["dims"]) for f in config["input"]}
        | {s["input_name"]: (s["data_type"], s["dims"]) for s in states},
        {f["name"]: (f["data_type"], f["dims"]) for f in config["output"]}
        | {s["output_name"]: (s["data_type"], s["dims"]) for s in states},
    )
    read = onnx.load_from_string(graph).graph
    for what, names, values in (("takes", said[0], read.input), ("gives", said[1], read.output)):
        found = {value.name: _form(value) for value in values}
        if names != found:
            raise ExportError(f"config.pbtxt says that the graph {what} {names}, but it {what} {found}.")


class _Outer:
    """The nodes around a step."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, op: str, sources: Sequence[str], target: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, sources, [target], **attributes))
        return target

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def reshape(self, source: str, target: str, row: Sequence[int]) -> str:
        size = self.constant(f"{source}>{target}", np.array([-1, *row], np.int64))
        return self.add("Reshape", [source, size], target)

    def face(
        self,
        source: str,
        target: str,
        tensor: TensorSpec,
        row: Sequence[int],
        moved: Callable[[Array, TensorSpec], Array],
    ) -> None:
        """From the wire to the graph, or back: one value a row is [1] there, other axes are `moved`."""
        if len(tensor.shape) == 1:
            self.reshape(source, target, row)
            return
        # An axis of n + 1 stands for axis n.
        sizes = moved(np.empty(range(1, len(tensor.shape) + 1), bool), tensor).shape
        self.add("Transpose", [source], target, perm=[size - 1 for size in sizes])


def _check_names(graph: onnx.GraphProto, spec: StreamSpec) -> None:
    wanted = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
    given = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
    takes, gives = [v.name for v in graph.input], [v.name for v in graph.output]
    if (takes, gives) != (wanted, given):
        raise ExportError(
            f"the step graph takes {takes} and gives {gives}, but the contract says {wanted} and {given}. Export the "
            "bundle again."
        )


def _kind(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _info(name: str, kind: int, row: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [BATCH, *row])


def _form(value: onnx.ValueInfoProto) -> tuple[str, list[int]]:
    """As a config has it: Triton's type, and the dims without the batch."""
    kind = value.type.tensor_type
    dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return TYPES[dtype], [d.dim_value for d in kind.shape.dim[1:]]
