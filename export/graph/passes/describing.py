"""Describe a graph in itself: its producer, its contract, and doc strings on the model, its inputs and outputs."""

from collections.abc import Iterator, Mapping

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from rnn_export import __version__
from rnn_export.contract.spec import BATCH, METADATA_KEY, StateSpec, StreamSpec, TensorSpec
from rnn_export.errors import ExportError
from rnn_export.platform.terminal_text import visible


class Describe(InPlacePass):
    """Write doc strings: the computation of the graph, and for each state its start and how it is fed back.

    `frames` of a call are None if it takes any number. `reasons` are the contents of states by name; `name` is that of
    the model.

    Before: inputs and outputs are those of the contract. After: the JSON of the contract is the one note on the model.
    """

    def __init__(self, spec: StreamSpec, frames: int | None, reasons: Mapping[str, str], name: str) -> None:
        super().__init__()
        self.spec, self.frames, self.reasons, self.name = spec, frames, reasons, visible(name)
        tensors = (*spec.inputs, *spec.outputs)
        self.docs = {tensor.name: self.of_tensor(tensor) for tensor in tensors}
        for state in spec.states:
            self.docs[state.input] = self.of_state(state)
            self.docs[state.output] = f"The next {state.name}: feed it as {state.input} at the next call."

    def requires(self, model: ir.Model) -> None:
        found = [str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)]
        if set(found) != set(self.docs):
            raise ExportError(
                f"the graph has the inputs and outputs {found}, but the contract says {[*self.docs]}.",
                id="described-ports-differ",
            )

    def call(self, model: ir.Model) -> PassResult:
        model.producer_name, model.producer_version = "rnn-export", __version__
        model.metadata_props.clear()
        model.metadata_props[METADATA_KEY] = self.spec.dumps()
        model.doc_string = "\n".join(self.of_model())
        model.graph.name = self.name
        for value in (*model.graph.inputs, *model.graph.outputs):
            value.doc_string = self.docs[str(value.name)]
        return PassResult(model, modified=True)

    def of_model(self) -> Iterator[str]:
        spec = self.spec
        streams = "one stream" if spec.rows else "any number of streams (batch)"
        if spec.sequence_only:
            yield f"{self.name} over a whole sequence: any number of frames a call, {streams}."
        else:
            of_call = "any number of steps" if self.frames is None else "one step"
            frames = f"{spec.chunk} frame{'s' if spec.chunk > 1 else ''}"
            yield f"{self.name} as a pure function of inputs and states: {of_call} of {frames} a call, {streams}."
        if spec.states:
            yield "A stream feeds each state back, from call to call:"
        for state in spec.states:
            yield f"- {state.input} <- {state.output}: {self.held(state)}; {_start(state)}"
        if spec.has_delay:
            yield f"{spec.delay_note[0].upper()}{spec.delay_note[1:]}."
        yield f"Written by rnn-export {__version__}; the whole contract is the JSON of {METADATA_KEY} in the metadata."

    def held(self, state: StateSpec) -> str:
        """A state's contents."""
        parts = ", ".join(part.name for part in state.parts)
        return visible(self.reasons.get(state.name) or "memory of the model") + (f" ({parts})" if parts else "")

    def of_state(self, state: StateSpec) -> str:
        held = self.held(state)
        return f"State: {held}. It {_start(state)}; feed {state.output} back at the next call."

    def of_tensor(self, tensor: TensorSpec) -> str:
        axes = ", ".join(self.axis(tensor, dim) for dim in tensor.shape)
        numbers = "" if "float" in tensor.dtype else "True or False; " if tensor.dtype == "bool" else "Whole numbers; "
        return f"{numbers}{'a' if numbers else 'A'}xes: {axes}." if axes else "One number."

    def axis(self, tensor: TensorSpec, dim: int | str) -> str:
        if isinstance(dim, int):
            return str(dim)
        if dim == BATCH:
            return "batch (one stream)" if self.spec.rows else "batch (streams)"
        if self.frames is None:
            return f"{dim} (frames)"
        frames = tensor.frames_of(self.frames)
        return f"time ({frames} frame{'' if frames == 1 else 's'})"


def _start(state: StateSpec) -> str:
    return "starts at zero" if state.initial == "zeros" else "starts at its row of initial_states.npz"
