"""Opening bundles and streams: arguments of `load` and `Engine.stream`."""

import os
import shutil
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

from rnn_export.bundle import TargetRow, open_bundle, write_bundle
from rnn_export.contract.choices import BackendName, Precision
from rnn_export.contract.precision import TOLERANCES
from rnn_export.platform.installing import pip_install
from rnn_export.runtime import Engine, Stream, load
from rnn_export.runtime.registry import BACKENDS
from rnn_export.runtime.stream_class import SequenceStream

from ..messages import raises  # noqa: TID252
from .graphs import MODELS, PAIR, START, SUM, WHOLE


def test_an_engine_says_what_it_is(bundle):
    model = load(bundle("sum"))
    assert isinstance(model, Engine)
    assert (model.backend, model.device, model.spec) == ("onnxruntime", "cpu", SUM.spec)
    assert isinstance(model.stream(), Stream)


def test_the_types_of_words_name_all_of_them():
    assert get_args(BackendName) == ("auto", *BACKENDS)
    assert get_args(Precision) == tuple(TOLERANCES)


def test_an_engine_says_once_how_many_outputs_there_are(bundle):
    one, several = load(bundle("sum")), load(bundle("pair"))
    assert one.with_one_output() is one
    assert several.with_named_outputs() is several
    with raises("several-outputs", "sum, dot"):
        several.with_one_output()
    with raises("one-output-only", "y"):
        one.with_named_outputs()


def test_a_model_of_whole_sequences_has_streams_of_its_own(bundle, tmp_path):
    assert type(load(WHOLE.write(tmp_path / "whole.rnnx")).stream()) is SequenceStream
    assert not isinstance(load(bundle("sum")).stream(), SequenceStream)


@pytest.mark.parametrize(
    "options", [{"backend": "onnxruntime"}, {"precision": "fp32"}, {"device": "cpu"}, {"threads": 2}], ids=str
)
def test_options_that_are_there(bundle, options):
    stream = load(bundle("sum"), **options).stream()
    np.testing.assert_array_equal(stream.step(np.ones(3, np.float32)), [1, 1, 1])


BAD_OPTIONS = [
    ({"backend": "abacus"}, ("backend-unknown", "'abacus'", "auto or one of tensorrt, native, onnx")),
    ({"precision": "int8"}, ("target-precision-missing", "'onnx'", "fp32", "int8")),
    ({"threads": 0}, ("threads-option-invalid", 0, "at least 1")),
    ({"threads": 10**400}, ("threads-option-invalid", "1329 bits", 2147483647)),
    ({"trust": "yes"}, ("trust-option-invalid", "'yes'")),
    ({"device": "tpu"}, ("onnxruntime-device-unknown", "'tpu'")),
    ({"device": "cuda:x"}, ("onnxruntime-device-unknown", "'cuda:x'")),
    ({"device": "cpu:1"}, ("onnxruntime-device-unknown", "'cpu:1'")),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=lambda value: str(value)[:30])
def test_bad_options(bundle, options, message):
    """By `auto` too, which gives the reason of every backend."""
    name, *values = message
    with raises(name, *values):
        load(bundle("sum"), **{"backend": "onnxruntime", **options})
    with raises("no-backend-runs" if {*options} & {"precision", "device"} else name, *values):
        load(bundle("sum"), **options)


@pytest.mark.parametrize(("targets", "has"), [([TargetRow("c", "fp32", None, (), {"name": "m"})], "c"), ([], "none")])
def test_a_bundle_without_graphs(tmp_path, targets, has):
    write_bundle(tmp_path / "c.rnnx", spec=SUM.spec, producer={}, files={}, targets=targets)
    with raises("target-not-in-bundle", "'onnx'", has, "onnx"):
        load(tmp_path / "c.rnnx", backend="onnxruntime")


def test_errors_of_the_bundle_pass_through(tmp_path, bundle):
    with raises("bundle-missing"):
        load(tmp_path / "none.rnnx")
    damaged = shutil.copytree(bundle("sum"), tmp_path / "damaged.rnnx")
    (damaged / "step.onnx").write_bytes(b"\0" * (damaged / "step.onnx").stat().st_size)
    with raises("bundle-file-hash-differs", "'step.onnx'"):
        load(damaged)


def test_a_backend_that_is_not_installed(bundle):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from rnn_export.runtime import load\n"
        "from rnn_export.errors import BackendUnavailable\n"
        "try: load(sys.argv[1])\n"
        "except BackendUnavailable as error: print(error)\n"
    )
    given = subprocess.run([sys.executable, "-c", code, bundle("sum")], capture_output=True, text=True, check=True)
    assert "onnxruntime is not here" in given.stdout
    assert pip_install("cpu") in given.stdout


# --- states=


@pytest.mark.contract
@pytest.mark.parametrize("batch", [1, 4])
def test_streams_start_from_the_stored_state(engine, batch):
    states = engine("stored").stream(batch=batch).states
    np.testing.assert_array_equal(states["h"], np.tile(START, (batch, 1)))


@pytest.mark.parametrize("value", [[5, 6, 7], [[5, 6, 7]] * 4, np.array([5, 6, 7], np.int8)], ids=str)
def test_states_for_every_row_or_for_each(engine, value):
    stream = engine("sum").stream(batch=4, states={"h": value})
    np.testing.assert_array_equal(stream.states["h"], [[5, 6, 7]] * 4)


@pytest.mark.contract
def test_given_states_are_copied(engine):
    given = np.array([5, 6, 7], np.float32)
    stream = engine("sum").stream(states={"h": given})
    given[:] = 0
    stream.reset()
    np.testing.assert_array_equal(stream.states["h"], [[5, 6, 7]])


@pytest.mark.contract
def test_streams_of_one_engine_share_nothing(engine):
    one, other = engine("stored").stream(), engine("stored").stream()
    one.step(np.ones(3, np.float32))
    for stream in (other, engine("stored").stream()):
        np.testing.assert_array_equal(stream.states["h"], START[None])


NAMES = ", ".join(s.name for s in PAIR.spec.states)
BAD_STATES = {
    "missing": ({"s": [0, 0]}, ("states-do-not-fit", "missing: p", NAMES)),
    "unknown": ({"s": [0, 0], "p": [0, 0], "q": 1}, ("states-do-not-fit", "unknown: q", NAMES)),
    "both": ({"s": [0, 0], 7: 1}, ("states-do-not-fit", "missing: p; unknown: 7", NAMES)),
    "no dict": (np.zeros(2), ("states-not-a-dict", "ndarray", "s, p")),
    "a snapshot": (b"rnnxsnp1", ("states-not-a-dict", "bytes", "s, p")),
    "shape": ({"s": [0, 0], "p": [0, 0, 0]}, ("wrong-shape-of-input", "'p'", "(3,)", "(1, 2)")),
    "rows": ({"s": [0, 0], "p": [[0, 0]] * 2}, ("wrong-shape-of-input", "'p'", "(2, 2)", "(1, 2)")),
    "ragged": ({"s": [0, 0], "p": [[0], [0, 0]]}, ("frame-unreadable", "'p'", "list")),
    "dtype": ({"s": [0, 0], "p": np.zeros(2)}, ("wrong-dtype-of-input", "'p' is float64, but must be float32")),
    "nan": ({"s": [0, 0], "p": [0, np.nan]}, ("frame-not-finite", "'p'", "index (1,)")),
    "none": ({"s": [0, 0], "p": None}, ("wrong-dtype-of-input", "'p' is object, but must be float32")),
}


@pytest.mark.parametrize(("states", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_bad_states(engine, states, message):
    with raises(*message):
        engine("pair").stream(states=states)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_stream_has_a_row(engine, batch):
    with raises("batch-not-positive", batch):
        engine("sum").stream(batch=batch)


def test_the_runtime_leaves_the_rest_alone(bundle):
    code = (
        "import sys, numpy as np; from rnn_export.runtime import load\n"
        "load(sys.argv[1]).stream().step(np.ones(3, np.float32))\n"
        "print(sorted({'torch', 'onnx', 'click', 'rich'} & set(sys.modules)))\n"
    )
    given = subprocess.run([sys.executable, "-c", code, bundle("sum")], capture_output=True, text=True, check=True)
    assert given.stdout.strip() == "[]"


def test_opening_streams_does_not_grow(engine):
    """Threads and descriptors, too, are the engine's and not the stream's."""

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    model = engine("sum")
    before = held()
    streams = [model.stream() for _ in range(500)]
    assert held() == before
    assert len(streams) == 500


def test_every_bundle_reads_back_as_it_was_written(bundle):
    for name, model in MODELS.items():
        opened = open_bundle(bundle(name))
        assert opened.spec == model.spec
        assert opened.read("step.onnx") == model.files()["step.onnx"]
