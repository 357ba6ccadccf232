"""The step graph of a bundle as a torch module: one stream, every size a number, no recurrent operator."""

from collections.abc import Mapping

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn

from rnn_export.contract.spec import BATCH
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.functions import written_out
from rnn_export.export.graph.passes.nodes import values
from rnn_export.export.graph.passes.pipeline import apply, rewrite
from rnn_export.export.graph.passes.simplify import Simplify
from rnn_export.export.targets.torch_step import torch_data_movement, torch_elementwise, torch_products
from rnn_export.export.targets.torch_step.operands import Operands, Operator
from rnn_export.platform.arrays import Array

OPERATORS: Mapping[str, Operator] = {
    **torch_elementwise.OPERATORS,
    **torch_data_movement.OPERATORS,
    **torch_products.OPERATORS,
}


def one_stream(step: bytes) -> ir.Model:
    """The step graph for a batch of one, decomposed, with constants computed."""
    model = onnx.load_from_string(rewrite(step, DecomposeRecurrent()))
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == BATCH:
                dim.dim_value = 1
    del model.graph.value_info[:]
    graph = ir.from_proto(written_out(model, OPERATORS))
    return apply(graph, Simplify(), common.RemoveUnusedNodesPass())


class OnnxStep(nn.Module):
    """(inputs..., states...) -> (outputs..., next states...), in the order of the graph."""

    def __init__(self, step: bytes) -> None:
        """Raises ExportError where the graph has an operator that is not written here, by name and node."""
        super().__init__()
        self.graph = one_stream(step).graph
        unknown = {node.op_type: node for node in self.graph if node.domain or node.op_type not in OPERATORS}
        if unknown:
            first = next(iter(unknown.values()))
            raise ExportError(
                f"no program of torch's is made of {', '.join(sorted(unknown))} (node {first.name!r}): export the "
                "PyTorch module itself with this target, or leave the target out.",
                id="torch-operator-unknown",
            )
        self.constants: dict[str, Array] = {}
        self.places: dict[str, str] = {}
        for name, value in self.graph.initializers.items():
            self.constants[name] = values(value)
            self.places[name] = f"w{len(self.places)}"
            self.register_buffer(self.places[name], torch.from_numpy(self.constants[name].copy()))

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        ports = [str(value.name) for value in self.graph.inputs]
        tensors = dict(zip(ports, given, strict=True))
        tensors |= {name: getattr(self, place) for name, place in self.places.items()}
        for node in self.graph:
            result = OPERATORS[node.op_type](Operands(node, tensors, self.constants))
            results = result if isinstance(result, tuple) else (result,)
            tensors |= {str(value.name): r for value, r in zip(node.outputs, results, strict=False)}
        return tuple(tensors[str(value.name)] for value in self.graph.outputs)
