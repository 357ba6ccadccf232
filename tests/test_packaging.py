"""The wheel against the tree: it has all code, under the names by which it is imported."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path, PurePosixPath

import pytest

import rnn_export

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "export", "runtime")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_SOURCE = shutil.ignore_patterns(".*", "*.egg-info", "dist", "out", "__pycache__", "*.rnnx")

EXTRAS = {
    "export": {"torch", "onnx", "onnxscript", "safetensors"},
    "onnx": {"onnx", "onnx-ir", "onnxscript"},
    "cpu": {"onnxruntime"},
    "gpu": {"onnxruntime-gpu"},
    "tensorrt": {"tensorrt", "cuda-python"},
    "rtx": {"tensorrt-rtx-cu12"},
    "remote": {"tritonclient"},
    "dev": {"pytest", "mypy", "ruff", "hypothesis", "build"},
}


def sources() -> set[str]:
    """Every module by the path that it has in the wheel."""
    trunk = {p.relative_to(ROOT).as_posix() for p in (ROOT / "rnn_export").rglob("*.py") if not linked(p)}
    parts = {f"rnn_export/{p.relative_to(ROOT).as_posix()}" for f in FOLDERS for p in (ROOT / f).rglob("*.py")}
    return trunk | parts


def tracked() -> set[str]:
    """Every file of the four folders that git holds or would with the next `git add`, by its path in the wheel."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "rnn_export", *FOLDERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    files = [name for name in done.stdout.split("\0") if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]
    return {name if name.startswith("rnn_export/") else f"rnn_export/{name}" for name in files}


def linked(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents)


def requirement_name(text: str) -> str:
    return re.split(r"[<>=!~;\[ ]", text)[0]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_links_are_relative_and_lead_to_the_folders(name):
    link = ROOT / "rnn_export" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == (ROOT / name).resolve()


def test_every_package_is_listed():
    packages = {str(PurePosixPath(source).parent).replace("/", ".") for source in sources()}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(packages)
    for package in packages:
        assert (ROOT / package.replace(".", "/") / "__init__.py").is_file(), package
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {f"rnn_export.{name}": name for name in FOLDERS}


def test_the_version_is_one_wherever_it_stands():
    assert PROJECT["project"]["version"] == rnn_export.__version__
    assert f"\nversion: {rnn_export.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {rnn_export.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    pages = "\n".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    assert set(re.findall(r"rnn_export-([\d.]+)-py3", pages)) == {rnn_export.__version__}


@pytest.mark.parametrize("extra", EXTRAS)
def test_extras(extra):
    given = {requirement_name(text) for text in PROJECT["project"]["optional-dependencies"][extra]}
    assert EXTRAS[extra] <= given


def test_one_extra_brings_one_wheel_of_onnxruntime():
    """Two of them overwrite each other, and CUDA is gone."""
    brought = {
        extra: [name for name in map(requirement_name, given) if name.startswith("onnxruntime")]
        for extra, given in PROJECT["project"]["optional-dependencies"].items()
    }
    assert {extra: names for extra, names in brought.items() if names} == {
        "cpu": ["onnxruntime"],
        "gpu": ["onnxruntime-gpu"],
    }


def test_no_package_of_another_extra_brings_a_wheel_of_onnxruntime():
    extras = PROJECT["project"]["optional-dependencies"]
    found, open_ = (
        set(),
        {requirement_name(t) for extra, given in extras.items() if extra not in ("cpu", "gpu") for t in given},
    )
    while open_:
        name = open_.pop()
        found.add(name)
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        open_ |= {requirement_name(text) for text in needed if "extra ==" not in text} - found
    assert {"torch", "onnx", "onnxscript", "onnx-ir", "sympy"} <= {name.replace("_", "-") for name in found}
    assert not [name for name in found if name.startswith("onnxruntime")]


def test_the_oldest_onnx_ir_is_one_that_onnxscript_takes():
    """0.7.2, the oldest onnxscript, asks for this one."""
    extras = PROJECT["project"]["optional-dependencies"]["export"]
    assert {"onnxscript>=0.7.2", "onnx-ir>=0.1.16"} <= set(extras)


def test_the_base_needs_no_framework():
    assert {requirement_name(text) for text in PROJECT["project"]["dependencies"]} == {"numpy", "click", "rich"}


# --- what is built


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist and the wheel that is built from the sdist."""
    place = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, place / "source", symlinks=True, ignore=NOT_SOURCE)
    # That of an earlier build; runtime/build is source.
    shutil.rmtree(place / "source" / "build", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", place / "source"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return place / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


INFO = f"rnn_export-{rnn_export.__version__}.dist-info"


@pytest.mark.slow
def test_the_wheel_holds_the_tracked_files_whatever_their_suffix_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if not name.startswith(f"{INFO}/")}
    assert names == tracked()


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel):
    assert f"{INFO}/licenses/LICENSE" in wheel.namelist()
    assert "rnn-export = rnn_export.cli.main:main" in wheel.read(f"{INFO}/entry_points.txt").decode()
    metadata = message_from_string(wheel.read(f"{INFO}/METADATA").decode())
    assert metadata["Name"] == "rnn-export"
    assert metadata["Version"] == rnn_export.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(EXTRAS) <= set(metadata.get_all("Provides-Extra"))
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_sdist_holds_the_sources_once(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as file:
        files = [member.name.split("/", 1)[1] for member in file.getmembers() if member.isfile()]
    assert len(set(files)) == len(files)
    assert {f"rnn_export/{p.name}" for p in (ROOT / "rnn_export").glob("*.py")} <= set(files)
    assert {p.relative_to(ROOT).as_posix() for f in FOLDERS for p in (ROOT / f).rglob("*.py")} <= set(files)
    assert {"LICENSE", "README.md", "pyproject.toml", "rnn_export/py.typed"} <= set(files)


@pytest.mark.slow
def test_the_command_works_from_the_unpacked_wheel(wheel, tmp_path):
    """Files beside the modules are in it: templates, kernels, linker scripts."""
    place = tmp_path / "wheel"
    wheel.extractall(place)

    def call(*arguments):
        code = f"import sys; sys.path.insert(0, {str(place)!r}); from rnn_export.cli.main import main; main()"
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "Commands" in call("--help")
    (tmp_path / "net.py").write_text(
        "import torch\ndef make(): return torch.nn.GRU(2, 3).eval(), (torch.zeros(1, 1, 2),)\n"
    )
    call("export", "net.py:make", "-o", "net.rnnx", "--steps", "8")
    call("build", "net.rnnx", "--target", "c")
    assert '"ok": true' in call("verify", "net.rnnx", "--backend", "native", "--json")


@pytest.mark.slow
def test_the_unpacked_wheel_imports_on_its_own(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import rnn_export.runtime, rnn_export.export, rnn_export.runtime.protocols, rnn_export.cli.main\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.split('.')[0] == 'rnn_export': print(module.__file__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    files = [Path(line) for line in done.stdout.splitlines()]
    assert tmp_path / "rnn_export/runtime/__init__.py" in files
    assert all(file.is_relative_to(tmp_path / "rnn_export") for file in files)
