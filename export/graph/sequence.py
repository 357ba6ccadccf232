"""Build a sequence graph from a step graph: an ONNX Scan over the steps that carries the states.

Source of the operator's form: the ONNX operator reference, Scan (opset 11 and later).
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from rnn_export.contract.spec import BATCH, TIME, Dim, StreamSpec, TensorSpec
from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.nodes import new_constant

INT64_MAX = 2**63 - 1


def shapes_of(spec: StreamSpec) -> dict[str, tuple[Dim, ...]]:
    """The shape of each input and output, by name."""
    shapes = {t.name: t.shape for t in (*spec.inputs, *spec.outputs)}
    shapes |= {name: s.shape for s in spec.states for name in (s.input, s.output)}
    batch = spec.rows or BATCH
    return {name: tuple(batch if dim == BATCH else dim for dim in shape) for name, shape in shapes.items()}


def _moves(node: ir.Node) -> bool:
    """True if a node may leave its graph: it gives no output of the graph and holds no graph of its own."""
    holds_graph = any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
    return not holds_graph and not any(value.is_graph_output() for value in node.outputs)


class SequenceFromStep(InPlacePass):
    """Turn a step graph into one for any number of steps of `spec.chunk` frames; names and order stay.

    Before: inputs and outputs are those of the contract. After: the same inputs and outputs, and the step in one Scan.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.spec = spec

    def call(self, model: ir.Model) -> PassResult:
        model.graph = _Scan(model.graph, self.spec).graph()
        return PassResult(model, modified=True)

    def requires(self, model: ir.Model) -> None:
        spec = self.spec
        wanted = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
        wanted += [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
        found = [value.name for value in (*model.graph.inputs, *model.graph.outputs)]
        if found != wanted:
            raise ExportError(
                f"the step graph has the inputs and outputs {found}, but the contract says {wanted}.",
                id="sequence-ports-differ",
            )

    ensures = requires


class _Scan:
    """Builds the outer graph around the step, which becomes the body: states first, then values by frames."""

    def __init__(self, step: ir.Graph, spec: StreamSpec) -> None:
        self.step, self.spec = step, spec
        self.nodes: list[ir.Node] = []
        self.weights = list(step.initializers.values())
        self.timed = [t for t in spec.inputs if t.axis(TIME) is not None]
        self.shapes = shapes_of(spec)

    def graph(self) -> ir.Graph:
        spec = self.spec
        inputs = {str(value.name): self.outside(value) for value in self.step.inputs}
        outputs = {str(value.name): self.outside(value) for value in self.step.outputs}
        self.move_out(inputs)
        frames = [self.split(tensor, inputs[tensor.name]) for tensor in self.timed]
        attributes: dict[str, Any] = {
            "body": self.body(inputs),
            "num_scan_inputs": len(frames),
            "scan_input_axes": [t.axis(TIME) or 0 for t in self.timed],
            "scan_output_axes": [t.axis(TIME) or 0 for t in spec.outputs],
        }
        carried = [inputs[s.input] for s in spec.states]
        results = [*(outputs[s.output] for s in spec.states), *(ir.Value(name=f"{t.name}/steps") for t in spec.outputs)]
        scan = ir.node("Scan", [*carried, *frames], attributes, outputs=results, name="steps")
        self.nodes.append(scan)
        for tensor, steps in zip(spec.outputs, scan.outputs[len(spec.states) :], strict=True):
            self.join(tensor, steps, outputs[tensor.name])
        ports, imports = (list(inputs.values()), list(outputs.values())), self.step.opset_imports
        return ir.Graph(*ports, nodes=self.nodes, initializers=self.weights, opset_imports=imports, name="sequence")

    def move_out(self, outside: dict[str, ir.Value]) -> None:
        """Move loop-invariant nodes before the loop: those of weights, and of all sizes but time's."""
        same = {*self.weights, None}
        sized: dict[ir.Value | None, ir.Value] = {v: outside[str(v.name)] for v in self.step.inputs}
        for node in filter(_moves, list(self.step)):
            if node.op_type == "Shape" and (whole := sized.get(node.inputs[0])) and not self.has_time(node, whole):
                node.replace_input_with(0, whole)
            elif not same.issuperset(node.inputs):
                continue
            self.step.remove(node)
            self.nodes.append(node)
            same.update(node.outputs)

    def has_time(self, shape: ir.Node, value: ir.Value) -> bool:
        """True if a Shape node of an input gives its number of frames."""
        axes = [axis for tensor in self.timed if tensor.name == value.name for axis in [tensor.axis(TIME)]]
        rank = len(self.shapes[str(value.name)])
        taken = range(rank)[shape.attributes.get_int("start", 0) : shape.attributes.get_int("end", rank)]
        return not set(taken).isdisjoint(axes)

    def outside(self, value: ir.Value) -> ir.Value:
        return ir.Value(name=value.name, type=value.type, shape=ir.Shape(self.shapes[str(value.name)]))

    def body(self, outside: dict[str, ir.Value]) -> ir.Graph:
        """The step, its values renamed; weights, and inputs without frames, are read from the graph around it."""
        spec, nodes = self.spec, list(self.step)
        inputs = {str(value.name): value for value in self.step.inputs}
        outputs = {str(value.name): value for value in self.step.outputs}
        starts = [*(inputs[s.input] for s in spec.states), *(inputs[t.name] for t in self.timed)]
        ends = [*(outputs[s.output] for s in spec.states), *(outputs[t.name] for t in spec.outputs)]
        for held in set(self.step.inputs) - set(starts):
            held.replace_all_uses_with(outside[str(held.name)])
        for part in (self.step.inputs, self.step.outputs, self.step.initializers):
            part.clear()
        self.step.remove(nodes)
        for value in (*starts, *ends):
            value.doc_string = None
        for value in (*starts, *(value for node in nodes for value in node.outputs)):
            if value.name:
                value.name = f"step:{value.name}"
        return ir.Graph(starts, ends, nodes=nodes, name="step")

    def node(self, op_type: str, inputs: list[ir.Value], output: ir.Value | str, **attributes: Any) -> ir.Value:
        result = ir.Value(name=output) if isinstance(output, str) else output
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=[result], name=result.name))
        return result

    def ints(self, name: str, values: list[int]) -> ir.Value:
        self.weights.append(new_constant(name, np.array(values, np.int64)))
        return self.weights[-1]

    def sizes(self, value: ir.Value, axis: int, middle: list[int], skip: int) -> ir.Value:
        """The shape of a value with `skip` sizes from `axis` on replaced by `middle`."""
        name = value.name
        shape = self.node("Shape", [value], f"{name}/shape")
        zero = self.ints(f"{name}/zero", [0])
        front_end = self.ints(f"{name}/axis", [axis])
        back_start, back_end = self.ints(f"{name}/behind", [axis + skip]), self.ints(f"{name}/end", [INT64_MAX])
        front = self.node("Slice", [shape, zero, front_end, zero], f"{name}/front")
        back = self.node("Slice", [shape, back_start, back_end, zero], f"{name}/back")
        return self.node("Concat", [front, self.ints(f"{name}/middle", middle), back], f"{name}/sizes", axis=0)

    def split(self, tensor: TensorSpec, value: ir.Value) -> ir.Value:
        """An input with its frames as (steps, chunk)."""
        sizes = self.sizes(value, tensor.axis(TIME) or 0, [-1, tensor.frames_of(self.spec.chunk)], 1)
        return self.node("Reshape", [value, sizes], f"{tensor.name}/steps")

    def join(self, tensor: TensorSpec, steps: ir.Value, output: ir.Value) -> None:
        """An output of all steps as one sequence; one without time as of the last step."""
        axis = tensor.axis(TIME)
        if axis is not None:
            self.node("Reshape", [steps, self.sizes(steps, axis, [-1], 2)], output)
            return
        last = self.node("Gather", [steps, self.ints(f"{steps.name}/last", [-1])], f"{steps.name}/one", axis=0)
        self.node("Squeeze", [last, self.ints(f"{steps.name}/first", [0])], output)
