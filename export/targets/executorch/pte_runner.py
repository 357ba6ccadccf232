"""A stream in C++ on ExecuTorch's file, with a program around it."""

import math
from importlib.resources import files
from string import Template

from rnn_export.contract.spec import StreamSpec, TensorSpec
from rnn_export.runtime.backends.executorch.program import buffer_name, form

# What a tensor is of in C++, and in ExecuTorch.
KINDS = {
    "float32": ("float", "Float"), "float64": ("double", "Double"), "int64": ("int64_t", "Long"),
    "int32": ("int32_t", "Int"), "int16": ("int16_t", "Short"), "int8": ("int8_t", "Char"),
    "uint8": ("uint8_t", "Byte"), "bool": ("uint8_t", "Bool"),
}  # fmt: skip


def runner(spec: StreamSpec) -> str:
    """`runner.cpp` for a step of this contract."""
    template = Template(files(__package__).joinpath("runner.cpp.in").read_text())
    names = [f"input_{number}" for number in range(len(spec.inputs))]
    reads = [f"std::fread({n}.data(), sizeof({n}[0]), {n}.size(), stdin) == {n}.size()" for n in names]
    return template.substitute(
        takes=_signature(spec.inputs, spec.chunk),
        gives=_signature(spec.outputs, spec.chunk),
        notes="".join(f"// {note}\n" for note in _notes(spec)),
        buffers="\n".join(_buffer(n, t, spec.chunk) for n, t in zip(names, spec.inputs, strict=True)),
        read=" && ".join(reads),
        fed=", ".join(f"{name}_tensor" for name in names),
    )


def _buffer(name: str, tensor: TensorSpec, frames: int) -> str:
    dtype, shape = form(tensor, frames)
    kind, scalar = KINDS[dtype]
    sizes = ", ".join(map(str, shape))
    return (
        f"  std::vector<{kind}> {name}({math.prod(shape)});  // {tensor.name}\n"
        f"  auto {name}_tensor = executorch::extension::from_blob({name}.data(), {{{sizes}}}, ScalarType::{scalar});"
    )


def _signature(tensors: tuple[TensorSpec, ...], frames: int) -> str:
    return ", then ".join(f"{t.name!r} {dtype} {shape}" for t in tensors for dtype, shape in [form(t, frames)])


def _notes(spec: StreamSpec) -> list[str]:
    kept = (f"{s.name!r} is the buffer {buffer_name(number)}" for number, s in enumerate(spec.states))
    return [f"Of the states {', '.join(kept)}."] * bool(spec.states) + [f"Note: {spec.delay_note}."] * spec.has_delay
