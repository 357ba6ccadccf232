"""Generated C is valid C and C++ at any size, and its program reports input that it did not feed."""

import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

from rnn_export.bundle import open_bundle

from ..native.models import Written  # noqa: TID252
from ..native.needs import need  # noqa: TID252
from ..native.quality import CPP, FAST, SANITIZE, STRICT, lay_out, run, run_selftest  # noqa: TID252
from ..zoo import store  # noqa: TID252

# Weights in the code and in a file of their own, bf16 and int8, several inputs and outputs.
MODELS = [("lstm", "fp32"), ("large", "fp32"), ("gru", "bf16"), ("gru", "int8"), ("several-inputs-and-outputs", "fp32")]
CPP_STRICT = ("-std=c++11", *STRICT[1:], "-x", "c++")


@pytest.fixture(scope="module")
def written() -> Callable[[str, str], Written]:
    need("gcc|clang")
    return cache(lambda name, precision: Written.of(open_bundle(store.bundle(f"{name}-in-c", precision)), precision))


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(("model", "precision"), MODELS, ids=["-".join(row) for row in MODELS])
def test_every_source_is_cpp_too(
    model: str, precision: str, compiler: str, written: Callable[[str, str], Written], tmp_path: Path
) -> None:
    """Before, `const void *` became another pointer without a cast wherever the weights stood in a file."""
    assert STRICT[0].startswith("-std=c")
    need(CPP[compiler])
    its = written(model, precision)
    lay_out(its.files, tmp_path)
    for file, flags in (
        (its.name, ["-O1"]),
        (its.name, ["-O1", f"-D{its.name.upper()}_ROWS"]),
        ("main", []),
        ("selftest", []),
    ):
        run([CPP[compiler], *flags, *CPP_STRICT, "-c", f"{file}.c", "-o", f"{file}.o"], tmp_path)
    run([CPP[compiler], f"{its.name}.o", "selftest.o", "-o", "selftest"], tmp_path)
    assert run_selftest(its.files, its.name, tmp_path)[-1] == "PASS"


def stream(
    its: Written, folder: Path, stdin: bytes, flags: Sequence[str] = FAST
) -> "subprocess.CompletedProcess[bytes]":
    lay_out(its.files, folder)
    run(["gcc", *STRICT, *flags, "main.c", f"{its.name}.c", "-o", "stream", "-lm"], folder)
    weights = [f"{its.name}.bin"] * (its.weights is not None)
    return subprocess.run(["./stream", *weights], cwd=folder, input=stdin, capture_output=True, check=False)


@pytest.mark.parametrize("flags", [FAST, SANITIZE], ids=["fast", "sanitized"])
@pytest.mark.parametrize("model", ["lstm", "several-inputs-and-outputs"])
def test_a_partial_last_frame_is_reported(
    model: str, flags: Sequence[str], written: Callable[[str, str], Written], tmp_path: Path
) -> None:
    need("gcc")
    its = written(model, "fp32")
    sizes = [rows.itemsize * rows.shape[1] for rows in its.inputs]
    step, last = sum(sizes), sizes[-1]
    whole = b"".join(rows[n].tobytes() for n in range(3) for rows in its.inputs)
    assert len(whole) == 3 * step
    good = stream(its, tmp_path, whole, flags)
    assert (good.returncode, good.stderr) == (0, b"")
    # The first byte of a step; all but its last byte; and between its inputs.
    for more in {1, step - 1, step - last} - {0}:
        cut = stream(its, tmp_path, whole + whole[:more], flags)
        said = f"stdin ends within a step, after {more} of its {step} bytes: these were not fed\n"
        assert (cut.returncode, cut.stderr.decode()) == (1, said)
        assert cut.stdout == good.stdout
    nothing = stream(its, tmp_path, b"", flags)
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, b"", b"")
