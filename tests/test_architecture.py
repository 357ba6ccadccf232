"""Who may import whom, what an import costs, and what no file may hold: read from the source, not from memory."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "export", "runtime")
COMMAND = tuple(
    f"rnn_export/{name}.py" for name in ("cli", "building", "inspection", "options", "plots", "serving", "tables")
)

# What each part may import of the others ...
INSIDE = {
    "trunk": {"trunk"},
    "models": {"trunk", "models"},
    "runtime": {"trunk", "runtime"},
    "export": {"trunk", "models", "runtime", "export"},
    "command": {"trunk", "models", "runtime", "export", "command"},
}
# ... and of the world, besides the standard library. `runtime` has no torch and no onnx: a device has none.
OUTSIDE = {
    "trunk": {"numpy"},
    "models": {"numpy", "torch", "safetensors"},
    "runtime": {"numpy"},
    "export": {"numpy", "torch", "onnx", "onnxscript", "onnx_ir", "safetensors"},
    "command": {"numpy", "click", "rich", "matplotlib"},
}
BACKENDS = {
    "runtime/backends/onnxruntime.py": {"onnxruntime"},
    "runtime/backends/torchscript.py": {"torch"},
    "runtime/backends/tensorrt.py": {"tensorrt", "cuda"},
    "runtime/prometheus.py": {"prometheus_client"},
    "runtime/remote/endpoint.py": {"grpc", "tritonclient"},
    "runtime/remote/wire.py": {"tritonclient"},
    "export/targets/c/calibration.py": {"onnxruntime"},
    "export/triton/pbtxt.py": {"google", "tritonclient"},
    "export/triton/model.py": {"triton_python_backend_utils"},
}
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("rnn_export", *FOLDERS)
    for path in (ROOT / folder).rglob("*.py")
    if not any(parent.is_symlink() for parent in path.parents)
)
every_source = pytest.mark.parametrize("source", SOURCES)


def part(source: str) -> str:
    if source in COMMAND:
        return "command"
    folder = source.split("/")[0]
    return folder if folder in FOLDERS else "trunk"


def part_of(module: str) -> str:
    """The part that `rnn_export.a.b` lies in."""
    name = module.split(".")[1] if "." in module else ""
    return part(f"{name}/" if name in FOLDERS else f"rnn_export/{name}.py")


def imports(source: str, lazy: bool = True) -> Iterator[str]:
    """Modules that a file imports: all of them, or without those inside functions and `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [ast.parse((ROOT / source).read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from rnn_export import tables` names the module behind the word import.
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from names if module == "rnn_export" else [module]
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if lazy or not (later or typing):
            waiting += ast.iter_child_nodes(node)


def is_module(name: str) -> bool:
    """Whether `rnn_export.name` is a file or a folder, and not a value such as `__version__`."""
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_part_has_files():
    assert {part(source) for source in SOURCES} == set(INSIDE)


@every_source
def test_who_may_import_whom(source):
    own = {m for m in imports(source) if m.split(".")[0] == "rnn_export"}
    reached = {part_of(m) if is_module(m) else "trunk" for m in own}
    assert reached <= INSIDE[part(source)]


@every_source
def test_what_a_part_needs(source):
    world = {m.split(".")[0] for m in imports(source)} - sys.stdlib_module_names - {"rnn_export", "__future__"}
    assert world <= OUTSIDE[part(source)] | BACKENDS.get(source, set())


def test_the_command_is_lazy():
    """`--help` must not wait for what the command would need."""
    early = {m for m in imports("rnn_export/cli.py", lazy=False) if m.split(".")[0] not in sys.stdlib_module_names}
    assert early <= {"click", "rnn_export.__version__", "rnn_export.errors", "rnn_export.options"}
    assert set(imports("rnn_export/options.py")) - sys.stdlib_module_names <= {"click", "__future__", "collections.abc"}


@pytest.mark.parametrize("folder", ["rnn_export", *FOLDERS, "tests", "scripts"])
def test_nobody_imports_a_second_copy(folder):
    """A bare `import runtime` works from the root of the repository, and gives other classes of the same names."""
    for path in (ROOT / folder).rglob("*.py"):
        found = set(imports(path.relative_to(ROOT).as_posix()))
        assert not {m for m in found if m.split(".")[0] in FOLDERS}, path
        if folder not in ("tests", "scripts"):
            assert not {m for m in found if m.startswith(".")}, path


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("rnn_export.runtime", "torch onnx onnxruntime click rich"),
        ("rnn_export.runtime.golden", "torch onnx onnxruntime click rich"),
        ("rnn_export.runtime.bench.measure", "torch onnx onnxruntime click rich"),
        ("rnn_export.export", "torch onnx onnxruntime click rich"),
        ("rnn_export.export.triton.repository", "torch onnx onnxruntime click rich tritonclient"),
        ("rnn_export.cli", "torch onnx onnxruntime numpy rich"),
        ("rnn_export.bundle", "torch onnx onnxruntime click rich"),
    ],
)
def test_what_an_import_leaves_out(module, left_out):
    code = f"import sys, {module}; print(*sorted(set({left_out.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("source", [*SOURCES, *(p.relative_to(ROOT).as_posix() for p in ROOT.glob("scripts/**/*.py"))])
def test_a_file_fits_in_the_head(source):
    assert len((ROOT / source).read_text().splitlines()) <= 400


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
    assert len(files) > len(SOURCES)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, what
