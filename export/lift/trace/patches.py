"""Everything that an export replaces for a while: in torch, in sympy, in Python's builtins and in the user's files.

torch traces sizes as symbols, but its own code and Python's make numbers of them. Each patch names the issue of torch
that it works around, and goes where that issue is closed. All are put in by `patched`, and taken out again by it.
"""

from __future__ import annotations

import builtins
import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import sympy
import torch
from sympy.solvers import inequalities
from torch import Tensor, nn
from torch import _meta_registrations as registrations
from torch._dynamo import external_utils
from torch.fx._symbolic_trace import is_fx_tracing
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy import functions

from rnn_export.errors import FrozenAxis

# A holder, a dictionary of names or an object with attributes, a name in it, and what is put in its place.
Change = tuple[Any, str, Any]
NOT_OF_USERS = {"torch", "rnn_export", *sys.stdlib_module_names}
# Functions that say whether code is traced.
TELLING: Any = (
    torch.compiler.is_compiling,
    torch.compiler.is_exporting,
    torch._utils.is_compiling,
    external_utils.is_compiling,
    is_fx_tracing,
)
# Sizes at which an equation is tried.
MOST_TRIED = 1 << 14
# How torch names a size of what `FlatModel` takes.
_SIZE = re.compile(r"\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]$")


@contextlib.contextmanager
def patched(module: nn.Module | None = None) -> Iterator[None]:
    """Put in the patches for an export, those of the files of the user's `module` if it is given.

    They change what torch can trace, and no value.

    Raises FrozenAxis inside where torch makes a number of the size of an input axis.
    """
    files = [] if module is None else _files_of(module)
    # https://github.com/pytorch/pytorch/issues/138853 and 185804: `int(size)` and `len(tensor)` are numbers.
    in_files = {"int": _Int, "len": _length}
    changes = [
        # https://github.com/pytorch/pytorch/issues/135099: a function with a cache hashes its arguments. Hashed by
        # identity, no size is taken for another one.
        (torch.SymInt, "__hash__", object.__hash__),
        # https://github.com/pytorch/pytorch/issues/140011: torch names a frozen size at the end of an export, after all
        # iterations of a loop.
        (ShapeEnv, "_set_replacement", _refusing(ShapeEnv._set_replacement)),
        # https://github.com/pytorch/pytorch/issues/141675: minutes for a size that is rounded many times.
        (functions, "sympy", _Sympy("sympy")),
        # https://github.com/pytorch/pytorch/issues/117033: sympy cannot solve for a size that is rounded twice, where
        # torch would name it.
        (inequalities, "reduce_inequalities", _by_trial(inequalities.reduce_inequalities)),
        # https://github.com/pytorch/pytorch/pull/94887: whether the last window of a pool is whole is asked for the one
        # size of the trace.
        (registrations, "pooling_output_shape_pad_lr", _counted(registrations.pooling_output_shape_pad_lr)),
        *((names, name, new) for names in files for name, new in in_files.items() if name not in names),
    ]
    # https://github.com/pytorch/pytorch/pull/119602: code may go another way in an export than it does for its user.
    untold = {function: _untold(as_it_is(function)) for function in TELLING}
    # opt_einsum orders the products of an einsum by their sizes, which it makes numbers.
    with _replaced(changes), standing_in(untold), torch.backends.opt_einsum.flags(enabled=False):
        yield


@contextlib.contextmanager
def _replaced(changes: Iterable[Change]) -> Iterator[None]:
    before = list[Change]()
    try:
        for holder, name, new in changes:
            before.append((holder, name, _names_in(holder).get(name)))
            _put(holder, name, new)
        yield
    finally:
        for holder, name, own in reversed(before):
            _put(holder, name, own)


def _names_in(holder: Any) -> Mapping[str, Any]:
    return holder if isinstance(holder, dict) else vars(holder)


def _put(holder: Any, name: str, value: Any) -> None:
    if not isinstance(holder, dict):
        setattr(holder, name, value)
    elif value is None:
        del holder[name]
    else:
        holder[name] = value


@contextlib.contextmanager
def standing_in(others: Mapping[FunctionType, Callable[..., Any]]) -> Iterator[None]:
    """Let each of these functions, under all of its names, call the other one."""
    before = {f: (f.__code__, f.__defaults__, f.__kwdefaults__) for f in others}
    try:
        for function, other in others.items():
            function.__defaults__, function.__kwdefaults__ = None, None
            function.__code__ = _code_of(other).replace(co_freevars=function.__code__.co_freevars)
        yield
    finally:
        for function, (code, defaults, named) in before.items():
            function.__code__, function.__defaults__, function.__kwdefaults__ = code, defaults, named


def as_it_is(function: FunctionType) -> FunctionType:
    """A copy of `function` that keeps its present code."""
    own = (function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy = FunctionType(function.__code__, *own)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _calls(*args: Any, **kwargs: Any) -> Any:
    called: Any = "called"
    return called(*args, **kwargs)


def _code_of(called: Callable[..., Any]) -> CodeType:
    """Code that calls `called`."""
    code = _calls.__code__
    return code.replace(co_consts=tuple(called if value == "called" else value for value in code.co_consts))


def _untold(own: FunctionType) -> Callable[[], bool]:
    """A function that says to users that nobody traces their code."""

    def answer() -> bool:
        # Behind this function stands the one in whose place it is.
        asking = str(sys._getframe(2).f_globals.get("__name__"))
        return own() if asking.partition(".")[0] in ("torch", "rnn_export") else False

    return answer


def frozen_axis(port: int, axis: int, size: int) -> FrozenAxis:
    return FrozenAxis(
        f"axis {axis} of input {port} must be of any size, but the code makes a number of it (it was {size}): by "
        "len(x), where x.shape[0] is meant, by int(), or a size written out.",
        port,
        axis,
        id="axis-made-number",
    )


def _refusing(own: Any) -> Any:
    """`own` of a ShapeEnv, which raises FrozenAxis if a symbolic axis of an input becomes a number."""

    def replace(env: Any, symbol: Any, value: Any, message: str) -> None:
        own(env, symbol, value, message)
        if value.is_number:
            names = (_SIZE.search(source.name) for source in env.var_to_sources.get(symbol, ()))
            if (name := next(filter(None, names), None)) is not None:
                raise frozen_axis(int(name[1]), int(name[2]), int(value))

    return replace


class _Sympy(ModuleType):
    """sympy with a `simplify` that sees sums, products and powers, and no parts of other functions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sympy, name)

    @staticmethod
    def simplify(expression: sympy.Expr) -> sympy.Expr:
        names: dict[sympy.Expr, sympy.Expr] = {}

        def outside(part: sympy.Expr) -> sympy.Expr:
            if isinstance(part, sympy.Add | sympy.Mul | sympy.Pow):
                return part.func(*map(outside, part.args))
            return names.setdefault(part, sympy.Dummy(integer=True)) if part.args else part

        simple = sympy.simplify(outside(expression))
        return simple.xreplace({name: part for part, name in names.items()})


def _by_trial(own: Any) -> Any:
    """`own` of sympy, which tries sizes for an equation that it cannot solve."""

    def reduce(conditions: Iterable[Any], symbol: sympy.Symbol) -> Any:
        conditions = list(conditions)
        try:
            return own(conditions, symbol)
        except NotImplementedError:
            tried = range(MOST_TRIED) if any(isinstance(c, sympy.Eq) for c in conditions) else ()
            for size in map(sympy.Integer, tried):
                if all(c.xreplace({symbol: size}) == sympy.true for c in conditions):
                    return sympy.Eq(symbol, size)
            raise

    return reduce


def _counted(own: Any) -> Any:
    """`own` of torch, the number of windows of a pool, as an expression of the size.

    The last window may be incomplete, but begins no later than the last entry. Source: the docstring of
    torch.nn.MaxPool1d.
    """

    def windows(size: Any, kernel: Any, left: Any, right: Any, stride: Any, dilation: Any, ceil_mode: bool) -> Any:
        numbers = (kernel, left, right, stride, dilation)
        if not ceil_mode or not all(type(n) is int for n in numbers):
            return own(size, *numbers, ceil_mode)
        behind = right - dilation * (kernel - 1) - 1 + stride
        return (size + left + min(behind, 0) + stride - 1) // stride

    return windows


def _files_of(module: nn.Module) -> list[dict[str, Any]]:
    """The globals of all files in the packages that define `module` and its parts, but torch's and Python's."""
    kinds = dict.fromkeys(kind for part in module.modules() for kind in type(part).__mro__)
    own = [f for kind in kinds for f in vars(kind).values() if isinstance(f, FunctionType) and f.__module__]
    packages = {f.__module__.partition(".")[0] for f in own} - NOT_OF_USERS
    files = [f.__globals__ for f in own if f.__module__.partition(".")[0] in packages]
    files += [vars(file) for name, file in [*sys.modules.items()] if name.partition(".")[0] in packages]
    return list({id(names): names for names in files}.values())


def _length(value: Any) -> Any:
    size = value.shape[0] if isinstance(value, Tensor) and value.dim() else None
    return size if isinstance(size, torch.SymInt) else len(value)


class _OfNumbers(type):
    """The metaclass of a stand-in for `int`: its calls and type checks."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], torch.SymInt | torch.SymFloat | torch.SymBool):
            return torch.sym_int(args[0])  # type: ignore[no-untyped-call]
        return builtins.int(*args, **kwargs)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, builtins.int)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, builtins.int)


class _Int(builtins.int, metaclass=_OfNumbers):
    """`int` that keeps a symbol: `int(math.ceil(length / stride))`."""
