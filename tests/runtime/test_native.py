"""The backend native: builds that it loads or refuses, weights beside the code, and ctypes without the extension."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.bundle.draft import Draft
from rnn_export.runtime import Engine, Stream, load
from rnn_export.runtime.backends.native import backend
from rnn_export.runtime.backends.native.cpu import Cpu, host_triple
from rnn_export.runtime.backends.native.record import sources_sha256
from rnn_export.runtime.build.native.compilation import python_headers
from rnn_export.runtime.build.native.compilers import find_compiler

from ..messages import raises  # noqa: TID252
from .graphs import MODELS, SUM, TIMED, H, X, Y, frames, spec
from .native_toys import ALONG_TIME, by_hand, draft, sources

ONES = np.ones(3, np.float32)
TRIPLE = host_triple()
SO, JSON = (f"targets/c-fp32/build/{TRIPLE}/{name}" for name in ("native.so", "build.json"))
MEND = "rnn-export build NAME.rnnx --target c --precision fp32 --rebuild."


@pytest.fixture(scope="module")
def compiled(native_bundle: Callable) -> Draft:
    """The model "sum"; asking for `native_bundle` skips where there is no compiler."""
    return draft(by_hand("sum", SUM), SUM.spec, name="sum")


def changed(compiled: Draft, files: dict[str, bytes | None] | None = None, **recorded: object) -> Draft:
    """With other files, without those that are None, and with other words in build.json."""
    whole = {**compiled.files, **(files or {})}
    if recorded:
        whole[JSON] = json.dumps({**json.loads(whole[JSON]), **recorded}).encode()
    kept = {name: data for name, data in whole.items() if data is not None}
    return replace(compiled, files=kept, targets=(replace(compiled.targets[0], files=tuple(kept)),))


def check(engine: Engine) -> None:
    stream = engine.stream()
    stream.step(ONES)
    np.testing.assert_array_equal(stream.step(ONES), [2, 2, 2])


def test_an_engine_says_what_it_is(compiled):
    engine = Engine.of(compiled)
    assert (engine.backend, engine.device, engine.precision, engine.batches) == ("native", "cpu", "fp32", (1, None))
    assert isinstance(engine.stream(), Stream)
    assert engine.skipped_backends == ()
    check(engine)
    check(Engine.of(compiled, "native", "fp32", "cpu", 1))


def test_auto_takes_it_before_onnxruntime_and_says_why_it_does_not(native_bundle, monkeypatch):
    assert load(native_bundle("sum")).backend == "native"
    many = len(os.sched_getaffinity(0)) + 1
    engines = [load(native_bundle("sum"), threads=many)]
    monkeypatch.setattr(backend, "this_cpu", lambda: Cpu("An Old CPU", frozenset({"fpu"})))
    engines.append(load(native_bundle("sum")))
    assert [engine.backend for engine in engines] == ["onnxruntime"] * 2
    (few,), (old,) = (engine.skipped_backends for engine in engines)
    why = f"native: threads={many}: each thread of a native step has a core of its own, and this process"
    assert few.startswith(why)
    assert old.startswith("native: target 'c' (fp32) is compiled for ")


def test_fp32_goes_before_what_was_built_earlier(compiled):
    small = draft(by_hand("sum", SUM), SUM.spec, name="sum", precision="bf16")
    both = replace(compiled, files={**small.files, **compiled.files}, targets=(*small.targets, *compiled.targets))
    assert Engine.of(both).precision == "fp32"
    assert Engine.of(both, precision="bf16").precision == "bf16"
    assert Engine.of(small).precision == "bf16"


# --- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, ("native-device-unknown", "'cuda'")),
        ({"threads": 1000}, ("threads-over-cores", "1000", "this process may")),
        ({"precision": "int8"}, ("target-precision-missing", "'c' in fp32", "int8")),
    ],
)
def test_options_that_are_not_there(compiled, options, message):
    with raises(*message):
        Engine.of(compiled, "native", **options)


def test_a_bundle_without_c(bundle):
    with raises("target-not-in-bundle", "'c'", "onnx", "c, or add it"):
        load(bundle("sum"), backend="native")
    assert load(bundle("sum")).skipped_backends == ()


def test_features_that_this_cpu_lacks(compiled, monkeypatch, tmp_path):
    lacking = changed(compiled, features=["avx512f", "avx512_vnni", "fma"])
    monkeypatch.setattr(backend, "this_cpu", lambda: Cpu("An Old CPU", frozenset({"fma"})))
    with raises("native-cpu-features-missing", "'c' (fp32)", "avx512f, avx512_vnni", "An Old CPU", MEND):
        Engine.of(lacking, "native")
    monkeypatch.setattr(backend, "this_cpu", lambda: Cpu("", frozenset()))
    with raises("native-cpu-unknown"):
        Engine.of(lacking, "native")
    check(Engine.of(changed(compiled, features=[]), "native"))


C = "targets/c-fp32/"
BUILDS = {
    "not compiled": ({SO: None, JSON: None}, {}, ("native-not-compiled", "'c' (fp32)", TRIPLE, MEND)),
    "another machine": (
        {SO: None, f"{C}build/riscv64-linux-gnu/native.so": b""},
        {},
        ("native-other-machine", "riscv64-linux-gnu", TRIPLE, MEND),
    ),
    "another header": ({f"{C}sum.h": b"\n"}, {}, ("native-other-sources", "sha256", MEND)),
    "another source": ({f"{C}sum.c": b"\n"}, {}, ("native-other-sources", "sha256", MEND)),
    "no record": ({JSON: None}, {}, ("native-file-missing", "'c' (fp32)", f"build/{TRIPLE}/build.json", MEND)),
    "a broken record": ({JSON: b"{"}, {}, ("build-record-malformed", "build.json", "Expecting property name")),
    "no library": ({SO: b"no library" * 10}, {}, ("native-library-unloadable", "native.so", MEND)),
    "none for ctypes": (
        {SO: b"no library" * 10},
        {"python": ".cpython-27.so"},
        ("native-library-unloadable", "native.so", MEND),
    ),
}


@pytest.mark.parametrize(("files", "recorded", "message"), BUILDS.values(), ids=BUILDS)
def test_a_build_that_is_not_that_of_the_sources_here(compiled, files, recorded, message):
    with raises(*message):
        Engine.of(changed(compiled, files, **recorded), "native")


def test_a_library_with_another_face(compiled, tmp_path):
    (tmp_path / "a.c").write_text("int rnn_nothing;")
    find_compiler().compile(["-shared", "-fPIC", "a.c", "-o", "a.so"], tmp_path)
    other = changed(compiled, {SO: (tmp_path / "a.so").read_bytes()}, python=None)
    with raises("native-contract-unsaid", "undefined symbol: rnn_contract", MEND):
        Engine.of(other, "native")


def test_a_folder_that_runs_nothing(compiled, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("native.so: failed to map segment from shared object")

    monkeypatch.setattr(backend, "_load", refuse)
    with raises("native-library-unloadable", "Set TMPDIR to a folder from which programs may be run"):
        Engine.of(compiled, "native")


# --- the library


def test_nothing_is_left_behind_and_with_headers_the_extension_is_used(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(backend, "_loaded", {})
    engine = Engine.of(compiled, "native")
    check(engine)
    assert list(tmp_path.iterdir()) == []
    if python_headers() is not None:
        assert type(engine.stream()).step is not Stream.step
        assert type(engine.stream()).__name__ == "Stream"


def test_a_library_is_loaded_once_and_two_models_of_one_name_do_not_meet(compiled):
    engines = [Engine.of(compiled, "native") for _ in range(3)]
    assert len({id(engine._session.compiled.call) for engine in engines}) == 1
    double = sources("sum", SUM.spec, ALONG_TIME.replace("+ x[", "+ 2 * x["))
    other = Engine.of(draft(double, SUM.spec, name="sum"), "native")
    check(engines[0])
    np.testing.assert_array_equal(other.stream().step(ONES), [2, 2, 2])


def test_two_processes_need_nothing_of_each_other(native_bundle):
    code = "import sys; from rnn_export.runtime import load\nprint(load(sys.argv[1]).stream().step([1, 1, 1]))"
    command = [sys.executable, "-c", code, native_bundle("sum")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in running] == ["[1. 1. 1.]\n"] * 3


# --- through ctypes


@pytest.mark.parametrize(
    "recorded", [{"python": ".cpython-27.so"}, {"numpy": 0}, {"python": None, "numpy": None}], ids=str
)
def test_an_extension_for_another_python_is_not_used(compiled, recorded):
    engine = Engine.of(changed(compiled, **recorded), "native")
    assert engine._session.stepper is None
    assert type(engine.stream()) is Stream
    check(engine)


PLAIN = [name for name in MODELS if name not in ("tokens", "tokens_timed")]


@pytest.fixture(scope="module")
def through_ctypes(native_bundle: Callable) -> Callable[[str], Engine]:
    """The engine of a model by name, as if its extension were for another Python."""

    def open_engine(name: str) -> Engine:
        bundle = open_bundle(native_bundle(name))
        (row,) = (row for row in bundle.targets if row.target == "c")
        files = {path: bundle.read(path) for path in row.files}
        there = Draft(bundle.spec, files, (row,), bundle.initial_states())
        return Engine.of(changed(there, python=None, numpy=None), "native")

    return cache(open_engine)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("batch", [1, 3])
def test_ctypes_gives_the_same(through_ctypes, engine, name, batch):
    """`engine` is each of the backends, so ctypes is held to all of them."""
    model, random = MODELS[name], np.random.default_rng(1)
    ours, theirs = through_ctypes(name).stream(batch=batch), engine(name).stream(batch=batch)
    for piece in (4, 1, 8):
        fed = {
            t.name: random.integers(
                0, 2, (batch, *((piece * model.spec.chunk,) if model.spec.timed(t) else ()), *t.frame)
            ).astype(t.dtype)
            for t in model.spec.inputs
        }
        one, other = ours.run(fed), theirs.run(fed)
        one, other = (a if isinstance(a, dict) else {"": a} for a in (one, other))
        assert list(one) == list(other)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    for key, value in theirs.states.items():
        np.testing.assert_array_equal(ours.states[key], value)
    assert ours.snapshot() == theirs.snapshot()


@pytest.mark.parametrize("extension", [True, False])
def test_a_step_through_ctypes(compiled, through_ctypes, extension):
    alone = draft(by_hand("sum", SUM), SUM.spec, SUM.initial, "sum", extension=False)
    assert b"Stepper" not in alone.files[SO]
    engine = through_ctypes("sum") if extension else Engine.of(alone, "native")
    stream, xs, out = engine.stream(), frames(20, 3), np.empty(3, np.float32)
    for x, want in zip(xs, xs.cumsum(0), strict=True):
        assert stream.step(x, out=out) is out
        np.testing.assert_array_equal(out, want)


# --- weights beside the code

WEIGHTED = spec("weighted", [X], [Y], [H])
WEIGHTED_BODY = """
    const float *w = s->weights;
    for (int i = 0; i < 3; i++) y[i] = s->h[i] += w[i] * x[i];
"""


def weighted(values: np.ndarray) -> dict[str, bytes]:
    return sources("toy", WEIGHTED, WEIGHTED_BODY, weights=values.tobytes())


@pytest.mark.parametrize("count", [3, 2**20])
@pytest.mark.parametrize("extension", [True, False])
def test_weights_are_shared_by_all_streams(compiled, count, extension):
    if extension and python_headers() is None:
        pytest.skip("Python.h is not here")
    values = np.arange(1, count + 1, dtype=np.float32)
    engine = Engine.of(draft(weighted(values), WEIGHTED, extension=extension), "native")
    weights = engine._session.compiled.weights
    assert weights.ctypes.data % 2**21 == 0
    assert not weights.flags.writeable
    np.testing.assert_array_equal(weights.view(np.float32), values)
    one, other = engine.stream(), engine.stream(batch=2)
    np.testing.assert_array_equal(one.step(ONES), [1, 2, 3])
    np.testing.assert_array_equal(other.step(np.stack([ONES, 2 * ONES])), [[1, 2, 3], [2, 4, 6]])
    one.reset()
    np.testing.assert_array_equal(one.step(ONES), [1, 2, 3])
    for stream in (one, other):
        assert ctypes.c_void_p.from_address(stream._buffers.place[0]).value == weights.ctypes.data


def test_weights_that_are_not_of_the_code(compiled):
    built = draft(weighted(np.float32([1, 2, 3])), WEIGHTED)
    path = "targets/c-fp32/toy.bin"
    for data in (built.files[path][:-4], b"\xff" + built.files[path][1:]):
        other = changed(built, {path: data})
        digest = native_digest(other)
        with raises("native-weights-differ", "toy.bin", len(data), "12"):
            Engine.of(changed(other, sha256=digest), "native")
    other = changed(built, {path: None})
    with raises("native-file-missing", "target 'c' (fp32)", "toy.bin"):
        Engine.of(changed(other, sha256=native_digest(other)), "native")


def native_digest(built: Draft) -> str:
    return sources_sha256({n: d for n, d in built.files.items() if "/build/" not in n})


# --- pieces of a run


@pytest.mark.parametrize("macs", [1, 10**8, 10**12])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_long_run_is_cut_into_calls(compiled, macs, batch):
    built = draft(sources("toy", TIMED.spec, ALONG_TIME, macs=macs), TIMED.spec)
    stream, xs = Engine.of(built, "native").stream(batch=batch), frames(batch, 100, 3)
    pieces = [stream.run(piece) for piece in np.split(xs, [7, 7, 90], 1)]
    np.testing.assert_array_equal(np.concatenate(pieces, 1), xs.cumsum(1))


def test_a_delay_needs_no_single_steps(native_bundle, monkeypatch):
    engine, xs = load(native_bundle("delayed_chunked"), backend="native"), frames(9, 3)
    monkeypatch.setattr(Stream, "_by_step", None)
    np.testing.assert_array_equal(engine.stream().run(xs), xs.cumsum(0)[4:])
