"""Put states inside an OpenVINO model, and work around faults of its CPU plugin.

Tried with 2026.4.1: a state that is assigned an input or another state unchanged, or moved, is garbage or a step
late, and nothing is said. So the assigned value is computed: the larger of it and itself. And a state of 64 bits, or
of int16, stays at zeros: those are refused.
"""

from typing import Any

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime.backends.openvino.graph import variable
from rnn_export.runtime.backends.openvino.library import ov, version

DTYPES = ("float32", "float16", "int32", "int8", "uint8", "bool")
# What moves a value and computes nothing.
_MOVES = ("Identity", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit")


def check_states(spec: StreamSpec) -> None:
    """Raise ExportError where OpenVINO does not keep a state of the contract."""
    for state in spec.states:
        if state.dtype not in DTYPES:
            raise ExportError(
                f"state {state.name!r} is {state.dtype}, and OpenVINO {version()} on a CPU loses states that are not "
                f"{', '.join(DTYPES)}: keep it as one of these, or leave openvino out.",
                id="openvino-state-dtype",
            )
    if len({variable(state) for state in spec.states}) < len(spec.states):
        raise ExportError(
            "two states would have one name in OpenVINO, which is that of input and output together.",
            id="openvino-state-names",
        )


def make_stateful(model: Any, spec: StreamSpec, initial: Arrays) -> None:
    """Put the states inside, with their initial values at each reset."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    apply_make_stateful_transformation(model, {s.input: s.output for s in spec.states})
    starts = {variable(s): initial[s.name][None] for s in spec.states if s.name in initial}
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue" and (name := node.get_attributes()["variable_id"]) in starts:
            node.set_arguments([ov.op.Constant(starts[name]).output(0)])


def separate(model: Any) -> None:
    """Compute each assigned state and output that is an input or a state itself."""
    for node in model.get_ops():
        if node.get_type_name() in ("Assign", "Result"):
            value = node.input(0).get_source_output()
            if _origin(value).get_node().get_type_name() in ("Parameter", "ReadValue"):
                same = ov.opset13.logical_or if value.get_element_type() == ov.Type.boolean else ov.opset13.maximum
                names, computed = value.get_names(), same(value, value).output(0)
                node.input(0).replace_source_output(computed)
                if node.get_type_name() == "Result":
                    computed.get_tensor().set_names(names)
    model.validate_nodes_and_infer_types()


def _origin(value: Any) -> Any:
    while value.get_node().get_type_name() in _MOVES:
        value = value.get_node().input_value(0)
    return value
