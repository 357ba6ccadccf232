"""Quantize a step of LiteRT's to int8: the weights, or the values too, each with a scale."""

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError, first_line
from rnn_export.export.targets.litert.activation_ranges import Range
from rnn_export.export.targets.litert.tensor_names import packed
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.litert.library import schema
from rnn_export.runtime.backends.litert.model import operator_name, parsed

ADVICE = "Leave int8 out, or write that part of the model otherwise."


def quantized(raw: bytes, ranges: Mapping[str, Range] | None) -> bytes:
    """The float step `raw` with weights in int8, one scale for each row of a matrix.

    With `ranges` of its values by tensor they are in int8 as well, states among them, wherever LiteRT's quantizer has
    the operator so. Without, LiteRT scales a product's input at each step, and all else is float.
    """
    try:
        from ai_edge_quantizer import recipe
        from ai_edge_quantizer.quantizer import Quantizer
    except ImportError as error:
        raise ExportError(
            f"ai-edge-quantizer is not here ({error}): {pip_install('litert-export')}.", id="ai-edge-quantizer-missing"
        ) from error
    known, how = None, recipe.dynamic_wi8_afp32()
    if ranges is not None:
        known = {name: {"min": _cell(low), "max": _cell(high)} for name, (low, high) in ranges.items()}
        how = recipe.static_wi8_ai8()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = bytes(Quantizer(raw, how).quantize(known).quantized_model)
    except Exception as error:  # the quantizer raises many kinds
        raise ExportError(
            f"ai-edge-quantizer cannot take the step: {first_line(error)[:400]} {ADVICE}",
            id="ai-edge-quantizer-refuses",
        ) from error
    return packed(_with_float_ports(_with_constants_inside(made)))


def state_scales(raw: bytes, spec: StreamSpec) -> dict[str, dict[str, Any]]:
    """The scale and zero point of each state of a step that keeps it in int8, by the state's name."""
    model = parsed(raw)
    (graph,) = model.subgraphs
    inside = {
        int(operator.inputs[0]): graph.tensors[operator.outputs[0]].quantization
        for operator in graph.operators
        if operator_name(model, operator) == "QUANTIZE"
    }
    ports = zip(spec.states, map(int, graph.inputs[len(spec.inputs) :]), strict=True)
    return {
        state.name: {"scale": float(inside[port].scale[0]), "zero_point": int(inside[port].zeroPoint[0])}
        for state, port in ports
        if port in inside
    }


def _cell(value: float) -> Any:
    return np.array([[value]], np.float32)


def _with_constants_inside(raw: bytes) -> Any:
    """The model as objects; of a large one the quantizer lays the constants behind the graph, by place and size."""
    model = parsed(raw)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(raw, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def _with_float_ports(model: Any) -> Any:
    """Make all ports float, as in the contract: QUANTIZE stands before the step, DEQUANTIZE behind it.

    The quantizer can leave the ports float by itself, but then an operator that reads an output gets it dequantized,
    and takes it for int8.
    """
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    first = [_port(model, graph, port, "QUANTIZE") for port in signature.inputs]
    last = [_port(model, graph, port, "DEQUANTIZE") for port in signature.outputs]
    graph.operators = [*filter(None, first), *graph.operators, *filter(None, last)]
    graph.inputs = [port.tensorIndex for port in signature.inputs]
    graph.outputs = [port.tensorIndex for port in signature.outputs]
    return model


def _port(model: Any, graph: Any, port: Any, kind: str) -> Any:
    """The operator between the port and the step, None where there is none; the port is a float tensor from now on."""
    inside = graph.tensors[port.tensorIndex]
    if inside.type != schema.TensorType.INT8:
        return None
    tensor, operator = schema.TensorT(), schema.OperatorT()
    tensor.name, tensor.shape, tensor.type = port.name, inside.shape, schema.TensorType.FLOAT32
    inside.name = port.name + b".int8"
    ends = (port.tensorIndex, len(graph.tensors))
    graph.tensors.append(tensor)
    operator.opcodeIndex = _code(model, kind)
    operator.inputs, operator.outputs = ([n] for n in (ends[::-1] if kind == "QUANTIZE" else ends))
    port.tensorIndex = ends[1]
    return operator


def _code(model: Any, kind: str) -> int:
    number = getattr(schema.BuiltinOperator, kind)
    for place, known in enumerate(model.operatorCodes):
        if known.builtinCode == number:
            return place
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = number
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
