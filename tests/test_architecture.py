"""Allowed imports, the cost of an import, and forbidden contents of files, read from the source.

The table of packages stands in CONTRIBUTING.md, and nowhere else.
"""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from rnn_export.moved import MODULES

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "export", "runtime")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
# Modules that only give names of others; the key of the contract in a graph is a name of this kind too.
FACES = ("rnn_export", "rnn_export.moved", "rnn_export.spec")
TRUNK = ("rnn_export", "rnn_export/*")
# The one door for imports by name.
LAZY = "rnn_export.lazy"
# Whoever sees one of these loaded has waited for it.
HEAVY = {"torch", "onnx", "onnxruntime", "onnx_ir", "onnxscript", "click", "rich", "matplotlib", "tritonclient", "grpc"}


# --- the table


@dataclass(frozen=True)
class Row:
    """A package, or with `/*` each package below a folder apart; what it may import of ours, and of the world."""

    folder: str
    ours: frozenset[str]
    world: frozenset[str]

    def holds(self, folder: str) -> bool:
        parent, star = self.folder.removesuffix("/*"), self.folder.endswith("/*")
        return folder == parent or (star and folder.startswith(f"{parent}/"))


@cache
def table() -> tuple[Row, ...]:
    rows = re.findall(r"^\| `([\w/*]+)` \|[^|]*\|([^|]*)\|([^|]*)\|$", CONTRIBUTING, re.MULTILINE)
    found = []
    for folder, *cells in rows:
        ours, world = (frozenset(re.findall(r"`([\w/*]+)`", cell)) for cell in cells)
        found.append(Row(folder, ours | {*TRUNK[: TRUNK.index(folder) if folder in TRUNK else None]}, world))
    return tuple(found)


def row_of(folder: str) -> Row:
    found = [row for row in table() if row.holds(folder)]
    exact = [row for row in found if row.folder == folder] or found
    assert len(exact) == 1, f"{folder} has {len(exact)} rows in the table of CONTRIBUTING.md"
    return exact[0]


@cache
def orders() -> dict[str, list[str]]:
    """By row, the folders of it that import each other, in that order."""
    lines = re.findall(r"^A folder of `([\w/]+)/\*` imports those before it: (.*)\.$", CONTRIBUTING, re.MULTILINE)
    return {f"{top}/*": [f"{top}/{name}" for name in re.findall(r"`([\w/]+)`", names)] for top, names in lines}


# --- the source


@cache
def modules() -> dict[str, Path]:
    """Every module by the name that it is imported under; nobody imports what `python -m` runs."""
    found = {}
    for folder in ("rnn_export", *FOLDERS):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "__main__.py" and not any(parent.is_symlink() for parent in path.parents):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                found[name if folder == "rnn_export" else f"rnn_export.{name}"] = path
    return dict(sorted(found.items()))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def folder_of(module: str) -> str:
    return modules()[module].parent.relative_to(ROOT).as_posix()


def module_of(name: str) -> str | None:
    """The module that `rnn_export.a.b.name` lies in, or is."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or None


@cache
def imports(path: Path, lazy: bool = True) -> tuple[str, ...]:
    """The imports of a file; `lazy` includes those in functions and under `if TYPE_CHECKING`.

    A module of ours named by a string is imported too: that is what `load_module` is for.
    """
    found: list[str] = []
    waiting: list[ast.AST] = [tree(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += (f"{module}.{alias.name}" for alias in node.names)
        elif lazy and isinstance(node, ast.Constant) and node.value in modules():
            found.append(str(node.value))
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if lazy or not (later or typing):
            waiting += ast.iter_child_nodes(node)
    return tuple(found)


def packages(name: str) -> set[str]:
    """A dotted name, and all that it is in: a.b.c, a.b and a."""
    return {name, *(name[: match.start()] for match in re.finditer(r"\.", name))}


@cache
def arrows() -> dict[str, dict[str, str]]:
    """Folder -> folder that it imports -> one module that does so."""
    found: dict[str, dict[str, str]] = {}
    for module, path in modules().items():
        # What only hands over names that stand elsewhere imports nothing: a package's own face, names of before.
        if module in (*FACES, "rnn_export.runtime"):
            continue
        for name in imports(path):
            other = module_of(name) if name.split(".")[0] == "rnn_export" else None
            if other and folder_of(other) != folder_of(module):
                found.setdefault(folder_of(module), {})[folder_of(other)] = f"{module} -> {other}"
    return found


# --- the rules


def test_every_folder_has_a_row_and_every_row_a_folder():
    folders = {folder_of(module) for module in modules()}
    assert {row_of(folder).folder for folder in folders} == {row.folder for row in table()}
    assert len(table()) <= 30


def test_the_table_goes_one_way():
    """An imported package may not import back, even indirectly."""
    below = {row.folder: row.ours - {row.folder} for row in table()}
    while below:
        free = {folder for folder, ours in below.items() if not ours & set(below)}
        assert free, f"these import each other: {sorted(below)}"
        below = {folder: ours for folder, ours in below.items() if folder not in free}


def test_who_may_import_whom():
    wrong = [
        why
        for folder, others in arrows().items()
        for other, why in others.items()
        if row_of(other).folder not in row_of(folder).ours
        and not {folder, other} <= set(orders().get(row_of(folder).folder, ()))
    ]
    assert not wrong


@pytest.mark.parametrize("row", sorted(orders()))
def test_a_folder_imports_those_before_it(row):
    order = {folder: number for number, folder in enumerate(orders()[row])}
    assert set(order) == {folder for folder in map(folder_of, modules()) if row_of(folder).folder == row}
    up = [
        why
        for folder, number in order.items()
        for other, why in arrows().get(folder, {}).items()
        if order.get(other, 0) > number
    ]
    assert not up


def test_no_two_packages_import_each_other():
    both = [
        f"{why}, {arrows()[b][a]}"
        for a, others in arrows().items()
        for b, why in others.items()
        if a in arrows().get(b, ())
    ]
    assert not both


def test_no_circle_of_modules():
    graph = {
        module: {m for name in imports(path) if (m := module_of(name)) and m != module and m != "rnn_export"}
        for module, path in modules().items()
        if module not in FACES
    }
    while graph:
        free = {module for module, others in graph.items() if not others & set(graph)}
        assert free, f"these import each other: {sorted(graph)}"
        graph = {module: others for module, others in graph.items() if module not in free}


def test_what_a_package_needs_of_the_world():
    wrong = {}
    for module, path in modules().items():
        world = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"rnn_export", ""}
        if extra := world - row_of(folder_of(module)).world:
            wrong[module] = sorted(extra)
    assert not wrong


def test_imports_by_name_go_through_one_door():
    door = [module for module, path in modules().items() if re.search(r"import_module|__import__", path.read_text())]
    assert door == [LAZY]


def test_names_of_an_earlier_release_are_used_by_nobody():
    places = [ROOT / folder for folder in ("tests", "scripts", "examples")]
    sources = [*modules().values(), *(p for place in places for p in place.rglob("*.py"))]
    used = [(p, name) for p in sources for name in imports(p) if not MODULES.keys().isdisjoint(packages(name))]
    assert not [(p, name) for p, name in used if p.name not in ("moved.py", "test_faces.py")]


# Who may say `.delay`, `.every` or `.late`; all others ask the contract's methods how many frames come when.
FRAME_ARITHMETIC = {
    "rnn_export/contract/spec.py": "computes them",
    "rnn_export/contract/layout.py": "computes them for many rows at once",
    "export/lift/contract.py": "finds them",
    "export/lift/streaming/": "finds them",
    "export/targets/c/": "writes them as constants",
    "runtime/build/wasm/web_package.py": "writes them as constants",
    "runtime/backends/remote/codec.py": "sends how many frames a stream was fed",
    "runtime/replay/golden.py": "shows them",
    "runtime/replay/step_vectors.py": "lays them out by step",
    "export/verify/frames.py": "shows them",
    "runtime/replay/ends.py": "lets sequences end before and after it",
    "export/triton/repository_readme.py": "shows them",
    "rnn_export/cli/": "shows them",
    "rnn_export/page/": "shows them",
}


def test_frames_delay_and_strides_are_computed_in_one_place():
    saying = {
        path.relative_to(ROOT).as_posix()
        for path in modules().values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in ("delay", "every", "late")
    }
    assert not {path for path in saying if not path.startswith(tuple(FRAME_ARITHMETIC))}


def test_every_error_stands_in_errors():
    """One family, one file: whoever catches an error finds what else there is to catch. A signal is no error."""
    places = {
        module
        for module, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and any(re.search(r"(Error|Unavailable)$", ast.unparse(b)) for b in node.bases)
    }
    assert places == {"rnn_export.errors"}


FOLDERS_OF_MODULES = sorted({folder_of(module) for module in modules()})
# A process for each folder, which begins with the modules of the process that it comes from.
FORKS = """
import json, os, sys
begin, *folders = json.load(sys.stdin)
for name in begin:
    __import__(name)
for own in folders:
    sys.stdout.flush()
    if not os.fork():
        for name in own:
            __import__(name)
        print(json.dumps([*sys.modules]), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{own} cannot be imported")
"""


@cache
def loaded_by(with_torch: bool) -> dict[str, list[str]]:
    """By folder, the modules that a fresh process has once it imported every module of the folder.

    Importing torch takes seconds: folders that may load it by their rows begin with it.
    """
    folders = [folder for folder in FOLDERS_OF_MODULES if ("torch" in row_of(folder).world) is with_torch]
    own = [[m for m in modules() if folder_of(m) == folder and m not in FACES] for folder in folders]
    given = json.dumps([["torch", "torch.export"] if with_torch else [], *own])
    command = [sys.executable, "-c", FORKS]
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(folders, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("folder", FOLDERS_OF_MODULES)
def test_what_an_import_loads(folder):
    """Every module of a package loads nothing that its row leaves out, at any distance."""
    loaded = loaded_by("torch" in row_of(folder).world)[folder]
    allowed, world, waiting = set(), set(), [row_of(folder)]
    while waiting:
        row = waiting.pop()
        allowed.add(row.folder)
        world |= row.world
        waiting += [other for other in table() if other.folder in row.ours and other.folder not in allowed]
    # A package is imported by way of those above it, whose own modules have to stay out.
    above = {name.rpartition(".")[0] for name in loaded} | {"rnn_export"}
    ours = [name for name in loaded if name in modules() and name not in above]
    assert not [name for name in ours if row_of(folder_of(name)).folder not in allowed]
    libraries = {name.split(".")[0] for name in loaded} & HEAVY
    assert not libraries - world - ({"onnx", "onnx_ir"} if "torch" in libraries else set())


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("rnn_export", "numpy torch onnx onnxruntime click rich"),
        ("rnn_export.runtime.engine", "torch onnx onnxruntime click rich"),
        ("rnn_export.export", "torch onnx onnxruntime click rich"),
        ("rnn_export.export.triton.repository", "torch onnx onnxruntime click rich tritonclient"),
        ("rnn_export.cli.main", "torch onnx onnxruntime numpy rich"),
    ],
)
def test_what_an_import_leaves_out(module, left_out):
    code = f"import sys, {module}; print(*sorted(set({left_out.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_runs_without_torch_imports_none():
    """scripts/test_numpy1 has no torch, and names the tests of tests/runtime that it leaves out for that."""

    def reached(path: Path, seen: set[Path]) -> bool:
        if path in seen:
            return False
        seen.add(path)
        for name in imports(path, lazy=False):
            level = len(name) - len(name.lstrip("."))
            parts = name.lstrip(".").split(".")
            base = path.parents[level - 1].joinpath(*parts) if level else path
            extra = (base.with_suffix(".py"), base.parent.with_suffix(".py")) if level else ()
            if name.split(".")[0] == "torch" or any(reached(p, seen) for p in extra if p.is_file()):
                return True
        return False

    tests = (ROOT / "tests/runtime").glob("test_*.py")
    torch = {path.name for path in tests if 'importorskip("torch"' not in path.read_text() and reached(path, set())}
    left_out = re.findall(r"--ignore tests/runtime/(\w+\.py)", (ROOT / "scripts/test_numpy1").read_text())
    assert torch <= set(left_out)


def test_nobody_imports_a_second_copy():
    """A bare `import runtime` works from the root of the repository, and gives other classes of the same names."""
    places = [path for folder in ("tests", "scripts") for path in (ROOT / folder).rglob("*.py")]
    second = [p for p in [*modules().values(), *places] if {name.split(".")[0] for name in imports(p)} & set(FOLDERS)]
    relative = [p for p in modules().values() if any(name.startswith(".") for name in imports(p))]
    assert (second, relative) == ([], [])


def test_no_stage_of_lifting_changes_the_call_that_it_is_given():
    """A FlatModel with other attributes is a copy, made by its `replace`; only FlatModel assigns to itself."""
    own = (ROOT / "export/lift/model/flat_model.py").read_text()
    attributes = {n.attr for n in ast.walk(ast.parse(own)) if isinstance(n, ast.Attribute) and _is_self(n)}
    files = [
        path for path in (ROOT / "export").rglob("*.py") if "FlatModel" in (text := path.read_text()) and text != own
    ]
    stores = [
        f"{path.relative_to(ROOT)}:{n.lineno}: {ast.unparse(n)}"
        for path in files
        for n in ast.walk(tree(path))
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and n.attr in attributes and not _is_self(n)
    ]
    assert len(files) > 20
    assert not stores


def _is_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def test_a_file_fits_in_the_head():
    sources = [*modules().values(), *ROOT.glob("scripts/**/*.py")]
    assert not [path for path in sources if len(path.read_text().splitlines()) > 400]


def tracked() -> list[Path]:
    """Text files that git holds, or would with the next `git add`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink() and b"\0" not in path.read_bytes()]


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(?<![\w.:/])/(work|home|root|Users)/"),
        ("something left undone", r"\b(TO[D]O|FIX[M]E|XX[X])\b"),
    ],
)
def test_no_file_holds(what, pattern):
    files = tracked()
    assert len(files) > len(modules())
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, what


# --- the pages that describe all this


def test_the_picture_names_every_folder_and_no_other():
    text = (ROOT / "docs/architecture.md").read_text()
    folders = {row.folder.removesuffix("/*") for row in table()}
    assert not [folder for folder in folders if folder not in text and folder.rpartition("/")[2] + "/" not in text]
    named = set(re.findall(r"`((?:rnn_export|models|export|runtime|tests)/[\w/.]+)`", text))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_a_stage_has_the_call_that_the_page_names():
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| \w+ \| `([\w.]+)`[^|]*\| `([\w/.]+)`", text, re.MULTILINE)
    assert len(rows) >= 7
    assert not [
        (call, place) for call, place in rows if f"def {call.rpartition('.')[2]}(" not in (ROOT / place).read_text()
    ]


def test_every_word_of_the_lexicon_has_one_meaning():
    words = re.findall(r"^- \*\*(.+?)\*\*", (ROOT / "docs/lexicon.md").read_text(), re.MULTILINE)
    assert 60 < len(words) <= 80
    assert sorted(words) == sorted(set(words))


@cache
def trees() -> dict[str, ast.Module]:
    """Every file of source, tests, scripts and examples, parsed; `tests/data` is of other releases."""
    places = (*modules().values(), *(p for f in ("tests", "scripts", "examples") for p in (ROOT / f).rglob("*.py")))
    names = {path.relative_to(ROOT).as_posix(): path for path in places}
    return {name: tree(path) for name, path in names.items() if not name.startswith("tests/data/")}


def words_of(name: str) -> set[str]:
    """The words of a name in snake case or camel case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def test_a_name_is_split_into_whole_words():
    assert words_of("is_in_RowsOf_classroom") == {"is", "in", "rows", "of", "classroom"}
    assert words_of("ONNX_room") == {"onnx", "room"}


def test_no_name_has_a_banned_word():
    banned = {line.partition(":")[0] for line in (ROOT / "tests/banned_words.txt").read_text().splitlines()}
    names = {(file, Path(file).stem) for file in trees()}
    for file, tree in trees().items():
        values = (getattr(node, field, None) for node in ast.walk(tree) for field in ("id", "attr", "name", "arg"))
        names |= {(file, value) for value in values if isinstance(value, str)}
    assert not [(file, name) for file, name in sorted(names) if banned & words_of(name)]


def test_a_docstring_begins_with_its_subject():
    begins = {"What", "Which", "Whatever", "Whoever", "Whether", "Where", "How", "Of"}
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [(f, ast.get_docstring(n) or "-") for f, t in trees().items() for n in ast.walk(t) if isinstance(n, kinds)]
    assert not [(file, text) for file, text in texts if text.split()[0].strip("`,:") in begins]


# Files of plug-ins, whose name is what they are found by; a command is a file by its name.
PLUGINS = {"backend", "session", "buffers", "library", "target", "writer"}


@pytest.mark.parametrize("top", ["export", "models", "rnn_export", "runtime"])
def test_no_file_name_stands_twice_in_a_package(top):
    faces = ("rnn_export/cli/", "rnn_export/spec.py")
    stems = Counter(Path(name).stem for name in trees() if name.startswith(f"{top}/") and not name.startswith(faces))
    assert not {stem for stem, times in stems.items() if times > 1} - PLUGINS - {"__init__", "__main__"}


# The most files of a folder; stages of lifting have more until their mechanisms are merged, and a command is a file.
MOST_FILES = {"rnn_export": 8, "rnn_export/cli": 40, **dict.fromkeys(orders()["export/lift/*"], 20)}


def test_a_folder_has_few_files():
    files = Counter(folder_of(module) for module, path in modules().items() if path.name != "__init__.py")
    assert not {folder: n for folder, n in files.items() if n > MOST_FILES.get(folder, 15)}


def test_every_folder_of_tests_is_collected(pytestconfig):
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    names = {name for folder in folders for name in folder.relative_to(ROOT).parts}
    assert not [name for name in names if any(fnmatch(name, row) for row in pytestconfig.getini("norecursedirs"))]
