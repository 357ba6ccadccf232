"""A step with its states inside, for the converter of Core ML: buffers of fp16 that a call overwrites."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx, nn

from rnn_export.contract.spec import StreamSpec, sized
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.coreml.package_names import BASE, BEGUN, LARGEST, has_flag, part_names


class StatefulStep(nn.Module):
    """(inputs...) -> (outputs...), of one stream; the buffers have the names of `part_names`.

    Integers and bools go in and come out as int32, the only whole numbers that Core ML exchanges.
    """

    def __init__(self, step: fx.GraphModule, spec: StreamSpec, initial: Mapping[str, Array], precision: str) -> None:
        super().__init__()
        self.step, self.spec, self.parts = step, spec, part_names(spec, precision)
        for state in spec.states:
            for name in self.parts[state.name]:
                self.register_buffer(name, torch.zeros(sized(state.shape, 1, spec.chunk), dtype=torch.float16))
        self.begins = has_flag(spec, initial)
        if self.begins:
            self.register_buffer(BEGUN, torch.zeros(1, dtype=torch.float16))
            for number, state in enumerate(spec.states):
                start = np.zeros(state.row, state.dtype) if state.initial != "stored" else initial[state.name]
                self.register_buffer(f"start_{number}", torch.from_numpy(_wide(np.array(start)[None])))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        spec = self.spec
        given = [x.to(getattr(torch, t.dtype)) for x, t in zip(inputs, spec.inputs, strict=True)]
        results = self.step(*given, *(self.read(number) for number in range(len(spec.states))))
        for state, value in zip(spec.states, results[len(spec.outputs) :], strict=True):
            self.write(state.name, value)
        if self.begins:
            getattr(self, BEGUN)[:] = torch.ones(1, dtype=torch.float16)
        return tuple(y if y.is_floating_point() else y.to(torch.int32) for y in results[: len(spec.outputs)])

    def read(self, number: int) -> Tensor:
        """The state of that number, as the step takes it."""
        state = self.spec.states[number]
        kept = [getattr(self, name) for name in self.parts[state.name]]
        if state.dtype == "float32":
            value = kept[0].float()
            if len(kept) == 2:
                value = value + kept[1].float() * (1 / BASE)
        else:
            value = kept[0].to(torch.int32)
            for lower in kept[1:]:
                value = value * BASE + lower.to(torch.int32)
        if self.begins:
            value = torch.where(getattr(self, BEGUN).float() > 0.5, value, getattr(self, f"start_{number}"))
        read: Tensor = value.to(getattr(torch, state.dtype))
        return read

    def write(self, name: str, value: Tensor) -> None:
        """Keep `value` as the state `name`."""
        for part, kept in zip(self.parts[name], _split(value, len(self.parts[name])), strict=True):
            getattr(self, part)[:] = kept


def _split(value: Tensor, count: int) -> list[Tensor]:
    """As `split` of the backend's, in operators of the graph."""
    if count == 1:
        return [value.half()]
    if value.is_floating_point():
        first = value.half()
        wide = first.float()
        rest = torch.where(wide.abs() <= LARGEST, (value - wide) * float(BASE), torch.zeros(()))
        return [first, rest.half()]
    whole = value.to(torch.int32)
    upper = torch.div(whole, BASE, rounding_mode="floor")
    parts = torch.div(upper, BASE, rounding_mode="floor"), torch.remainder(upper, BASE), torch.remainder(whole, BASE)
    return [part.half() for part in parts]


def _wide(start: Array) -> Array:
    return start if start.dtype == np.float32 else start.astype(np.int32)
