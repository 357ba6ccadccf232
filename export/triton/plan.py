"""How the graph of a served model becomes a plan of TensorRT, on the machine that will run it."""

from __future__ import annotations

import shlex

from rnn_export.export.triton.serving import Serving
from rnn_export.runtime.backends.remote.wire import WireFormat, WireTensor, state_dims
from rnn_export.runtime.build.tensorrt.recipe import shape_flags
from rnn_export.spec import StreamSpec

SCRIPT = """#!/bin/sh
# Builds the plan of the model beside it with trtexec, which comes with TensorRT. A plan runs on the kind of GPU and
# with the TensorRT that it was built with alone: take the version of the Triton that will serve it.
# Not run on hardware by rnn-export.
set -eu
cd "$(dirname "$0")/models/{name}/1"
trtexec=${{TRTEXEC:-trtexec}}
if ! command -v "$trtexec" >/dev/null; then
  echo "$trtexec is not here: it comes with TensorRT. Put it on PATH, or name it with TRTEXEC." >&2
  exit 1
fi
exec "$trtexec" {words} "$@"
"""


def build_script(spec: StreamSpec, serving: Serving, wire: WireFormat) -> str:
    """A shell script that writes model.plan beside model.onnx, for 1 to `serving.batch` rows."""
    ports = [*wire.inputs, *(WireTensor(s.input, s.dtype, state_dims(s)) for s in spec.states)]
    batches = (1, max(1, serving.batch // 2), serving.batch)
    shapes = {port.name: tuple((batch, *port.dims) for batch in batches) for port in ports}
    words = ["--onnx=model.onnx", "--saveEngine=model.plan", "--stronglyTyped", "--noTF32", "--skipInference"]
    return SCRIPT.format(name=serving.name, words=shlex.join([*words, *shape_flags(shapes)]))
