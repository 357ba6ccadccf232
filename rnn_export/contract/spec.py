"""The contract of a stream: its inputs, its outputs, and the tensors that are its memory."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from rnn_export import limits
from rnn_export.contract.assumption import ASSUMED, Assumption
from rnn_export.contract.html_tables import contract_table
from rnn_export.contract.tensor_spec import (
    BATCH,
    DTYPES,
    ITEM_BYTES,
    TIME,
    Dim,
    PackedState,
    StateSpec,
    TensorSpec,
    sized,
)
from rnn_export.errors import SpecError
from rnn_export.platform.markup import shape_text

__all__ = [
    "ASSUMED",
    "BATCH",
    "DTYPES",
    "ITEM_BYTES",
    "METADATA_KEY",
    "TIME",
    "Assumption",
    "Dim",
    "PackedState",
    "StateSpec",
    "StreamSpec",
    "TensorSpec",
    "sized",
]

# Under which an ONNX file holds the JSON of its contract, in `metadata_props`.
METADATA_KEY = "rnn_export.spec"
# Fields of a contract that it may lack, as those do that were written before.
OPTIONAL = {"rows": int, "max_frames": int, "max_context": int, "assumptions": list | tuple, "end": str}


@dataclass(frozen=True)
class StreamSpec:
    """Everything that a runtime has to know of a model. The same JSON stands in the manifest and in each ONNX file.

    Attributes:
        inputs: the data inputs; the states are left out.
        outputs: the data outputs; the next states are left out.
        states: the memory, in the order of the graph's state inputs.
        chunk: frames per step.
        rows: 1 where the model takes one stream at a time, so that `"batch"` is 1 in every graph; None for any number.
        delay: frames at the start of a stream that give no output.
        sample_rate: Hz of the signal that the inputs are cut from, or None.
        sequence_only: True if the model needs whole sequences: there is no step then, and no state.
        end: the name of the state that counts the frames fed after the end of a sequence, where the last frames of a
            sequence are unlike what any later frame makes of them; else None.
        max_frames: the most frames of a stream, where the model takes no more; None for any number.
        max_context: frames in the attention window, the newest among them, where the model itself looks at all frames
            before; else None.
        assumptions: about decisions that the model's code takes by values; left out of the JSON if none.
        digest: sha256 over this contract and the source weights: a snapshot fits where the digest is the same.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    chunk: int = 1
    delay: int = 0
    sample_rate: int | None = None
    sequence_only: bool = False
    digest: str = ""
    rows: Literal[1] | None = None
    assumptions: tuple[Assumption, ...] = ()
    end: str | None = None
    max_frames: int | None = None
    max_context: int | None = None

    def __post_init__(self) -> None:
        for check in (_ports, _numbers, _frames, _sizes):
            for contradiction in check(self):
                raise SpecError(contradiction, id="contract-contradiction")

    @cached_property
    def has_time(self) -> bool:
        """True if the model takes sequences; if not, one call is one frame."""
        return any(t.axis(TIME) is not None for t in self.inputs)

    @property
    def has_delay(self) -> bool:
        """True if frames at the start of a stream give no output."""
        return self.delay > 0

    @property
    def delay_note(self) -> str:
        """The delay in words, for a message: in ms too, where frames are samples."""
        most = max(t.rate for t in self.inputs)
        fastest = (t for t in self.inputs if self.timed(t) and t.rate == most)
        samples = self.sample_rate is not None and all(math.prod(t.frame) == 1 for t in fastest)
        late = f" ({float(self.delay * most * 1000 / (self.sample_rate or 1)):.3g} ms)" if samples else ""
        return f"the first {self.delay} frames{late} give no output: every output comes so much later than its frame"

    @property
    def rates_note(self) -> str:
        """In words, for a message, which inputs have several frames for one of the sequence; empty where none has."""
        each = [f"{t.rate} of {t.name!r}" for t in self.inputs if t.rate > 1]
        return f"with each frame of the sequence go {', '.join(each)}" if each else ""

    @property
    def context_note(self) -> str:
        """In words, for a message, how far attention looks back."""
        return (
            f"attention looks at {self.max_context} frames (max_context): where a stream is longer, this is another "
            "function than the model that was trained, and what it is worth is for you to measure"
        )

    def beyond(self, fed: int, frames: int) -> str | None:
        """Why a stream that was fed `fed` frames cannot take `frames` more; None where it can."""
        if self.max_frames is None or fed + frames <= self.max_frames:
            return None
        return (
            f"a stream of this model has {self.max_frames} frames at most (max_frames), and was exported for no more: "
            f"{fed} were fed, and {frames} more go beyond. Nothing was fed: reset it, and begin again."
        )

    @property
    def largest_every(self) -> int:
        """The fewest frames of the input for which every output has a whole number of frames."""
        return math.lcm(*(tensor.every for tensor in self.outputs))

    @property
    def settling_steps(self) -> int:
        """Steps at the start of a stream that give no output, or fewer frames than a step gives."""
        return -(-self.delay // self.chunk)

    def late(self, fed: int, frames: int | None = None) -> int:
        """After `fed` frames, how many of the next `frames` (one chunk if None) give no output."""
        return min(self.chunk if frames is None else frames, max(0, self.delay - fed))

    def settled(self, fed: int) -> bool:
        """True if the delay is over after `fed` frames, so that all that follow give an output."""
        return fed >= self.delay

    def without_output(self, fed: int, frames: int | None = None) -> bool:
        """After `fed` frames, whether none of the next `frames` (one chunk if None) gives an output."""
        return self.late(fed, frames) == (self.chunk if frames is None else frames)

    def valid(self, tensor: TensorSpec, fed: int, frames: int | None = None) -> slice:
        """The slice of an output for the next `frames` (one chunk if None) that comes after the delay."""
        return slice(tensor.frames_of(self.late(fed, frames)) if self.timed(tensor) else 0, None)

    def frames_out(self, tensor: TensorSpec, frames: int) -> int:
        """Number of an output's frames from the first `frames` frames of a stream."""
        return tensor.frames_of(max(frames - self.delay, 0))

    @cached_property
    def tail(self) -> int:
        """The most frames of an output that only the end of a sequence gives."""
        last = (self.settling_steps + 2) * self.chunk
        # The longest rests of a step, one for each of the lengths.
        return max(
            (self.left(t, last - n).stop - self.left(t, last - n).start for t in self.outputs for n in _rests(t)),
            default=0,
        )

    def left(self, tensor: TensorSpec, frames: int) -> range:
        """Frames of an output that a sequence of `frames` still has to give, once all its whole steps are fed."""
        given = self.frames_out(tensor, frames - frames % self.chunk)
        return range(given, max(tensor.length_of(frames), given) if tensor.lengths else given)

    def left_in_last_steps(self, tensor: TensorSpec, frames: int) -> slice:
        """The place of `left` in the frames of the steps after the whole ones of a sequence of `frames`."""
        left, fed = self.left(tensor, frames), frames - frames % self.chunk
        # The first of these steps begins with the frame of the output that the delay left for it.
        first = left.start - tensor.frames_of(fed - self.delay)
        return slice(first, first + len(left))

    def closing_steps(self, frames: int) -> int:
        """Number of steps that finish a sequence of `frames`, after its whole ones."""
        fed = frames - frames % self.chunk
        last = ((t, self.left(t, frames)) for t in self.outputs if self.timed(t))
        # Frame j of an output is there once the delay and j + 1 of its frames went by.
        due = [self.delay + -(-left.stop // t.rate) for t, left in last if left]
        return max([0, *(-(-(int(n) - fed) // self.chunk) for n in due)])

    def known_after(self, tensor: TensorSpec, start: int, stop: int) -> list[int]:
        """For each frame of an output that the frames from `start` to `stop` give, how many had been fed by then."""
        first, end = (self.frames_out(tensor, n) for n in (start, stop))
        frames, every = tensor.rate.as_integer_ratio()
        return [self.delay - (-(j + 1) * every // frames) for j in range(first, end)]

    def timed(self, tensor: TensorSpec) -> bool:
        """True if `tensor` has one value a frame; if not, one stands for a whole sequence."""
        return not self.has_time or tensor.axis(TIME) is not None

    @property
    def ports(self) -> str:
        """In one line, the inputs and the outputs."""
        into, out = (", ".join(f"{t.name} {shape_text(t.shape)}" for t in ts) for ts in (self.inputs, self.outputs))
        return f"{into} -> {out}, {len(self.states)} state{'' if len(self.states) == 1 else 's'}"

    @property
    def state_bytes(self) -> int:
        """Bytes of all states of one stream."""
        return sum(state.bytes for state in self.states)

    @property
    def summary(self) -> str:
        """In one line, all but the tensors."""
        tail = f", tail {self.tail}" if self.tail else ""
        most = f", {self.max_frames} frames at most" if self.max_frames else ""
        context = f", attention to {self.max_context} frames" if self.max_context else ""
        one = f", rows {self.rows} (one stream at a time)" if self.rows else ""
        rate = f", {self.sample_rate} Hz" if self.sample_rate else ""
        whole = ", whole sequences only: it cannot stream" if self.sequence_only else ""
        return (
            f"chunk {self.chunk}, delay {self.delay}{tail}{most}{context}{one}{rate}, {self.state_bytes} bytes of "
            f"state a stream, digest {self.digest[:12]}{whole}"
        )

    def _repr_html_(self) -> str:
        return contract_table(self.inputs, self.outputs, self.states, self.summary)

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready for `json.dumps`; empty fields are left out."""
        data = {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value}
        for tensor in (*data["inputs"], *data["outputs"]):
            if not tensor["lengths"]:
                del tensor["lengths"]
        for state in data["states"]:
            if not state["parts"]:
                del state["parts"]
        return data

    def dumps(self) -> str:
        """The one canonical text of this contract."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(data: Any) -> "StreamSpec":
        """Read what `to_json` wrote; raises SpecError on anything missing, unknown or of the wrong type."""
        tensors = dict.fromkeys(("inputs", "outputs", "states"), list | tuple)
        numbers = {"chunk": int, "delay": int, "sample_rate": int | None, "sequence_only": bool, "digest": str}
        optional = {name: kind for name, kind in OPTIONAL.items() if isinstance(data, dict) and name in data}
        fields = _fields(data, "the stream contract", {**tensors, **numbers, **optional})
        if (count := max(len(fields[name]) for name in tensors)) > limits.TENSORS:
            raise SpecError(
                f"there are {count} tensors of a kind, over the limit of {limits.TENSORS}.",
                id="contract-too-many-tensors",
            )
        tensor = {"name": str, "dtype": str, "shape": list | tuple}
        state = {**tensor, "input": str, "output": str, "initial": str}
        return StreamSpec(
            inputs=tuple(TensorSpec(**_shaped(t, "an input", tensor)) for t in fields.pop("inputs")),
            outputs=tuple(_output(t, tensor) for t in fields.pop("outputs")),
            states=tuple(_state(s, state) for s in fields.pop("states")),
            assumptions=tuple(_assumption(a) for a in fields.pop("assumptions", ())),
            **fields,
        )


def _ports(spec: StreamSpec) -> Iterator[str]:
    if not spec.inputs or not spec.outputs:
        yield "a stream needs at least one input and one output."
    feeds = [*(t.name for t in spec.inputs), *(s.input for s in spec.states)]
    gives = [*(t.name for t in spec.outputs), *(s.output for s in spec.states)]
    parts = [part.name for s in spec.states for part in s.parts]
    for names in (feeds, gives, [*(s.name for s in spec.states), *parts], [a.at for a in spec.assumptions]):
        if len(names) > limits.TENSORS:
            yield f"there are {len(names)} names, over the limit of {limits.TENSORS}."
        if doubled := sorted(n for n, count in Counter(names).items() if count > 1):
            yield f"names must be unique, but {', '.join(map(repr, doubled))} stand twice among {names}."
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.axis(BATCH) is None:
            yield f"{tensor.name!r} has shape {tensor.shape}: it needs exactly one 'batch' axis."


def _numbers(spec: StreamSpec) -> Iterator[str]:
    if spec.chunk < 1 or spec.delay < 0:
        yield f"chunk is {spec.chunk} and delay {spec.delay}: chunk starts at 1, delay at 0."
    if spec.delay > limits.DELAY:
        yield f"delay is {spec.delay} frames, over the limit of {limits.DELAY}."
    if spec.digest and not re.fullmatch("[0-9a-f]{64}", spec.digest):
        yield f"digest is {spec.digest!r}, which is not a sha256 in lower-case hex."
    if spec.rows not in (None, 1):
        yield f"rows is {spec.rows}: a model takes one stream at a time, 1, or any number."
    if spec.max_frames is not None and not (spec.has_time and spec.chunk <= spec.max_frames <= limits.FRAMES):
        yield (
            f"max_frames is {spec.max_frames}, but counts the frames of a stream of sequences: from {spec.chunk}, a "
            f"chunk, to {limits.FRAMES}."
        )
    if spec.max_context is not None and not (spec.has_time and 1 <= spec.max_context <= limits.FRAMES):
        yield f"max_context is {spec.max_context}, but counts frames of sequences: from 1 to {limits.FRAMES}."
    if spec.sample_rate is not None and not 1 <= spec.sample_rate <= limits.SAMPLE_RATE:
        yield f"sample_rate is {spec.sample_rate}, but is in Hz, from 1 to {limits.SAMPLE_RATE}."


def _frames(spec: StreamSpec) -> Iterator[str]:
    if spec.chunk > 1 and not spec.has_time:
        yield f"chunk is {spec.chunk}, but no input has a time axis."
    for tensor in spec.outputs:
        if tensor.axis(TIME) is not None and not spec.has_time:
            yield f"{tensor.name!r} has shape {tensor.shape}, but no input has a time axis."
        if not spec.sequence_only and (spec.chunk % tensor.every or spec.delay % tensor.every):
            yield (
                f"{tensor.name!r} has one frame for every {tensor.every} of the input, so chunk {spec.chunk} and "
                f"delay {spec.delay} must be multiples of {tensor.every}."
            )
    if any(tensor.every > 1 for tensor in spec.inputs):
        yield "an input has 'time' or 'time*N', never 'time/N': a frame of the sequence has whole frames of each."
    yield from _ends(spec)
    if spec.sequence_only and (spec.states or spec.delay or spec.chunk > 1 or not spec.has_time):
        yield "a sequence-only model has a time axis, and neither states nor delay nor chunks."


def _rests(tensor: TensorSpec) -> range:
    return range(1, len(tensor.lengths) + 1)


def _ends(spec: StreamSpec) -> Iterator[str]:
    if any(tensor.lengths for tensor in spec.inputs):
        yield "an input has no lengths: it is as long as the sequence."
    for tensor in spec.outputs:
        if not tensor.lengths:
            continue
        period = len(tensor.lengths)
        if any(type(n) is not int or abs(n) > limits.DELAY for n in tensor.lengths) or not spec.timed(tensor):
            yield f"{tensor.name!r} has lengths {tensor.lengths[:8]}: they are whole numbers of frames, up to a limit."
        elif period % tensor.every or spec.chunk % period or spec.sequence_only:
            yield f"{tensor.name!r} has {period} lengths: a multiple of {tensor.every} that divides the chunk."
    state = next((s for s in spec.states if s.name == spec.end), None)
    counts = state is not None and (state.dtype, state.row, state.initial) == ("float32", (1,), "zeros")
    if spec.end is not None and not counts:
        yield f"end is {spec.end!r}, which must be a state, float32 (batch, 1), that starts at zero."
    if spec.tail > limits.DELAY:
        yield f"the end of a sequence gives {spec.tail} frames, over the limit of {limits.DELAY}."


def _sizes(spec: StreamSpec) -> Iterator[str]:
    tensors: list[TensorSpec | StateSpec] = [*spec.inputs, *spec.outputs, *spec.states]
    sizes = ((t.name, math.prod(sized(t.shape, 1, spec.chunk)) * ITEM_BYTES[t.dtype]) for t in tensors)
    yield from limits.excess(sizes, "a step of one stream")


def _fields(data: Any, what: str, types: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(data, dict) or set(data) != set(types):
        found = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise SpecError(
            f"{what} must have exactly the fields {sorted(types)}, but has {found}.", id="contract-fields-differ"
        )
    for key, kind in types.items():
        if not isinstance(data[key], kind) or (isinstance(data[key], bool) and kind is not bool):
            raise SpecError(
                f"{what}: field {key!r} is {data[key]!r}, which is not of the type it must have.",
                id="contract-field-type",
            )
    return dict(data)


def _assumption(data: Any) -> Assumption:
    return Assumption(**_fields(data, "an assumption", {"at": str, "value": bool, "why": str}))


def _output(data: Any, types: Mapping[str, Any]) -> TensorSpec:
    has_lengths = isinstance(data, dict) and "lengths" in data
    fields = _shaped(data, "an output", {**types, **({"lengths": list | tuple} if has_lengths else {})})
    return TensorSpec(**{**fields, "lengths": tuple(fields.get("lengths", ()))})


def _state(data: Any, types: Mapping[str, Any]) -> StateSpec:
    has_parts = isinstance(data, dict) and "parts" in data
    fields = _shaped(data, "a state", {**types, **({"parts": list | tuple} if has_parts else {})})
    part = {"name": str, "shape": list | tuple, "offset": int}
    parts = tuple(PackedState(**_shaped(p, "a packed state", part)) for p in fields.pop("parts", ()))
    return StateSpec(**fields, parts=parts)


def _shaped(data: Any, what: str, types: Mapping[str, Any]) -> dict[str, Any]:
    fields = _fields(data, what, types)
    return {**fields, "shape": tuple(fields["shape"])}
