"""Runs a graph of TorchScript node by node in Python.

Source of the node kinds: pytorch/torch/csrc/jit/OVERVIEW.md, "The JIT's IR".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from rnn_export.errors import LiftError
from rnn_export.export.lift.model.script.script_scalars import SCALARS

# Constants that no code can write to.
NEVER_CHANGED = (bool, int, float, complex, str, type(None))


class Block:
    """The code of a graph or a block: the names of its inputs, its nodes in order, the names of its outputs."""

    def __init__(self, block: Any) -> None:
        self.inputs = [v.debugName() for v in block.inputs()]
        self.nodes = [_Node(node) for node in block.nodes()]
        self.outputs = [v.debugName() for v in block.outputs()]
        # While it is held, so are its nodes.
        self._held = block


class _Node:
    """A node, with the facts that each run reads."""

    def __init__(self, node: Any) -> None:
        self.node, self.kind = node, str(node.kind())
        self.inputs = [v.debugName() for v in node.inputs()]
        self.outputs = [v.debugName() for v in node.outputs()]
        self.blocks = [Block(block) for block in node.blocks()]

    @cached_property
    def constant(self) -> Callable[[], Any]:
        """The function that returns a constant; a list is a new one at each run."""
        output = self.node.output()
        if output.type().kind() == "FunctionType":
            called = _calling(function_of(output))
            return lambda: called
        value = output.toIValue()
        return (lambda: value) if isinstance(value, NEVER_CHANGED) else output.toIValue

    @cached_property
    def arguments(self) -> tuple[str, list[tuple[str, bool]]]:
        """The overload of an operator, and the name of each argument and whether it is keyword-only."""
        schema = torch._C.parse_schema(self.node.schema())
        return schema.overload_name or "default", [
            (parameter.name, parameter.kwarg_only) for parameter in schema.arguments
        ]


def run(code: Block, arguments: Sequence[Any], owner: str) -> Any:
    """Run `code` on `arguments`, in a method its module first; `owner` names it in an error."""
    values = dict(zip(code.inputs, arguments, strict=True))
    results = _Interpreter(owner).block(code, values)
    return results[0] if len(results) == 1 else tuple(results)


class _Interpreter:
    def __init__(self, owner: str) -> None:
        self.owner = owner

    def block(self, block: Block, values: dict[str, Any]) -> list[Any]:
        """The results of a graph or a block, whose arguments are among `values`."""
        for node in block.nodes:
            results = self._node(node, [values[name] for name in node.inputs], values)
            values.update(zip(node.outputs, results, strict=True))
        return [values[name] for name in block.outputs]

    def _node(self, node: _Node, args: list[Any], values: dict[str, Any]) -> Sequence[Any]:
        kind = node.kind
        if kind == "prim::If":
            return self.block(node.blocks[0 if args[0] else 1], values)
        if kind == "prim::Loop":
            return self._loop(node, args, values)
        if kind in SEVERAL:
            return SEVERAL[kind](*args)
        made = self._construct(node, kind, args)
        return made if len(node.outputs) > 1 else [made] if node.outputs else []

    def _loop(self, node: _Node, args: list[Any], values: dict[str, Any]) -> list[Any]:
        most, goes_on, carried = args[0], args[1], args[2:]
        (body,) = node.blocks
        iteration = 0
        while goes_on and iteration < most:
            values.update(zip(body.inputs, (iteration, *carried), strict=True))
            goes_on, *carried = self.block(body, values)
            iteration += 1
        return carried

    def _construct(self, node: _Node, kind: str, args: list[Any]) -> Any:
        if kind == "prim::Constant":
            return node.constant()
        if kind == "prim::GetAttr":
            return getattr(args[0], node.node.s("name"))
        if kind == "prim::SetAttr":
            return setattr(args[0], node.node.s("name"), args[1])
        if kind == "prim::CallMethod":
            name = node.node.s("name")
            method = args[0] if name.startswith("forward") else getattr(args[0], name)
            return method(*args[1:])
        if kind == "prim::CallFunction":
            return args[0](*args[1:])
        if kind == "prim::DictConstruct":
            return dict(zip(args[::2], args[1::2], strict=True))
        if kind in SINGLE:
            return SINGLE[kind](*args)
        return self._operator(node, kind, args)

    def _operator(self, node: _Node, kind: str, args: list[Any]) -> Any:
        space, _, name = kind.partition("::")
        has_tensors = any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(args))
        unpacks = name in UNPACKING and not isinstance(args[0], Tensor)
        if name in SCALARS and (not has_tensors or unpacks):
            return SCALARS[name](*args)
        if name in OF_TENSORS and isinstance(args[0], Tensor):
            return OF_TENSORS[name](*args)
        if kind in RECURRENT:
            return getattr(torch, name)(*args)
        if kind == "aten::_convolution":
            return _convolution(*args[:9])
        packet = getattr(getattr(torch.ops, space), name, None)
        if packet is None or node.node.schema() == "(no schema)":
            raise LiftError(
                f"{self.owner}: the scripted code uses {kind}, which is not followed: {_line(node.node)}. Lifting "
                "runs operators, branches, loops and calls of TorchScript. Give the module as it was before "
                "torch.jit.script or torch.jit.trace, or write that part without it.",
                id="script-node-unknown",
            )
        overload, parameters = node.arguments
        positional = [a for a, (_, by_name) in zip(args, parameters, strict=True) if not by_name]
        named = {name: a for a, (name, by_name) in zip(args, parameters, strict=True) if by_name}
        return getattr(packet, overload)(*positional, **named)


# What is called with a node, its kind, and what it takes.
OPERATOR = _Interpreter._operator.__code__


def _convolution(
    x: Tensor, w: Tensor, b: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, beyond: Any, groups: int
) -> Tensor:
    """The convolution of a trace's `_convolution`, as the one that was called."""
    if transposed:
        by_rank = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
        return by_rank[w.dim() - 3](x, w, b, stride, padding, beyond, groups, dilation)
    plain: Tensor = (F.conv1d, F.conv2d, F.conv3d)[w.dim() - 3](x, w, b, stride, padding, dilation, groups)
    return plain


def _whole(value: Tensor) -> Any:
    return int(value) if value.is_floating_point() else value.item()


def _line(node: Any) -> str:
    lines = [line.strip() for line in str(node.sourceRange()).splitlines() if line.strip()]
    return lines[0] if lines else str(node).strip()


def function_of(value: Any) -> Any:
    """The scripted function of a constant, if it was scripted in this process; else None."""
    return torch.jit._state._python_cu.find_function(str(value.type()))


def _calling(function: Any) -> Callable[..., Any]:
    # Where its calls are put inside, a function may be left that nobody calls, and nobody knows.
    code = cache(lambda: Block(function.graph))
    return lambda *args: run(code(), args, str(function.name))


def _raise(message: Any, *_: Any) -> None:
    raise ValueError(str(message))


# By kind, what gives any number of results.
SEVERAL: dict[str, Callable[..., Sequence[Any]]] = {
    "prim::TupleUnpack": lambda values: list(values),
    "prim::ListUnpack": lambda values: list(values),
    "prim::Print": lambda *_: [],
    "prim::RaiseException": lambda *args: _raise(*args) or [],  # type: ignore[func-returns-value]
    "prim::Enter": lambda *_: [None],
    "prim::Exit": lambda *_: [None],
}
# By kind, what gives one.
SINGLE: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": lambda *args: list(args),
    "prim::TupleConstruct": lambda *args: tuple(args),
    "prim::TupleIndex": lambda values, at: values[at],
    "prim::TupleSlice": lambda values, start, stop: values[start:stop],
    "prim::unchecked_cast": lambda value: value,
    "prim::unchecked_unwrap_optional": lambda value: value,
    "prim::Uninitialized": lambda: None,
    "prim::NumToTensor": torch.as_tensor,
    "prim::device": lambda value: value.device,
    "prim::dtype": lambda value: value.dtype,
    "prim::layout": lambda value: value.layout,
    "prim::is_cuda": lambda value: value.is_cuda,
    "prim::requires_grad": lambda value: False,
    "prim::data": lambda value: value.detach(),
    "prim::shape": lambda value: list(value.shape),
    "prim::isinstance": lambda value: value is not None,
    "aten::is_scripting": lambda: True,
    "aten::dim": lambda value: value.dim(),
    "aten::is_grad_enabled": lambda: False,
    "aten::warn": lambda *_: None,
}
# Called by the name that `OpaqueFunctions` knows.
RECURRENT = ("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu")
# These take a list of tensors as a list.
UNPACKING = {"__getitem__", "append", "len", "slice", "list", "_set_item", "pop", "insert", "extend", "get", "keys",
              "values", "items", "copy", "reverse", "__contains__", "__is__", "__isnot__", "add", "add_", "mul", "mul_",
              "update", "setdefault", "clear", "Delete"}  # fmt: skip
# What Python says of a tensor: sizes stay symbols.
OF_TENSORS: dict[str, Callable[..., Any]] = {
    "size": lambda value, axis=None: list(value.shape) if axis is None else value.shape[axis],
    "len": lambda value: value.shape[0],
    "numel": lambda value: value.numel(),
    "Bool": bool,
    "Int": _whole,
    "IntImplicit": _whole,
    "Float": float,
    "FloatImplicit": float,
    "ScalarImplicit": lambda value: value.item(),
    "item": lambda value: value.item(),
    "is_floating_point": lambda value: value.is_floating_point(),
    "__is__": lambda value, other: value is other,
    "__isnot__": lambda value, other: value is not other,
}
