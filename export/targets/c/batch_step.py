"""Write the step of several streams at once, which share each read of the weights: the graph of a batch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rnn_export.contract.spec import BATCH, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import ExportError, first_line
from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.notation import shape_of
from rnn_export.export.targets.c.code.tensors import CTensor, Slide
from rnn_export.export.targets.c.operator_table import write_nodes
from rnn_export.export.targets.c.static_graph import static_graph
from rnn_export.runtime.build.c_names import identifiers

# Streams of a batch: 16 take twice as long as 8, and a batch that is not full takes as long as a full one.
ROWS = 8
# What its tensors may take of a thread's stack, and what constants of its own may take in the source.
MAX_BYTES = 512 * 2**10


@dataclass(frozen=True)
class BatchStep:
    """The step of up to `ROWS` streams: inputs, then states are `gathered`; outputs, then next states are `results`.

    `slides` are the windows that slide in the step of one stream: here they stay in place.
    """

    spec: StreamSpec
    code: CodeBuilder
    gathered: Sequence[CTensor]
    results: Sequence[CTensor]
    slides: Sequence[Slide]

    @property
    def text(self) -> str:
        """All of its statements."""
        return "\n".join([*self.gather(), *self.code.statements, *self.scatter()])

    def gather(self) -> Iterator[str]:
        """Statements that copy the inputs and the state of `row` to row `r`."""
        for i, (spec, tensor) in enumerate(zip(self.spec.inputs, self.gathered, strict=False)):
            yield self._copy(spec, tensor, f"in{i}", "row", scatter=False)
        for member, place, size in self._states(self.gathered, "states[row]"):
            yield f"memcpy({place}, {member}, {size});"
        if note := self.code.note_member:
            yield f"{note} = 0;"

    def scatter(self) -> Iterator[str]:
        """Statements that copy from row `r` to the outputs and the state of a stream."""
        for i, (spec, tensor) in enumerate(zip(self.spec.outputs, self.results, strict=False)):
            yield self._copy(spec, tensor, f"out{i}", "r", scatter=True)
        for member, place, size in self._states(self.results, "states[r]"):
            yield f"memcpy({member}, {place}, {size});"
        if note := self.code.note_member:
            # Any row of the batch may have it.
            yield f"states[r]->wrong_index = {note} ? {note} : states[r]->wrong_index;"

    def _states(self, tensors: Sequence[CTensor], state: str) -> Iterator[tuple[str, str, str]]:
        """For each state, its address in `state`, that of row `r`, and its bytes: states are the last of `tensors`."""
        members = identifiers([s.name for s in self.spec.states])
        fronts = {slide.member: slide.front for slide in self.slides}
        for member, tensor in zip(members, tensors[len(tensors) - len(members) :], strict=True):
            front = fronts.get(f"state->{member}", "").replace("state", state)
            size, place = tensor.size // ROWS, f"{state}->{member}{' + ' * bool(front)}{front}"
            yield place, f"{tensor.address} + r * {size}", f"{size} * sizeof({tensor.c_type})"

    def _copy(self, spec: TensorSpec, tensor: CTensor, port: str, row: str, scatter: bool) -> str:
        """Between row `r` of `tensor` and `row` of `port`, in segments if the batch is not axis 0."""
        shape, axis = sized(spec.shape, 1, self.spec.chunk), spec.axis(BATCH) or 0
        pieces, size = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        one, batch, loop = f"{port} + {row} * {size}", f"{tensor.address} + r * {size}", ""
        if pieces > 1:
            loop = f"for (size_t o = 0; o < {pieces}; o++)\n    "
            one, batch = f"{port} + ({row} * {pieces} + o) * {size}", f"{tensor.address} + (o * {ROWS} + r) * {size}"
        target, source = (one, batch) if scatter else (batch, one)
        return f"{loop}memcpy({target}, {source}, {size} * sizeof({tensor.c_type}));"


def write_batch_step(step: bytes, spec: StreamSpec, alone: CodeBuilder) -> BatchStep | str:
    """The step of `ROWS` streams beside that of one, `alone`, with the same weights; or the reason for none."""
    if spec.rows is not None:
        return "the model takes one stream at a time"
    shared = len(alone.weights.arrays)
    code = CodeBuilder(alone.weights, alone.precision, alone.scales, notes=alone.notes)
    try:
        graph = static_graph(step, ROWS)
        values = {str(value.name): value for value in graph.graph.inputs}
        names = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
        gathered = [code.alloc(code.c_type(values[name]), shape_of(values[name])) for name in names]
        code.tensors |= dict(zip(map(values.__getitem__, names), gathered, strict=True))
        results = write_nodes(graph, code)
    except ExportError as error:
        return first_line(error)
    outputs: list[TensorSpec | StateSpec] = [*spec.outputs, *spec.states]
    expected, found = [sized(t.shape, ROWS, spec.chunk) for t in outputs], [result.shape for result in results]
    if found != expected:
        return f"a batch of {ROWS} gives {list(map(list, found))}, not {list(map(list, expected))}"
    if code.scales_used != alone.scales_used:
        return f"the calibrated scales of a batch of {ROWS} are not those of one stream"
    _, stack = code.declarations()
    constants = sum(array.nbytes for array in alone.weights.arrays[shared:])
    if max(stack, constants) > MAX_BYTES:
        return (
            f"a batch of {ROWS} takes {stack} bytes of stack and {constants} of constants of its own, and each may be "
            f"{MAX_BYTES} at most"
        )
    return BatchStep(spec, code, gathered, results, list(alone.slides.values()))
