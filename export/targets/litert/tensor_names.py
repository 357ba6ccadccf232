"""Put the names and the contract of a bundle into a file of LiteRT's."""

from typing import Any

import flatbuffers
import numpy as np

from rnn_export.contract.spec import METADATA_KEY, StreamSpec
from rnn_export.runtime.backends.litert.library import schema
from rnn_export.runtime.backends.litert.model import SIGNATURE, parsed

# Kept of what a converter notes: from which LiteRT on the file can be read. The rest is about the converter.
KEPT = "min_runtime_version"
ALIGNED = 16


class AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Aligns bytes as in the schema, which the code that is generated for Python does not."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802
        return super().StartVector(elemSize, numElems, max(alignment, ALIGNED) if elemSize == 1 else alignment)


def named(raw: bytes, spec: StreamSpec) -> bytes:
    """The file `raw`, which has `args_0`, ... and `output_0`, ..., as one of the contract.

    Its tensors are named by number: a converter calls them after paths and lines of the user's code.
    """
    model = parsed(raw)
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    inputs = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
    outputs = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
    for number, tensor in enumerate(graph.tensors):
        tensor.name = f"t{number}"
    signature.signatureKey = SIGNATURE
    graph.inputs = _renamed(graph, signature.inputs, "args", inputs)
    graph.outputs = _renamed(graph, signature.outputs, "output", outputs)
    signature.inputs.sort(key=lambda port: inputs.index(port.name))
    signature.outputs.sort(key=lambda port: outputs.index(port.name))
    contract = schema.MetadataT()
    contract.name, contract.buffer = METADATA_KEY, len(model.buffers)
    note = schema.BufferT()
    note.data = np.frombuffer(spec.dumps().encode(), np.uint8)
    model.buffers.append(note)
    model.metadata = [*(m for m in model.metadata or () if m.name in (KEPT, KEPT.encode())), contract]
    return packed(model)


def packed(model: Any) -> bytes:
    """A model of the schema's objects as a file."""
    builder = AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _renamed(graph: Any, ports: Any, prefix: str, names: list[str]) -> list[int]:
    """Give each port the name in the contract of its number; the tensors in that order."""
    found = {port.name.decode() if isinstance(port.name, bytes) else str(port.name): port for port in ports}
    given = []
    for number, name in enumerate(names):
        port = found[f"{prefix}_{number}"]
        port.name = name
        graph.tensors[port.tensorIndex].name = name
        given.append(port.tensorIndex)
    return given
