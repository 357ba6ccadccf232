"""Run a program of Core ML's in numpy, to verify a package without macOS.

It runs the written files and nothing else. In a program in fp16 each result is rounded to fp16; the order of Core
ML's sums, and the processors that it computes on, are not known here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError
from rnn_export.export.targets.coreml.mil_data_movement import MOVING
from rnn_export.export.targets.coreml.mil_elementwise import ELEMENTWISE
from rnn_export.export.targets.coreml.mil_products import PRODUCTS
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.coreml.buffers import PackageBuffers
from rnn_export.runtime.backends.coreml.mil import Operation, Program
from rnn_export.runtime.backends.coreml.package_names import BEGUN
from rnn_export.runtime.protocols import Session, StreamBuffers

FUNCTIONS: Mapping[str, Callable[..., Any]] = {**ELEMENTWISE, **MOVING, **PRODUCTS}
# Parameters that are several values, however many those are.
_SEVERAL = ("values",)


class MilSession(Session):
    """The step of one stream in numpy."""

    device, rows_at_once = "cpu", 1

    def __init__(self, spec: StreamSpec, program: Program, precision: str) -> None:
        self.spec, self.program, self.precision = spec, program, precision
        self.calls = [_Call(operation, program.constants) for operation in program.operations]

    def stream_buffers(self, batch: int) -> StreamBuffers:
        return PackageBuffers(self.spec, self.precision, BEGUN in self.program.states, MilRun(self.program, self.calls))


class MilRun:
    """The states of one stream, as the program keeps them, and the step on them."""

    def __init__(self, program: Program, calls: "list[_Call]") -> None:
        self.program, self.calls = program, calls
        self.states = {name: np.zeros(shape, dtype) for name, (dtype, shape) in program.states.items()}

    def predict(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        values, states = dict(inputs), dict(self.states)
        with np.errstate(all="ignore"):
            for call in self.calls:
                call.run(values, states)
        self.states = states
        return {name: values[name] for name in self.program.outputs}

    def read_state(self, name: str) -> Array:
        return self.states[name].copy()

    def write_state(self, name: str, value: Array) -> None:
        self.states = {**self.states, name: value.copy()}


class _Call:
    """One operation, with its constants looked up once."""

    def __init__(self, operation: Operation, constants: Mapping[str, Array]) -> None:
        self.operation, self.kind = operation, operation.kind
        self.outputs = [(name, *form) for name, form in operation.outputs.items()]
        self.fixed: dict[str, Any] = {}
        self.fed: list[tuple[str, str]] = []
        self.lists: dict[str, list[tuple[str, Array | None]]] = {}
        states = ("input",) if self.kind in ("read_state", "write_state") else ()
        for parameter, names in operation.inputs.items():
            if parameter in states:
                continue
            if parameter in _SEVERAL:
                self.lists[parameter] = [(n, _plain(constants[n]) if n in constants else None) for n in names]
            elif names[0] in constants:
                self.fixed[parameter] = _plain(constants[names[0]])
            else:
                self.fed.append((parameter, names[0]))

    def run(self, values: dict[str, Array], states: dict[str, Array]) -> None:
        if self.kind == "read_state":
            ((name, _, _),) = self.outputs
            values[name] = states[self.operation.inputs["input"][0]]
            return
        given = {parameter: _wide(values[name]) for parameter, name in self.fed}
        for parameter, names in self.lists.items():
            given[parameter] = [_wide(values[n]) if fixed is None else fixed for n, fixed in names]  # type: ignore[assignment]
        if self.kind == "write_state":
            (state,) = self.operation.inputs["input"]
            data = self.fixed["data"] if "data" in self.fixed else given["data"]
            states[state] = np.asarray(data).astype(states[state].dtype)
            return
        found = FUNCTIONS[self.kind](**self.fixed, **given)
        for (name, dtype, shape), value in zip(
            self.outputs, found if isinstance(found, list) else [found], strict=True
        ):
            if np.shape(value) != shape:
                raise ExportError(
                    f"{self.operation.title} gives {np.shape(value)} in numpy where coremltools says {shape}: "
                    "leave coreml out, and report this.",
                    id="coreml-shape-differs",
                )
            values[name] = np.asarray(value).astype(dtype, copy=False)


def check_known(program: Program) -> None:
    """Raise ExportError where the program has an operator that cannot be verified here."""
    unknown = sorted({o.kind for o in program.operations} - {*FUNCTIONS, "read_state", "write_state"})
    if unknown:
        raise ExportError(
            f"coremltools makes {', '.join(unknown)} of the step, which nothing here can verify: leave coreml out, or "
            "write that part of the model otherwise.",
            id="coreml-operators-unverified",
        )


def _plain(constant: Array) -> Any:
    """Strings and single numbers as Python has them, as parameters of operators."""
    return constant.item() if constant.dtype.kind in "Ub" and constant.ndim == 0 else _wide(constant)


def _wide(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype == np.float16 else value
