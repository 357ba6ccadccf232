"""Requests to a server with NVIDIA's own client, without rnn_export.runtime.remote."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

DEADLINE_S = 30.0


class Caller:
    """Requests to one model; `inputs` has the shape (1, ...) of each on the wire."""

    def __init__(self, address: str, model: str) -> None:
        self.model = model
        self.client = triton.InferenceServerClient(address)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def counted(self, inferences: int) -> int:
        """Steps that the server ran for so many requests; it counts a batch after it has answered it."""
        end = time.monotonic() + DEADLINE_S
        while True:
            (stats,) = self.client.get_inference_statistics(self.model).model_stats
            if stats.inference_count >= inferences or time.monotonic() > end:
                assert stats.inference_count == inferences
                return stats.execution_count
            time.sleep(0.01)

    def tensors(self, inputs: Mapping[str, Any], seed: bytes = b"") -> list[Any]:
        """The tensors of one request."""
        arrays = {**inputs, "rnn_seed": np.array([[seed]], np.object_)}
        return [
            triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)).set_data_from_numpy(array)
            for name, array in arrays.items()
        ]

    def send(
        self,
        sequence: int,
        inputs: Mapping[str, Any],
        *,
        start: bool = False,
        end: bool = False,
        seed: bytes = b"",
        outputs: Sequence[str] = ("y",),
        deadline_s: float = DEADLINE_S,
    ) -> Future[dict[str, Any]]:
        """One request; the answer, or the error, comes with the future."""
        future: Future[dict[str, Any]] = Future()

        def answered(result: Any, error: Exception | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result({name: result.as_numpy(name) for name in outputs})

        self.client.async_infer(
            self.model,
            self.tensors(inputs, seed),
            answered,
            outputs=[triton.InferRequestedOutput(name) for name in outputs],
            sequence_id=int(sequence),
            sequence_start=start,
            sequence_end=end,
            client_timeout=deadline_s,
        )
        return future

    def step(self, sequence: int, x: Any, **how: Any) -> Any:
        """The output `y` of the frame `x`, both without the batch."""
        return self.send(sequence, {"x": np.asarray(x)[None]}, **how).result()["y"][0]

    def snapshot(self, sequence: int, x: Any, **how: Any) -> bytes:
        """The memory of the sequence after the frame `x`."""
        answer = self.send(sequence, {"x": np.asarray(x)[None]}, outputs=("rnn_snapshot",), **how).result()
        return bytes(answer["rnn_snapshot"].item())
