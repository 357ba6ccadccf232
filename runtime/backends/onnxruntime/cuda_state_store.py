"""The states of many streams of ONNX Runtime on CUDA: they stay on the GPU. Not run on hardware."""

from collections.abc import Callable

import numpy as np

from rnn_export.errors import DeviceError
from rnn_export.runtime.backends.onnxruntime.buffers import Graphs
from rnn_export.runtime.backends.onnxruntime.library import RUN_ERRORS
from rnn_export.runtime.device.cuda import CudaDevice
from rnn_export.runtime.device.state_store import DeviceStateStore, PaddedBatch
from rnn_export.runtime.device.values import as_stream_error


class OrtCudaStateStore(DeviceStateStore):
    """ONNX Runtime has a queue of its own, so a step waits for the device before it and is over when it returns.

    `memory` and `number` are ONNX Runtime's words for the memory of `device`.
    """

    backend, captured = "onnxruntime", False

    def __init__(self, graphs: Graphs, device: CudaDevice, memory: str, number: int) -> None:
        self.graphs, self.memory, self.number = graphs, memory, number
        dtypes = {t.name: t.dtype for t in (*graphs.spec.inputs, *graphs.spec.outputs)}
        dtypes |= {state.input: state.dtype for state in graphs.spec.states}
        super().__init__(graphs.spec, device, dtypes.__getitem__, (1, None))

    def bind(self, batch: PaddedBatch) -> Callable[[], None]:
        step, device, where = self.graphs.step, self.device, (self.memory, self.number)
        binding = step.io_binding()
        for tensors, bind in ((batch.inputs, binding.bind_input), (batch.outputs, binding.bind_output)):
            for tensor in tensors:
                bind(tensor.name, *where, tensor.pinned.dtype.type, tensor.pinned.shape, tensor.buffer.pointer)
        for state in self.spec.states:
            dtype, shape = np.dtype(state.dtype).type, (batch.size, *state.row)
            binding.bind_input(state.input, *where, dtype, shape, batch.before[state.name].pointer)
            binding.bind_output(state.output, *where, dtype, shape, batch.after[state.name].pointer)

        def run() -> None:
            device.synchronize()
            try:
                step.run_with_iobinding(binding)
                binding.synchronize_outputs()
            except RUN_ERRORS as error:
                raise DeviceError(str(error)) from error

        return run


def cuda_state_store(graphs: Graphs) -> OrtCudaStateStore:
    """A store on the GPU of `graphs`; raises BackendUnavailable where cuda-python is not here."""
    memory, _, number = graphs.device.partition(":")
    with as_stream_error("onnxruntime cannot open a pool"):
        return OrtCudaStateStore(graphs, CudaDevice(int(number or 0)), memory, int(number or 0))
