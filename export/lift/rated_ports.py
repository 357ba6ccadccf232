"""Gives inputs with several frames per frame of the others, folded in a lifted graph, their own shape back.

The contract counts frames of the sequence; such an input has `"time*N"`. The graph folds it as it begins.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from torch import Tensor, fx

from rnn_export.contract.spec import TensorSpec
from rnn_export.contract.tensor_spec import rated as rated_time
from rnn_export.export.lift.axes.axes import Axes
from rnn_export.export.lift.contract import digest_of
from rnn_export.export.lift.ir.fx_nodes import aten, placeholders
from rnn_export.export.lift.model.flat_model import FlatModel
from rnn_export.export.lift.model.folded_inputs import Rated
from rnn_export.export.lift.streaming_model import StreamingModel


def are_along_time(flat: FlatModel, axes: Axes) -> bool:
    """True if what `flat` takes folded is folded along the time of `axes`."""
    return all(axes.time_in[i] == r.axis for i, r in _behind_batch(flat, axes).items())


def with_rated_ports(lifted: StreamingModel) -> StreamingModel:
    """`lifted`, which may take some inputs folded, with these unfolded."""
    if not lifted.original.rated:
        return lifted
    flat, spec, rated = lifted.original, lifted.spec, _behind_batch(lifted.original, lifted.axes)
    inputs = tuple(_port(t, rated[i]) if i in rated else t for i, t in enumerate(spec.inputs))
    own = replace(spec, inputs=inputs, digest="")
    notes = [own.delay_note if note == spec.delay_note else note for note in lifted.notes]
    return replace(
        lifted,
        spec=replace(own, digest=digest_of(own, flat.model, lifted.initial)),
        module=_unfolded(lifted.module, rated),
        ending=None if lifted.ending is None else _unfolded(lifted.ending, rated),
        notes=(*notes, own.rates_note, *(_late(inputs[i].name, r) for i, r in rated.items() if r.unread)),
    )


def folding(lifted: StreamingModel, call: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
    """`call`, which takes folded inputs, for inputs as in the contract."""
    rated = _behind_batch(lifted.original, lifted.axes)
    return lambda *tensors: call(*(rated[i].folded(t) if i in rated else t for i, t in enumerate(tensors)))


def _behind_batch(flat: FlatModel, axes: Axes) -> dict[int, Rated]:
    """The folded inputs by number, with a batch axis in front if the model has none."""
    bare = [batch is None for batch in axes.input_batch]
    return {i: replace(r, axis=r.axis + bare[i]) for i, r in flat.rated.items()}


def _port(tensor: TensorSpec, rated: Rated) -> TensorSpec:
    if rated.frames == 1:
        return tensor
    shape = [*tensor.shape]
    shape[rated.axis : rated.axis + 2] = [rated_time(Fraction(rated.frames))]
    return replace(tensor, shape=tuple(shape))


def _late(name: str, rated: Rated) -> str:
    late = f"the first {rated.unread * rated.frames} frames of {name!r} are fed and not read"
    return f"{late}: the model takes so many fewer, and the others stand behind these"


def _unfolded(module: fx.GraphModule, rated: dict[int, Rated]) -> fx.GraphModule:
    """A copy of `module` that takes the inputs `rated` unfolded."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(module.graph, copies))
    graph.set_codegen(module.graph._codegen)
    given = placeholders(graph)
    for i, r in rated.items():
        if r.frames > 1:
            _fold(graph, given[i], placeholders(graph)[-1], r)
    graph.lint()
    return fx.GraphModule(module, graph)


def _fold(graph: fx.Graph, taken: fx.Node, last: fx.Node, rated: Rated) -> None:
    with graph.inserting_after(last):
        size = graph.call_function(aten.sym_size.int, (taken, rated.axis))
    with graph.inserting_after(size):
        frames = graph.call_function(operator.floordiv, (size, rated.frames))
    with graph.inserting_after(frames):
        folded = graph.call_function(aten.unflatten.int, (taken, rated.axis, [frames, rated.frames]))
    taken.replace_all_uses_with(folded, lambda user: user not in (size, folded))
