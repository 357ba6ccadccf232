"""Values made of sizes alone, at any length of the input: whole, or single entries however many frames away.

Masks and tables are such values. A few frames show what they are there. Whether it goes on so is tried at entries that
lie far beyond, computed one by one: an operator that moves entries takes them from its argument by their places,
and any other computes them of the entries of its arguments. The places in views are read from their strides.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from rnn_export.export.lift.ir.dependence.axis_table import is_pointwise
from rnn_export.export.lift.ir.fx_nodes import SHAPE_ONLY, aten, by_operator, named_args, overloads, sources_of
from rnn_export.export.lift.ir.symbolic_integers import size_of

# Divides the frames that are tried, so that they go into whole blocks of most lengths.
UNIT = 5760
# Frames that are tried, the first that a graph can be computed at: the places of T x T entries have to be numbers, and
# values of which single entries cannot be computed are computed whole.
LENGTHS = tuple(n - n % UNIT for n in (2**40, 2**28, 2**18, UNIT))
# Bytes of all values that are computed whole.
MOST_BYTES = 2**32
# Entries that are summed for one of a result.
MOST_SUMMED = 4096

# The place of entries, by axis: whole numbers in shapes that broadcast.
Places = Sequence[Tensor]


class Untried(Exception):
    """A value that a length has not, or of which single entries cannot be computed."""


class LengthRun:
    """The values of a graph whose inputs have these shapes; `given` has those of some nodes, axes of one for any size.

    `sizes` are those of the symbols, where the graph has any.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        shapes: Mapping[fx.Node, Tensor],
        given: Mapping[fx.Node, Tensor] | None = None,
        sizes: Mapping[Any, int] | None = None,
    ) -> None:
        self.module, self.given, self.sizes = module, dict(given or {}), sizes or {}
        self._shapes: dict[fx.Node, Any] = dict(shapes)
        self._whole: dict[fx.Node, Any] = {}
        self._entries: dict[tuple[Any, ...], tuple[Tensor, Places]] = {}
        self._first = torch.zeros(1, dtype=torch.int64)

    def of_shape(self, node: fx.Node) -> Any:
        """A number, or a tensor of the shape and type of the value and without memory. Raises Untried."""
        if node not in self._shapes:
            for n in sorted(sources_of(node, lambda n: [] if self._is_known(n) else n.all_input_nodes)):
                if not self._is_known(n):
                    self._shapes[n] = self._shape(n)
        return self._shapes[node]

    def whole(self, node: fx.Node) -> Any:
        """The value of a node made of sizes and weights, inputs as zeros. Raises Untried if it fails, or is large."""
        needed = sources_of(node, lambda n: n.all_input_nodes if n not in self._whole and self.is_read(n) else [])
        values = (self.of_shape(n) for n in needed)
        if sum(value.nbytes for value in values if isinstance(value, Tensor)) > MOST_BYTES:
            raise Untried
        for n in sorted(needed - self._whole.keys()):
            self._whole[n] = self._value(n)
        return self._whole[node]

    def at(self, node: fx.Node, places: Places) -> Tensor:
        """The entries of such a value at these places. Raises Untried if they cannot be computed one by one."""
        value = self.of_shape(node)
        if not isinstance(value, Tensor):
            return torch.tensor(value)
        places = [self._first if n == 1 else place for n, place in zip(value.shape, places, strict=True)]
        key = node, *map(id, places)
        if key not in self._entries:
            try:
                self._entries[key] = self._at(node, places), places
            except (Untried, RecursionError):
                whole = self.whole(node)
                self._entries[key] = _entries(whole, places), places
        entries, _ = self._entries[key]
        return entries if value.dim() else entries.reshape(())

    def _is_known(self, node: fx.Node) -> bool:
        """True if the shape of `node`, or its number, is known; one that symbols say is noted."""
        value: Any = node.meta.get("val")
        if node in self._shapes or not self.sizes:
            return node in self._shapes
        if isinstance(value, torch.SymInt) and (number := size_of(value, self.sizes)) is not None:
            self._shapes[node] = number
        elif node in self.given:
            shape = [size_of(n, self.sizes) for n in value.shape]
            self._shapes[node] = _called(torch.empty, (shape,), {"dtype": value.dtype, "device": "meta"})
        return node in self._shapes

    def _shape(self, node: fx.Node) -> Any:
        if node.op == "get_attr" and isinstance(value := self._attribute(node), Tensor):
            return value.to("meta")
        if node.op != "call_function":
            raise Untried
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._shapes.__getitem__)
        return _called(node.target, args, kwargs, device="meta")

    def _value(self, node: fx.Node) -> Any:
        known = self.of_shape(node)
        if not isinstance(known, Tensor | tuple | list):
            return known
        if node in self.given:
            return self.given[node]
        if node.op == "get_attr":
            return self._attribute(node)
        if node.op != "call_function":
            return self._unread(node)
        # What is made in the shape of a value takes no entry of it.
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self._whole.get(n, self._unread(n)))
        return _called(node.target, args, kwargs)

    def is_read(self, node: fx.Node) -> bool:
        """True if the value of `node` follows from the entries of its arguments."""
        fixed = node in self.given or node.target in SHAPE_ONLY
        return not fixed and isinstance(self.of_shape(node), Tensor | tuple | list)

    def _unread(self, node: fx.Node) -> Any:
        value = self.of_shape(node)
        return torch.zeros((), dtype=value.dtype).expand(value.shape) if isinstance(value, Tensor) else value

    def _attribute(self, node: fx.Node) -> Any:
        return attrgetter(str(node.target))(self.module)

    def _at(self, node: fx.Node, places: Places) -> Tensor:
        if node in self.given:
            return _entries(self.given[node], places)
        if node.op == "get_attr":
            return _entries(self._attribute(node), places)
        if node.target in ENTRIES:
            return ENTRIES[node.target](_Entry(self, node, places))
        if is_pointwise(node.target) or node.target in COPIES:
            given, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self._of_argument(n, places))
            entries: Tensor = _called(node.target, given, kwargs)
            return entries
        return self._of_view(node, places)

    def _of_argument(self, node: fx.Node, places: Places) -> Any:
        """The entries of an argument that is broadcast, or a number."""
        value = self.of_shape(node)
        if not isinstance(value, Tensor):
            return value
        return self.at(node, places[len(places) - value.dim() :])

    def _of_view(self, node: fx.Node, places: Places) -> Tensor:
        several = node.args[0] if node.target is operator.getitem else node
        if not isinstance(several, fx.Node) or not several.args or not isinstance(several.args[0], fx.Node):
            raise Untried
        source: fx.Node = several.args[0]
        value = self.of_shape(source)
        if not isinstance(value, Tensor) or (several.target is aten.as_strided.default and not value.is_contiguous()):
            raise Untried
        memory = torch.empty(value.shape, dtype=value.dtype, device="meta")
        args, kwargs = fx.node.map_arg((several.args[1:], several.kwargs), self.of_shape)
        made = _called(several.target, (memory, *args), kwargs)
        made = made if several is node else made[node.args[1]]
        if made.untyped_storage()._cdata != memory.untyped_storage()._cdata:
            raise Untried
        return self.at(source, _places_in(memory, made, places))


def _places_in(memory: Tensor, view: Tensor, places: Places) -> Places:
    """The places in `memory`, contiguous, of entries of a view of it."""
    found, last = list[Any](), list[int]()
    offset = view.storage_offset()
    for size, stride in zip(memory.shape, memory.stride(), strict=True):
        found.append(offset // stride % size)
        last.append(found[-1])
    for place, size, stride in zip(places, view.shape, view.stride(), strict=True):
        if size > 1 and stride:
            axis = next(a for a, n in enumerate(memory.stride()) if memory.shape[a] > 1 and stride % n == 0)
            times = stride // memory.stride(axis)
            found[axis] = found[axis] + (place * times if times > 1 else place)
            last[axis] += (size - 1) * times
    if any(n >= size for n, size in zip(last, memory.shape, strict=True)):
        # An axis goes over several of the memory.
        flat: Any = offset + sum(place * stride for place, stride in zip(places, view.stride(), strict=True))
        found = [flat // stride % size for size, stride in zip(memory.shape, memory.stride(), strict=True)]
    return [torch.as_tensor(place).reshape(-1) if isinstance(place, int) else place for place in found]


def _entries(value: Tensor, places: Places) -> Tensor:
    return value[tuple(torch.zeros_like(p) if n == 1 else p for n, p in zip(value.shape, places, strict=True))]


class _Entry:
    """One rule's view of a call: its arguments by name, the shape of its argument, and the places asked for."""

    def __init__(self, run: LengthRun, node: fx.Node, places: Places) -> None:
        self.run, self.node, self.places = run, node, list(places)
        given = named_args(node) | node.kwargs
        self.given: dict[str, Any] = pytree.tree_map(
            lambda n: n if not isinstance(n, fx.Node) or isinstance(run.of_shape(n), Tensor) else run.of_shape(n), given
        )

    def shape(self, name: str = "self") -> Sequence[int]:
        value = self.given[name]
        return self.run.of_shape(value[0] if isinstance(value, list) else value).shape  # type: ignore[no-any-return]

    def axis(self, name: str = "dim") -> int:
        if self.given[name] is None:
            raise Untried
        return int(self.given[name]) % len(self.shape("tensors" if "tensors" in self.given else "self"))

    def moved(self, places: Mapping[int, Tensor]) -> Tensor:
        """The entries of the argument at other places along some axes."""
        return self.run.at(self.given["self"], [places.get(a, place) for a, place in enumerate(self.places)])


def _filled(entry: _Entry) -> Tensor:
    given = dict(entry.given)
    if isinstance(given.get("self"), fx.Node):
        given["self"] = torch.empty((), dtype=entry.run.of_shape(given["self"]).dtype)
    made: Tensor = _called(entry.node.target, (), given | ({"size": []} if "size" in given else {}))
    return made.reshape(1) if entry.places else made


def _numbered(entry: _Entry) -> Tensor:
    dtype, start, step = entry.run.of_shape(entry.node).dtype, entry.given.get("start", 0), entry.given.get("step", 1)
    (place,) = entry.places
    numbers: Tensor = start + step * (place.double() if dtype.is_floating_point else place)
    return numbers.to(dtype)


def _triangle(entry: _Entry) -> Tensor:
    value, diagonal = entry.moved({}), entry.places[-1] - entry.places[-2]
    is_upper = entry.node.target is aten.triu.default
    kept = diagonal >= entry.given["diagonal"] if is_upper else diagonal <= entry.given["diagonal"]
    return torch.where(kept, value, torch.zeros((), dtype=value.dtype))


def _flipped(entry: _Entry) -> Tensor:
    axes = {axis % len(entry.places) for axis in entry.given["dims"]}
    return entry.moved({axis: entry.shape()[axis] - 1 - entry.places[axis] for axis in axes})


def _joined(entry: _Entry) -> Tensor:
    axis, found, begin = entry.axis(), None, 0
    place = entry.places[axis]
    for part in entry.given["tensors"]:
        size = entry.run.of_shape(part).shape[axis]
        if size:
            here = [*entry.places[:axis], (place - begin).clamp(0, size - 1), *entry.places[axis + 1 :]]
            value = entry.run.at(part, here)
            found = value if found is None else torch.where(place >= begin, value, found)
        begin += size
    assert found is not None
    return found


def _padded(entry: _Entry) -> Tensor:
    if entry.given.get("mode", "constant") != "constant":
        raise Untried
    pad, inside, places = entry.given["pad"], torch.ones(1, dtype=torch.bool), dict[int, Tensor]()
    for at, before in enumerate(pad[::2]):
        axis = len(entry.places) - 1 - at
        place, size = entry.places[axis] - before, entry.shape()[axis]
        inside, places[axis] = inside & (place >= 0) & (place < size), place.clamp(0, size - 1)
    value = entry.moved(places)
    return torch.where(inside, value, torch.tensor(entry.given["value"] or 0, dtype=value.dtype))


def _selected(entry: _Entry) -> Tensor:
    axis = entry.axis()
    return entry.moved({axis: _from_front(entry.run.at(entry.given["index"], [entry.places[axis]]), entry, axis)})


def _gathered(entry: _Entry) -> Tensor:
    axis = entry.axis()
    return entry.moved({axis: _from_front(entry.run.at(entry.given["index"], entry.places), entry, axis)})


def _embedded(entry: _Entry) -> Tensor:
    row = entry.run.at(entry.given["indices"], entry.places[:-1])
    return entry.run.at(entry.given["weight"], [row, entry.places[-1]])


def _indexed(entry: _Entry) -> Tensor:
    indices = {axis: index for axis, index in enumerate(entry.given["indices"]) if index is not None}
    held = {axis: entry.run.of_shape(index) for axis, index in indices.items()}
    if any(value.dtype != torch.int64 for value in held.values()):
        raise Untried
    rank = max(value.dim() for value in held.values())
    first = min(indices) if max(indices) - min(indices) < len(indices) else 0
    own = entry.places[first : first + rank]
    others = iter([*entry.places[:first], *entry.places[first + rank :]])
    places = [
        _from_front(entry.run.at(indices[a], own[rank - held[a].dim() :]), entry, a) if a in indices else next(others)
        for a in range(len(entry.shape()))
    ]
    return entry.run.at(entry.given["self"], places)


def _from_front(index: Tensor, entry: _Entry, axis: int) -> Tensor:
    return torch.where(index < 0, index + entry.shape()[axis], index)


def _multiplied(entry: _Entry) -> Tensor:
    names = ("self", "mat2" if "mat2" in entry.given else "other")
    ranks, summed = [len(entry.shape(name)) for name in names], entry.shape()[-1]
    if min(ranks) < 2 or summed > MOST_SUMMED:
        raise Untried
    *batch, row, column = (place.unsqueeze(-1) for place in entry.places)
    one, other = ([*batch[len(batch) - (rank - 2) :]] for rank in ranks)
    along = torch.arange(summed)
    left = entry.run.at(entry.given[names[0]], [*one, row, along])
    return _all_of(left * entry.run.at(entry.given[names[1]], [*other, along, column]), summed).sum(-1)


def _reduced(entry: _Entry) -> Tensor:
    """A reduction over some axes, one after another as one axis behind all others."""
    shape, dims = entry.shape(), entry.given["dim"]
    axes = sorted(axis % len(shape) for axis in ([dims] if isinstance(dims, int) else dims or range(len(shape))))
    count = math.prod(shape[axis] for axis in axes)
    if count > MOST_SUMMED:
        raise Untried
    stay = [p for a, p in enumerate(entry.places) if not (entry.given["keepdim"] and a in axes)]
    others, along, places = iter(stay), torch.arange(count), dict[int, Tensor]()
    for axis in reversed(axes):
        along, places[axis] = along // shape[axis], along % shape[axis]
    every = [places[a] if a in places else next(others).unsqueeze(-1) for a in range(len(shape))]
    values = _all_of(entry.run.at(entry.given["self"], every), count)
    made: Tensor = _called(entry.node.target, (values, -1 if isinstance(dims, int) else [-1]), {})
    return made


def _all_of(values: Tensor, count: int) -> Tensor:
    """`values` with so many entries along the last axis, where they may be alike."""
    return values.expand(*values.shape[:-1], count)


def _repeated(entry: _Entry) -> Tensor:
    own = entry.places[len(entry.places) - len(entry.shape()) :]
    return entry.run.at(entry.given["self"], [p % n for p, n in zip(own, entry.shape(), strict=True)])


def _one_after_another(entry: _Entry) -> Tensor:
    axis = 0 if len(entry.shape()) == 1 else entry.axis()
    return entry.moved({axis: entry.places[axis] // entry.given["repeats"]})


# (call) -> its entries, for each operator that is neither pointwise nor a view.
ENTRIES: Mapping[Any, Callable[[_Entry], Tensor]] = by_operator(
    {
        _filled: "full zeros ones new_full new_zeros new_ones full_like zeros_like ones_like",
        _numbered: "arange arange.start arange.start_step",
        _triangle: "tril triu",
        _flipped: "flip",
        _joined: "cat",
        _padded: "constant_pad_nd pad",
        _selected: "index_select",
        _gathered: "gather",
        _embedded: "embedding",
        _indexed: "index.Tensor",
        _multiplied: "matmul bmm mm",
        _reduced: "sum.dim_IntList mean.dim amax amin any.dim all.dim",
        _repeated: "repeat",
        _one_after_another: "repeat_interleave.self_int",
    }
)
COPIES = overloads("clone _to_copy to.dtype contiguous type_as")


def _called(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], device: str = "cpu") -> Any:
    schema = getattr(target, "_schema", None)
    if schema is not None and any(a.name == "device" for a in schema.arguments):
        kwargs = {**kwargs, "device": device}
    try:
        with torch.no_grad():
            return target(*args, **kwargs)
    except Exception as error:  # a length that an operator does not take may raise anything
        raise Untried from error
