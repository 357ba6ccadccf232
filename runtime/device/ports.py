"""What passes between the host and a device: the frames of a port, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from rnn_export.arrays import Array
from rnn_export.errors import DeviceError, StreamError
from rnn_export.runtime.device.api import Device
from rnn_export.runtime.device.values import decode, encode, storage
from rnn_export.spec import TensorSpec, sized


class Port:
    """One input or output: the caller's array, the pinned one in the engine's dtype, and the device's buffer."""

    def __init__(self, device: Device, tensor: TensorSpec, kind: str, batch: int, chunk: int) -> None:
        self.name, self.kind = tensor.name, kind
        shape = sized(tensor.shape, batch, chunk)
        self.buffer = device.empty(shape, storage(kind))
        self.pinned = device.pinned(shape, storage(kind))
        self.same = kind == tensor.dtype
        self.host: Array = self.pinned if self.same else np.zeros(shape, tensor.dtype)

    def encode(self) -> None:
        if not self.same:
            self.pinned[...] = encode(self.name, self.host, self.kind)

    def decode(self) -> None:
        if not self.same:
            self.host[...] = decode(self.pinned, self.kind, self.host.dtype)


@contextmanager
def saying(what: str) -> Iterator[None]:
    """A DeviceError becomes a StreamError that starts with `what` was done."""
    try:
        yield
    except DeviceError as error:
        raise StreamError(f"{what}: {error}") from error
