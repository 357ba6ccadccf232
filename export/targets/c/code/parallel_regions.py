"""Phases: operators that a team of threads computes together, in blocks of outputs, where they read many weights.

The text of a step has `RNN_PHASE(number, blocks, t, way)` before the statement or loop that computes such an operator.
It is nothing, unless the step is compiled with -DNAME_THREADS: then a team calls the function written here, for each
block, in frame `t` of the step, and from the other end where `way` is odd.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import dedent, indent

from rnn_export.export.targets.c.code.constants import Weights
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.runtime.build.template import Values

# Bytes of weights from which on the blocks of an operator are worth a team, which takes about 0.3 µs to come together.
SHARED_BYTES = 512 * 2**10
# What a block reads and writes beside the state: an input, an output, a tensor of the step, a window that slides.
_SEEN = re.compile(r"\b(?:in|out|t|s)\d+\b")


@dataclass(frozen=True)
class Phase:
    """`lines` compute the block `u` of `blocks`, in frame `t` of the step; `own` are the tensors of each thread.

    `ahead` are the lines that fetch values of other threads, all at once, before the first of them is read.
    """

    blocks: int
    lines: Sequence[str]
    own: Sequence[CTensor] = ()
    ahead: Sequence[str] = ()

    @property
    def text(self) -> str:
        return "\n".join([*self.ahead, dedent("\n".join(self.lines))])

    def seen(self, weights: Weights) -> list[str]:
        """Names that it reads from the step, beside the state."""
        names = sorted(set(_SEEN.findall(self.text)) - {tensor.address for tensor in self.own})
        return [*names, *["weights"] * weights.reads_file(self.text)]


def phase_values(phases: Sequence[Phase], types: Mapping[str, str], weights: Weights) -> Values:
    """For the template of a step; `types` are those of its inputs, outputs and tensors, by name."""
    types = {**types, "weights": "const char *"}
    names = sorted({name for phase in phases for name in phase.seen(weights)})
    return {
        "phases": [
            {
                "number": number,
                "declarations": _declarations(phase, types, weights),
                "text": indent(phase.text, "    "),
            }
            for number, phase in enumerate(phases)
        ],
        "is_shared": bool(phases),
        "seen_members": "\n".join(f"    {types[name]}const {name};" for name in names),
        "seen_values": "".join(f", {name}" for name in names),
        "shared_kib": SHARED_BYTES // 1024,
    }


def _declarations(phase: Phase, types: Mapping[str, str], weights: Weights) -> str:
    lines = [f"{types[name]}const {name} = seen->{name};" for name in phase.seen(weights)]
    lines += [f"RNN_ALIGNED {tensor.c_type} {tensor.address}[{tensor.size}];" for tensor in phase.own]
    return indent("\n".join(lines), "    ")
