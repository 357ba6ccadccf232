"""A step with its states inside, for ExecuTorch: buffers that a call overwrites."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rnn_export.runtime.backends.executorch.program import buffer_name


class StatefulStep(nn.Module):
    """(inputs...) -> (outputs...), of one stream; `states` are the initial ones.

    ExecuTorch copies the next states into the buffers one after the other, and then gives the outputs. So a result that
    lies in the memory of a state, all or in part, would already be the next state: it is copied first.
    """

    def __init__(self, step: nn.Module, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        super().__init__()
        self.step, self.count = step, len(states)
        for number, value in enumerate(states):
            self.register_buffer(buffer_name(number), value)
        lent = {_place(t) for t in (*inputs, *states)}
        with torch.no_grad():
            self.copied = [_place(result) in lent for result in step(*inputs, *states)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        kept = [getattr(self, buffer_name(number)) for number in range(self.count)]
        results = self.step(*inputs, *kept)
        results = [r.clone() if copied else r for r, copied in zip(results, self.copied, strict=True)]
        outputs = len(results) - self.count
        for state, value in zip(kept, results[outputs:], strict=True):
            state.copy_(value)
        return tuple(results[:outputs])


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
