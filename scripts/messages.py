"""The messages of all errors of ours, read from the source: tests/messages.txt and docs/messages.md.

python scripts/messages.py           prints how the two differ from the source
python scripts/messages.py --write   writes them anew

A message is a call with `id="..."`: of a class of rnn_export/errors.py, or of a function that returns one of them.
The sentences of `Advice`, which end some of them, have no ids and stand last.
"""

from __future__ import annotations

import ast
import difflib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE, PAGE = "tests/messages.txt", "docs/messages.md"
# Behind it the page is made.
BEGIN = "<!-- made by scripts/messages --write -->"
ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+){1,3}")
ANY = "RnnExportError"
Def = ast.FunctionDef


@dataclass(frozen=True, order=True)
class Message:
    """One call that makes an error: its id, the class, the template as it stands in the source, and the place."""

    id: str
    kind: str
    template: str
    place: str

    @property
    def row(self) -> str:
        return f"{self.id}  {self.kind}  {self.template}"


class Reading:
    """All messages of the source, and the calls that make an error without an id."""

    def __init__(self, root: Path = ROOT) -> None:
        self.files = {path: ast.parse(path.read_text()) for path in sorted(sources(root))}
        self.root, self.classes = root, classes(self.files[root / "rnn_export/errors.py"])
        self.functions = {path: list(functions(tree)) for path, tree in self.files.items()}
        self.found, self.nameless, self.advice = list[Message](), list[str](), set[str]()
        for path, tree in self.files.items():
            self._read(path, tree, ())
        self.found.sort()

    def _read(self, path: Path, node: ast.AST, around: tuple[ast.AST, ...]) -> None:
        if isinstance(node, ast.Call):
            self._see(path, node, around)
        for child in ast.iter_child_nodes(node):
            self._read(path, child, (*around, node))

    def _see(self, path: Path, call: ast.Call, around: tuple[ast.AST, ...]) -> None:
        name, place = last_name(call), f"{path.relative_to(self.root).as_posix()}:{call.lineno}"
        if name == "Advice":
            inside = next((node for node in reversed(around) if isinstance(node, Def)), None)
            self.advice.update(way for sentence in call.args[1:3] for way in self.ways(path, sentence, inside))
        given = next((word.value for word in call.keywords if word.arg == "id"), None)
        if isinstance(given, ast.Constant) and isinstance(given.value, str):
            kind = self.kind_of(path, call, around)
            if kind is not None:
                self.found.append(Message(given.value, kind, self.template(path, call, around), place))
        elif given is None and name in self.classes and self.classes[name][0]:
            self.nameless.append(f"{place}: {name} has no id")

    def kind_of(self, path: Path, call: ast.Call, around: tuple[ast.AST, ...]) -> str | None:
        """The class of the error that a call with an id makes; None for a call that makes none."""
        name = last_name(call)
        if name in self.classes:
            return name
        if name == "__init__":
            inside = [node.name for node in around if isinstance(node, ast.ClassDef)]
            return inside[-1] if inside and inside[-1] in self.classes else None
        for function in self.callees(path, call):
            if function.returns is not None and (kind := ast.unparse(function.returns).strip("'\"")) in self.classes:
                return kind
        return ANY if name in ("kind", "error") else None

    def callees(self, path: Path, call: ast.Call) -> Iterator[Def]:
        """The functions that a call may be of: of this file, or imported by name; a method by its name alone."""
        name, is_method = last_name(call), isinstance(call.func, ast.Attribute)
        places = [path, *self.files] if is_method else [path, self.origin(path, name)]
        for function in (f for place in places if place is not None for f in self.functions[place]):
            if function.name == name and is_method == ([a.arg for a in function.args.args[:1]] == ["self"]):
                yield function

    def origin(self, path: Path, name: str) -> Path | None:
        """The file of ours that `name` is imported from."""
        for node in ast.walk(self.files[path]):
            if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                parts = (node.module or "").split(".")[1:]
                places = [self.root.joinpath(*top, *parts) for top in ((), ("rnn_export",))]
                files = [file for p in places for file in (p.with_suffix(".py"), p / "__init__.py")]
                return next((file for file in files if file in self.files), None)
        return None

    def template(self, path: Path, call: ast.Call, around: tuple[ast.AST, ...]) -> str:
        """The message of a call, with its placeholders in braces; several ways of it are joined by " | "."""
        name = last_name(call)
        texts = [arg for arg in call.args if is_text(arg)]
        arg = call.args[0] if name in self.classes else [*texts, call.args[-1]][0]
        inside = [node for node in around if isinstance(node, Def)]
        return " | ".join(self.ways(path, arg, inside[-1] if inside else None)).replace("\n", "\\n")

    def ways(self, path: Path, arg: ast.expr, inside: ast.AST | None) -> list[str]:
        """The texts that an argument may be: itself, or those of a local name, a constant or a function."""
        if is_text(arg):
            return [text(arg)]
        found: list[ast.expr] = []
        if isinstance(arg, ast.Name):
            here = assigned(inside, arg.id) if inside is not None else []
            found = here or assigned(self.files[path], arg.id)
            if not found and (other := self.origin(path, arg.id)) is not None:
                path, found = other, assigned(self.files[other], arg.id)
            calls = [value for value in found if isinstance(value, ast.Call)]
            found = [value for value in found if is_text(value)] or calls
        if isinstance(arg, ast.Call):
            bodies = [f for f in self.callees(path, arg) if not isinstance(arg.func, ast.Attribute)][:1]
            returns = [n.value for f in bodies for n in ast.walk(f) if isinstance(n, ast.Return)]
            found = [value for value in returns if value is not None and is_text(value)]
        deeper = [way for value in found for way in self.ways(path, value, None)]
        return list(dict.fromkeys(deeper)) or [text(arg)]


def sources(root: Path) -> Iterator[Path]:
    for top in ("export", "models", "rnn_export", "runtime"):
        for path in (root / top).rglob("*.py"):
            if not any(parent.is_symlink() for parent in path.parents):
                yield path


def classes(errors: ast.Module) -> dict[str, tuple[bool, str]]:
    """The classes of our errors: whether a call of one needs an id, and its docstring's first sentence.

    A call of a signal needs none, nor of a class that gives its one message itself.
    """
    found: dict[str, tuple[bool, str]] = {}
    for node in errors.body:
        if isinstance(node, ast.ClassDef) and (node.name == ANY or {ast.unparse(b) for b in node.bases} & found.keys()):
            own = [f for f in node.body if isinstance(f, Def) and f.name == "__init__"]
            takes = next((any(a.arg == "id" for a in f.args.kwonlyargs) for f in own), None)
            inherited = next((found[b][0] for b in map(ast.unparse, node.bases) if b in found), True)
            is_signal = any("is_signal = True" in ast.unparse(line) for line in node.body)
            needed = not is_signal and (inherited if takes is None else takes)
            found[node.name] = needed, " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return found


def last_name(call: ast.Call) -> str:
    return ast.unparse(call.func).split(".")[-1]


def functions(tree: ast.AST) -> Iterator[Def]:
    return (node for node in ast.walk(tree) if isinstance(node, Def))


def assigned(inside: ast.AST, name: str) -> list[ast.expr]:
    """The values that a name is set to in a function, or at the top of a file."""
    nodes = inside.body if isinstance(inside, ast.Module) else ast.walk(inside)
    found = []
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == name:
                    found.append(node.value)
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=False)
                    found += [value for t, value in pairs if isinstance(t, ast.Name) and t.id == name]
        elif isinstance(node, ast.NamedExpr) and node.target.id == name:
            found.append(node.value)
    return found


def is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return is_text(node.left) or is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def text(node: ast.expr) -> str:
    """A string as it stands in the source, placeholders in braces."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text(node.left) + text(node.right)
    if isinstance(node, ast.FormattedValue):
        conversion = f"!{chr(node.conversion)}" if node.conversion > 0 else ""
        form = f":{text(node.format_spec)}" if node.format_spec is not None else ""
        return f"{{{ast.unparse(node.value)}{conversion}{form}}}"
    return f"{{{ast.unparse(node)}}}"


def table(reading: Reading) -> str:
    """tests/messages.txt: each id with its class and template, and the sentences of advice."""
    rows = [message.row for message in reading.found] + [f"advice  Advice  {line}" for line in sorted(reading.advice)]
    return "".join(f"{row}\n" for row in dict.fromkeys(rows))


def page(reading: Reading) -> str:
    """docs/messages.md: its text up to the list, and the list, by class in the order of rnn_export/errors.py."""
    lines = [(ROOT / PAGE).read_text().partition(BEGIN)[0] + BEGIN, ""]
    for kind, (_, what) in reading.classes.items():
        rows = dict.fromkeys((m.id, m.template) for m in reading.found if m.kind == kind)
        if rows:
            lines += [f"## {kind}", "", what, "", *(f"- `{id}`: `` {template} ``" for id, template in rows), ""]
    lines += ["## Advice", "", "The last sentences of a refusal; {} stands for options.", ""]
    return "\n".join([*lines, *(f"- `` {line} ``" for line in sorted(reading.advice))]) + "\n"


def made() -> dict[str, str]:
    """By path, the files as the source has them."""
    reading = Reading()
    return {TABLE: table(reading), PAGE: page(reading)}


def difference(path: str, text: str) -> str:
    old = (ROOT / path).read_text().splitlines() if (ROOT / path).exists() else []
    return "\n".join(difflib.unified_diff(old, text.splitlines(), path, "the source", lineterm="", n=0))


if __name__ == "__main__":
    for path, text in made().items():
        if "--write" in sys.argv[1:]:
            (ROOT / path).write_text(text)
        elif found := difference(path, text):
            sys.stdout.write(f"{found}\n")
