"""Copies the user's model, so that calls leave the original unchanged."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
from collections.abc import Iterator
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError, first_line
from rnn_export.export.lift.model.module_attributes import AttributePath, attributes, replace_inside
from rnn_export.export.lift.model.outside_values import Outside, outside_of

Memo = dict[int, Any]


def copied(model: nn.Module) -> tuple[nn.Module, Outside]:
    """Deep copies of `model` and of the outside values that its code reads, which can be copied again.

    Raises LiftError if the model cannot be copied.
    """
    values = [value for module in model.modules() for value in vars(module).values()]
    # What a hook of torch's computed from parameters cannot be copied as it is, nor what only wraps a function, nor a
    # scripted one.
    made = {id(t): t.detach().clone() for t in values if isinstance(t, Tensor) and not t.is_leaf}
    functions = {id(f): f.__func__ for f in values if isinstance(f, staticmethod)}
    scripted = {id(f): _Shared(f) for f in values if isinstance(f, torch.jit.ScriptFunction)}
    memo: Memo = {**made, **functions, **scripted}
    with contextlib.ExitStack() as stack:
        try:
            one: nn.Module = copy.deepcopy(model, memo)
        except Exception:  # the user's code may raise anything
            memo = _with_uncopied(model, {**made, **functions, **scripted}, stack)
            one = _copied(model, memo)
        replace_inside(one, lambda value: _Closure.of(value, memo))
        return one, outside_of(model, memo)


def _copied(model: nn.Module, memo: Memo) -> nn.Module:
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # as above
        raise LiftError(
            f"the model cannot be copied, so it cannot be tried out: {first_line(error)}. Let copy.deepcopy(model) "
            "work: make in forward what cannot be copied, or keep it out of the model.",
            id="model-not-copyable",
        ) from error


def _with_uncopied(model: nn.Module, known: Memo, stack: contextlib.ExitStack) -> Memo:
    """`known`, with substitutes for objects that cannot be copied; a `__deepcopy__` that fails is bypassed in `stack`.

    Raises LiftError if an object has no substitute.
    """
    shared = dict(known)
    held = [*((AttributePath(path, ()), module) for path, module in model.named_modules()), *attributes(model)]
    # What is inside of an object comes behind it.
    for path, value in reversed(held):
        try:
            copy.deepcopy(value, dict(shared))
            continue
        except Exception as error:  # as of `copied`
            refused = error
        if type(value) is Tensor:
            shared[id(value)] = value.detach().clone()
        elif advice := _advice(value):
            raise LiftError(
                f"{str(path)!r} ({type(value).__name__}) cannot be copied ({first_line(refused)}), and lifting tries "
                f"out copies of the model. {advice}",
                id="part-not-copyable",
            ) from refused
        elif getattr(type(value), "__deepcopy__", None) is not None:
            with contextlib.suppress(TypeError):
                stack.enter_context(_copying_as_others(value))
        elif not isinstance(value, nn.Module):
            shared[id(value)] = _Shared(value)
    return shared


def _advice(value: Any) -> str:
    """The advice for an object that cannot be copied or shared between copies; empty for others."""
    if isinstance(value, Tensor):
        return "Make a tensor of torch's own class of it: t.as_subclass(torch.Tensor)."
    if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
        return "Keep a list in its place, and a number that counts where it is."
    return ""


@contextlib.contextmanager
def _copying_as_others(value: Any) -> Iterator[None]:
    """Let `value` copy without the `__deepcopy__` of its class; its copies do so for good."""
    kind = type(value)
    plain = type(kind.__name__, (kind,), {"__deepcopy__": None, "__reduce_ex__": object.__reduce_ex__, "__slots__": ()})
    object.__setattr__(value, "__class__", plain)
    try:
        yield
    finally:
        object.__setattr__(value, "__class__", kind)


class _Shared:
    """A proxy for an object that cannot be copied and holds no tensors (a lock, a library): it is its own copy."""

    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def __deepcopy__(self, memo: Memo) -> _Shared:
        return self

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._shared(*args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_shared"], name)

    def __enter__(self) -> Any:
        return self._shared.__enter__()

    def __exit__(self, *error: Any) -> Any:
        return self._shared.__exit__(*error)


class _Closure:
    """A function whose copies have copies of its closure: a wrapped forward, a hook, a lambda."""

    def __init__(self, function: FunctionType) -> None:
        self._function = function
        functools.update_wrapper(self, function)

    @staticmethod
    def of(value: Any, memo: Memo) -> Any:
        """`value`, closed over copies if it is a function that closes over objects that a call may change."""
        if isinstance(value, FunctionType) and any(map(_is_held, value.__closure__ or ())):
            return memo.get(id(value)) or copy.deepcopy(_Closure(value), memo)
        return value

    def __deepcopy__(self, memo: Memo) -> _Closure:
        old = self._function
        cells = tuple(CellType() for _ in old.__closure__ or ())
        function = FunctionType(old.__code__, old.__globals__, old.__name__, old.__defaults__, cells)
        function.__kwdefaults__, function.__dict__ = old.__kwdefaults__, dict(vars(old))
        # A function may close over itself.
        memo[id(self)] = memo[id(old)] = made = _Closure(function)
        for cell, before in zip(cells, old.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a name that has no value yet
                content = before.cell_contents
                closed = _Closure.of(content, memo)
                cell.cell_contents = copy.deepcopy(content, memo) if closed is content and _is_held(before) else closed
        return made

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._function(*args, **named)


def _is_held(cell: CellType) -> bool:
    """True if a closure cell holds an object that a call may change."""
    try:
        content = cell.cell_contents
    except ValueError:  # a name that has no value yet
        return False
    kinds = (nn.Module, MethodType, list, dict, set, Tensor, _Closure)
    return isinstance(content, kinds) or (isinstance(content, FunctionType) and bool(content.__closure__))
