"""Public imports: the same objects in any order, lazily, and names of the last release with a warning."""

import itertools
import subprocess
import sys

import pytest

from rnn_export.moved import MODULES

LINES = (
    "from rnn_export import export",
    "import rnn_export; assert callable(rnn_export.export)",
    "import rnn_export.export",
    "from rnn_export.export import export as function",
    "from rnn_export.export.api import export as inner",
    "import rnn_export.export.lift",
    "from rnn_export import load, Batcher",
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Every order of two, since what counts is which of them loads the package first; torch makes each a second.
@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(LINES[:4], 2)))
def test_export_can_be_called_in_whatever_order_it_was_imported(first, second):
    call = """
from rnn_export import export
try:
    export(None, (), "nowhere/net.rnnx")
except BaseException as error:
    print(type(error).__name__)
import rnn_export, rnn_export.export.api
assert callable(rnn_export.export)
assert rnn_export.export.export is rnn_export.export.api.export
"""
    assert run(f"{first}\n{second}\n{call}") == "BundleError\n"


@pytest.mark.slow
def test_the_package_alone_exports_and_shows_the_signature_of_export():
    code = """
import inspect, rnn_export
from rnn_export.errors import BundleError
try:
    rnn_export.export(None, (), "nowhere/net.rnnx")
except BundleError as error:
    print(error)
import rnn_export.export.api, rnn_export.export.lift
assert inspect.signature(rnn_export.export) == inspect.signature(rnn_export.export.api.export)
assert callable(rnn_export.lift), rnn_export.lift
"""
    assert run(code).startswith("nowhere/net.rnnx")


@pytest.mark.parametrize("name", ["Batcher", "export", "load", "report"])
def test_each_name_can_be_called_first_thing(name):
    assert run(f"import rnn_export; print(callable(rnn_export.{name}))") == "True\n"


def test_nothing_is_loaded_before_it_is_used():
    code = "; ".join(line for line in LINES if "inner" not in line and "function" not in line)
    code = code.replace("from rnn_export import load, Batcher", "from rnn_export import load")
    heavy = "{'torch', 'onnx', 'onnxruntime', 'rich', 'click'}"
    assert run(f"import sys; {code}; print(sorted({heavy} & set(sys.modules)))") == "[]\n"
    assert run("import sys, rnn_export; print('numpy' in sys.modules)") == "False\n"


def test_the_package_says_what_it_has():
    code = "import rnn_export; print(*sorted(rnn_export.__all__))\nrnn_export.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "Batcher LiftOptions __version__ export lift load report\n"
    assert "module 'rnn_export' has no attribute 'nothing'" in done.stderr


def test_modules_of_the_last_release_can_be_imported_with_a_warning():
    lines = ["import sys, warnings, rnn_export", "warnings.simplefilter('error', DeprecationWarning)"]
    lines += ["from rnn_export.spec import StreamSpec"]
    for old, new in MODULES.items():
        lines += ["try:", f"    import {old}", "except DeprecationWarning as warning:", "    print(warning)"]
        lines += ["with warnings.catch_warnings(record=True):", "    warnings.simplefilter('always')"]
        lines += [f"    import {old}", f"assert sys.modules['{old}'] is sys.modules['{new}']"]
        lines += [f"assert sys.modules['{new}'].__name__ == '{new}'"]
    assert run("\n".join(lines)).splitlines() == [f"{old} is {new} now." for old, new in MODULES.items()]
