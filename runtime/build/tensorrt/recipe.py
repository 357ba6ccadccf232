"""An engine's recipe, which a bundle carries beside graph and golden vectors to the machine that builds it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rnn_export.contract.precision import GRAPH_PRECISIONS
from rnn_export.contract.spec import Dim, StreamSpec, sized
from rnn_export.contract.target_table import TARGETS, version_key
from rnn_export.errors import BuildError, BundleError
from rnn_export.platform.json_parser import parse_json
from rnn_export.runtime.backends.tensorrt.backend import ENGINE, RECIPE

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """Settings of an engine's build from its graph, the file `onnx` of the bundle, whose `sha256` is lower-case hex.

    `batch` is the lowest, most likely and highest number of streams in one call.
    """

    target: str
    precision: str
    state_precision: str
    opset: int
    onnx: str
    sha256: str
    batch: tuple[int, int, int]

    def __post_init__(self) -> None:
        if not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise BuildError(
                f"batch {':'.join(map(str, self.batch))} is no MIN:OPT:MAX of at least 1 that rises.",
                id="recipe-batch-malformed",
            )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "batch": list(self.batch)}

    @staticmethod
    def from_json(data: Any) -> Recipe:
        """Read what `to_json` wrote; raises BundleError. A field `trtexec` is for people, and not read."""
        checks: Mapping[str, Callable[[Any], object]] = {
            "target": _text,
            "precision": GRAPH_PRECISIONS.__contains__,
            "state_precision": GRAPH_PRECISIONS.__contains__,
            "opset": _number,
            "onnx": _text,
            "sha256": lambda value: _text(value) and re.fullmatch("[0-9a-f]{64}", value),
            "batch": lambda value: isinstance(value, list) and len(value) == 3 and all(map(_number, value)),
        }
        if not isinstance(data, dict) or set(data) - {"trtexec"} != set(checks):
            found = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
            fix = "Export the bundle again"
            raise BundleError(
                f"{RECIPE} must have the fields {sorted(checks)}, but has {found}. {fix}.", id="recipe-fields-differ"
            )
        for name, good in checks.items():
            if not good(data[name]):
                raise BundleError(
                    f"{RECIPE}: {name!r} is {data[name]!r}, which it cannot be. Export the bundle again.",
                    id="recipe-field-value",
                )
        try:
            return Recipe(**{**{name: data[name] for name in checks}, "batch": tuple(data["batch"])})
        except BuildError as error:
            raise BundleError(f"{RECIPE}: {error} Export the bundle again.", id=error.id) from error

    def to_file(self, spec: StreamSpec) -> bytes:
        """As the file `recipe.json`, with the command line of `trtexec` for people."""
        return json.dumps({**self.to_json(), "trtexec": self.trtexec(spec)}, indent=1).encode() + b"\n"

    @staticmethod
    def from_file(raw: bytes) -> Recipe:
        """Read what `to_file` wrote; raises BundleError where it is no recipe."""
        try:
            data = parse_json(raw)
        except ValueError as error:
            raise BundleError(
                f"{RECIPE} is not JSON: {error}. Export the bundle again.", id="recipe-not-json"
            ) from error
        return Recipe.from_json(data)

    def shapes(self, spec: StreamSpec) -> dict[str, tuple[Shape, Shape, Shape]]:
        """Lowest, most likely and highest shape of every input and state of the step graph, by its name there."""
        tensors: list[tuple[str, Sequence[Dim]]] = [(t.name, t.shape) for t in spec.inputs]
        tensors += [(s.input, s.shape) for s in spec.states]
        low, likely, high = ({name: sized(dims, n, spec.chunk) for name, dims in tensors} for n in self.batch)
        return {name: (low[name], likely[name], high[name]) for name in low}

    @property
    def memory(self) -> int | None:
        """Bytes of scratch memory for the builder: a quarter of the smallest variant of a module, else None."""
        # A Jetson shares its memory with everything else on it, and a builder without a limit plans with all of it.
        row = TARGETS.get(self.target)
        return min(row.memory) * 2**30 // 4 if row is not None and row.memory else None

    def trtexec(self, spec: StreamSpec) -> str:
        """The command line that builds the engine in the folder of the graph without this toolkit; not run on hardware.

        It is written for the newest TensorRT of the target. Before 10, without strong typing, trtexec may compute in
        fp16 where the graph has fp32; `rnn-export build` holds each layer to its type.

        Source of the options: NVIDIA/TensorRT, samples/common/sampleOptions.cpp at 8.2.1 to 11.1.
        """
        row = TARGETS.get(self.target)
        rtx = row is not None and row.library == "tensorrt-rtx"
        newest = row.jetpacks[-1].tensorrt if row is not None and row.jetpacks else "10.0"
        files = [f"--onnx={self.onnx.rsplit('/', 1)[-1]}", f"--saveEngine={ENGINE}"]
        words = ["tensorrt_rtx" if rtx else "trtexec", *files, *shape_flags(self.shapes(spec))]
        return shlex.join(words if rtx else [*words, *self._options(newest)])

    def _options(self, tensorrt: str) -> list[str]:
        version, typed, limit = version_key(tensorrt), ["--stronglyTyped"], []
        if version < (10, 0):
            typed = [] if self.precision == "fp32" else [f"--{self.precision}", "--precisionConstraints=obey"]
        if self.memory is not None:
            mebibytes = self.memory // 2**20
            limit = [f"--memPoolSize=workspace:{mebibytes}" if version >= (8, 4) else f"--workspace={mebibytes}"]
        return [*typed, "--noTF32", *limit, "--skipInference" if version >= (8, 6) else "--buildOnly"]


def shape_flags(shapes: Mapping[str, Sequence[Sequence[int]]]) -> list[str]:
    """The words for trtexec of the (lowest, most likely, highest) shape of every input by name; a shell quotes them."""
    flags = []
    for index, flag in enumerate(("minShapes", "optShapes", "maxShapes")):
        sizes = (f"{_quoted(name)}:{'x'.join(map(str, ranges[index]))}" for name, ranges in shapes.items())
        flags.append(f"--{flag}={','.join(sizes)}")
    return flags


def _quoted(name: str) -> str:
    """A name as trtexec reads it: it splits at `:` and `,` outside of single quotes."""
    return f"'{name}'" if set(name) & set(":,") else name


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _number(value: Any) -> bool:
    return type(value) is int and value >= 1
