"""What a module remembers in itself between calls: buffers, which become states; anything else is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.hidden import CALLS, hidden_memory
from rnn_export.export.lift.noise import Noise
from rnn_export.export.lift.program.compare import EXACT, MEMORY, Tolerance, same
from rnn_export.export.lift.program.signature import FlatModel


def buffers_to_states(flat: FlatModel) -> None:
    """Make states of the buffers that calls of the model change; `flat` must be a copy.

    Raises LiftError, with the path of what was found, where the model remembers anything else.
    """
    noise = Noise(flat)
    try:
        with torch.no_grad():
            changed = _call_and_compare(copy.deepcopy(flat), noise)
            _refuse_other_start(flat, changed, noise)
            flat.add_buffer_states(changed)
            _refuse_hidden(flat, noise)
    except LiftError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise LiftError(f"the model fails on noise in the shape of its example: {first_line(error)}") from error


def _draw(flat: FlatModel, noise: Noise) -> list[Tensor]:
    return [noise.like(leaf.example, {}) for leaf in (*flat.inputs, *flat.declared)]


def _call_and_compare(flat: FlatModel, noise: Noise) -> dict[str, Tensor]:
    """Call the model, and give by name the first value of each buffer that changes, in the shape that calls give it."""
    first, before = _buffers(flat.model), _versions(flat.model)
    shapes: dict[str, torch.Size] = {}
    changed: dict[str, Tensor] = {}
    for _ in range(CALLS):
        flat.call_stateful(*_draw(flat, noise))
        versions = _versions(flat.model)
        for name, after in _buffers(flat.model).items():
            if versions[name] == before.get(name) and _same(first.get(name), after, EXACT) and name not in changed:
                continue
            if after is None:
                raise LiftError(f"buffer {name!r} is set to None by a call: a state must be a tensor of one shape.")
            if shapes.setdefault(name, after.shape) != after.shape:
                raise LiftError(
                    f"buffer {name!r} changes its shape from call to call, from {tuple(shapes[name])} to "
                    f"{tuple(after.shape)}: a state must keep its shape. Keep a fixed number of frames in it."
                )
            changed[name] = _first_value(name, first.get(name), after)
    return changed


def _buffers(model: nn.Module) -> dict[str, Tensor | None]:
    """Every buffer by path, those that are None included; one that stands in several places once."""
    found: dict[str, Tensor | None] = {}
    seen = set()
    for path, module in model.named_modules():
        for name, value in module._buffers.items():
            if value is None or id(value) not in seen:
                found[f"{path}.{name}".lstrip(".")] = None if value is None else value.clone()
                seen.add(id(value))
    return found


def _versions(model: nn.Module) -> dict[str, tuple[int, int]]:
    """By path, which tensor a buffer is and how often it was written to: a write may leave the value as it is."""
    return {
        f"{path}.{name}".lstrip("."): (id(value), value._version if isinstance(value, Tensor) else 0)
        for path, module in model.named_modules()
        for name, value in module._buffers.items()
    }


def _first_value(name: str, before: Tensor | None, after: Tensor) -> Tensor:
    if before is None:
        return torch.zeros_like(after)
    try:
        return before.expand_as(after).to(after.dtype).clone()
    except RuntimeError:
        raise LiftError(
            f"buffer {name!r} is registered as {tuple(before.shape)} but is {tuple(after.shape)} after a call: a state "
            "must keep its shape. Register it in the shape that it gets."
        ) from None


def _refuse_other_start(flat: FlatModel, changed: Mapping[str, Tensor], noise: Noise) -> None:
    """A buffer that is made by the first call must start as zeros, since that is what is written."""
    born = [name for name, value in _buffers(flat.model).items() if value is None and name in changed]
    if not born:
        return
    tensors = _draw(flat, noise)
    pure = copy.deepcopy(flat)
    pure.add_buffer_states(changed)
    from_zeros, first_call = pure(*tensors, *changed.values()), copy.deepcopy(flat).call_stateful(*tensors)
    if not all(_same(a, b) for a, b in zip(from_zeros, first_call, strict=False)):
        raise LiftError(
            f"{', '.join(map(repr, born))}: the first call makes this buffer, and not with zeros: register it with the "
            "value that it starts from."
        )


def _refuse_hidden(flat: FlatModel, noise: Noise) -> None:
    """With its buffers given, a call must not read what an earlier one made, nor give anything else than before."""
    buffers = flat.states[len(flat.declared) :]
    # Near the values that they have, since not every value may be one.
    near = [s.example + s.example.new_full((), 0.5) if s.example.is_floating_point() else s.example for s in buffers]
    called, arguments = copy.deepcopy(flat), [*_draw(flat, noise), *near]
    expected = [t.clone() for t in copy.deepcopy(flat)(*arguments)]
    if any(bool(torch.isnan(t).any()) for t in expected):
        raise LiftError(
            "the model gives NaN for ordinary noise: look for NaN in its weights, or for a division by zero."
        )
    names = hidden_memory(called, arguments)
    if names:
        paths = ", ".join(repr(name.removeprefix("model.")) for name in names)
        raise LiftError(
            f"the model remembers {paths} between calls, in a plain attribute, where no exporter can follow it. "
            "Register it as a buffer, self.register_buffer(name, tensor): that becomes a state. Or take it as an "
            "argument, return its next value, and declare it: states={argument: output}."
        )
    if names is not None or not all(_same(a, b) for a, b in zip(expected, called(*arguments), strict=True)):
        raise LiftError(
            "the model gives other outputs for the same inputs at each call: it draws random numbers, or remembers "
            "something between calls. Make eval mode deterministic; return what is remembered."
        )


def _same(a: Tensor | None, b: Tensor | None, tolerance: Tolerance = MEMORY) -> bool:
    return a is b or (a is not None and b is not None and same(a, b, tolerance))
