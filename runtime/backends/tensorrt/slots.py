"""The states of many streams of a step engine: a round is one launch of a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rnn_export.runtime.device.slots import Bucket, DeviceSlots

if TYPE_CHECKING:
    from rnn_export.runtime.backends.tensorrt.session import TensorRTSession


class TensorRTSlots(DeviceSlots):
    """Each bucket has a context that is never bound again, and a graph until there is room for more slots."""

    backend, captured = "tensorrt", True

    def __init__(self, session: TensorRTSession) -> None:
        self.session = session
        # Before the contexts, whose memory is on the thread's current GPU.
        device = session.open_device()
        super().__init__(session.spec, device, session.engine.dtype, session.batches)

    def bind(self, bucket: Bucket) -> Callable[[], None]:
        context = self.session.bound(bucket.size, bucket.fed, bucket.given, bucket.before, bucket.after)
        return partial(context.enqueue, self.device.stream)
