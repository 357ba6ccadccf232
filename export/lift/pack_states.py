"""Packs small states into one tensor, for runtimes that want few; the contract has the place of each.

The step takes the pack apart as it begins and packs the next states as it ends, so drivers see one state. Counters stay
apart, since a count must be exact in half precision too, and so do states that are not float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from rnn_export.contract.spec import BATCH, PackedState, StateSpec
from rnn_export.export.lift.contract import digest_of
from rnn_export.export.lift.ir.fx_nodes import aten, placeholders, results
from rnn_export.export.lift.streaming import LiftedState
from rnn_export.export.lift.streaming_model import StreamingModel

NAME = "states"


def packed(lifted: StreamingModel) -> StreamingModel:
    """`lifted` with its float32 states, except counters, in one; unchanged with a note if fewer than two."""
    spec = lifted.spec
    counting = _counting(lifted)
    chosen = [i for i, s in enumerate(spec.states) if s.dtype == "float32" and s.name not in counting]
    if len(chosen) < 2:
        why = f"pack_states: of {len(spec.states)} states {len(chosen)} could be packed (float32, no count), so none is"
        return replace(lifted, notes=(*lifted.notes, why))
    state = _pack(_unused(lifted), [spec.states[i] for i in chosen])
    start = torch.cat([lifted.initial[part.name].reshape(-1) for part in state.parts])
    state = replace(state, initial="stored" if bool(start.any()) else "zeros")
    unpacked = [i for i in range(len(spec.states)) if i not in chosen]
    states = (state, *(spec.states[i] for i in unpacked))
    initial = {state.name: start, **{s.name: lifted.initial[s.name] for s in states[1:]}}
    spec = replace(spec, states=states, digest="")
    origin = LiftedState(state.name, start, "packed", f"{len(chosen)} states in one, as pack_states asks")
    inputs, ending = len(spec.inputs), lifted.ending
    return replace(
        lifted,
        spec=replace(spec, digest=digest_of(spec, lifted.original.model, initial)),
        module=_rewritten(lifted.module, state, chosen, inputs),
        ending=None if ending is None else _rewritten(ending, state, chosen, inputs),
        initial=initial,
        origins=(origin, *lifted.origins),
        before_packing=lifted,
    )


def _counting(lifted: StreamingModel) -> set[str]:
    """States whose next value depends on the last one and on constants alone."""
    graph, spec = lifted.step.graph, lifted.spec
    first = len(spec.inputs)
    sources: dict[fx.Node, set[int]] = {node: {i} for i, node in enumerate(placeholders(graph))}
    for node in graph.nodes:
        if node not in sources:
            sources[node] = set().union(*(sources[n] for n in node.all_input_nodes))
    nexts = results(graph)[len(spec.outputs) :]
    alone = {s.name for i, (s, n) in enumerate(zip(spec.states, nexts, strict=True)) if sources[n] == {first + i}}
    return alone | {origin.name for origin in lifted.origins if origin.kind == "counter"}


def _unused(lifted: StreamingModel) -> str:
    """A name for the pack that no other tensor has."""
    spec = lifted.spec
    taken = {t.name for t in (*spec.inputs, *spec.outputs)} | {n for s in spec.states for n in (s.name, s.output)}
    name = NAME
    while {name, f"{name}.next"} & taken:
        name += "_"
    return name


def _pack(name: str, states: Sequence[StateSpec]) -> StateSpec:
    parts, offset = list[PackedState](), 0
    for state in states:
        parts.append(PackedState(state.name, state.row, offset))
        offset += parts[-1].size
    return StateSpec(name, name, f"{name}.next", "float32", (BATCH, offset), parts=tuple(parts))


def _rewritten(module: fx.GraphModule, pack: StateSpec, chosen: Sequence[int], inputs: int) -> fx.GraphModule:
    """A copy of `module`, of `inputs` inputs, that takes `pack` for the states `chosen`, before the others."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(module.graph, copies))
    graph.set_codegen(module.graph._codegen)
    states, given = placeholders(graph)[inputs:], results(graph)
    outputs = given[: len(given) - len(states)]
    with graph.inserting_before(states[0]):
        whole = graph.placeholder("packed_states")
    with graph.inserting_after(placeholders(graph)[-1]):
        for number, part in reversed([*zip(chosen, pack.parts, strict=True)]):
            entries = graph.call_function(aten.slice.Tensor, (whole, 1, part.offset, part.offset + part.size))
            with graph.inserting_after(entries):
                value = graph.call_function(aten.reshape.default, (entries, [-1, *part.shape]))
            states[number].replace_all_uses_with(value)
            # How many rows there are is known of what is given, and of a part only where it is reshaped.
            for user in [n for n in value.users if n.target is aten.sym_size.int and n.args[1] == 0]:
                user.update_arg(0, whole)
    with graph.inserting_before(graph.output_node()):
        values = results(graph)[len(outputs) :]
        flat = [
            graph.call_function(aten.reshape.default, (values[number], [-1, part.size]))
            for number, part in zip(chosen, pack.parts, strict=True)
        ]
        joined = graph.call_function(aten.cat.default, (flat, 1))
    unpacked = [value for i, value in enumerate(values) if i not in chosen]
    graph.output_node().args = ((*results(graph)[: len(outputs)], joined, *unpacked),)
    for number in chosen:
        graph.erase_node(states[number])
    graph.lint()
    return fx.GraphModule(module, graph)
