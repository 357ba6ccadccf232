"""TorchScript on torch, on the CPU or CUDA: one call a step, the states left as tensors where it computes.

torch has one pool of threads for the whole process, which no engine may resize for the others. So `threads` above 1 is
refused here, and 1 is no promise: use `torch.set_num_threads`, for all of the process.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import BackendUnavailable, BundleError, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.platform.quiet import quiet
from rnn_export.runtime import protocols

try:
    import torch
except ImportError as error:
    raise BackendUnavailable(
        f"torch is not here ({error}): pip install torch, on a CPU or for your CUDA.", id="torch-missing"
    ) from error

# The contract stands under this name among a file's extra files, as in the metadata of an ONNX graph.
SPEC_FILE = "rnn_export.spec"


def open_session(
    artefacts: protocols.Artefacts, precision: str | None, device: str | None, threads: int
) -> TorchSession:
    """Load the bundle's `step.pt`; `device` is None, "cpu", "cuda" or "cuda:N"."""
    row, spec, where = protocols.target_row(artefacts, "torchscript", precision), artefacts.spec, _device(device)
    if threads > 1:
        why = f"so an engine has no number of its own: leave threads out and call torch.set_num_threads({threads})"
        raise BackendUnavailable(
            f"threads={threads}: torch has one pool of threads for the whole process, {why}.",
            id="torchscript-threads-option",
        )
    name = row.file("step.pt")
    if name is None:
        files = ", ".join(row.files)
        raise BundleError(
            f"target 'torchscript' lists {files}, but no step.pt. Export the bundle again.",
            id="torchscript-file-missing",
        )
    contract = {SPEC_FILE: ""}
    # Of TorchScript's age.
    with quiet():
        file = io.BytesIO(artefacts.read(name))
        try:
            load: Any = torch.jit.load
            step = load(file, map_location=where, _extra_files=contract)
        except Exception as error:  # of a damaged file torch raises many kinds
            raise BackendUnavailable(
                f"torch {torch.__version__} cannot load {name}: {_cause(error)}", id="torchscript-cannot-load"
            ) from error
    written: str | bytes = contract[SPEC_FILE]
    if (written if isinstance(written, bytes) else written.encode()) != spec.dumps().encode():
        raise BundleError(
            f"{name} was written for another contract than the bundle's. Export the bundle again.",
            id="torchscript-other-contract",
        )
    return TorchSession("torchscript", spec, step, where)


def _device(device: str | None) -> torch.device:
    named = re.fullmatch("cpu|cuda(?::([0-9]+))?", "cpu" if device is None else str(device))
    if named is None:
        raise BackendUnavailable(
            f"torchscript has no device {device!r}: use 'cpu', 'cuda' or 'cuda:N'.", id="torchscript-device-unknown"
        )
    if named.group(0) == "cpu":
        return torch.device("cpu")
    number = int(named.group(1) or 0)
    # Where the driver does not fit, torch warns and then counts no GPU.
    with quiet():
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= count:
        found, fix = f"torch {torch.__version__} sees {count} of them here", "install a torch for CUDA and its driver"
        raise BackendUnavailable(
            f"device {device!r} needs GPU {number}, but {found}: use 'cpu', or {fix}.", id="torchscript-gpu-missing"
        )
    return torch.device("cuda", number)


class TorchSession(protocols.Session):
    """A step of torch's, (inputs..., states...) -> (outputs..., next states...), loaded on one device."""

    def __init__(self, name: str, spec: StreamSpec, step: Callable[..., Any], device: torch.device) -> None:
        self.name, self.spec, self.call, self.where, self.device = name, spec, step, device, str(device)
        self._check()

    def stream_buffers(self, batch: int) -> protocols.StreamBuffers:
        return TorchBuffers(self, batch)

    def state_store(self) -> protocols.StateStore:
        return TorchStateStore(self)

    def tensors(self, states: Mapping[str, Array]) -> list[torch.Tensor]:
        """Copies on the device, in the order of the contract."""
        return [torch.from_numpy(np.array(states[s.name], order="C")).to(self.where) for s in self.spec.states]

    def _check(self) -> None:
        """Check one step from zeros against the contract, since a wrong shape would be broadcast later."""
        spec, batch = self.spec, self.spec.rows or 2
        states = [_host(s, batch, spec.chunk) for s in spec.states]
        feeds = [*(_host(t, batch, spec.chunk) for t in spec.inputs), *states]
        gives = [*(_host(t, batch, spec.chunk) for t in spec.outputs), *states]
        try:
            with torch.inference_mode():
                results = self.call(*(torch.from_numpy(a).to(self.where) for a in feeds))
            found = [(str(t.dtype).removeprefix("torch."), tuple(t.shape)) for t in results]
        except Exception as error:  # torch raises many kinds
            raise BackendUnavailable(
                f"the step cannot run on {self.device}: {_cause(error)}", id="torchscript-cannot-run"
            ) from error
        expected = [(str(a.dtype), a.shape) for a in gives]
        if found != expected:
            raise BundleError(
                f"the step gives {found}, but the contract says {expected}. Export the bundle again.",
                id="torchscript-contract-differs",
            )


class TorchBuffers(protocols.StreamBuffers):
    """Host buffers of one stream, seen by torch as well, and its states on the device; no state is written in place."""

    def __init__(self, session: TorchSession, batch: int) -> None:
        self.session, spec, self.chunk = session, session.spec, session.spec.chunk
        self.inputs = {t.name: _host(t, batch, spec.chunk) for t in spec.inputs}
        self.outputs = {t.name: _host(t, batch, spec.chunk) for t in spec.outputs}
        self.frame = [torch.from_numpy(a) for a in self.inputs.values()]
        self.results = [torch.from_numpy(a) for a in self.outputs.values()]
        self.states: list[torch.Tensor] = []

    def step(self) -> None:
        try:
            with torch.inference_mode():
                # A copy: a state may be a view of an input, whose buffer the next frame overwrites.
                frame = [t.to(self.session.where, copy=True) for t in self.frame]
                results = self.session.call(*frame, *self.states)
                for buffer, result in zip(self.results, results, strict=False):
                    buffer.copy_(result)
        except Exception as error:  # torch raises many kinds
            raise StreamError(
                f"{self.session.name} refused the frame: {_cause(error)}", id="torchscript-frame-refused"
            ) from error
        states = list(results[len(self.results) :])
        self.states = states
        self.frames += self.chunk

    def read(self) -> dict[str, Array]:
        return {s.name: np.array(t.cpu().numpy()) for s, t in zip(self.session.spec.states, self.states, strict=True)}

    def write(self, states: Mapping[str, Array]) -> None:
        self.states = self.session.tensors(states)


class TorchStateStore(protocols.UndoingStore):
    """A pool's states as tensors (slots, ...) on the device, gathered and scattered there."""

    def __init__(self, session: TorchSession) -> None:
        self.session, self.spec, self.where = session, session.spec, session.where
        self.states = session.tensors(protocols.empty_state(session.spec, 0))

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.states)

    def grow(self, count: int) -> None:
        grown = self.session.tensors(protocols.empty_state(self.spec, count))
        for after, before in zip(grown, self.states, strict=True):
            after[: len(before)] = before
        self.states = grown

    def step(self, slots: Array, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
        try:
            with torch.inference_mode():
                rows = torch.from_numpy(slots).to(self.where)
                # A copy: an output may be a view of an input, and an input a view of the caller's array, which may be
                # read-only.
                frame = [torch.from_numpy(inputs[t.name].copy()).to(self.where) for t in self.spec.inputs]
                before = [state.index_select(0, rows) for state in self.states]
                results = self.session.call(*frame, *before)
                ys, after = results[: len(self.spec.outputs)], results[len(self.spec.outputs) :]
                outputs = {t.name: np.array(y.cpu().numpy()) for t, y in zip(self.spec.outputs, ys, strict=True)}
                nan_rows = protocols.rows_with_nan(self.spec, outputs, [])
                for now in after:
                    if now.is_floating_point() and bool((bad := now.isnan().reshape(len(now), -1).any(1)).any()):
                        nan_rows = bad.cpu().numpy() | (False if nan_rows is None else nan_rows)
                self.keep(rows, before, after)
        except Exception as error:  # torch raises many kinds
            raise StreamError(
                f"{self.session.name} refused the round: {_cause(error)}", id="torchscript-round-refused"
            ) from error
        return outputs, nan_rows

    def put(self, rows: torch.Tensor, states: Sequence[torch.Tensor]) -> None:
        for state, now in zip(self.states, states, strict=True):
            state.index_copy_(0, rows, now)

    def read(self, slots: Array) -> dict[str, Array]:
        rows = torch.from_numpy(slots).to(self.where)
        states = zip(self.spec.states, self.states, strict=True)
        return {s.name: t.index_select(0, rows).cpu().numpy() for s, t in states}

    def write(self, slots: Array, states: Mapping[str, Array]) -> None:
        rows = torch.from_numpy(slots).to(self.where)
        self.put(rows, self.session.tensors(states))


def _host(tensor: TensorSpec | StateSpec, batch: int, chunk: int) -> Array:
    return np.zeros(sized(tensor.shape, batch, chunk), tensor.dtype)


def _cause(error: Exception) -> str:
    """TorchScript tells its whole stack; the reason is the last line of it, and of others the first."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "TorchScript" in lines[0] else 0]
