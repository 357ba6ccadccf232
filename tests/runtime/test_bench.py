"""A bench: its counts and their order are asserted, durations are not."""

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rnn_export.errors import BackendUnavailable
from rnn_export.platform.threads import no_collections
from rnn_export.runtime.bench import allocations, this_machine, timing
from rnn_export.runtime.bench.limit import SOURCE, Limit, Reader
from rnn_export.runtime.bench.this_machine import compile_shared
from rnn_export.runtime.bench.timing import Stopwatch, Subject

from ..messages import raises  # noqa: TID252


def subject(step: Callable[..., object], frames: list[object], **more: object) -> Subject:
    return Subject(**{"name": "toy", "out": None, "reset": lambda: None, **more}, step=step, frames=frames)


# --- timing


def test_percentiles_and_groups_of_calls_that_the_clock_is_too_slow_for():
    assert timing.percentiles(np.arange(101)[::-1]) == {"p50": 50, "p90": 90, "p99": 99}
    assert timing.percentiles(np.array([1.0, 2.0])) == pytest.approx({"p50": 1.5, "p90": 1.9, "p99": 1.99})
    # No call looks faster than it is.
    assert timing.clock_time([*range(100, 201)]) == 110
    for call, group in ((500, 1), (499, 3), (100, 10), (1, 1000), (1e9, 1)):
        assert timing.group_of(call, 100) == group


def test_each_takes_its_turn_and_each_is_first_in_turn():
    seen: list[str] = []
    timing.in_turn([lambda name=name: seen.append(name) for name in "abc"], 4)
    assert "".join(seen) == "abcbcacababc"


def test_a_stopwatch_steps_on_the_frames_in_order_and_resets_before_each_block(monkeypatch):
    seen: list[object] = []
    toy = subject(lambda x, out: seen.append((x, out)), ["a", "b", "c"], out="y", reset=lambda: seen.append("reset"))
    monkeypatch.setattr(timing, "pilot", lambda subject: 1e12)
    watch = Stopwatch(toy, 1.0, steps=100)
    assert (watch.group, len(watch.pieces)) == (1, 2)
    watch.block()
    frames = ["abc"[at % 3] for at in range(timing.WARM)] + ["a", "b"]
    assert seen == ["reset", *((frame, "y") for frame in frames)]
    assert len(watch.samples) == len(watch.raw) == 2


def test_a_stopwatch_waits_for_the_delay():
    seen: list[object] = []
    watch = Stopwatch(subject(seen.append, ["a"], settle=40), 0.001, steps=50)
    del seen[:]
    watch.block()
    assert len(seen) == 40 + len(watch.pieces) * watch.group


def test_short_calls_share_a_sample_and_the_clock_is_taken_off(monkeypatch):
    monkeypatch.setattr(timing, "pilot", lambda subject: 10.0)
    monkeypatch.setattr(timing, "_empty", lambda pieces: [50, 60, 50])
    watch = Stopwatch(subject(lambda x: None, [0]), 1.0, steps=1)
    assert watch.group == 50
    watch.empties, watch.raw = [50], [50 + 50 * 2000, 40]
    assert watch.samples.tolist() == [2.0, 0.0]


def test_seconds_limit_the_samples(monkeypatch):
    monkeypatch.setattr(timing, "pilot", lambda subject: 1e6)
    assert len(Stopwatch(subject(lambda x: None, [0]), 2.0).pieces) * timing.ROUNDS == 2000
    assert len(Stopwatch(subject(lambda x: None, [0]), 1e9).pieces) * timing.ROUNDS == timing.SAMPLES


def test_cold_sweeps_before_each_call():
    seen: list[str] = []
    toys = [subject(lambda x, name=name: seen.append(name), [0], name=name) for name in "ab"]
    found = timing.cold(toys, lambda: seen.append("sweep"), 1e-9)
    assert len(found) == 2
    assert seen[0] == "sweep"
    assert seen[1 + 2 * timing.WARM :] == ["sweep", "a", "sweep", "b", "sweep", "b", "sweep", "a"] * 2 + [
        *("sweep", "a", "sweep", "b")
    ]


def test_collections_wait_and_come_back():
    @no_collections()
    def fails():
        raise KeyError(gc.isenabled())

    assert gc.isenabled()
    with pytest.raises(KeyError, match="False"):
        fails()
    assert gc.isenabled()


# --- the machine


def test_pinning_ends_with_the_bench():
    before = os.sched_getaffinity(0)

    @this_machine.pinned(None)
    def fails():
        raise KeyError(os.sched_getaffinity(0))

    with pytest.raises(KeyError) as error:
        fails()
    assert error.value.args == ({max(before)},)
    assert os.sched_getaffinity(0) == before
    with this_machine.pinned(min(before)) as core:
        assert os.sched_getaffinity(0) == {core} == {min(before)}


def test_what_cannot_be_pinned_is_refused(monkeypatch):
    with raises("bench-core-unusable", "9999"):
        this_machine.pinned(9999).__enter__()
    monkeypatch.delattr(os, "sched_setaffinity")
    with raises("bench-no-pinning"):
        this_machine.pinned(None).__enter__()


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_says_what_it_is(tmp_path):
    cpu = "sys__devices__system__cpu__cpu3__"
    caches = [("32K", 1, "Data"), ("64K", 1, "Instruction"), ("1M", 2, "Unified")]
    files = {
        f"{cpu}cache__index{number}__{name}": f"{value}\n"
        for number, cache in enumerate(caches)
        for name, value in zip(("size", "level", "type"), cache, strict=True)
    }
    files |= {f"{cpu}cpufreq__scaling_governor": "powersave\n", "proc__cpuinfo": "model name\t: A CPU @ 3 GHz\n"}
    found = this_machine.describe(3, write(tmp_path, **files))
    assert (found["cpu"], found["core"], found["governor"]) == ("A CPU @ 3 GHz", 3, "powersave")
    assert found["caches"] == {"L1": 32 * 2**10, "L2": 2**20}


def test_an_arm_has_numbers_and_a_bare_machine_nothing(tmp_path):
    info = "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n" * 2
    assert this_machine.describe(0, write(tmp_path, proc__cpuinfo=info))["cpu"].endswith("implementer 0x41 part 0xd0c")
    found = this_machine.describe(0, tmp_path / "bare")
    assert (found["caches"], found["governor"]) == ({}, None)


@pytest.mark.parametrize(("caches", "mib"), [({}, 64), ({"L2": 2**20, "L3": 48 * 2**20}, 96), ({"L3": 2**30}, 512)])
def test_a_sweep_is_larger_than_the_caches_within_reason(caches, mib):
    sweep = this_machine.Sweep(caches)
    sweep()
    assert sweep.bytes == sweep.buffer.nbytes == mib * 2**20
    assert sweep.buffer[0] == sweep.buffer[-1] == 1


# --- the limit


@pytest.mark.usefixtures("compiler")
def test_the_limit_is_the_time_of_all_bytes():
    reader = Reader()
    assert "-O3" in reader.compiled
    small, odd = Limit(reader, 1024), Limit(reader, 1536)
    for limit in (small, odd):
        limit.block()
        limit.block()
        assert len(limit.taken) == 2
        assert limit.us == pytest.approx(limit.nbytes / limit.bandwidth * 1e6)
    assert (small.size, odd.size) == (1024, 2048)
    assert odd.us == pytest.approx(np.median(odd.taken) / 1e3 * 1536 / 2048)
    assert len(odd.taken[0]) == odd.samples > 1


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("flags", [["-mno-avx512f"], ["-mno-avx"]])
def test_the_limit_compiles_for_older_cpus(flags, tmp_path):
    try:
        compile_shared("int x;", tmp_path / "x.so", flags)
    except BackendUnavailable:
        pytest.skip(f"no {flags} here")
    library = tmp_path / "limit.so"
    compile_shared(SOURCE, library, [*flags, "-Wall", "-Wextra", "-Werror", "-ffp-contract=fast"])
    assert ctypes.CDLL(str(library)).read_all


def test_no_compiler_and_a_compiler_that_refuses_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-cc")
    with raises("compiler-unusable", "no-such-cc"):
        Reader()
    monkeypatch.delenv("CC")
    try:
        Reader()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with raises("compiler-failed", "error", kind=BackendUnavailable):
        compile_shared("int x = ;", tmp_path / "x.so")


# --- allocations


def test_python_blocks_that_stay_are_counted():
    kept: list[object] = []
    assert allocations.python_blocks_kept(subject(lambda x: kept.append(object()), [0])) == pytest.approx(1, abs=0.05)
    assert allocations.python_blocks_kept(subject(lambda x: object(), [0])) == 0


def test_what_a_counter_itself_takes_is_no_allocation():
    total = 0

    def counter() -> int:
        nonlocal total
        total += 5
        return total

    def step(x: object, out: object) -> None:
        nonlocal total
        total += 3

    assert allocations.count(subject(step, [0], out="y"), counter, 100) == 3
