"""A step as ExecuTorch's file, as a bundle has it: held to the contract as it is opened.

The file is code (BUNDLE.md): ExecuTorch trusts its content. So no file is opened untrusted, and this finds a file that
was written for another model or is damaged.

Its method `step` takes the inputs and gives the outputs of the contract, in its order; state number N is the buffer
`state_N`, of which the file has the initial value. All sizes are numbers, of one stream. The method `rnn_export.spec`
gives the contract.
"""

from typing import Any

from rnn_export.contract.spec import METADATA_KEY, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import BackendUnavailable, BundleError
from rnn_export.runtime.backends.executorch.library import cause, open_program, version

FILE, METHOD = "step.pte", "step"
Form = tuple[str, tuple[int, ...]]
# ExecuTorch's ScalarType.
DTYPES = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool",
}  # fmt: skip


def buffer_name(number: int) -> str:
    """The buffer that keeps a state of the contract."""
    return f"state_{number}"


def check_program(file: str, raw: bytes, spec: StreamSpec) -> None:
    """Raise BundleError where `raw` is damaged or not of the contract, BackendUnavailable where it cannot run here."""
    try:
        if raw[4:6] != b"ET":
            raise ValueError("it is no file of ExecuTorch's")
        program = _opened(raw)
        _check_contract(program, spec)
        _check_ports(program, spec)
    except ValueError as error:
        raise BundleError(
            f"{file} cannot be used: {str(error).removesuffix('.')}. Export the bundle again.",
            id="executorch-program-invalid",
        ) from error
    try:
        method = program.load_method(METHOD)
    except RuntimeError as error:
        raise BackendUnavailable(
            f"ExecuTorch {version()} cannot run {file}: {cause(error)}", id="executorch-cannot-run"
        ) from error
    _check_states(file, method, spec)


def _opened(raw: bytes) -> Any:
    try:
        return open_program(raw)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"it is damaged: {cause(error)}") from error


def _check_contract(program: Any, spec: StreamSpec) -> None:
    names = {program.get_method_name(number) for number in range(program.num_methods())}
    if names != {METHOD, METADATA_KEY}:
        raise ValueError(f"it has the methods {sorted(names)}, but a step has {sorted((METHOD, METADATA_KEY))}")
    try:
        written = program.load_method(METADATA_KEY)([])
    except RuntimeError as error:
        raise ValueError(f"it does not say its contract: {cause(error)}") from error
    if written != [spec.dumps()]:
        raise ValueError("it was written for another contract than the bundle's")


def _check_ports(program: Any, spec: StreamSpec) -> None:
    meta = program.method_meta(METHOD)
    takes = [_form(meta.input_tensor_meta(i)) for i in range(meta.num_inputs())]
    gives = [_form(meta.output_tensor_meta(i)) for i in range(meta.num_outputs())]
    for what, found, ports in (("takes", takes, spec.inputs), ("gives", gives, spec.outputs)):
        wanted = [form(port, spec.chunk) for port in ports]
        if found != wanted:
            raise ValueError(f"it {what} {found}, but the contract says {wanted}")


def _check_states(file: str, method: Any, spec: StreamSpec) -> None:
    for number, state in enumerate(spec.states):
        try:
            kept = method.get_attribute(buffer_name(number))
        except RuntimeError as error:
            raise BundleError(
                f"{file} does not keep the state {state.name!r}: {cause(error)}", id="executorch-state-lost"
            ) from error
        found = str(kept.dtype).removeprefix("torch."), tuple(kept.shape)
        if found != form(state, spec.chunk):
            raise BundleError(
                f"{file} keeps {state.name!r} as {found}, but the contract says {form(state, spec.chunk)}.",
                id="executorch-state-differs",
            )


def form(port: TensorSpec | StateSpec, frames: int) -> Form:
    """The dtype and shape of a tensor in a step of one stream."""
    return port.dtype, sized(port.shape, 1, frames)


def _form(tensor: Any) -> Form:
    return DTYPES.get(int(tensor.dtype()), "of another kind"), tuple(tensor.sizes())
