"""Small hand-written models as ONNX graphs. Each states its computation, so that numpy can repeat it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from onnx import helper, numpy_helper

from rnn_export.bundle import TargetRow, extend_bundle, open_bundle, write_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.contract.spec import DTYPES, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.platform.arrays import pack_arrays

from ..trusting import trusted  # noqa: TID252

IDS = 5
TABLE = np.arange(2 * IDS, dtype=np.float32).reshape(IDS, 2)
START = np.array([1, 2, 3], np.float32)


@dataclass(frozen=True)
class Model:
    """A contract and the nodes (op, inputs, outputs, attributes) of its graphs; `h` is fed, `h.next` returned."""

    spec: StreamSpec
    step: Sequence[tuple]
    sequence: Sequence[tuple] | None = None
    initial: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        files = {} if self.spec.sequence_only else {"step.onnx": self.graph(self.step, self.spec.chunk)}
        if self.sequence is not None:
            files["sequence.onnx"] = self.graph(self.sequence, "time")
        return files

    def graph(self, nodes: Sequence[tuple], time: int | str) -> bytes:
        def value(name, dtype, shape):
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            numbers = shape if time == "time" else sized(shape, 0, time)
            return helper.make_tensor_value_info(name, kind, [d or "batch" for d in numbers])

        spec = self.spec
        graph = helper.make_graph(
            [helper.make_node(op, ins, outs, **attributes) for op, ins, outs, attributes in nodes],
            "hand-made",
            [value(t.name, t.dtype, t.shape) for t in spec.inputs]
            + [value(s.input, s.dtype, s.shape) for s in spec.states],
            [value(t.name, t.dtype, t.shape) for t in spec.outputs]
            + [value(s.output, s.dtype, s.shape) for s in spec.states],
            [numpy_helper.from_array(np.asarray(a), name) for name, a in self.named().items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return model.SerializeToString()

    def named(self) -> dict[str, np.ndarray]:
        """Every constant that a node may name."""
        always = {"0": np.int64(0), "1": np.int64(1), "[0]": np.array([0]), "[1]": np.array([1])}
        return {**always, **self.constants}

    def draft(self, target: str, files: dict[str, bytes]) -> Draft:
        """With a target of these files, as it is before it is written, which needs no trust."""
        initial = {s.name: self.initial.get(s.name, np.zeros(s.row, s.dtype)) for s in self.spec.states}
        return Draft(self.spec, files, (TargetRow(target, "fp32", None, tuple(files), {}),), initial)

    def with_target(self, path: Path, target: str, files: dict[str, bytes]) -> Path:
        """As a bundle with a target of these files too, trusted."""
        self.write(path)
        extend_bundle(open_bundle(path), TargetRow(target, "fp32", None, tuple(files), {}), files)
        return trusted(path)

    def write(self, path: Path, **changes) -> Path:
        """As a bundle; `changes` replaces or adds files by name."""
        files = {**self.files(), **changes}
        if self.initial:
            files["initial_states.npz"] = pack_arrays(self.initial)
        rows = [TargetRow("onnx", "fp32", 18, tuple(self.files()), {})]
        write_bundle(path, spec=self.spec, producer={}, files=files, targets=rows, force=True)
        return path


def tensor(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def state(name: str, *row: int, dtype: str = "float32", initial: str = "zeros") -> StateSpec:
    return StateSpec(name, name, f"{name}.next", dtype, ("batch", *row), initial)


def spec(name: str, inputs, outputs, states, **rest) -> StreamSpec:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return StreamSpec(tuple(inputs), tuple(outputs), tuple(states), digest=digest, **rest)


X, Y, H = tensor("x", "batch", 3), tensor("y", "batch", 3), state("h", 3)
XT, YT = tensor("x", "batch", "time", 3), tensor("y", "batch", "time", 3)

SUM = Model(spec("sum", [X], [Y], [H]), [("Add", ["x", "h"], ["y"], {}), ("Identity", ["y"], ["h.next"], {})])

# The running sum along time, as the last row of [h, x...].
ALONG_TIME = [
    ("CumSum", ["x", "1"], ["sums"], {}),
    ("Unsqueeze", ["h", "[1]"], ["h1"], {}),
    ("Add", ["sums", "h1"], ["y"], {}),
    ("Gather", ["y", "last"], ["h.next"], {"axis": 1}),
]
LAST = {"last": np.int64(-1)}
TIMED = Model(spec("timed", [XT], [YT], [H]), ALONG_TIME, ALONG_TIME, constants=LAST)
CHUNKED = Model(spec("chunked", [XT], [YT], [H], chunk=3), ALONG_TIME, ALONG_TIME, constants=LAST)
BY_STEP = Model(spec("by step", [XT], [YT], [H], chunk=3), ALONG_TIME, constants=LAST)
DELAYED = Model(spec("delayed", [XT], [YT], [H], delay=2), ALONG_TIME, ALONG_TIME, constants=LAST)
DELAYED_CHUNKED = Model(spec("delayed chunked", [XT], [YT], [H], delay=4, chunk=3), ALONG_TIME, constants=LAST)

# One output for every two frames, as of the second; `total` as of the last frame.
FEWER_NODES = [
    *ALONG_TIME[:2],
    ("Add", ["sums", "h1"], ["all"], {}),
    ("Gather", ["all", "last"], ["h.next"], {"axis": 1}),
    ("Slice", ["all", "[1]", "end", "[1]", "two"], ["y"], {}),
    ("Identity", ["h.next"], ["total"], {}),
]


def fewer(delay: int, chunk: int, sequence: bool = True) -> Model:
    outputs = [tensor("y", "batch", "time/2", 3), tensor("total", "batch", 3)]
    contract = spec(f"fewer {delay} {chunk}", [XT], outputs, [H], delay=delay, chunk=chunk)
    constants = {**LAST, "end": np.array([2**62]), "two": np.array([2])}
    return Model(contract, FEWER_NODES, FEWER_NODES if sequence else None, constants=constants)


# What follows each frame of a whole sequence, summed.
WHOLE = Model(spec("whole", [XT], [YT], [], sequence_only=True), (), [("CumSum", ["x", "1"], ["y"], {"reverse": 1})])

TIME_MAJOR_NODES = [
    ("CumSum", ["x", "0"], ["sums"], {}),
    ("Add", ["sums", "h"], ["y"], {}),
    ("Gather", ["y", "last"], ["h.next"], {"axis": 0}),
]
TIME_MAJOR = Model(
    spec("time major", [tensor("x", "time", "batch", 3)], [tensor("y", "time", "batch", 3)], [H], chunk=2),
    TIME_MAJOR_NODES,
    TIME_MAJOR_NODES,
    constants=LAST,
)

STORED = Model(spec("stored", [X], [Y], [state("h", 3, initial="stored")]), SUM.step, initial={"h": START})

# Two inputs, outputs and states: s' = s + a, p' = p + a * b.
# A running maximum, whose first and last channel start from -inf.
LARGEST = Model(
    spec("largest", [X], [Y], [state("h", 3, initial="stored")]),
    [("Max", ["x", "h"], ["y"], {}), ("Identity", ["y"], ["h.next"], {})],
    initial={"h": np.array([-np.inf, 2, -np.inf], np.float32)},
)

PAIR = Model(
    spec(
        "pair",
        [tensor(name, "batch", 2) for name in ("a", "b")],
        [tensor(name, "batch", 2) for name in ("sum", "dot")],
        [state("s", 2), state("p", 2)],
    ),
    [
        ("Add", ["a", "s"], ["sum"], {}),
        ("Mul", ["a", "b"], ["ab"], {}),
        ("Add", ["ab", "p"], ["dot"], {}),
        ("Identity", ["sum"], ["s.next"], {}),
        ("Identity", ["dot"], ["p.next"], {}),
    ],
)

# x and z (one value a frame each) and gain (one a sequence): y = running sum of x + z, times gain; total = its last.
MIXED_NODES = [
    ("Add", ["x", "z"], ["xz"], {}),
    ("CumSum", ["xz", "1"], ["sums"], {}),
    ("Unsqueeze", ["h", "[1]"], ["h1"], {}),
    ("Add", ["sums", "h1"], ["all"], {}),
    ("Gather", ["all", "last"], ["h.next"], {"axis": 1}),
    ("Unsqueeze", ["gain", "[1]"], ["gain1"], {}),
    ("Mul", ["all", "gain1"], ["y"], {}),
    ("Mul", ["h.next", "gain"], ["total"], {}),
]
MIXED = Model(
    spec(
        "mixed",
        [tensor("x", "batch", "time", 3), tensor("z", "batch", "time", 1), tensor("gain", "batch", 3)],
        [tensor("y", "batch", "time", 3), tensor("total", "batch", 3)],
        [H],
        chunk=3,
    ),
    MIXED_NODES,
    MIXED_NODES,
    constants=LAST,
)
MIXED_BY_STEP = replace(MIXED, spec=replace(MIXED.spec, delay=4), sequence=None)

# Token ids: y = table[id] + h, h' = y. An id of IDS or more is out of range.
TOKENS = Model(
    spec("tokens", [tensor("id", "batch", dtype="int64")], [tensor("y", "batch", 2)], [state("h", 2)]),
    [
        ("Gather", ["table", "id"], ["row"], {}),
        ("Add", ["row", "h"], ["y"], {}),
        ("Identity", ["y"], ["h.next"], {}),
    ],
    constants={"table": TABLE},
)
TOKENS_TIMED_NODES = [("Gather", ["table", "id"], ["x"], {}), *ALONG_TIME]
ID = tensor("id", "batch", "time", dtype="int64")
TOKENS_TIMED = Model(
    spec("tokens timed", [ID], [tensor("y", "batch", "time", 2)], [state("h", 2)]),
    TOKENS_TIMED_NODES,
    TOKENS_TIMED_NODES,
    constants={"table": TABLE, **LAST},
)

# Two states of one shape, so that nothing but the values can tell them apart: u' = u + x, v' = v + 2 x, y = u' - v'.
TWINS_NODES = [
    ("CumSum", ["x", "1"], ["sums"], {}),
    ("Mul", ["sums", "two"], ["twice"], {}),
    ("Unsqueeze", ["u", "[1]"], ["u1"], {}),
    ("Unsqueeze", ["v", "[1]"], ["v1"], {}),
    ("Add", ["sums", "u1"], ["us"], {}),
    ("Add", ["twice", "v1"], ["vs"], {}),
    ("Sub", ["us", "vs"], ["y"], {}),
    ("Gather", ["us", "last"], ["u.next"], {"axis": 1}),
    ("Gather", ["vs", "last"], ["v.next"], {"axis": 1}),
]
TWINS = Model(
    spec("twins", [XT], [YT], [state("u", 3), state("v", 3)]),
    TWINS_NODES,
    TWINS_NODES,
    constants={"two": np.float32(2), **LAST},
)


def previous(dtype: str) -> Model:
    """A scalar a frame; gives back the one before."""
    x, y = tensor("x", "batch", dtype=dtype), tensor("y", "batch", dtype=dtype)
    nodes = [("Identity", ["h"], ["y"], {}), ("Identity", ["x"], ["h.next"], {})]
    return Model(spec(f"previous {dtype}", [x], [y], [state("h", dtype=dtype)]), nodes)


MODELS = {
    "sum": SUM,
    "timed": TIMED,
    "chunked": CHUNKED,
    "by_step": BY_STEP,
    "delayed": DELAYED,
    "delayed_chunked": DELAYED_CHUNKED,
    "fewer": fewer(0, 4),
    "fewer_delayed": fewer(6, 4),
    "fewer_delayed_less": fewer(2, 4),
    "fewer_by_step": fewer(8, 4, sequence=False),
    "time_major": TIME_MAJOR,
    "stored": STORED,
    "largest": LARGEST,
    "pair": PAIR,
    "mixed": MIXED,
    "mixed_by_step": MIXED_BY_STEP,
    "tokens": TOKENS,
    "tokens_timed": TOKENS_TIMED,
    "twins": TWINS,
    **{f"previous_{dtype}": previous(dtype) for dtype in DTYPES},
}


def frames(time: int, *frame: int, seed: int = 0) -> np.ndarray:
    """Small whole numbers, whose float32 sums are exact in any order."""
    return np.random.default_rng(seed).integers(-9, 10, (time, *frame)).astype(np.float32)
