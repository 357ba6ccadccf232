"""The states of many streams of ONNX Runtime on CUDA: they stay on the GPU. Not run on hardware."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rnn_export.errors import DeviceError
from rnn_export.runtime.device.api import Device
from rnn_export.runtime.device.ports import saying
from rnn_export.runtime.device.slots import Bucket, DeviceSlots

if TYPE_CHECKING:
    from rnn_export.runtime.backends.onnxruntime.backend import OrtSession


def cuda_slots(session: OrtSession) -> OrtCudaSlots:
    """Slots on the GPU of `session`; raises BackendUnavailable where cuda-python is not here."""
    from rnn_export.runtime.device.cuda import CudaDevice

    memory, _, number = session.device.partition(":")
    with saying("onnxruntime cannot open a pool"):
        return OrtCudaSlots(session, CudaDevice(int(number or 0)), memory, int(number or 0))


class OrtCudaSlots(DeviceSlots):
    """ONNX Runtime has a queue of its own, so a step waits for the device before it and is over when it returns.

    `memory` and `number` are ONNX Runtime's words for where the buffers of `device` lie.
    """

    backend, captured = "onnxruntime", False

    def __init__(self, session: OrtSession, device: Device, memory: str, number: int) -> None:
        self.session, self.memory, self.number = session, memory, number
        kinds = {port.name: port.dtype for port in (*session.spec.inputs, *session.spec.outputs)}
        kinds |= {state.input: state.dtype for state in session.spec.states}
        super().__init__(session.spec, device, kinds.__getitem__, session.batches)

    def bind(self, bucket: Bucket) -> Callable[[], None]:
        graph, device, where = self.session.graph, self.device, (self.memory, self.number)
        binding = graph.io_binding()
        for ports, bind in ((bucket.fed, binding.bind_input), (bucket.given, binding.bind_output)):
            for port in ports:
                bind(port.name, *where, port.pinned.dtype.type, port.pinned.shape, port.buffer.pointer)
        for state in self.spec.states:
            kind, shape = np.dtype(state.dtype).type, (bucket.size, *state.row)
            binding.bind_input(state.input, *where, kind, shape, bucket.before[state.name].pointer)
            binding.bind_output(state.output, *where, kind, shape, bucket.after[state.name].pointer)

        def run() -> None:
            from rnn_export.runtime.backends.onnxruntime.backend import RUN_ERRORS

            device.synchronize()
            try:
                graph.run_with_iobinding(binding)
                binding.synchronize_outputs()
            except RUN_ERRORS as error:
                raise DeviceError(str(error)) from error

        return run
