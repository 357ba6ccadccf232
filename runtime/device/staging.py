"""What passes between the host and a device: the values of one tensor, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import DeviceError, StreamError
from rnn_export.runtime.device.api import Device
from rnn_export.runtime.device.values import decode, encode, storage
from rnn_export.spec import TensorSpec, sized


class StagedTensor:
    """One input or output: the caller's array, the pinned one in the engine's dtype, and the device's buffer."""

    def __init__(self, device: Device, tensor: TensorSpec, kind: str, batch: int, chunk: int) -> None:
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
        raise StreamError(f"{what}: {error}") from error
