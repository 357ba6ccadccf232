"""Convert a step in ONNX to OpenVINO's IR, in a process of its own (`rnn_export.apart`)."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnn_export.contract.spec import METADATA_KEY, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import ExportError
from rnn_export.export.targets.openvino.files import joined
from rnn_export.export.targets.openvino.int8_weights import store_in_int8
from rnn_export.export.targets.openvino.states import check_states, make_stateful, separate
from rnn_export.platform.arrays import unpack_arrays
from rnn_export.runtime.backends.openvino.graph import ROWS, STATEFUL, STATELESS, WEIGHTS, check_layers
from rnn_export.runtime.backends.openvino.library import SETTINGS, cause, ov, version

ADVICE = "Leave openvino out, or write that part of the model otherwise."
# What OpenVINO says of operators that it cannot read, each with its opset.
_NO_RULE = re.compile(r"No conversion rule found for operations: ([\w, .-]+)")
_LONGEST = 400


def convert(files: Mapping[str, bytes], words: Mapping[str, Any]) -> dict[str, bytes]:
    """`step.onnx` of the contract `words["spec"]` as IR; raises ExportError where OpenVINO refuses it."""
    spec, precision = StreamSpec.from_json(words["spec"]), str(words["precision"])
    step, initial = files["step.onnx"], unpack_arrays(files["initial.npz"])
    check_states(spec)
    models = {STATEFUL: _read(step, spec, 1)} | ({} if spec.rows else {STATELESS: _read(step, spec, ROWS)})
    make_stateful(models[STATEFUL], spec, initial)
    for model in models.values():
        separate(model)
        model.set_rt_info(spec.dumps(), ["framework", METADATA_KEY])
    texts = {name: serialised(model, precision) for name, model in models.items()}
    graphs, weights = joined(texts)
    for graph in graphs.values():
        try:
            check_layers(graph, len(weights))
        except ValueError as error:
            raise ExportError(
                f"the step in OpenVINO's IR is none that a bundle holds: {error}. {ADVICE}", id="openvino-ir-unusable"
            ) from error
    return {**graphs, WEIGHTS: weights}


def _read(step: bytes, spec: StreamSpec, rows: int) -> Any:
    """A model of `rows` streams, with a number for every size and all that follows from sizes computed."""
    try:
        model = ov.Core().read_model(step)
    except RuntimeError as error:
        if unknown := _NO_RULE.search(str(error)):
            operators = re.sub(r"-\d+", "", unknown[1]).strip()
            raise ExportError(
                f"OpenVINO {version()} has no operator for {operators} of the step. {ADVICE}",
                id="openvino-operator-missing",
            ) from error
        raise ExportError(
            f"OpenVINO {version()} cannot read the step: {_reason(error)}. {ADVICE}", id="openvino-reading-fails"
        ) from error
    ports: dict[str, TensorSpec | StateSpec] = {**{t.name: t for t in spec.inputs}, **{s.input: s for s in spec.states}}
    try:
        model.reshape({name: list(sized(port.shape, rows, spec.chunk)) for name, port in ports.items()})
        passes = ov.passes.Manager()
        passes.register_pass(ov.passes.ConstantFolding())
        passes.run_passes(model)
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO {version()} cannot take the step for {rows} streams: {_reason(error)}. {ADVICE}",
            id="openvino-rows-refused",
        ) from error
    return model


def serialised(model: Any, precision: str) -> tuple[bytes, bytes]:
    """The IR and its weights, of a model that OpenVINO compiles."""
    if precision == "int8":
        store_in_int8(model)
    try:
        ov.Core().compile_model(model, "CPU", SETTINGS)
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO {version()} cannot compile the step: {_reason(error)}. {ADVICE}", id="openvino-compile-fails"
        ) from error
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, STATEFUL)
        ov.save_model(model, path, compress_to_fp16=precision == "fp16")
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _reason(error: RuntimeError) -> str:
    return cause(error)[:_LONGEST].removesuffix(".")
