"""The step of several streams at once, which share each reading of the weights: the same graph for a batch of them.

Their inputs and states are gathered into dense memory before it, and what it gives is scattered after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rnn_export.errors import ExportError, first_line
from rnn_export.export.targets.c.operators import statements
from rnn_export.export.targets.c.program import Program, Tensor, shape_of
from rnn_export.export.targets.c.step import prepared
from rnn_export.runtime.build.native.names import identifiers
from rnn_export.spec import BATCH, StateSpec, StreamSpec, TensorSpec, sized

# Streams of a batch; of 16 each takes as long, and a rest that is filled up longer.
ROWS = 8
# What its tensors may take of a thread's stack, and what constants of its own may take in the source.
BYTES = 512 * 2**10


@dataclass(frozen=True)
class Batched:
    """The step of `ROWS` streams.

    Attributes:
        program: what it computes, with the weights of the step of one.
        given: where the inputs and then the states are gathered.
        results: the outputs and then the next states.
    """

    spec: StreamSpec
    program: Program
    given: Sequence[Tensor]
    results: Sequence[Tensor]

    def body(self) -> tuple[list[str], int]:
        """The lines of a function of `states`, `rows` and the inputs in0 ... and outputs out0 ..., and its stack."""
        declarations, stack = self.program.declarations()
        inputs, outputs = len(self.spec.inputs), len(self.spec.outputs)
        members = identifiers([s.name for s in self.spec.states])
        lines = [f"    {line}" for line in declarations]
        lines += [f"    for (size_t r = 0; r < {ROWS}; r++) {{", "        const size_t row = r < rows ? r : 0;"]
        for i, (tensor, room) in enumerate(zip(self.spec.inputs, self.given, strict=False)):
            lines += self._copied(tensor, room, f"in{i}", "row", into=False)
        for member, room in zip(members, self.given[inputs:], strict=True):
            size = room.size // ROWS
            lines.append(
                f"        memcpy({room.text} + r * {size}, states[row]->{member}, sizeof states[row]->{member});"
            )
        lines += ["    }", *self.program.statements, "    for (size_t r = 0; r < rows; r++) {"]
        for i, (tensor, room) in enumerate(zip(self.spec.outputs, self.results, strict=False)):
            lines += self._copied(tensor, room, f"out{i}", "r", into=True)
        for member, room in zip(members, self.results[outputs:], strict=True):
            size = room.size // ROWS
            lines.append(f"        memcpy(states[r]->{member}, {room.text} + r * {size}, sizeof states[r]->{member});")
        return [*lines, "    }"], stack

    def _copied(self, tensor: TensorSpec, room: Tensor, rows: str, row: str, into: bool) -> Iterator[str]:
        """Row `r` of `room` from, or with `into` to, `row` of `rows`: in pieces where the batch is not axis 0."""
        shape, axis = sized(tensor.shape, 1, self.spec.chunk), tensor.axis(BATCH) or 0
        pieces, size = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        one, many = f"{rows} + {row} * {size}", f"{room.text} + r * {size}"
        if pieces > 1:
            yield f"        for (size_t o = 0; o < {pieces}; o++)"
            one, many = f"{rows} + ({row} * {pieces} + o) * {size}", f"{room.text} + (o * {ROWS} + r) * {size}"
        target, source = (one, many) if into else (many, one)
        yield f"{' ' * (12 if pieces > 1 else 8)}memcpy({target}, {source}, {size} * sizeof({room.kind}));"


def batched(step: bytes, spec: StreamSpec, alone: Program) -> Batched | str:
    """The step of `ROWS` streams beside that of one, `alone`; or why it is not written, in a line.

    Weights that both have are one.
    """
    shared = len(alone.weights.arrays)
    program = Program(alone.weights, alone.precision, alone.scales)
    try:
        graph = prepared(step, ROWS)
        values = {str(value.name): value for value in graph.graph.inputs}
        names = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
        given = [program.room(program.kind(values[name]), shape_of(values[name])) for name in names]
        program.tensors |= dict(zip(map(values.__getitem__, names), given, strict=True))
        results = statements(graph, program)
    except ExportError as error:
        return first_line(error)
    made = Batched(spec, program, given, results)
    expected: list[TensorSpec | StateSpec] = [*spec.outputs, *spec.states]
    wanted = [sized(t.shape, ROWS, spec.chunk) for t in expected]
    if [result.shape for result in results] != wanted:
        return f"a batch of {ROWS} gives {[list(r.shape) for r in results]}, not {[list(shape) for shape in wanted]}"
    if program.asked != alone.asked:
        return f"the calibrated scales of a batch of {ROWS} are not those of one stream"
    _, stack = program.declarations()
    constants = sum(array.nbytes for array in alone.weights.arrays[shared:])
    if max(stack, constants) > BYTES:
        return (
            f"a batch of {ROWS} takes {stack} bytes of stack and {constants} of constants of its own, and each may be "
            f"{BYTES} at most"
        )
    return made
