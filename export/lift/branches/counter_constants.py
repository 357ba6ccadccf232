"""Reads the numbers that code compares to its counter: `t % 300`, `t >= self.start`, `delays[t]`.

A trace follows one count after the other and sees none of them. They are read from the source of the functions that a
call runs, with the values of their names at return; for scripted code, from its operators' operands.
"""

from __future__ import annotations

import ast
import linecache
import re
import sysconfig
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import CodeType, FrameType
from typing import Any

from torch import Tensor, nn

from rnn_export.export.lift.ir.source_location import is_foreign
from rnn_export.export.lift.model.script.script_interpreter import OPERATOR
from rnn_export.export.lift.trace.call_profiler import watching

# Entries of a container that are looked at; of how many a list is one that was filled before any frame.
ENTRIES, FILLED = 4096, 64
# What takes numbers and gives a number.
NUMERIC = ("min", "max", "abs", "divmod", "int", "round", "pow", "range", "float")
CONTAINERS = (list, tuple, set, frozenset, dict, range, deque)
DIVIDING = (ast.Mod, ast.FloorDiv, ast.Div, ast.RShift, ast.Mult)
# What may give a tensor where a call stands in it.
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)
# Operators of scripted code that hold one number against another.
SCRIPTED = {"eq", "ne", "lt", "le", "gt", "ge", "remainder", "floordiv", "div", "sub", "min", "max", "__getitem__"}


@dataclass(frozen=True)
class CountedNumber:
    """A number, the file and line where a counter meets it; `divides` if it divides or multiplies it."""

    value: float
    file: str
    line: int
    divides: bool = False


def counted_numbers(run: Callable[[], object]) -> list[CountedNumber]:
    """The numbers in user code that `run` calls."""
    functions = _Functions()
    with watching(functions.see):
        run()
    return list(functions.found)


class _Functions:
    """Reads each function of the user's as it returns."""

    def __init__(self) -> None:
        self.found: dict[CountedNumber, None] = {}
        self._given: dict[CodeType, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        self._looked: set[tuple[Any, ...]] = set()

    def see(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if code is OPERATOR and event == "call":
            self.found.update(dict.fromkeys(_scripted(**frame.f_locals)))
        if event not in ("call", "return") or not _is_users(code.co_filename):
            return
        given = self._given[code]
        if event == "call":
            for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
                if type(value := frame.f_locals.get(name)) is int and len(given[name]) < 2:
                    given[name].add(value)
            return
        moving = frozenset(name for name, values in given.items() if len(values) > 1)
        key = code, id(frame.f_locals.get("self")), moving
        if key in self._looked:
            return
        self._looked.add(key)
        if (tree := _functions_of(code.co_filename).get(code.co_firstlineno)) is not None:
            reader = _Reader(frame, code.co_filename, moving)
            self.found.update(dict.fromkeys(reader.read(tree)))


def _scripted(node: Any, kind: str, args: list[Any], **_: Any) -> Iterator[CountedNumber]:
    """The numbers and list lengths that an operator of scripted code takes, if it takes no tensor."""
    name = kind.rpartition("::")[2]
    if name in SCRIPTED and not any(isinstance(a, Tensor) for a in args):
        place = re.search(r'File "(.+)", line (\d+)', str(node.node.sourceRange()))
        file, line = (place[1], int(place[2])) if place else ("", 0)
        for value in args:
            number = len(value) if isinstance(value, CONTAINERS) else value
            if type(number) in (int, float):
                yield CountedNumber(abs(number), file, line, name in ("remainder", "floordiv", "div"))


@cache
def _is_users(file: str) -> bool:
    library = sysconfig.get_path("stdlib")
    return not is_foreign(file) and (not file.startswith(library) or "site-packages" in file)


@cache
def _functions_of(file: str) -> Mapping[int, ast.AST]:
    """The functions of a file by the line of the first decorator or `def`."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # no Python, or none that is there any more
        return {}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [n for n in ast.walk(tree) if isinstance(n, kinds)]
    return {min([n.lineno, *(d.lineno for d in n.decorator_list)]): n for n in found}


class _Reader:
    """Reads one function with the values of its names; `moving` are arguments that differ from call to call."""

    def __init__(self, frame: FrameType, file: str, moving: frozenset[str]) -> None:
        self.names: Mapping[str, Any] = {**frame.f_globals, **frame.f_locals}
        self.here, self.file, self.counts = frame.f_locals, file, set(moving)

    def read(self, tree: ast.AST) -> Iterator[CountedNumber]:
        self._find_counts(tree)
        for node in ast.walk(tree):
            for value, divides in self._met(node):
                yield from self._numbers(value, getattr(node, "lineno", 0), divides)
            for value in self._begun(node):
                yield from self._numbers(value, getattr(node, "lineno", 0), False)
        for name, value in self.here.items():
            if isinstance(value, list | deque) and len(value) > FILLED:
                line = next((n.lineno for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == name), 0)
                yield CountedNumber(len(value), self.file, line)

    def _met(self, node: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
        """The expressions without a counter beside one with a counter in `node`."""
        if isinstance(node, ast.BinOp):
            sides, divides = [node.left, _shifted(node)], isinstance(node.op, DIVIDING)
        elif isinstance(node, ast.Compare):
            sides, divides = [node.left, *node.comparators], False
        elif isinstance(node, ast.AugAssign):
            sides, divides = [node.target, node.value], isinstance(node.op, DIVIDING)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NUMERIC:
            sides, divides = node.args, node.func.id in ("divmod", "range")
        elif isinstance(node, ast.Subscript):
            sides, divides = [node.value, node.slice], False
        elif isinstance(node, ast.Match):
            values = [p.value for p in ast.walk(node) if isinstance(p, ast.MatchValue)]
            sides, divides = [node.subject, *values], False
        else:
            return
        counted = [side for side in sides if self._is_counted(side)]
        called = isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ARITHMETIC)
        if counted and not any(self._is_tensor(side, called) for side in sides):
            yield from ((side, divides) for side in sides if side not in counted)

    def _begun(self, node: ast.AST) -> Iterator[ast.expr]:
        """Initial values of counters, and long lists passed on: `cycle([False] * 299 + [True])`."""
        yield from (value for target, value in _assigned(node) if ast.unparse(target) in self.counts)
        if isinstance(node, ast.Call):
            yield from (a for a in node.args if isinstance(self._value(a), list) and len(self._value(a)) > FILLED)

    def _numbers(self, node: ast.expr, line: int, divides: bool) -> Iterator[CountedNumber]:
        value = self._value(node)
        for number in [len(value), *list(value)[:ENTRIES]] if isinstance(value, CONTAINERS) else [value]:
            if type(number) in (int, float):
                yield CountedNumber(abs(number), self.file, line, divides)

    # --- what counts

    def _find_counts(self, tree: ast.AST) -> None:
        known = -1
        while known < len(self.counts):
            known = len(self.counts)
            for node in ast.walk(tree):
                self.counts.update(filter(self._may_count, map(ast.unparse, self._counting(node))))

    def _counting(self, node: ast.AST) -> Iterator[ast.expr]:
        """The targets in `node` that change by iteration, or follow from one that does."""
        if isinstance(node, ast.For | ast.comprehension):
            yield from _targets(node.target)
        elif isinstance(node, ast.AugAssign):
            yield node.target
        for target, value in _assigned(node):
            if self._is_counted(value) or ast.unparse(target) in map(ast.unparse, _names(value)):
                yield target

    def _may_count(self, name: str) -> bool:
        value = self._value(ast.parse(name, mode="eval").body)
        return value is None or isinstance(value, int | float)

    def _is_counted(self, node: ast.AST) -> bool:
        """True if an expression has a counter; a list that grows has one as its length."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len" and node.args:
            return isinstance(self._value(node.args[0]), list | deque)
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in self.counts:
            return True
        return any(self._is_counted(part) for part in ast.iter_child_nodes(node))

    def _is_tensor(self, node: ast.AST, called: bool) -> bool:
        """True if an expression is a tensor; with `called`, a call is taken to give one."""
        if isinstance(node, ast.Subscript):
            return self._is_tensor(node.value, called)
        if isinstance(node, ast.BinOp):
            return self._is_tensor(node.left, called) or self._is_tensor(node.right, called)
        if isinstance(node, ast.Call):
            return called and not (isinstance(node.func, ast.Name) and node.func.id in (*NUMERIC, "len"))
        return isinstance(self._value(node), Tensor)

    def _value(self, node: ast.AST) -> Any:
        """The value of an expression if it is known without running code of the user's; else None."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            return _held(self._value(node.value), node.attr)
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return [self._value(part) for part in node.elts]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._value(node.operand)
            return -value if type(value) in (int, float) else None
        if isinstance(node, ast.BinOp):
            return _computed(node.op, self._value(node.left), self._value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("len", "range", "set"):
            arguments = [self._value(part) for part in node.args]
            return _called(node.func.id, arguments)
        if isinstance(node, ast.Subscript):
            return _entry(self._value(node.value), self._value(node.slice))
        return None


def _held(owner: Any, name: str) -> Any:
    """An attribute, without running a property."""
    if isinstance(owner, nn.Module) and name in owner._buffers | owner._parameters | owner._modules:
        return {**owner._buffers, **owner._parameters, **owner._modules}[name]
    attributes = getattr(owner, "__dict__", {})
    value = attributes[name] if name in attributes else getattr(type(owner), name, None)
    return None if isinstance(value, property) else value


def _entry(value: Any, key: Any) -> Any:
    """An entry of a container; all of them if the key is not known."""
    if not isinstance(value, CONTAINERS):
        return None
    try:
        return value if key is None or isinstance(value, set | frozenset) else value[key]
    except (KeyError, IndexError, TypeError):
        return value


def _shifted(node: ast.BinOp) -> ast.expr:
    """The right side of an operator; of a shift, the power of two."""
    shifts = isinstance(node.op, ast.LShift | ast.RShift) and isinstance(node.right, ast.Constant)
    return ast.Constant(2 ** min(int(node.right.value), 64)) if shifts else node.right  # type: ignore[attr-defined]


def _computed(op: ast.operator, a: Any, b: Any) -> Any:
    if isinstance(a, list) and isinstance(b, int) and isinstance(op, ast.Mult):
        return a * b if len(a) * b <= ENTRIES else None
    if isinstance(a, list) and isinstance(b, list) and isinstance(op, ast.Add):
        return a + b
    if not (type(a) in (int, float) and type(b) in (int, float)):
        return None
    known: dict[type[ast.operator], Callable[[], Any]] = {
        ast.Add: lambda: a + b, ast.Sub: lambda: a - b, ast.Mult: lambda: a * b, ast.FloorDiv: lambda: a // b,
        ast.Div: lambda: a / b, ast.Mod: lambda: a % b, ast.Pow: lambda: a**b if abs(b) < ENTRIES else None,
    }  # fmt: skip
    try:
        return known[type(op)]() if type(op) in known else None
    except ArithmeticError:
        return None


def _called(name: str, arguments: list[Any]) -> Any:
    try:
        return {"len": len, "range": range, "set": set}[name](*arguments)  # type: ignore[operator]
    except (TypeError, ValueError):
        return None


def _assigned(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The targets in `node`, each with its value."""
    if isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield node.target, node.value
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        targets, value = list(_targets(target)), node.value
        values = value.elts if isinstance(value, ast.Tuple) else ()
        yield from zip(targets, values if len(values) == len(targets) else [value] * len(targets), strict=True)


def _targets(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Tuple | ast.List):
        for part in node.elts:
            yield from _targets(part)
    elif isinstance(node, ast.Name | ast.Attribute):
        yield node


def _names(node: ast.AST) -> Iterator[ast.expr]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute))
