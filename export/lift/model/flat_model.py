"""A model as a function of flat, named tensors: (inputs..., states...) -> (outputs..., next states...)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rnn_export.errors import DecidedByValue, LiftError, first_line
from rnn_export.export.lift.layers.packed_sequences import packing_full_rows
from rnn_export.export.lift.model.argument_binding import bind, call_bound
from rnn_export.export.lift.model.attention_bound import Context
from rnn_export.export.lift.model.call.complex_parts import joined, named_parts, part_names, parts_of
from rnn_export.export.lift.model.call.output_parts import OutputRef, is_ordered, key_of, object_in, pick, result_parts
from rnn_export.export.lift.model.call.pytree import (
    closed,
    described,
    is_fed,
    leaves_by_path,
    renamed,
    suffix,
    tensors_of,
)
from rnn_export.export.lift.model.decisions import DATA_DEPENDENT, Deciding, Decisions, decided_by_value
from rnn_export.export.lift.model.folded_inputs import Rated
from rnn_export.export.lift.model.leaves import Leaf, named_leaves
from rnn_export.export.lift.model.module_attributes import AttributePath, swapped
from rnn_export.export.lift.model.number_states import (
    HELD,
    NUMBERS,
    PLAIN,
    held_in,
    hold,
    next_of,
    next_value,
    paths_of,
    zero_like,
)
from rnn_export.export.lift.model.numbers.int_provenance import StateInt, keep_number, refuse_others
from rnn_export.export.lift.model.numbers.tensor_indices import TensorNumbers
from rnn_export.export.lift.model.outside_values import Outside
from rnn_export.export.lift.model.script.script_modules import signature_of
from rnn_export.export.lift.model.select_branches import Variant, both_branches
from rnn_export.platform.last_resort import failing_at


class FlatModel(nn.Module):
    """`model` called with flat tensors.

    Attributes:
        inputs: the named data leaves, in the order of forward's arguments; a complex one is NAME.real and NAME.imag.
        states: the named leaves of the states: declared states, in that order, then module states.
        seen: by state, the values that calls of the model left in it, (calls, *shape), and that it may have.
        module_states: the paths of each module state; several if they hold one tensor.
        write_only: by paths, the initial values of write-only module states: every call starts from them.
        outputs: the names of forward's first results; the next states follow in the order of `states`.
        output_keys: for each of `outputs`, its name or position as in `refs`.
        left_out: by name, the class of each result object that a later call could take as an argument.
        written: the arguments that the model writes to.
        defaulted_states: the declared states that the example leaves out, so that the model makes their first value.
        max_frames: the most frames of a sequence, as the user says; None for any number.
        context: the user's bound on attention to all earlier frames; None if it does not stream.
        packs: whether recurrent layers take packed rows; with `packs_full_rows` these all have every frame.
        decisions: the facts known about data-dependent decisions.
        rated: by index, the inputs with several frames for each of the others: forward takes them folded.
        outside: in a reference copy, its own copies of values outside of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Sequence[Any],
        states: Mapping[str, OutputRef],
        input_names: Sequence[str] | None,
        output_names: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.refs = dict(states)
        self.positional, self.arguments = bind(model, example, self.refs)
        self._unfed = [name for name in signature_of(model).parameters if name not in self.arguments]
        result, called = self._example_result()
        self._check_refs(result)
        self.defaulted_states = tuple(name for name in self.refs if self.arguments[name] is None)
        for name in self.defaulted_states:
            # The model makes this state itself when it gets none; it must come back in the shape it is fed in.
            made = self._back(result, called, name)
            self.arguments[name] = pytree.tree_map_only((Tensor, *NUMBERS), zero_like, made)
        self._hold(result, called)
        self.inputs = named_leaves([n for n in self.arguments if n not in self.refs], self.arguments, input_names)
        self.states = named_leaves(list(self.refs), self.arguments, None)
        self.outputs = self._output_names(result, output_names)
        self.left_out = {
            str(key): type(object_in(value)).__name__
            for key, value in result_parts(result).items()
            if self._is_left(key, value)
        }
        data = self._data_parts(result).items()
        self.output_keys = tuple(k for k, v in data for _ in parts_of(t for _, t in tensors_of(v)))
        self.example_outputs = tuple(parts_of(t for _, t in self._data(result)))
        self.decisions = Decisions()
        self.packs = self.packs_full_rows = False
        self.rated: dict[int, Rated] = {}
        self.outside = Outside()
        self.max_frames: int | None = None
        self.context: Context | None = None
        self.chunk = 1
        self.module_states: tuple[tuple[AttributePath, ...], ...] = ()
        self.write_only: dict[tuple[AttributePath, ...], Tensor] = {}
        self.seen = {leaf.name: leaf.example[None] for leaf in self.states}
        self._are_complex: tuple[bool, ...] = ()
        self._taken = frozenset(self.names)
        self._roots: dict[AttributePath, Any] = {}
        self._check_states_come_back(result, called)

    def replace(self, **changes: Any) -> FlatModel:
        """A copy with other attributes, which shares the rest with this one, the user's modules included."""
        other = copy.copy(self)
        vars(other)["_modules"] = dict(self._modules)
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    def with_model(self, change: Callable[[nn.Module], nn.Module]) -> FlatModel:
        """A deep copy with `change` of the user's model, which may change in place."""
        other = copy.deepcopy(self)
        return other.replace(model=change(other.model))

    def folded(self, rated: Mapping[int, Rated]) -> FlatModel:
        """A copy that takes the inputs `rated`, by index, folded."""
        folded = {i: replace(self.inputs[i], example=r.example(self.inputs[i].example)) for i, r in rated.items()}
        return self.replace(rated=dict(rated), inputs=tuple(folded.get(i, x) for i, x in enumerate(self.inputs)))

    @property
    def declared(self) -> tuple[Leaf, ...]:
        """The states that are arguments of the model."""
        return tuple(leaf for leaf in self.states if self.module_state_at(leaf.name) is None)

    @property
    def defaulted_to_none(self) -> list[str]:
        """The arguments that the example leaves out and that default to None."""
        parameters = signature_of(self.model).parameters
        return [name for name in self._unfed if parameters[name].default is None]

    @property
    def module_state_paths(self) -> set[AttributePath]:
        """The paths of module states, write-only ones included."""
        return {path for places in (*self.module_states, *self.write_only) for path in places}

    @property
    def names(self) -> list[str]:
        """The names of inputs, states and outputs."""
        return [*(leaf.name for leaf in (*self.inputs, *self.states)), *self.outputs]

    def module_state_at(self, name: str) -> AttributePath | None:
        """The first path of the module state `name`; None if it is an argument."""
        return next((places[0] for places in self.module_states if name in part_names(self.name_of(places))), None)

    def name_of(self, places: Sequence[AttributePath]) -> str:
        """The name of the module state at `places`: the first path, plus `.kept` if that name is taken."""
        name = str(places[0])
        return f"{name}.kept" if name in self._taken else name

    def keep(self, places: Sequence[tuple[AttributePath, ...]], starts: Sequence[Tensor], called: nn.Module) -> None:
        """Make states of the module attributes at `places`, with several paths for one tensor.

        `starts` have the batch of the example; `called` is a copy of the model after a call, which has all attributes.
        """
        self.module_states += tuple(places)
        named = [(self.name_of(group), start) for group, start in zip(places, starts, strict=True)]
        leaves = tuple(Leaf(name, part) for name, start in named for name, part in named_parts(name, start))
        self._are_complex += tuple(start.is_complex() for start in starts)
        self.states, self.seen = (*self.states, *leaves), {**self.seen, **{x.name: x.example[None] for x in leaves}}
        paths = [path for group in places for path in group]
        roots = {path.root for path in paths}
        # What stands beside a state is as it was before any call, where the state has its place already.
        created = {path.root for path in paths if not path.is_in(self.model)}
        self._roots |= {root: root.get(called if root in created else self.model) for root in sorted(roots, key=str)}
        for root in roots:
            if root.is_buffer(self.model) and root.get(self.model) is None:
                root.put(self.model, root.get(called).clone())

    def forget(self, names: Collection[str]) -> None:
        """Make the counters `names` write-only module states: nothing reads them."""
        held = dict(zip(self.module_states, self._are_complex, strict=True))
        self.write_only |= {g: x.example for g in held for x in self.states if x.name == self.name_of(g) in names}
        self.module_states = tuple(group for group in held if group not in self.write_only)
        self._are_complex = tuple(held[group] for group in self.module_states)
        self.states = tuple(leaf for leaf in self.states if leaf.name not in names)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Call the model as a pure function: module states are arguments and results too."""
        try:
            if self.decisions.checked or not self.decisions.chosen:
                return self._pure(*tensors)
            return both_branches(self.model, lambda variant: self._on(variant, *tensors))
        except RuntimeError as error:
            # torch prints the whole graph so far where its own comes out.
            if torch.compiler.is_exporting() and DATA_DEPENDENT in str(error):
                raise self._with_numbers(decided_by_value(error)) from error
            raise

    def _with_numbers(self, refusal: DecidedByValue) -> DecidedByValue:
        """`refusal`, with the numbers in declared states, which are tensors while the code is traced."""
        names = ", ".join(name for name in self.held if self.module_state_at(name))
        tensors = f" ({names}: a number in a declared state that calls change is a tensor in a graph)"
        return refusal.with_note(refusal.tried + tensors) if names else refusal

    def _on(self, variant: Variant, *tensors: Tensor) -> tuple[Tensor, ...]:
        decisions = self.decisions
        self.decisions = replace(decisions, variant=variant)
        try:
            return self._pure(*tensors)
        finally:
            self.decisions = decisions

    def _pure(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if not (self.module_states or self.write_only):
            return self.call_stateful(*tensors)
        count = len(tensors) - len(self.module_states) - sum(self._are_complex)
        left = list(tensors[count:])
        fed = [joined(left, is_complex).clone() for is_complex in self._are_complex]
        for group, tensor in zip(self.module_states, fed, strict=True):
            keep_number(tensor, StateInt(self.name_of(group)))
        places = {path: t for group, t in zip(self.module_states, fed, strict=True) for path in group}
        places |= {path: start.clone() for group, start in self.write_only.items() for path in group}
        with swapped(self.model, self._roots, places):
            results = self.call_stateful(*tensors[:count])
            after = [next_value(group[0], self.model, t) for group, t in zip(self.module_states, fed, strict=True)]
        refuse_others(self.decisions.left, {self.name_of(g): t for g, t in zip(self.module_states, after, strict=True)})
        return (*results, *parts_of(after))

    def call_stateful(self, *tensors: Tensor, left_out: Sequence[str] = ()) -> tuple[Tensor, ...]:
        """Call the model as the user does: without module states, and with None for the arguments `left_out`."""
        # What the model writes to is ours.
        left = [t.clone() for t in tensors] if self.written else list(tensors)
        left = [self.rated[i].taken(t) if i in self.rated else t for i, t in enumerate(left)]
        called, held = {}, self.held
        for name in [*(n for n in self.arguments if n not in self.refs), *self.refs]:
            leaves, tree = pytree.tree_flatten_with_path(self.arguments[name])
            filled = [
                joined(left, leaf.is_complex()) if is_fed(leaf) else held.get(name + suffix(path), leaf)
                for path, leaf in leaves
            ]
            called[name] = pytree.tree_unflatten(filled, tree)
        called.update(dict.fromkeys(left_out))
        deciding = Deciding(self.decisions) if self.decisions.decide else contextlib.nullcontext()
        packing = packing_full_rows() if self.packs_full_rows else contextlib.nullcontext()
        has_numbers = self.module_states or torch.compiler.is_exporting()
        picking = TensorNumbers(self.decisions.seen.picks) if has_numbers else contextlib.nullcontext()
        bounding = self.context.bounding() if self.context else contextlib.nullcontext()
        with picking, deciding, packing, bounding, self.outside.placed():
            result = call_bound(self.model, self.positional, called)
        if self.held:
            # Another object, since whoever puts back what was held holds this one.
            vars(self.model)[HELD] = self._held_back(self.held, result, called)
        after = [t for name in self.refs for _, t in self._after(result, called, name)]
        return tuple(parts_of([*(t for _, t in self._data(result)), *after]))

    def begin(self, name: str, value: Any) -> None:
        """Set the initial value of the number `name` in an argument."""
        vars(self.model)[HELD] = self.held | {name: type(self.held[name])(value)}

    @property
    def held(self) -> dict[str, Any]:
        """The non-tensor leaves of declared states, such as numbers, by name, as the next call finds them."""
        return held_in(self.model)

    def _hold(self, result: Any, called: Mapping[str, Any]) -> None:
        """Keep the non-tensor leaves of declared states in an attribute of `model`; raises as `_held_back`."""
        fed = {name + path: leaf for name in self.refs for path, leaf in paths_of(self.arguments[name])}
        held = {path: leaf for path, leaf in fed.items() if isinstance(leaf, PLAIN)}
        back = self._held_back(held, result, called)
        hold(self.model, held, back)

    def _held_back(self, held: Mapping[str, Any], result: Any, called: Mapping[str, Any]) -> dict[str, Any]:
        """The next values of `held`; raises LiftError, with the name, if one is neither a number nor unchanged."""
        if not held:
            return {}
        back = {name + path: leaf for name in self.refs for path, leaf in self._leaves_back(result, called, name)}
        return next_of(held, back)

    def _example_result(self) -> tuple[Any, dict[str, Any]]:
        """The result for the example, and the arguments of that call as it left them."""
        called = {n: pytree.tree_map_only(Tensor, torch.clone, value) for n, value in self.arguments.items()}
        try:
            # A copy, since a call may change what a module remembers.
            with torch.no_grad():
                result = call_bound(copy.deepcopy(self.model), self.positional, called)
        except LiftError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise LiftError(
                f"the model fails on its own example inputs: {type(error).__name__}: {first_line(error)}"
                f"{failing_at(error)}. Give inputs that model(*example_inputs) takes, or mend it there.",
                id="example-call-fails",
            ) from error
        self.written = tuple(n for n, value in called.items() if any(t._version for _, t in tensors_of(value)))
        return result, called

    def _data(self, result: Any) -> list[tuple[str, Tensor]]:
        """The named output tensors of a result."""
        return [(name, leaf) for name, leaf in self._data_leaves(result) if isinstance(leaf, Tensor)]

    def _data_leaves(self, result: Any) -> list[tuple[str, Any]]:
        parts = self._data_parts(result).items()
        leaves = [
            (f"{key}{suffix(path)}", leaf) for key, v in parts for path, leaf in leaves_by_path(v) if leaf is not None
        ]
        if not is_ordered(result):
            return leaves
        return [(f"output{i}" if len(leaves) > 1 else "output", leaf) for i, (_, leaf) in enumerate(leaves)]

    def _data_parts(self, result: Any) -> dict[OutputRef, Any]:
        """The parts of a result that are not a next state; all of them if there are no others, as in a bare cell."""
        taken = {key_of(result, ref) for ref in self.refs.values()}
        left = {key: closed(value) for key, value in result_parts(result).items() if not self._is_left(key, value)}
        return {key: value for key, value in left.items() if key not in taken} or left

    def _is_left(self, key: OutputRef, value: Any) -> bool:
        """True if a result is an object, and a later call could take it as an argument that the example leaves out."""
        return key in self._unfed and object_in(value) is not None

    def _back(self, result: Any, called: Mapping[str, Any], name: str) -> Any:
        """The next value of a declared state: a result, or the argument that the model wrote to."""
        return called[name] if self._is_in_place(result, name) else closed(pick(result, self.refs[name], name))

    def _is_in_place(self, result: Any, name: str) -> bool:
        return self.refs[name] == name and name in self.written and key_of(result, name) is None

    def _leaves_back(self, result: Any, called: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
        """The leaves of a next state by path; as many under other paths get the paths of those that are fed."""
        fed, back = paths_of(self.arguments[name]), paths_of(self._back(result, called, name))
        if len(fed) == len(back) and dict(fed).keys() != dict(back).keys():
            return [(path, leaf) for (path, _), (_, leaf) in zip(fed, back, strict=True)]
        return back

    def _after(self, result: Any, called: Mapping[str, Any], name: str) -> list[tuple[str, Tensor]]:
        """The leaves of one next state in the order in which they are fed."""
        leaves, held = self._leaves_back(result, called, name), self.held
        back = [(path, leaf) for path, leaf in leaves if name + path not in held and is_fed(leaf)]
        order = [path for path, _ in tensors_of(self.arguments[name])]
        # Dicts may come back in another order; tensors without common names are paired by position.
        by_path = dict(back)
        return [(path, by_path[path]) for path in order] if by_path.keys() == set(order) else back

    def _output_names(self, result: Any, wanted: Sequence[str] | None) -> tuple[str, ...]:
        leaves = self._data_leaves(result)
        for name, leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise LiftError(
                    f"{name!r} of what the model returns is a {type(leaf).__name__}: a stream gives tensors. If the "
                    "next call takes it, declare that argument as a state, states={argument: output} (--state "
                    "argument=output); else return tensors or None, in a tuple, dict, named tuple or dataclass.",
                    id="output-not-a-tensor",
                )
        if not leaves:
            raise LiftError("the model returns no tensor: a stream needs an output. Return one.", id="no-output-tensor")
        return renamed([n for name, leaf in leaves for n, _ in named_parts(name, leaf)], wanted, "output")

    def _check_refs(self, result: Any) -> None:
        """Raise LiftError if two declared states are one output, or one is none."""
        owners: dict[OutputRef, str] = {}
        for name, ref in self.refs.items():
            if self._is_in_place(result, name):
                continue
            pick(result, ref, name)
            key = key_of(result, ref)
            assert key is not None
            if key in owners:
                raise LiftError(
                    f"states gives output {ref!r} to both {owners[key]!r} and {name!r}.", id="output-of-two-states"
                )
            owners[key] = name

    def _check_states_come_back(self, result: Any, called: Mapping[str, Any]) -> None:
        """Raise LiftError if a state changes its shape or dtype."""
        for name in self.refs:
            fed, back = tensors_of(self.arguments[name]), self._after(result, called, name)
            if [(t.shape, t.dtype) for _, t in fed] != [(t.shape, t.dtype) for _, t in back]:
                raise LiftError(
                    f"state {name!r} goes in as {described(fed)} but comes back as {described(back)}: it must come "
                    "back in the shape and dtype that it is fed in. Is it the right output?",
                    id="state-comes-back-otherwise",
                )

    def check_names(self) -> None:
        """Raise LiftError if an output has the name of an input or a state."""
        fed = {leaf.name for leaf in (*self.inputs, *self.states)}
        if name := next((name for name in self.outputs if name in fed), None):
            raise LiftError(
                f"{name!r} names both an input and an output: choose other names, output_names=[...].",
                id="input-output-same-name",
            )
