"""The target `torchscript`: the step as a file of LibTorch's, in LibTorch's own ops alone.

It is scripted, not traced: a trace would freeze each size that the model reads off a tensor, the batch among them.
"""

import io
from typing import Any

import torch
from torch import fx

from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.errors import ExportError, first_line
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.targets.base import TargetWriter
from rnn_export.export.targets.torch_step.aten_step import aten_step
from rnn_export.platform.quiet import quiet
from rnn_export.runtime.backends.torchscript.backend import SPEC_FILE
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder


class Writer(TargetWriter):
    """The writer of TorchScript."""

    def write(self, model: StreamingModel, target: Target, options: TargetOptions) -> dict[str, bytes]:
        """`step.pt`: forward(inputs..., states...) -> (outputs..., next states...), the contract in an extra file."""
        module, file = aten_step(model), io.BytesIO()
        _say_in_script(module)
        # Of TorchScript's age, and of fx.GraphModule's own annotations.
        with quiet():
            try:
                scripted = torch.jit.script(module)
            except Exception as error:  # the compiler has many kinds
                raise ExportError(
                    f"the step cannot be said in TorchScript: {first_line(error)}", id="torchscript-unwritable"
                ) from error
            torch.jit.save(scripted, file, _extra_files={SPEC_FILE: model.spec.dumps()})
        return {f"{folder('torchscript', options.precision)}/step.pt": file.getvalue()}

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The torch that wrote the file; an older LibTorch may not know its operators."""
        return {"torch": torch.__version__}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        return [Engine.of(artefacts, "torchscript", options.precision)]


def _say_in_script(module: fx.GraphModule) -> None:
    """Operators without their overload, which TorchScript finds itself, on the device that the inputs are on."""
    graph = module.graph
    with graph.inserting_after(next(n for n in reversed(graph.nodes) if n.op == "placeholder")):
        device = graph.call_function(getattr, (next(iter(graph.nodes)), "device"))
    for node in graph.nodes:
        if node.target is torch.ops.aten.sym_size.int:
            node.target = torch.ops.aten.size
        elif isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket
        if isinstance(node.kwargs.get("device"), torch.device):
            node.update_kwarg("device", device)
    if not device.users:
        graph.erase_node(device)
    module.recompile()
