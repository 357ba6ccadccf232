"""Change all values of a model a little, and measure the scales that the results show."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export.export.lift.ir.dependence.axis_table import MOVING
from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, overloads
from rnn_export.export.lift.ir.op_recorder import SeesOperators
from rnn_export.export.lift.streaming_model import StreamingModel
from rnn_export.export.verify.reference import lifted_trace, own_trace
from rnn_export.export.verify.scales import CHANGE, CHANGES, scales_of
from rnn_export.platform.arrays import Array
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drift import ParityReport
from rnn_export.runtime.replay.golden import Golden

# These round nothing.
EXACT = MOVING | SHAPE_ONLY | overloads("copy_ gather index.Tensor index_select where.self masked_fill.Scalar relu")

# How many times as large a difference may become until the model is said to be what makes it.
MAGNIFIED = 64
# These are computed to an ulp of 1: ONNX Runtime's sigmoid never falls below 1.5e-8.
GATES = overloads("sigmoid sigmoid_ tanh tanh_ _softmax")


class _Changing(SeesOperators):
    """Changes each operator's result a little, as another rounding does: 1 - z may lose all that z has."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def change(self, value: Tensor, of_one: bool = False) -> None:
        if value.is_floating_point() or value.is_complex():
            changes = CHANGE * (torch.randint(2, value.shape, generator=self.generator) * 2 - 1)
            if of_one:
                value.add_(changes.to(value))
            else:
                value.mul_((1 + changes).to(value))

    def see(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        results = func(*args, **kwargs)
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        # What is reckoned of single numbers may be a size, which a code rounds.
        computes = any(isinstance(a, Tensor) and a.dim() for a in pytree.tree_leaves((args, kwargs)))
        if computes and not is_view and func not in EXACT:
            for value in pytree.tree_leaves(results):
                if isinstance(value, Tensor):
                    self.change(value, func in GATES)
        return results


def changed_outputs(model: StreamingModel, loop: ClosedLoop, changes: int = CHANGES) -> Iterator[Mapping[str, Array]]:
    """Outputs of copies of the module, on as many rows, with all values changed a little."""
    for seed in range(changes):
        # A decision on an edge may go the other way now. Every other one is the module's own.
        decisions = replace(model.original.decisions, checked=False, chosen=frozenset())
        other = copy.deepcopy(model.original).replace(decisions=decisions)
        changing, fed = _changed(seed, other, loop)
        with changing:
            yield own_trace(replace(model, original=other), fed).outputs


def _changed_states(model: StreamingModel, loop: ClosedLoop) -> Iterator[Mapping[str, Array]]:
    """The states of copies of the lifted step, with all values changed a little."""
    for seed in range(CHANGES):
        step = copy.deepcopy(model.step)
        changing, fed = _changed(seed, step, loop)
        with changing:
            yield lifted_trace(model, fed, step).states


def _changed(seed: int, module: nn.Module, loop: ClosedLoop) -> tuple[_Changing, ClosedLoop]:
    """The operators' change, and changed inputs; `module` is changed as well."""
    changing = _Changing(seed)
    inputs = {name: torch.from_numpy(array.copy()) for name, array in loop.inputs.items()}
    for tensor in (*module.parameters(), *module.buffers(), *inputs.values()):
        changing.change(tensor.data)
    return changing, ClosedLoop(loop.spec, {name: tensor.numpy() for name, tensor in inputs.items()})


def measured_scales(model: StreamingModel, golden: Golden) -> dict[str, Array]:
    """The scales of outputs, as the user's own module says, and of states, which the lifted step alone shows."""
    spec, loop = model.spec, ClosedLoop(model.spec, golden.inputs)
    timed = {t.name for t in spec.outputs if spec.timed(t)}
    return {
        **scales_of(golden.outputs, changed_outputs(model, loop), timed),
        **scales_of(golden.states, _changed_states(model, loop), golden.states),
    }


def magnified(golden: Golden, scales: Mapping[str, Array], report: ParityReport) -> str:
    """A message if the model itself makes large differences of small ones; else empty.

    `report` is of a backend that is outside the tolerance, as it is with the measured `scales` too.
    """
    own = {name: float(np.abs(value).max()) for name, value in {**golden.outputs, **golden.states}.items()}
    times = {d.tensor: scales[d.tensor].max() / own[d.tensor] for d in report.drifts if d.step and own[d.tensor] > 0}
    tensor = max(times, key=lambda name: times[name], default="")
    if not tensor or not MAGNIFIED <= times[tensor] < np.inf:
        return ""
    first = min(d.step for d in report.drifts if d.step)
    within = 2 ** max((first - 1).bit_length() - 1, 0)
    return (
        f"The model itself makes large differences of small ones: where all that it computes with is changed by "
        f"{CHANGE:.1e} of itself, {tensor!r} changes by {times[tensor] * CHANGE:.1e} of its own scale, so that no "
        f"two computers follow it alike for so long. Weights that are trained may do so less; steps={within} "
        f"(--steps {within}) verifies as far as it holds. "
    )
