"""The C of real models, by every compiler found: it passes all checks, and does the same as the bundle."""

import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rnn_export.export import export
from rnn_export.platform.arrays import Array
from rnn_export.runtime.backends.native.cpu import host_triple, this_cpu
from rnn_export.runtime.backends.native.record import Record
from rnn_export.runtime.build.native.compilers import find_compiler
from rnn_export.runtime.engine import Engine

from . import quality
from .models import MODELS, TABLE, Library, Written, by_step, loose
from .needs import need
from .quality import FAST, MEMORY, STRICT, VALGRIND, build_and_run, include_from_cpp, link_from_cpp, run, run_selftest

Get = Callable[[str, str], Written]
Compiled = Callable[[str, str, str], Path]
Libraries = Callable[[str, str, str], Library]

every_compiler = pytest.mark.parametrize("compiler", ["gcc", "clang"])
every_model = pytest.mark.parametrize(("model", "precision"), TABLE, ids=["-".join(row) for row in TABLE])
# A cell, its weights in int8 and in a file, whole numbers, a delay with strides, rows of their own: what the writer
# does in different ways. The operators are compiled by both compilers in tests/export/c_cases.py.
CORE = [("lstm", "fp32"), ("gru", "int8"), ("large", "fp32"), ("counter", "fp32"), ("strided-valid-then-gru", "fp32"),
        ("dual-path", "fp32")]  # fmt: skip
BY_GCC = [(*row, "gcc") for row in TABLE]
BY_BOTH = [*BY_GCC, *((*row, "clang") for row in CORE)]


def cases(rows: Sequence[tuple[str, ...]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("model", "precision", "compiler"), rows, ids=["-".join(row) for row in rows])


# By gcc on every net, and by clang on the core of them; by both on the core alone; by gcc alone.
every_model_and_core = cases(BY_BOTH)
core_by_both = cases([(*row, compiler) for row in CORE for compiler in ("gcc", "clang")])
core_by_gcc = cases([(*row, "gcc") for row in CORE])

# Full unrolling, which is for speed, would make a compiler with sanitizers work for minutes.
SANITIZE = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
LEVELS = {
    "x86-64-v2": {"ssse3", "sse4_2", "popcnt"},
    "x86-64-v3": {"avx2", "fma", "bmi2", "movbe"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
PLAIN = "-DRNN_LANES=1"
# Of the largest value; in int8 a rounding may fall to the other side.
NEAR = {"fp32": 1e-5, "bf16": 1e-5, "int8": 2e-2}


# --- what C promises


@every_model_and_core
def test_self_test(model: str, precision: str, compiler: str, written: Get, compiled: Compiled) -> None:
    its, folder = written(model, precision), compiled(model, precision, compiler)
    run([compiler, *STRICT, "selftest.c", f"{its.name}.o", "-o", "selftest"], folder)
    lines = run_selftest(its.files, its.name, folder)
    names = [t.name for t in (*its.spec.outputs, *its.spec.states)]
    assert [line.partition(": largest error")[0] for line in lines] == [*names, "PASS"]


@core_by_both
def test_valgrind(model: str, precision: str, compiler: str, written: Get, compiled: Compiled) -> None:
    need("valgrind")
    its, folder = written(model, precision), compiled(model, precision, compiler)
    run([compiler, *STRICT, "selftest.c", f"{its.name}.o", "-o", "selftest"], folder)
    run_selftest(its.files, its.name, folder, VALGRIND)


@every_model_and_core
def test_sanitized(model: str, precision: str, compiler: str, written: Get, tmp_path: Path) -> None:
    need(compiler)
    its = written(model, precision)
    build_and_run(its.files, its.name, compiler, SANITIZE, tmp_path)


@core_by_both
def test_cpp(model: str, precision: str, compiler: str, written: Get, compiled: Compiled) -> None:
    link_from_cpp(written(model, precision).name, compiler, compiled(model, precision, compiler))


@core_by_both
def test_symbols(model: str, precision: str, compiler: str, written: Get, compiled: Compiled) -> None:
    """No memory is asked for, no library is called but what compilers call by themselves, nothing global changes."""
    its = written(model, precision)
    found = quality.symbols(compiled(model, precision, compiler) / f"{its.name}.o")
    assert quality.called(found) <= MEMORY
    assert quality.written(found) == set()
    own = {"init", "step", "run", *["check"] * (its.weights is not None)}
    assert quality.given(found) == {f"{its.name}_{what}" for what in own}


@every_compiler
def test_symbols_where_the_stack_is_protected(compiler: str, written: Get, tmp_path: Path) -> None:
    """As Ubuntu's compilers do it unasked."""
    need(compiler)
    its = written("gru", "fp32")
    quality.lay_out(its.files, tmp_path)
    run([compiler, *STRICT, *FAST, "-fstack-protector-strong", "-c", f"{its.name}.c"], tmp_path)
    found = quality.called(quality.symbols(tmp_path / f"{its.name}.o"))
    assert found <= MEMORY | {"__stack_chk_fail"}


@every_compiler
def test_names_that_c_would_misread(compiler: str, tmp_path: Path) -> None:
    need(compiler)
    model, example, options = MODELS["lstm"]()
    names = {"input_names": ['*/ "x" \\'], "output_names": ["??/ \n#error %s"]}
    bundle = export(model, example, tmp_path / "string.rnnx", steps=32, targets=("c",), **names, **options)
    its = Written.of(bundle, "fp32")
    assert its.name == "the_string"
    lines = build_and_run(its.files, its.name, compiler, FAST, tmp_path)
    assert lines[0].startswith("__/ __error _s: largest error ")
    run([compiler, *STRICT, "main.c", "the_string.c", "-o", "stream"], tmp_path)
    include_from_cpp(its.files, its.name, compiler, tmp_path)


@pytest.mark.parametrize(
    ("model", "precision", "compiler", "level"),
    [
        (*row, compiler, level)
        for row in [("lstm", "fp32"), ("gru", "int8"), ("gru", "bf16"), ("dual-path", "fp32")]
        for compiler in ("gcc", "clang")
        for level in (*LEVELS, PLAIN)
    ],
)
def test_levels(model: str, precision: str, compiler: str, level: str, written: Get, tmp_path: Path) -> None:
    need(compiler)
    if level in LEVELS:
        if platform.machine() != "x86_64":
            pytest.skip("levels are of x86-64")
        if lacking := LEVELS[level] - this_cpu().features:
            pytest.skip(f"{level} needs {', '.join(sorted(lacking))}, which this CPU does not have")
    its = written(model, precision)
    flag = level if level == PLAIN else f"-march={level}"
    build_and_run(its.files, its.name, compiler, (*FAST, flag), tmp_path)


@every_compiler
@pytest.mark.parametrize(("model", "precision"), [("lstm", "fp32"), ("gru", "int8"), ("large", "fp32")])
def test_cmake(model: str, precision: str, compiler: str, written: Get, tmp_path: Path) -> None:
    need(compiler, "cmake", "make")
    its = written(model, precision)
    quality.lay_out(its.files, tmp_path)
    run(["cmake", "-S", ".", "-B", "out", f"-DCMAKE_C_COMPILER={compiler}", "-Werror=dev"], tmp_path)
    run(["cmake", "--build", "out"], tmp_path)
    said = run(["ctest", "--test-dir", "out", "--output-on-failure"], tmp_path)
    assert "100% tests passed, 0 tests failed out of 1" in said
    assert (tmp_path / "out" / f"{its.name}_stream").is_file()


# --- what main.c says is what Stream.run says


def streamed(its: Written) -> list[Array]:
    """The outputs of Stream.run for the golden inputs, (steps, values) each; NaN where it gives nothing."""
    given = Engine.of(its.bundle, "native", its.precision).stream().run(dict(its.heard))
    named = given if isinstance(given, dict) else {its.spec.outputs[0].name: given}
    steps, wanted = its.steps - its.late, []
    for tensor in its.spec.outputs:
        array = named[tensor.name]
        if its.spec.timed(tensor):
            # A delay may end within a step.
            none = np.full((its.spec.delay % its.spec.chunk // tensor.every, *tensor.frame), np.nan, np.float32)
            array = np.concatenate([none, array]) if len(none) else array
        wanted.append(by_step(its.spec, tensor, array, steps))
    return wanted


def told(its: Written, folder: Path) -> list[Array]:
    """The output of `stream`, built from main.c, for them."""
    rows = zip(*its.inputs, strict=True)
    stdin = b"".join(value.tobytes() for row in rows for value in row)
    weights = [f"{its.name}.bin"] * (its.weights is not None)
    done = subprocess.run(["./stream", *weights], cwd=folder, input=stdin, capture_output=True, check=True)
    assert not done.stderr
    sizes = [array.shape[1] for array in streamed(its)]
    kinds = [(t.name, t.dtype, (size,)) for t, size in zip(its.spec.outputs, sizes, strict=True)]
    table = np.frombuffer(done.stdout, np.dtype(kinds))
    assert len(table) == its.steps - its.late
    return [table[name] for name, *_ in kinds]


def compare(its: Written, got: Sequence[Array], near: float) -> None:
    for tensor, value, want in zip(its.spec.outputs, got, streamed(its), strict=True):
        # A run gives an output without time as of its last frame.
        some = slice(None) if its.spec.timed(tensor) else slice(-1, None)
        known = ~np.isnan(want[some])
        error = np.abs(value[some][known].astype(np.float64) - want[some][known])
        assert known.any()
        assert error.max() <= near * np.abs(want[some][known]).max(), tensor.name


@every_model_and_core
def test_main(model: str, precision: str, compiler: str, written: Get, compiled: Compiled) -> None:
    its, folder = written(model, precision), compiled(model, precision, compiler)
    run([compiler, *STRICT, "main.c", f"{its.name}.o", "-o", "stream"], folder)
    compare(its, told(its, folder), NEAR[precision])


@every_model
def test_main_compiled_like_the_bundle(model: str, precision: str, written: Get, tmp_path: Path) -> None:
    its = written(model, precision)
    path = f"targets/c-{precision}/build/{host_triple()}/build.json"
    record = Record.from_file(path, its.bundle.read(path))
    quality.lay_out(its.files, tmp_path)
    run([*find_compiler().command, *record.flags, "-fPIC", "main.c", f"{its.name}.c", "-o", "stream"], tmp_path)
    compare(its, told(its, tmp_path), 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the path of large.bin"),
        (["other.bin"], "give the path of large.bin"),
        (["wrong.bin"], "large.bin is not whole, or of another model"),
    ],
)
@pytest.mark.parametrize("program", ["main.c", "selftest.c"])
def test_programs_without_their_weights(
    program: str, arguments: list[str], message: str, written: Get, compiled: Compiled
) -> None:
    its, folder = written("large", "fp32"), compiled("large", "fp32", "gcc")
    run(["gcc", *STRICT, program, "large.o", "-o", "program"], folder)
    assert its.weights is not None
    (folder / "wrong.bin").write_bytes(its.weights[:-1] + bytes([its.weights[-1] ^ 1]))
    done = subprocess.run(["./program", *arguments], cwd=folder, input=b"", capture_output=True, check=False)
    assert done.returncode == 2
    assert (done.stdout, done.stderr.decode()) == (b"", f"{message}\n")


# --- what a step does


def equal(got: Sequence[Array], want: Sequence[Array]) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.tobytes() == other.tobytes()


@every_model_and_core
def test_a_run_is_its_steps(model: str, precision: str, compiler: str, written: Get, library: Libraries) -> None:
    its, step = written(model, precision), library(model, precision, compiler)
    first, second = step.start(), step.start()
    whole = step.run(first, its.inputs)
    half = its.steps // 2
    pieces = [step.run(second, [a[:half] for a in its.inputs]), step.steps(second, [a[half:] for a in its.inputs])]
    equal(whole, [np.concatenate(piece) for piece in zip(*pieces, strict=True)])
    equal([first], [second])
    before = first.copy()
    step.run(first, [a[:0] for a in its.inputs])
    equal([first], [before])


@core_by_gcc
def test_two_streams(model: str, precision: str, compiler: str, written: Get, library: Libraries) -> None:
    """In turn they give what each gives alone."""
    its, step = written(model, precision), library(model, precision, compiler)
    forth = its.inputs
    back = [np.ascontiguousarray(a[::-1]) for a in forth]
    alone = [step.start(), step.start()]
    wanted = [step.steps(state, inputs) for state, inputs in zip(alone, (forth, back), strict=True)]
    states = [step.start(), step.start()]
    buffers = [step.buffers(its.steps), step.buffers(its.steps)]
    for i in range(its.steps):
        for state, inputs, buffer in zip(states, (forth, back), buffers, strict=True):
            step.step(state, [a[i] for a in inputs], [a[i] for a in buffer])
    for got, want in zip(buffers, wanted, strict=True):
        equal(got, want)
    equal(states, alone)
    assert any(one.tobytes() != other.tobytes() for one, other in zip(*buffers, strict=True))


@every_model_and_core
def test_an_output_may_be_an_input(model: str, precision: str, compiler: str, written: Get, library: Libraries) -> None:
    its, step = written(model, precision), library(model, precision, compiler)
    wanted = step.steps(step.start(), its.inputs)
    for i, given in enumerate(its.inputs):
        for o, want in enumerate(wanted):
            if given.dtype != want.dtype:
                continue
            state = step.start()
            shared = loose(max(given.shape[1], want.shape[1]), given.dtype)
            for s in range(min(its.steps, 16)):
                shared[: given.shape[1]] = given[s]
                inputs = [shared if k == i else a[s] for k, a in enumerate(its.inputs)]
                outputs = [shared if k == o else a[0] for k, a in enumerate(step.buffers(1))]
                step.step(state, inputs, outputs)
                equal([shared[: want.shape[1]]], [want[s]])
