"""Trace the step for the converter of Core ML: TorchScript of one stream, in operators that it knows."""

import io

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from rnn_export.contract.spec import StreamSpec, sized
from rnn_export.errors import ExportError, first_line
from rnn_export.export.targets.coreml.mil_states import StatefulStep
from rnn_export.platform.arrays import Arrays
from rnn_export.platform.quiet import quiet

aten = torch.ops.aten


def _log_sigmoid(x: Tensor) -> Tensor:
    return -F.softplus(-x)


# Operators that coremltools does not know, and what does the same.
SAME = {
    aten.log_sigmoid.default: _log_sigmoid,
    aten.unsafe_chunk.default: aten.chunk.default,
    aten.unsafe_split.Tensor: aten.split.Tensor,
    aten.unsafe_split_with_sizes.default: aten.split_with_sizes.default,
}


def traced(step: fx.GraphModule, spec: StreamSpec, initial: Arrays, precision: str) -> bytes:
    """A TorchScript file: (inputs...) -> (outputs...), whose buffers `state_...` are Core ML's states.

    `step` is that of the contract in torch's own operators.
    """
    for node in step.graph.nodes:
        node.target = SAME.get(node.target, node.target)
    step.recompile()
    whole, file = StatefulStep(step, spec, initial, precision).requires_grad_(False), io.BytesIO()
    given = tuple(
        torch.zeros(sized(t.shape, 1, spec.chunk), dtype=torch.float32 if t.dtype == "float32" else torch.int32)
        for t in spec.inputs
    )
    # Of what becomes a number in it, which is what it is for, and of TorchScript's age.
    with quiet():
        try:
            torch.jit.save(torch.jit.trace(whole, given, check_trace=False), file)  # type: ignore[no-untyped-call]
        except Exception as error:  # the tracer raises many kinds
            raise ExportError(
                f"the step cannot be traced for Core ML: {first_line(error)}", id="coreml-trace-fails"
            ) from error
    return file.getvalue()
