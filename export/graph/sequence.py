"""A sequence graph made of a step graph: an ONNX Scan over the steps, its memory the states of the stream.

Source of the operator's form: the ONNX operator reference, Scan (opset 11 and later).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from rnn_export.spec import TIME, StreamSpec, TensorSpec

INT64_MAX = 2**63 - 1


def scanned(step: ModelProto, spec: StreamSpec) -> ModelProto:
    """Whole sequences of any number of steps; `step` takes `spec.chunk` frames."""
    return _Scan(step, spec).model()


class _Scan:
    def __init__(self, step: ModelProto, spec: StreamSpec) -> None:
        self.step, self.spec = step, spec
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = list(step.graph.initializer)
        self.timed = [t for t in spec.inputs if t.axis(TIME) is not None]

    def model(self) -> ModelProto:
        spec, graph = self.spec, self.step.graph
        rename = {n: f"step/{n}" for n in self._values(graph)}
        kept = {i.name for i in graph.initializer} | {t.name for t in spec.inputs if t not in self.timed}
        body = GraphProto()
        body.CopyFrom(graph)
        del body.initializer[:]
        _rename(body, {a: b for a, b in rename.items() if a not in kept})
        inputs, outputs = list(body.input), list(body.output)
        by_name = dict(zip([v.name for v in graph.input], inputs, strict=True))
        given = dict(zip([v.name for v in graph.output], outputs, strict=True))
        del body.input[:]
        del body.output[:]
        body.input.extend([by_name[s.input] for s in spec.states] + [by_name[t.name] for t in self.timed])
        body.output.extend([given[s.output] for s in spec.states] + [given[t.name] for t in spec.outputs])
        body.name = "step"
        feeds = [self._split(t) for t in self.timed]
        results = [f"{t.name}/steps" for t in spec.outputs]
        axes = [t.axis(TIME) or 0 for t in self.timed]
        out_axes = [t.axis(TIME) or 0 for t in spec.outputs]
        self.nodes.append(
            helper.make_node(
                "Scan",
                [*(s.input for s in spec.states), *feeds],
                [*(s.output for s in spec.states), *results],
                name="steps",
                body=body,
                num_scan_inputs=len(feeds),
                scan_input_axes=axes,
                scan_output_axes=out_axes,
            )
        )
        for tensor, name in zip(spec.outputs, results, strict=True):
            self._join(tensor, name)
        whole = helper.make_graph(
            self.nodes,
            "sequence",
            [_value(v, self._shape(v.name)) for v in graph.input],
            [_value(v, self._shape(v.name)) for v in graph.output],
            self.initializers,
        )
        model = ModelProto()
        model.CopyFrom(self.step)
        model.graph.CopyFrom(whole)
        return model

    def _values(self, graph: GraphProto) -> Iterator[str]:
        yield from (v.name for v in graph.input)
        for node in graph.node:
            yield from (n for n in node.output if n)

    def _shape(self, name: str) -> tuple[int | str, ...]:
        spec = self.spec
        shapes = {t.name: t.shape for t in (*spec.inputs, *spec.outputs)}
        shapes |= {s.input: s.shape for s in spec.states} | {s.output: s.shape for s in spec.states}
        return shapes[name]

    def _ints(self, name: str, values: list[int]) -> str:
        self.initializers.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _sized(self, name: str, axis: int, middle: list[int], skip: int) -> str:
        """The shape of a value with `skip` sizes from `axis` on replaced by `middle`."""
        shape = self._node("Shape", [name], f"{name}/shape")
        zero = self._ints(f"{name}/zero", [0])
        bounds = {"front": (zero, self._ints(f"{name}/axis", [axis]))}
        bounds["back"] = (self._ints(f"{name}/behind", [axis + skip]), self._ints(f"{name}/end", [INT64_MAX]))
        parts = {
            part: self._node("Slice", [shape, start, stop, zero], f"{name}/{part}")
            for part, (start, stop) in bounds.items()
        }
        middles = self._ints(f"{name}/middle", middle)
        return self._node("Concat", [parts["front"], middles, parts["back"]], f"{name}/sizes", axis=0)

    def _split(self, tensor: TensorSpec) -> str:
        """An input with its frames as (steps, chunk)."""
        sizes = self._sized(tensor.name, tensor.axis(TIME) or 0, [-1, self.spec.chunk], 1)
        return self._node("Reshape", [tensor.name, sizes], f"{tensor.name}/steps")

    def _join(self, tensor: TensorSpec, name: str) -> None:
        """An output of all steps as one sequence; one without time as of the last step."""
        axis = tensor.axis(TIME)
        if axis is None:
            last = self._ints(f"{name}/last", [-1])
            one = self._node("Gather", [name, last], f"{name}/one", axis=0)
            self._node("Squeeze", [one, self._ints(f"{name}/first", [0])], tensor.name)
            return
        self._node("Reshape", [name, self._sized(name, axis, [-1], 2)], tensor.name)


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]


def _value(like: ValueInfoProto, shape: tuple[int | str, ...]) -> ValueInfoProto:
    return helper.make_tensor_value_info(like.name, like.type.tensor_type.elem_type, list(shape))
