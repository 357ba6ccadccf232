"""Write one step in torch's own operators alone, with weights and arguments by name, for TorchScript and pt2.

It comes from a lifted model, or from the step graph of a bundle.
"""

import io
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from rnn_export.errors import ExportError, first_line
from rnn_export.platform.installing import pip_install

try:
    import torch
    from torch import Tensor, fx, nn
except ImportError as error:
    raise ExportError(
        f"what is written in torch's operators needs torch, which is not here ({error}): {pip_install('export')}.",
        id="torch-operators-without-torch",
    ) from error

from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.export.lift.layers.recurrent_ops import DECOMPOSITIONS
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.targets.torch_step.step_module import OnnxStep
from rnn_export.platform.quiet import quiet

TORCHS = ("aten", "prim", "prims")


def aten_step(model: StreamingModel) -> fx.GraphModule:
    """(inputs..., states...) -> (outputs..., next states...), for exactly `spec.chunk` frames and any batch.

    Recurrent ops are decomposed, and values of weights alone computed. Raises ExportError on an op that is not torch's
    own.
    """
    program = model.program(model.spec.chunk)
    # torch warns of its own use of LeafSpec.
    with quiet():
        program = program.run_decompositions(dict(DECOMPOSITIONS))
    return _AtenGraph(program.module(check_guards=False), model.spec).written()


def step_of_graph(step: bytes, spec: StreamSpec) -> fx.GraphModule:
    """The same of a step graph in ONNX, for one stream.

    Raises ExportError, with node and operator, if a part of it has no form in torch's operators.
    """
    module, given = OnnxStep(step), example(spec, 1)
    try:
        program = torch.export.export(module, given, strict=False)
    except ExportError:
        raise
    except Exception as error:  # torch.export raises many kinds
        raise ExportError(
            f"torch.export cannot follow the step of the bundle: {first_line(error)}", id="bundle-step-untraceable"
        ) from error
    return _AtenGraph(program.module(check_guards=False), spec).written()


def example(spec: StreamSpec, batch: int) -> tuple[Tensor, ...]:
    """Zeros for every argument of the step."""
    ports: list[TensorSpec | StateSpec] = [*spec.inputs, *spec.states]
    return tuple(torch.zeros(sized(p.shape, batch, spec.chunk), dtype=getattr(torch, p.dtype)) for p in ports)


def saved_program(step: nn.Module, given: Sequence[Tensor]) -> bytes:
    """`step`, called with `given`, as a program that torch saves, in which every size is a number."""
    file = io.BytesIO()
    try:
        torch.export.save(torch.export.export(step, tuple(given), strict=False), file)
    except Exception as error:  # torch.export raises many kinds
        raise ExportError(
            f"torch.export cannot follow the step of one stream: {first_line(error)}", id="one-stream-step-untraceable"
        ) from error
    return file.getvalue()


class _AtenGraph:
    """Copies a graph node by node. A value is a node of the new graph, or the thing itself where it is constant."""

    def __init__(self, module: nn.Module, spec: StreamSpec) -> None:
        assert isinstance(module, fx.GraphModule)
        self.module, self.root, self.graph = module, nn.Module(), fx.Graph()
        self.names = iter([*(t.name for t in spec.inputs), *(s.input for s in spec.states)])
        self.values: dict[fx.Node, Any] = {}
        self.weights: dict[tuple[Any, ...], str] = {}

    def written(self) -> fx.GraphModule:
        with torch.no_grad():
            for node in self.module.graph.nodes:
                if not _is_guard(node):
                    self.values[node] = self.value(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)

    def value(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            made = self.graph.placeholder(next(self.names))
            # As an argument it needs the name that is a word of Python and stands once.
            made.target = made.name
            return made
        if node.op == "get_attr":
            weight = attrgetter(str(node.target))(self.module)
            if isinstance(weight, Tensor):
                return weight.detach()
            setattr(self.root, str(node.target), weight)
        if node.op == "output":
            results = torch.utils._pytree.tree_leaves(node.args[0])
            return self.graph.output(tuple(self.argument(n.name, self.values[n]) for n in results))
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in TORCHS:
            raise ExportError(
                f"the step holds {node.target}, which is not one of torch's own operators, so no other program could "
                "load it: write this part of the model in torch's operators, or leave the target out.",
                id="foreign-torch-operator",
            )
        if _is_pure(node) and not any(isinstance(self.values[n], fx.Node) for n in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
            return node.target(*args, **kwargs)  # type: ignore[operator]
        return self.graph.node_copy(node, lambda n: self.argument(n.name, self.values[n]))

    def argument(self, name: str, value: Any) -> Any:
        """A value as the argument of a node: a constant tensor is stored once, under the name of its first maker."""
        if not isinstance(value, Tensor):
            return value
        key = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in self.weights:
            # With a prefix, since an nn.Module has a `to`, a `half` and so on already.
            self.weights[key] = f"w_{name}"
            self.root.register_buffer(self.weights[key], value.clone(memory_format=torch.contiguous_format))
        return self.graph.get_attr(self.weights[key])


def _is_guard(node: fx.Node) -> bool:
    """True if the node only asserts, which is the runtime's affair."""
    return isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.returns


def _is_pure(node: fx.Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in node.target.tags
    return getattr(node.target, "__module__", None) == "_operator"
