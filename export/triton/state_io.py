"""Add inputs and outputs for the states to a step graph, so that a sequence can move to another session.

Triton keeps the states of its onnxruntime and tensorrt backends itself and shows them to nobody. So each state is an
input too, NAME.seed, used if `rnn_seed` is above 0.5, and an output, NAME.snap: one of its own, since Triton fails on
batches if an output is the state itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rnn_export.contract.layout import canonical, graph_layout
from rnn_export.contract.spec import BATCH, StreamSpec, TensorSpec
from rnn_export.errors import ExportError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.remote import wire

# From the wire to the graph, or back.
Layout = Callable[[Array, TensorSpec], Array]
INSIDE = "step/"
# What Where takes in ONNX Runtime and in TensorRT, and Triton can hold between steps.
STATE_TYPES = (TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64)


def add_state_io(step: bytes, spec: StreamSpec) -> bytes:
    """`step` with the inputs and outputs of the wire "tensors", and beside them the states as `spec` names them.

    Every tensor is (batch, ...) and of the dtype that it has on the wire; the states are of the dtype that they have in
    the graph. Raises ExportError where the graph is not one of `spec`, or has states that Triton cannot keep.
    """
    model = onnx.load_from_string(step)
    _check_names(model.graph, spec)
    types = {name: _type(dtype) for name, dtype in state_dtypes(step, spec).items()}
    inner = onnx.compose.add_prefix(model, INSIDE).graph
    outer = _Wrapper()
    outer.lead_in(spec, types)
    outer.nodes += inner.node
    outer.lead_out(spec)
    ports = wire.WireFormat.of(spec, wire.TENSORS)
    inputs = [_info(t.name, _type(t.dtype), t.dims) for t in ports.inputs]
    inputs += [_info(s.input, types[s.name], wire.state_dims(s)) for s in spec.states]
    outputs = [_info(t.name, _type(t.dtype), t.dims) for t in ports.outputs]
    outputs += [_info(s.output, types[s.name], wire.state_dims(s)) for s in spec.states]
    weights = [*outer.constants, *inner.initializer]
    graph = helper.make_graph(outer.nodes, "movable step", inputs, outputs, weights, value_info=inner.value_info)
    model.graph.CopyFrom(graph)
    # Its inference of shapes holds what the outer graph says to what the inner one gives.
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def state_dtypes(graph: bytes, spec: StreamSpec) -> dict[str, str]:
    """By name of each state its dtype in a step graph, numpy's; raises ExportError where Triton cannot keep one."""
    types = {value.name: value.type.tensor_type.elem_type for value in onnx.load_from_string(graph).graph.input}
    for state in spec.states:
        if types[state.input] not in STATE_TYPES:
            name = TensorProto.DataType.Name(types[state.input]).lower()
            raise ExportError(
                f"state {state.name!r} is {name} in the graph, which Triton's onnxruntime and tensorrt backends cannot "
                "begin from a given value. Serve the model with --backend python.",
                id="triton-state-dtype",
            )
    return {s.name: str(helper.tensor_dtype_to_np_dtype(types[s.input])) for s in spec.states}


def check_config(config: Mapping[str, Any], graph: bytes) -> None:
    """Raise ExportError where a config has other tensors than the graph: Triton finds that in a request only."""
    states = config["sequence_batching"]["state"]
    read = onnx.load_from_string(graph).graph
    for what, way, values in (("takes", "input", read.input), ("gives", "output", read.output)):
        names = {f["name"]: (f["data_type"], f["dims"]) for f in config[way]}
        names |= {s[f"{way}_name"]: (s["data_type"], s["dims"]) for s in states}
        found = {value.name: _type_and_dims(value) for value in values}
        if names != found:
            raise ExportError(
                f"config.pbtxt says that the graph {what} {names}, but it {what} {found}.", id="triton-config-differs"
            )


class _Wrapper:
    """The nodes around a step: from the wire to its inputs, and from its outputs to the wire."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def lead_in(self, spec: StreamSpec, types: Mapping[str, int]) -> None:
        """Frames as the graph takes them, and for each state, of its type there, the seed or Triton's state."""
        half = self.constant(f"{wire.SEED}.half", np.float32(0.5))
        seeded = self.add("Greater", [wire.SEED, half], f"{wire.SEED}.chosen")
        for tensor in spec.inputs:
            self.adapt(tensor.name, INSIDE + tensor.name, tensor, tensor.frame, graph_layout)
        for state in spec.states:
            seed, dims = wire.seed_name(state), wire.state_dims(state)
            condition = self.reshape(seeded, f"{seed}.chosen", [1] * len(dims))
            typed = self.add("Cast", [seed], f"{seed}.typed", to=types[state.name])
            begun = self.add("Where", [condition, typed, state.input], f"{seed}.begun")
            self.reshape(begun, INSIDE + state.input, state.row)

    def lead_out(self, spec: StreamSpec) -> None:
        """Outputs as the wire has them, and each next state twice: for Triton to keep, and for the caller."""
        for tensor in spec.outputs:
            self.adapt(INSIDE + tensor.name, tensor.name, tensor, wire.frame_dims(tensor, spec.chunk), canonical)
        for state in spec.states:
            self.reshape(INSIDE + state.output, state.output, wire.state_dims(state))
            row = self.reshape(INSIDE + state.output, f"{wire.snapshot_name(state)}.row", wire.state_dims(state))
            self.add("Cast", [row], wire.snapshot_name(state), to=_type(state.dtype))

    def add(self, op: str, sources: Sequence[str], target: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, sources, [target], **attributes))
        return target

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def reshape(self, source: str, target: str, row: Sequence[int]) -> str:
        size = self.constant(f"{source}>{target}", np.array([-1, *row], np.int64))
        return self.add("Reshape", [source, size], target)

    def adapt(self, source: str, target: str, tensor: TensorSpec, row: Sequence[int], transposed: Layout) -> None:
        """One value a row is [1] there, other axes are `transposed`."""
        if len(tensor.shape) == 1:
            self.reshape(source, target, row)
            return
        # An axis of n + 1 stands for axis n.
        sizes = transposed(np.empty(range(1, len(tensor.shape) + 1), bool), tensor).shape
        self.add("Transpose", [source], target, perm=[size - 1 for size in sizes])


def _check_names(graph: onnx.GraphProto, spec: StreamSpec) -> None:
    inputs = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
    outputs = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
    takes, gives = [v.name for v in graph.input], [v.name for v in graph.output]
    if (takes, gives) != (inputs, outputs):
        raise ExportError(
            f"the step graph takes {takes} and gives {gives}, but the contract says {inputs} and {outputs}. Export the "
            "bundle again.",
            id="triton-graph-differs",
        )


def _type(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _info(name: str, elem_type: int, dims: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, [BATCH, *dims])


def _type_and_dims(value: onnx.ValueInfoProto) -> tuple[str, list[int]]:
    """As a config has it: Triton's type, and the dims without the batch."""
    tensor = value.type.tensor_type
    dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return wire.TYPES[dtype], [d.dim_value for d in tensor.shape.dim[1:]]
