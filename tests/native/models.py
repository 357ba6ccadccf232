"""Real models as C: the files of each, its sources by bare name, and the step as a shared library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnn_export.bundle import Bundle
from rnn_export.contract.layout import graph_layout
from rnn_export.contract.spec import StreamSpec, TensorSpec, sized
from rnn_export.platform.arrays import Array
from rnn_export.runtime.protocols import folder
from rnn_export.runtime.replay.golden import FILE, Golden

from ..parity.cases import CASES  # noqa: TID252
from ..parity.fixtures import FIXTURES  # noqa: TID252
from .quality import run

SPEECH = Path(__file__).parents[2] / "scripts" / "silero_vad" / "speech.wav"
Built = tuple[nn.Module, tuple[Tensor, ...], dict[str, Any]]


class Headed(nn.Module):
    """A layer and a head, (B, T, inputs) -> (B, T, outputs)."""

    def __init__(self, kind: type[nn.RNNBase], inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn, self.head = kind(inputs, hidden, batch_first=True), nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Counter(nn.Module):
    """x (B, 4) -> a mean, and what was ever above 0.5; frames are counted in whole numbers."""

    count: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros(1, 4, dtype=torch.bool))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = self.seen | (x > 0.5)
        self.count = self.count + 1
        return x / self.count, self.seen


class Windows(nn.Module):
    """Causal convolutions (B, 8, T) -> (B, 8, T): pasts of 2 frames, which are moved, of 24 and 39, which slide."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Conv1d(8, 8, 3), nn.Conv1d(8, 8, 3, dilation=12)
        self.each = nn.Conv1d(8, 8, 4, dilation=13, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.near, self.far, self.each):
            x = x + torch.tanh(layer(nn.functional.pad(x, ((layer.kernel_size[0] - 1) * layer.dilation[0], 0))))
        return x


def windows() -> Built:
    torch.manual_seed(0)
    return Windows().eval(), (torch.zeros(1, 8, 5),), {}


def headed(kind: type[nn.RNNBase], inputs: int, hidden: int, outputs: int = 1) -> Built:
    torch.manual_seed(0)
    return Headed(kind, inputs, hidden, outputs).eval(), (torch.zeros(1, 5, inputs),), {}


def case(name: str) -> Built:
    """One of the parity table, for one stream."""
    model, example, options = next(c for c in CASES if c.name == name).build()
    return model, example, options


def fixture(name: str) -> Built:
    found = next(f for f in FIXTURES if f.name == name)
    return found.load(), found.example, found.options


def silero() -> Built:
    # What it hears is speech: noise as loud as the golden vectors' own takes its states where they never are.
    model, example, options = case("silero-vad")
    return model, example, {**options, "data": SPEECH}


MODELS: Mapping[str, Callable[[], Built]] = {
    "silero": silero,
    "rnnoise": lambda: fixture("rnnoise"),
    "rtneural-lstm": lambda: fixture("rtneural-lstm"),
    "nam": lambda: fixture("nam"),
    "lstm": lambda: headed(nn.LSTM, 8, 16),
    "gru": lambda: headed(nn.GRU, 16, 32),
    # 5 MB of weights, which stand in large.bin.
    "large": lambda: headed(nn.LSTM, 256, 448, 8),
    "counter": lambda: (Counter().eval(), (torch.zeros(1, 4),), {}),
    "windows": windows,
    **{
        name: lambda name=name: case(name)
        for name in (
            "chunk-of-3",
            "valid-chunk-of-4",
            "strided-valid-then-gru",
            "ids",
            "several-inputs-and-outputs",
            "last-frame",
            "dual-path",
        )
    },
}
NARROW = {"silero": ("bf16", "int8"), "gru": ("bf16", "int8"), "rnnoise": ("int8",)}
TABLE = [(name, precision) for name in MODELS for precision in ("fp32", *NARROW.get(name, ()))]


@dataclass(frozen=True)
class Written:
    """A model in one precision in a bundle: `name` is that of its sources, `files` are those, by bare name."""

    bundle: Bundle
    name: str
    precision: str
    files: Mapping[str, bytes]

    @staticmethod
    def of(bundle: Bundle, precision: str) -> Written:
        row = next(row for row in bundle.targets if (row.target, row.precision) == ("c", precision))
        place = folder("c", precision)
        sources = [path for path in row.files if not path.startswith(f"{place}/build/")]
        files = {path.removeprefix(f"{place}/"): bundle.read(path) for path in sources}
        return Written(bundle, row.requires["name"], precision, files)

    @property
    def spec(self) -> StreamSpec:
        return self.bundle.spec

    @property
    def weights(self) -> bytes | None:
        return self.files.get(f"{self.name}.bin")

    @property
    def golden(self) -> Golden:
        return Golden.from_arrays(self.bundle.arrays(FILE), self.spec)

    @property
    def heard(self) -> dict[str, Array]:
        """The first row of the golden inputs, (frames, ...) by input."""
        return {name: array[0] for name, array in self.golden.inputs.items()}

    @property
    def inputs(self) -> list[Array]:
        """The same as a step takes it: (steps, values) for each input."""
        return [by_step(self.spec, t, self.heard[t.name], self.steps) for t in self.spec.inputs]

    @property
    def steps(self) -> int:
        return self.golden.frames // self.spec.chunk

    @property
    def late(self) -> int:
        """Steps that give nothing."""
        return self.spec.delay // self.spec.chunk


def by_step(spec: StreamSpec, tensor: TensorSpec, array: Array, steps: int) -> Array:
    """(frames, ...) as (steps, values), each step as it lies in C; what has no time is the same in all of them."""
    if not spec.timed(tensor):
        return np.stack([graph_layout(array[None], tensor).reshape(-1)] * steps)
    pieces = np.split(array, steps)
    whole = [piece[None] if spec.has_time else piece for piece in pieces]
    return np.stack([graph_layout(piece, tensor).reshape(-1) for piece in whole])


STATE_BYTES = '#include "{name}.h"\nsize_t state_bytes(void) {{ return {NAME}_STATE_BYTES; }}\n'
WHERE = ctypes.c_void_p


class Library:
    """The step of `written` in `folder`, where it is compiled to NAME.o, called through ctypes.

    Arrays and states lie as loosely as C allows: each is aligned as its own type is, and no more.
    """

    def __init__(self, written: Written, compiler: str, folder: Path) -> None:
        name = written.name
        (folder / "state.c").write_text(STATE_BYTES.format(name=name, NAME=name.upper()))
        run([compiler, "-shared", "-fPIC", "-o", "step.so", f"{name}.o", "state.c"], folder)
        library = ctypes.CDLL(str(folder / "step.so"))
        self.spec = written.spec
        self.init, self.step_, self.run_ = (getattr(library, f"{name}_{what}") for what in ("init", "step", "run"))
        for function in (self.init, self.step_, self.run_):
            function.restype = None
        library.state_bytes.restype = ctypes.c_size_t
        self.state_bytes = int(library.state_bytes())
        self.weights: Array | None = None
        if written.weights is not None:
            self.weights = loose(len(written.weights), np.uint8, 64)
            self.weights[:] = np.frombuffer(written.weights, np.uint8)
            assert library[f"{name}_check"](WHERE(self.weights.ctypes.data), ctypes.c_size_t(self.weights.size)) == 0

    def start(self) -> Array:
        state = loose(self.state_bytes, np.uint8, 8)
        state[:] = 0xA5
        given = [] if self.weights is None else [WHERE(self.weights.ctypes.data)]
        self.init(WHERE(state.ctypes.data), *given)
        return state

    def buffers(self, steps: int) -> list[Array]:
        """For the outputs of as many steps."""
        found = []
        for tensor in self.spec.outputs:
            size = int(np.prod(sized(tensor.shape, 1, self.spec.chunk)))
            found.append(loose(steps * size, tensor.dtype).reshape(steps, size))
        return found

    def step(self, state: Array, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        self.step_(*(WHERE(array.ctypes.data) for array in (state, *inputs, *outputs)))

    def steps(self, state: Array, inputs: Sequence[Array]) -> list[Array]:
        """(steps, values) for each output."""
        outputs = self.buffers(len(inputs[0]))
        for i in range(len(inputs[0])):
            self.step(state, [a[i] for a in inputs], [a[i] for a in outputs])
        return outputs

    def run(self, state: Array, inputs: Sequence[Array]) -> list[Array]:
        outputs = self.buffers(len(inputs[0]))
        where = [WHERE(array.ctypes.data) for array in (state, *inputs, *outputs)]
        self.run_(*where, ctypes.c_size_t(len(inputs[0])))
        return outputs


def loose(size: int, dtype: Any, alignment: int | None = None) -> Array:
    """An array at an address that is a multiple of `alignment`, which is that of its type if None, and of no more."""
    own = alignment or np.dtype(dtype).itemsize
    whole = np.zeros(size * np.dtype(dtype).itemsize + 4 * own, np.uint8)
    start = -whole.ctypes.data % (2 * own) + own
    return whole[start : start + size * np.dtype(dtype).itemsize].view(dtype)
