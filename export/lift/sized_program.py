"""Builds a `torch.export` program of a lifted module, for sizes of its own.

`torch.export` would trace the module anew, at two thirds of the time of an export. Only the size of each value is new.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import graph_signature as sign
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError, TraceFailed
from rnn_export.export.lift.ir.fx_nodes import aten, placeholders
from rnn_export.export.lift.loops.loop_body import RolledLoop
from rnn_export.export.lift.trace.patches import patched
from rnn_export.export.lift.trace.tracing import lift_error, quiet

NO_WORD = re.compile(r"\W", re.ASCII)
# By which a loop joins what its frames gave.
JOINS = {torch.stack: aten.stack.default, torch.cat: aten.cat.default}


def sized_program(
    module: fx.GraphModule, args: Sequence[Tensor], dynamic: Sequence[Mapping[int, int]]
) -> torch.export.ExportedProgram:
    """A program of `module` for `args`, of any multiple of a size along axes in `dynamic`: equal sizes stay equal.

    Loops that it drives are written out. Raises LiftError if an operator takes no such sizes, TraceFailed if it makes a
    number of one.
    """
    try:
        with torch.no_grad(), quiet(), patched():
            writer = _Writer(module)
            nodes = placeholders(module.graph)
            given = [writer.given(n, value, axes) for n, value, axes in zip(nodes, args, dynamic, strict=True)]
            results = _Run(module, writer).run(*given)
    except LiftError:
        raise
    except Exception as error:  # torch's own operators raise many kinds
        raise lift_error(error) from error
    for value, axes in zip(given, dynamic, strict=True):
        for axis in axes:
            size: Any = value.shape[axis]
            if isinstance(size, int) or size.node.expr.is_number:
                raise TraceFailed(
                    f"axis {axis} of {value.node.name!r} must be of any size, and an operator of the lifted model "
                    f"takes {size} alone.",
                    id="operator-takes-one-size",
                )
    return writer.program(args, results)


class _Value(fx.Proxy):
    """A value of the program being written."""

    @property
    def shape(self) -> torch.Size:
        return self.node.meta["val"].shape  # type: ignore[no-any-return]


class _Writer(fx.proxy.TracerBase):
    """Writes a graph with sizes of values."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.graph = fx.Graph()
        # Axes that are one size in the examples are one size.
        self.sizes = ShapeEnv(duck_shape=True)
        self.mode = FakeTensorMode(shape_env=self.sizes)
        self.names = {id(t): name for name, t in (*module.named_buffers(), *module.named_parameters())}
        self.weights: dict[str, fx.Node] = {}
        self.constants: dict[str, Tensor] = {}
        self.computed_sizes: dict[Any, fx.Proxy] = {}
        self.at: fx.Node | None = None

    def given(self, node: fx.Node, value: Tensor, dynamic: Mapping[int, int]) -> _Value:
        """`value` as an input in the place of `node`."""
        kinds = [DimDynamic.DUCK if axis in dynamic else DimDynamic.STATIC for axis in range(value.dim())]
        context: Any = StatelessSymbolicContext(kinds)
        units = value[tuple(slice(None, None, dynamic.get(axis, 1)) for axis in range(value.dim()))].contiguous()
        sizes = self.mode.from_tensor(units, symbolic_context=context)
        multiples = [size * dynamic.get(axis, 1) for axis, size in enumerate(sizes.shape)]
        new = self.graph.placeholder(node.name)
        new.meta = {**node.meta, "val": sizes if units.shape == value.shape else sizes.new_empty(multiples)}
        return _Value(new, self)

    def weight(self, value: Tensor) -> _Value:
        """A module tensor, as an input before all others."""
        name = self.names.get(id(value)) or f"constant_{len(self.weights)}"
        if name not in self.weights:
            with self.graph.inserting_before(next(n for n in self.graph.nodes if n not in self.weights.values())):
                # Keys of a ModuleDict need be no identifiers.
                node = self.graph.placeholder(f"b{len(self.weights)}_{NO_WORD.sub('_', name)}")
            node.meta["val"] = self.mode.from_tensor(value.detach(), static_shapes=True)
            self.weights[name], self.constants[name] = node, value.detach()
        return _Value(self.weights[name], self)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *_: Any, **__: Any) -> fx.Node:
        target = JOINS.get(target, target)
        node = self.graph.create_node(kind, target, args, kwargs, None if self.at is None else self.at.name)
        if kind == "call_function":
            node.meta = {} if self.at is None else {k: v for k, v in self.at.meta.items() if k != "val"}
            node.meta["val"] = self._value(target, *fx.node.map_arg((args, kwargs), lambda n: n.meta["val"]))
        return node

    def proxy(self, node: fx.Node) -> _Value:
        return _Value(node, self)

    def _value(self, target: Any, args: Any, kwargs: Any) -> Any:
        parts = pytree.tree_leaves((args, kwargs))
        tensors = [part for part in parts if isinstance(part, FakeTensor)]
        takes_size = any(isinstance(part, torch.SymInt | torch.SymFloat) for part in parts)
        if torch.Tag.pointwise in getattr(target, "tags", ()) and _lie_alike(tensors) and not takes_size:
            # Of an operator like this, torch works out sizes for milliseconds. Tensors without sizes make numbers of
            # sizes.
            given, named = pytree.tree_map_only(Tensor, _empty, (args, kwargs))
            of_type = target(*given, **named)
            same = next((t for t in tensors if isinstance(of_type, Tensor) and t.dtype == of_type.dtype), None)
            if same is not None:
                return same
        with self.mode, enable_python_dispatcher():
            return target(*args, **kwargs)

    def program(self, args: Sequence[Tensor], results: Sequence[_Value]) -> torch.export.ExportedProgram:
        self.graph.output(tuple(value.node for value in results))
        given = [n for n in placeholders(self.graph) if n not in self.weights.values()]
        weights = [
            sign.InputSpec(sign.InputKind.BUFFER, sign.TensorArgument(node.name), name, persistent=True)
            for name, node in self.weights.items()
        ]
        user, out = sign.InputKind.USER_INPUT, sign.OutputKind.USER_OUTPUT
        inputs = [sign.InputSpec(user, sign.TensorArgument(node.name), None) for node in given]
        outputs = [sign.OutputSpec(out, sign.TensorArgument(value.node.name), None) for value in results]
        trees = (pytree.tree_structure((tuple(args), {})), pytree.tree_structure(tuple(range(len(results)))))
        whole = ModuleCallEntry("", ModuleCallSignature([], [], *trees, [n.name for n in given]))
        signature = sign.ExportGraphSignature([*weights, *inputs], outputs)
        ranges = dict(self.sizes.var_to_range)
        return torch.export.ExportedProgram(
            nn.Module(), self.graph, signature, self.constants, ranges, [whole], None, {}
        )


def _lie_alike(tensors: Sequence[Tensor]) -> bool:
    """True if all are contiguous and of one size, as a pointwise result of them is then, too."""
    placed = [([_expr(n) for n in t.shape], [_expr(n) for n in t.stride()]) for t in tensors]
    if not placed or any(one != placed[0] for one in placed):
        return False
    after: Any = 1
    for size, stride in zip(*map(reversed, placed[0]), strict=True):
        if stride != after:
            return False
        after = after * size
    return True


def _expr(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _empty(value: Tensor) -> Tensor:
    return torch.empty([0] * value.dim(), dtype=value.dtype)


class _Run(fx.Interpreter):
    """Runs a graph on values of the writer."""

    def __init__(self, module: fx.GraphModule, writer: _Writer) -> None:
        super().__init__(module)
        self.writer = writer

    def run_node(self, n: fx.Node) -> Any:
        self.writer.at = n
        return super().run_node(n)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self.fetch_attr(target)
        return self.writer.weight(value) if isinstance(value, Tensor) else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is operator.getitem and not isinstance(args[0], _Value):
            return args[0][args[1]]
        made = self.writer.create_proxy("call_function", target, args, kwargs)
        size = made.node.meta["val"]
        # Sizes that are numbers here are these, and what is one size is one value.
        same = self.writer.computed_sizes.setdefault(_expr(size), made) if isinstance(size, torch.SymInt) else size
        if isinstance(size, torch.SymInt | int | float) and same is not made:
            self.writer.graph.erase_node(made.node)
            return same
        return made

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        called = self.fetch_attr(target)
        if isinstance(called, RolledLoop):
            return called.driven(_Run(called.body, self.writer).run, args)
        return _Run(called, self.writer).run(*args)
