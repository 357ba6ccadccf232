"""Measure the activations of a step on a recording, for the scales of int8."""

import numpy as np
import onnx
import onnx_ir as ir

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.nodes import RECURRENT, input_of
from rnn_export.export.targets.c.static_graph import static_graph
from rnn_export.platform.arrays import Array, Arrays
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drivers import StepDriver

PRODUCTS = {"Gemm", "MatMul", "Conv", *RECURRENT}
# What is at times louder than usual by more than this keeps a measured scale: a fixed one would silence the rest.
STEADY = 4.0


def scales(step: bytes, spec: StreamSpec, initial: Arrays, recording: Arrays) -> dict[str, float]:
    """The largest magnitude of the input of each product, by its name in the C writer, if it is steady.

    `recording` by input is (rows, frames, ...); each row is a stream from the start. Raises ExportError if ONNX
    Runtime, which runs it, is not here, or the recording has not one step.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ExportError(
            f"calibration runs the step on onnxruntime: {pip_install('cpu')}.", id="c-calibration-without-onnxruntime"
        ) from error
    model, watched = _watching(step)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    most: dict[str, list[float]] = {}
    names = [value.name for value in session.get_outputs()]

    def call(feed: dict[str, Array]) -> dict[str, Array]:
        results = {**feed, **dict(zip(names, session.run(None, feed), strict=True))}
        for key, sources in watched.items():
            largest = max((float(np.abs(results[s]).max()) for s in sources if s in results), default=0.0)
            most.setdefault(key, []).append(largest)
        return results

    loop, start = ClosedLoop(spec, recording), {name: value[None] for name, value in initial.items()}
    for row in range(loop.rows):
        for _ in loop.of_rows(slice(row, row + 1)).steps(StepDriver(spec, call, start)):
            pass
    if not most:
        raise ExportError(
            f"the recording to calibrate on has not one whole step of {spec.chunk} frames.",
            id="c-calibration-too-short",
        )
    return {key: max(found) for key, found in most.items() if max(found) <= STEADY * float(np.median(found))}


def _watching(step: bytes) -> tuple[onnx.ModelProto, dict[str, list[str]]]:
    """The prepared step that also gives the inputs of its products; and by operand name, the values it comes from."""
    graph = static_graph(step)
    watched: dict[str, list[str]] = {}
    given = {value.name for value in (*graph.graph.inputs, *graph.graph.outputs)}
    for node in graph.graph:
        if node.op_type not in PRODUCTS:
            continue
        read = node.inputs[0]
        if read is not None and read.const_value is None:
            watched[str(read.name)] = [str(read.name)]
        if node.op_type in RECURRENT:
            sources = [input_of(node, 5), *node.outputs[:2]]
            watched[f"{node.name}.h"] = [str(v.name) for v in sources if v is not None and v.name]
    for node in graph.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name not in given and any(value.name in s for s in watched.values()):
                graph.graph.outputs.append(value)
                given.add(value.name)
    return ir.to_proto(graph), watched
