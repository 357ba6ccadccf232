"""Convert a torch program to Core ML's, in a process of its own (`rnn_export.apart`)."""

import io
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rnn_export.contract.spec import METADATA_KEY, StreamSpec, sized
from rnn_export.errors import ExportError, first_line
from rnn_export.platform.installing import pip_install
from rnn_export.runtime.backends.coreml.package_names import MODEL, PLACES, WEIGHTS, tensor_names

try:
    import coremltools as ct
except ImportError as error:
    raise ExportError(
        f"coremltools is not here ({error}): {pip_install('coreml')}.", id="coremltools-missing"
    ) from error

ADVICE = "Leave coreml out, or write that part of the model otherwise."
PRECISIONS = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16}
_NO_OPERATOR = re.compile(r"convert function for op '(\w+)' not implemented")


def convert(files: Mapping[str, bytes], words: Mapping[str, Any]) -> dict[str, bytes]:
    """`step.pt`, traced, of the contract `words["spec"]`, as a package; raises ExportError where it is refused."""
    spec, precision = StreamSpec.from_json(words["spec"]), str(words["precision"])
    load: Any = torch.jit.load
    step, names = load(io.BytesIO(files["step.pt"])), tensor_names(spec)
    kinds = {t.name: np.float32 if t.dtype == "float32" else np.int32 for t in (*spec.inputs, *spec.outputs)}
    inputs = [ct.TensorType(names[t.name], sized(t.shape, 1, spec.chunk), kinds[t.name]) for t in spec.inputs]
    outputs = [ct.TensorType(names[t.name], dtype=kinds[t.name]) for t in spec.outputs]
    states = [
        ct.StateType(wrapped_type=ct.TensorType(shape=tuple(value.shape), dtype=np.float16), name=name)
        for name, value in step.named_buffers(recurse=False)
        if name.startswith("state_")
    ]
    try:
        made = ct.convert(
            step, inputs=inputs, outputs=outputs, states=states or None, convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS18, compute_precision=PRECISIONS[precision], skip_model_load=True,
        )  # fmt: skip
    except Exception as error:  # the converter raises many kinds
        found = _NO_OPERATOR.search(str(error))
        why = f"has no operator for {found[1]} of the step" if found else f"cannot convert the step: {_reason(error)}"
        raise ExportError(f"coremltools {ct.__version__} {why}. {ADVICE}", id="coremltools-refuses-step") from error
    made.user_defined_metadata[METADATA_KEY] = spec.dumps()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "step.mlpackage")
        made.save(str(path))
        weights = path / PLACES[WEIGHTS]
        return {MODEL: (path / PLACES[MODEL]).read_bytes(), WEIGHTS: weights.read_bytes() if weights.exists() else b""}


def _reason(error: Exception) -> str:
    return first_line(error).removesuffix(".")[:400]
