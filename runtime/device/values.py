"""Conversion between the contract's dtypes and an engine's: states in half precision, int32 for int64."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rnn_export.contract.spec import TensorSpec, sized
from rnn_export.errors import DeviceError, StreamError
from rnn_export.platform.arrays import Array
from rnn_export.runtime.device.cuda import CudaDevice

BFLOAT16 = "bfloat16"
FLOATS = ("float64", "float32", "float16", BFLOAT16)


def holds(kind: str, dtype: str, state: bool) -> bool:
    """True if an engine's tensor of `kind` may stand for one that the contract gives as `dtype`."""
    return kind == dtype or (kind, dtype) == ("int32", "int64") or (state and kind in FLOATS and dtype in FLOATS)


def storage(kind: str) -> np.dtype[Any]:
    """The dtype of an array with the engine's bits; numpy has no bfloat16."""
    return np.dtype("uint16" if kind == BFLOAT16 else kind)


def encode(name: str, array: Array, kind: str) -> Array:
    """`array` in the engine's bits, rounded to nearest; raises StreamError where a number is beyond the range."""
    if kind == str(array.dtype):
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        bits = _bfloat16(array.astype(np.float32)) if kind == BFLOAT16 else array.astype(kind)
    back = decode(bits, kind, array.dtype)
    lost = np.isfinite(array) & ~np.isfinite(back) if array.dtype.kind == "f" else back != array
    if lost.any():
        why = f"which is beyond the {kind} of this engine: nothing was fed, the state is unchanged"
        fix = "Scale the model's values, or export it with --precision fp32 --state-precision fp32"
        raise StreamError(f"{name!r} holds {array[lost][0]}, {why}. {fix}.", id="frame-value-lost")
    return bits


def decode(bits: Array, kind: str, dtype: np.dtype[Any]) -> Array:
    """The values of `bits`, which are of an engine's dtype `kind`, as `dtype`."""
    if kind == BFLOAT16:
        bits = (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.astype(dtype)


def _bfloat16(array: Array) -> Array:
    """The upper half of a float32, rounded to nearest, ties to even."""
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


class StagedTensor:
    """One input or output: the caller's array, the pinned one in the engine's dtype, and the device's buffer."""

    def __init__(self, device: CudaDevice, tensor: TensorSpec, kind: str, batch: int, chunk: int) -> None:
        self.name, self.kind = tensor.name, kind
        shape = sized(tensor.shape, batch, chunk)
        self.buffer = device.empty(shape, storage(kind))
        self.pinned = device.pinned(shape, storage(kind))
        self.unchanged = kind == tensor.dtype
        self.host: Array = self.pinned if self.unchanged else np.zeros(shape, tensor.dtype)

    def encode(self) -> None:
        if not self.unchanged:
            self.pinned[...] = encode(self.name, self.host, self.kind)

    def decode(self) -> None:
        if not self.unchanged:
            self.host[...] = decode(self.pinned, self.kind, self.host.dtype)


@contextmanager
def as_stream_error(what: str) -> Iterator[None]:
    """Turn a DeviceError into a StreamError that starts with `what`: "tensorrt cannot open a pool"."""
    try:
        yield
    except DeviceError as error:
        raise StreamError(f"{what}: {error}", id="device-call-failed") from error
