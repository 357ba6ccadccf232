"""Steps that a team of threads computes: the same bits as of one thread, and no thread more than was asked for."""

import ctypes
import errno
import gc
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.export.targets.c.writer import sources
from rnn_export.runtime import Engine, load
from rnn_export.runtime.backends.native import backend
from rnn_export.runtime.backends.native import team as team_module
from rnn_export.runtime.backends.native.team import Team, has_teams, usable_cores

from ..messages import raises  # noqa: TID252
from ..runtime import conftest  # noqa: TID252
from ..runtime.graphs import SUM, frames  # noqa: TID252
from ..runtime.native_toys import by_hand, draft  # noqa: TID252
from ..runtime.team_toys import by_team  # noqa: TID252
from ..zoo import store  # noqa: TID252

native_bundle, team_bundle = conftest.native_bundle, conftest.team_bundle
pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a team of two needs two cores")
TASKS = "/proc/self/task"
ONE = np.ones(3, np.float32)


@cache
def many_cells(precision="fp32"):
    """A net whose every product of one row is shared, however few weights it has."""
    bundle = open_bundle(store.bundle("many-cells"))
    with mock.patch("rnn_export.export.targets.c.code.code_builder.SHARED_BYTES", 1):
        files = sources(bundle.read("step.onnx"), bundle.spec, bundle.initial_states(), "net", precision)
    assert len(re.findall(r"^ +RNN_PHASE", files["net.c"].decode(), re.MULTILINE)) == 4
    return draft(files, bundle.spec, bundle.initial_states(), "net", precision)


@cache
def toy():
    return draft(by_team(by_hand("sum", SUM), "sum"), SUM.spec, name="sum")


def compare(one, more, count=60):
    a, b, xs = one.stream(), more.stream(), frames(3 * count, 24, seed=3)
    for start in range(0, len(xs), 3):
        np.testing.assert_array_equal(a.step(xs[start : start + 3]), b.step(xs[start : start + 3]))
    np.testing.assert_array_equal(a.run(xs), b.run(xs))
    for name, state in a.states.items():
        np.testing.assert_array_equal(state, b.states[name])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_two_threads_give_the_bits_of_one(precision):
    made = many_cells(precision)
    compare(Engine.of(made, "native"), Engine.of(made, "native", threads=2))


def test_without_the_compiled_stream(monkeypatch):
    monkeypatch.setattr(backend, "numpy_major", lambda: 0)
    engine = Engine.of(many_cells(), "native", threads=2)
    assert engine._session.stepper is None
    compare(Engine.of(many_cells(), "native"), engine)


def test_more_threads_than_cores_are_late_and_right(monkeypatch):
    """Some of them are put aside amid a block; what they have not begun, others do."""
    cores = usable_cores()
    monkeypatch.setattr(backend, "check_cores", lambda threads: None)
    monkeypatch.setattr(team_module, "usable_cores", lambda: cores * 4)
    compare(Engine.of(many_cells(), "native"), Engine.of(many_cells(), "native", threads=5), 20)


def test_rows_and_pools(monkeypatch):
    one, two = (Engine.of(many_cells(), "native", threads=n) for n in (1, 2))
    for rows in (2, 9):
        xs = np.random.default_rng(rows).standard_normal((rows, 3, 24)).astype(np.float32)
        a, b = one.stream(batch=rows), two.stream(batch=rows)
        c, d = one.pool(), two.pool()
        ids, others = [c.open() for _ in range(rows)], [d.open() for _ in range(rows)]
        for _ in range(4):
            np.testing.assert_array_equal(a.step(xs), b.step(xs))
            np.testing.assert_array_equal(c.step(ids, xs), d.step(others, xs))
        np.testing.assert_array_equal(a.run(xs), b.run(xs))


def test_streams_on_several_threads_share_a_team():
    """Who finds it taken computes alone."""
    one, two = (Engine.of(many_cells(), "native", threads=n) for n in (1, 2))
    xs = frames(300, 24, seed=1)
    want = one.stream().run(xs)

    def drive(_):
        stream = two.stream()
        return np.concatenate([stream.step(xs[at : at + 3]) for at in range(0, len(xs), 3)])

    with ThreadPoolExecutor(4) as callers:
        for given in callers.map(drive, range(8)):
            np.testing.assert_array_equal(given, want)


def test_frames_that_are_late_find_a_team_that_slept():
    one, two = (Engine.of(many_cells(), "native", threads=n).stream() for n in (1, 2))
    for x in np.split(frames(60, 24, seed=2), 20):
        time.sleep(0.002)
        np.testing.assert_array_equal(one.step(x), two.step(x))
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.1


def test_a_team_ends_with_its_engine():
    gc.collect()
    before = len(os.listdir(TASKS))
    engine = Engine.of(toy(), "native", threads=2)
    stream = engine.stream()
    del engine
    gc.collect()
    assert stream.step(ONE)[0] == 1
    assert len(os.listdir(TASKS)) == before + 1
    del stream
    gc.collect()
    assert len(os.listdir(TASKS)) == before


def test_a_helper_thread_stays_on_another_core_than_the_caller():
    gc.collect()
    allowed, before = os.sched_getaffinity(0), set(os.listdir(TASKS))
    stream = Engine.of(toy(), "native", threads=2).stream()
    (extra,) = set(os.listdir(TASKS)) - before
    for core in sorted(allowed)[:2] * 2:
        os.sched_setaffinity(0, {core})
        try:
            stream.step(ONE)
            (its,) = os.sched_getaffinity(int(extra))
        finally:
            os.sched_setaffinity(0, allowed)
        assert its != core


def test_a_small_step_has_no_team(native_bundle):
    engine = load(native_bundle("sum"), threads=2)
    assert (engine.backend, engine._session.compiled.team) == ("native", None)
    assert engine.stream().step(ONE)[0] == 1


# --- signals and ends of processes


INTERRUPTED = """
import os, signal, sys, threading
import numpy as np
from rnn_export.runtime import load
# Who runs the tests may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
stream, xs = load(sys.argv[1], "native", threads=2, trust=True).stream(), np.ones((4_000_000, 3), np.float32)
threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        stream.run(xs)
except KeyboardInterrupt:
    stream.reset()
    print(stream.step(xs[0])[0])
"""


def test_an_interrupt_is_the_main_thread_s(team_bundle):
    command = [sys.executable, "-c", INTERRUPTED, str(team_bundle("sum"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1.0\n", "")


LEFT = """
import sys, threading
import numpy as np
from rnn_export.runtime import load
stream = load(sys.argv[1], "native", threads=2, trust=True).stream()
begun = threading.Event()
def work():
    while True:
        stream.step(np.ones(3, np.float32))
        begun.set()
if "amid" in sys.argv:
    threading.Thread(target=work, daemon=True).start()
    begun.wait()
print(load(sys.argv[1], "native", threads=2, trust=True).stream().step(np.ones(3, np.float32))[0])
"""


@pytest.mark.parametrize("how", ["idle", "amid"])
def test_a_process_ends_as_without(team_bundle, how):
    command = [sys.executable, "-c", LEFT, str(team_bundle("sum")), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1.0\n", "")


# --- refusals


def test_more_threads_than_this_process_may_use(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    many = cores + 1
    with raises("threads-over-cores", many, f"this process may use {cores}", f"threads={cores}"):
        Engine.of(toy(), "native", threads=many)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(128)))
    with raises("threads-over-cores", "64 threads at most", "threads=64"):
        Engine.of(toy(), "native", threads=65)


def test_a_library_of_an_earlier_release(monkeypatch):
    monkeypatch.setattr("rnn_export.runtime.build.native.compilation.with_team", lambda name, triple: [])
    old = draft(by_hand("sum", SUM), SUM.spec, name="sum")
    with raises("native-threads-refused", "2: target 'c' (fp32)", "Build it here"):
        Engine.of(old, "native", threads=2)
    assert Engine.of(old, "native").stream().step(ONE)[0] == 1


def test_a_machine_that_has_no_teams(monkeypatch):
    assert [has_teams(t) for t in ("aarch64-linux-gnu", "arm-linux-gnueabihf", "x86_64-macos")] == [True, False, False]
    monkeypatch.setattr(backend, "has_teams", lambda triple: False)
    with raises("native-one-thread", "2"):
        Engine.of(toy(), "native", threads=2)


def test_a_system_that_starts_no_more_threads():
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    nothing = kind(lambda *_: 0)
    call = SimpleNamespace(rnn_team_stop=nothing, rnn_team_rows=nothing, rnn_team_pool=nothing)
    call.rnn_team_start = kind(lambda *_: errno.EAGAIN)
    with (
        raises("threads-not-started", "2", "Resource temporarily unavailable"),
        mock.patch.object(team_module, "FACE", {}),
    ):
        Team(call, 2, np.zeros(64, np.uint8))


def test_each_core_comes_once_before_any_comes_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 0, 1, 2, 3})
    for number in (0, 1, 2, 3):
        (tmp_path / f"{number}").write_text(f"{number // 2 * 2}-{number // 2 * 2 + 1}\n")
    assert usable_cores(f"{tmp_path}/{{}}") == [0, 2, 5, 1, 3]
