"""`rnn-export build --target wasm`: from the C of a bundle on the base install, from its step, and refusals."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rnn_export.bundle import extend_bundle, open_bundle
from rnn_export.cli.main import EXPORT_PACKAGES, main
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import load
from rnn_export.runtime.build.wasm import wasm_modules as compiling

from ..messages import raises  # noqa: TID252
from ..stages import without_stages  # noqa: TID252
from ..zoo import store  # noqa: TID252
from .node import need

FILES = {
    "frames.js", "golden.json", "index.d.ts", "index.html", "index.js", "model-scalar.wasm", "model.json", "model.wasm",
    "package.json", "page.css", "page.js", "parity.json", "plot.js", "selftest.js", "sequence.js", "snapshot.js",
    "stream.js", "values.js", "worklet.js",
}  # fmt: skip


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(result: Result, message: str) -> None:
    assert result.exit_code == 1, result.output
    assert without_stages(result.stderr).startswith(f"error: {message}"), result.stderr
    assert result.stdout == ""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with C."""
    need("zig", "wasmtime")
    return Path(shutil.copytree(store.bundle("lstm-in-c"), tmp_path / "lstm.rnnx"))


def bare(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where the export extra is not installed."""
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({EXPORT_PACKAGES}))\n"
        "import importlib.util as util\nfind = util.find_spec\n"
        f"util.find_spec = lambda name, *a: None if name in {EXPORT_PACKAGES} else find(name, *a)\n"
        f"from rnn_export.cli.main import main\nmain({[str(a) for a in arguments]})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_c_is_enough_where_neither_torch_nor_onnx_is(bundle):
    done = bare("build", bundle, "--target", "wasm", "--json")
    assert done.returncode == 0, done.stderr
    told, row = json.loads(done.stdout), open_bundle(bundle).target("wasm", "fp32")
    assert {path.rpartition("/")[2] for path in row.files} == FILES
    assert (told["parity"]["backend"], told["bytes"].keys()) == ("wasm", {"model.wasm", "model-scalar.wasm"})
    # What is made here runs here, without a word.
    engine = load(bundle, "wasm")
    assert (engine.backend, engine.device, engine.precision) == ("wasm", "cpu", "fp32")
    refused(invoke("build", bundle, "--target", "wasm"), f"{bundle} has wasm (fp32): give --rebuild to build it again.")
    assert bare("build", bundle, "--target", "wasm", "--rebuild").returncode == 0


def test_without_c_it_is_written_from_the_step(tmp_path):
    need("zig", "wasmtime")
    path = Path(shutil.copytree(store.bundle("two-layers-on-onnx"), tmp_path / "two.rnnx"))
    message = f"{path} has no C sources to compile: write them where torch is, rnn-export build {path} --target wasm"
    done = bare("build", path, "--target", "wasm")
    assert (done.returncode, done.stdout) == (1, "")
    assert without_stages(done.stderr).startswith(f"error: {message}")
    built = invoke("build", path, "--target", "wasm", "--precision", "int8", "--json")
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["precision"] == "int8"
    assert {row.target for row in open_bundle(path).targets} == {"onnx", "wasm"}
    assert invoke("verify", path, "--backend", "wasm", "--precision", "int8").exit_code == 0


def test_sources_that_nobody_trusted_made_are_not_compiled(bundle):
    opened = open_bundle(bundle)
    row = opened.target("c", "fp32")
    files = {path: opened.read(path) for path in row.files}
    changed = next(path for path in files if path.endswith("/lstm.c"))
    extend_bundle(opened, row, {**files, changed: files[changed] + b"/* another */\n"})
    before = (bundle / "manifest.json").read_bytes()
    done = bare("build", bundle, "--target", "wasm")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has sources of c (fp32), and sources are code: the code is not recorded as built here" in done.stderr
    assert (bundle / "manifest.json").read_bytes() == before
    # Where the export extra is, the step is written anew, and what was changed is left aside.
    assert invoke("build", bundle, "--target", "wasm").exit_code == 0
    assert bare("build", bundle, "--target", "wasm", "--rebuild", "--trust").returncode == 0


def test_a_package_of_others_neither_runs_nor_is_served(bundle):
    assert invoke("build", bundle, "--target", "wasm").exit_code == 0
    opened = open_bundle(bundle)
    row = opened.target("wasm", "fp32")
    files = {path: opened.read(path) for path in row.files}
    page = "targets/wasm-fp32/page.js"
    extend_bundle(opened, row, {**files, page: files[page] + b"// another\n"})
    message = "the bundle's wasm (fp32) is code: it is not recorded as built here"
    with raises("code-not-trusted", "wasm (fp32)", "it is not recorded as built here"):
        load(bundle, "wasm")
    refused(invoke("serve-web", bundle, "--port", 0), message)
    assert load(bundle, "wasm", trust=True).backend == "wasm"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--triple", "wasm32-wasi"),
            "--triple does not go with --target wasm: leave it out. --target c --triple wasm32-wasi makes a library to "
            "be linked with a program in C.",
        ),
        (("--batch", "1:2:3", "--cpu", "x"), "--batch, --cpu do not go with --target wasm: leave them out."),
        (("--calibrate", "x.npy"), "--calibrate is for --precision int8, not for fp32: leave it out."),
    ],
)
def test_options_of_other_targets_are_refused(bundle, options, message):
    refused(invoke("build", bundle, "--target", "wasm", *options), message)


def test_what_is_missing_is_named(bundle, monkeypatch):
    monkeypatch.setattr(compiling, "zig", lambda: ())
    fix = pip_install("wasm")
    refused(invoke("build", bundle, "--target", "wasm"), f"no compiler to WebAssembly is here, zig: {fix}.")


def test_without_wasmtime_nothing_is_written(bundle):
    before = (bundle / "manifest.json").read_bytes()
    code = "import sys\nsys.modules['wasmtime'] = None\nfrom rnn_export.cli.main import main\n"
    done = subprocess.run(
        [sys.executable, "-c", code + f"main(['build', {str(bundle)!r}, '--target', 'wasm'])"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{pip_install('wasm')}." in done.stderr
    assert (bundle / "manifest.json").read_bytes() == before


def test_c_for_wasi_says_what_javascript_takes(bundle):
    built = invoke("build", bundle, "--target", "c", "--triple", "wasm32-wasi")
    assert built.exit_code == 0, built.output
    note = (
        "note: the library is to be linked with a program in C; JavaScript, in browsers and Node, takes --target wasm\n"
    )
    assert note in built.stderr
    assert "built c (fp32) for wasm32-wasi" in built.stdout
