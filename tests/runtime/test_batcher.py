"""A batcher gives the outputs of a separate Stream for each stream, in order, to callers on any thread."""

import asyncio
import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from types import SimpleNamespace

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.errors import BatcherStopped, DeadlineExceeded
from rnn_export.runtime import Engine, load
from rnn_export.runtime.pool import Pool
from rnn_export.runtime.serve.batcher import Batcher

from ..messages import raises  # noqa: TID252
from .graphs import IDS, TABLE, frames
from .host_engine import HostEngine, host_session
from .test_pool import random_rows, row
from .triton_stand_in import same

# Longer than any test may take: a round starts for another reason, or not at all.
NEVER_MS = 3_600_000
# For what must come, however slow the machine.
SOON = 60
ONE = np.ones(3, np.float32)


@pytest.fixture(scope="module")
def host(bundle) -> Callable[[str], Engine]:
    return lambda name: load(bundle(name), backend="onnxruntime")


class Gate:
    """Holds the rounds of a real pool until it is opened; `rounds` has the ids of each."""

    def __init__(self, pool: Pool) -> None:
        self.entered, self.opened, self.rounds = threading.Event(), threading.Event(), []
        self.step = pool.round
        pool.round = self.hold

    def hold(self, ids, x):
        self.rounds.append(list(ids))
        self.entered.set()
        assert self.opened.wait(SOON)
        return self.step(ids, x)

    def busy(self, batcher: Batcher, stream: int):
        """A submission whose round is held, so that what comes next waits."""
        submission = batcher.submit(stream, ONE)
        assert self.entered.wait(SOON)
        return submission


@pytest.fixture
def held(host) -> Iterator[SimpleNamespace]:
    """A pool of 4 running sums behind a gate, and a batcher without delay whose first round is held there."""
    pool = host("sum").pool()
    ids, gate = [pool.open() for _ in range(4)], Gate(pool)
    with Batcher(pool, max_delay_ms=0, max_waiting=12) as batcher:
        first = gate.busy(batcher, ids[3])
        yield SimpleNamespace(pool=pool, ids=ids, gate=gate, batcher=batcher, first=first)
        gate.opened.set()


def value(submission) -> float:
    y = submission.result(SOON)
    assert y.shape == (3,)
    return float(y[0])


# --- what comes out


@pytest.mark.parametrize(
    "name", ["sum", "chunked", "pair", "delayed", "delayed_chunked", "fewer_delayed", "mixed_by_step"]
)
def test_the_result_is_what_a_stream_s_step_gives(host, name):
    engine, rng = host(name), np.random.default_rng(5)
    spec, pool = engine.spec, engine.pool()
    alone = {}

    with Batcher(pool, max_delay_ms=NEVER_MS) as batcher:
        # Streams of different ages, so that a round has some whose delay is over and some whose is not.
        for _ in range(6):
            alone[pool.open()] = engine.stream()
            fed = {stream: row(random_rows(rng, spec, 1), 0) for stream in alone}
            given = {stream: batcher.submit(stream, x) for stream, x in fed.items()}
            for stream, x in fed.items():
                want, y = alone[stream].step(x), given[stream].result(SOON)
                assert type(y) is type(want)
                if want is not None:
                    same(y, want)
    assert batcher.metrics()["rounds"] == 6


def test_after_a_reset_a_delay_begins_again_and_a_result_is_the_caller_s_own(host):
    pool = host("delayed").pool()
    a, b = pool.open(), pool.open()
    with Batcher(pool, max_delay_ms=NEVER_MS) as batcher:
        for _ in range(2):
            given = [[s.result(SOON) for s in [batcher.submit(a, ONE), batcher.submit(b, ONE)]] for _ in range(3)]
            assert [y is None for y, _ in given] == [True, True, False]
            ya, yb = given[2]
            ya[...] = 9
            assert ya.base is None
            np.testing.assert_array_equal(yb, 3 * ONE)
            pool.reset([a, b])


def test_a_frame_is_copied_when_it_is_submitted(held):
    x = ONE.copy()
    later = held.batcher.submit(held.ids[0], x)
    x[...] = np.nan
    held.gate.opened.set()
    assert value(later) == 1


# --- 200 streams from threads and tasks at once


def test_threads_and_tasks_at_once_each_stream_is_one_of_its_own(host):
    streams, time = 60, 20
    xs = frames(streams, time, 3)
    pool = host("sum").pool()
    ids, given = [pool.open() for _ in range(streams)], [[] for _ in range(streams)]

    def drive(mine: range) -> None:
        """Several frames of a stream are under way at once, and come and go at odd times."""
        jitter, under_way = random.Random(mine.start), {i: deque() for i in mine}
        for t in range(time):
            for i in jitter.sample(mine, len(mine)):
                under_way[i].append(batcher.submit(ids[i], xs[i, t]))
                if len(under_way[i]) > jitter.randrange(4):
                    given[i].append(under_way[i].popleft().result(SOON))
            if jitter.random() < 0.3:
                threading.Event().wait(jitter.random() * 3e-3)
        for i in mine:
            given[i] += [s.result(SOON) for s in under_way[i]]

    async def one(i: int) -> None:
        jitter = random.Random(i)
        for t in range(0, time, 5):
            piece = [batcher.submit(ids[i], x) for x in xs[i, t : t + 5]]
            await asyncio.sleep(jitter.random() * 3e-3)
            given[i] += [await s for s in piece]

    async def tasks() -> None:
        await asyncio.gather(*(one(i) for i in range(30, 60)))

    with Batcher(pool, max_delay_ms=1) as batcher, ThreadPoolExecutor(4) as threads:
        work = [threads.submit(asyncio.run, tasks())]
        work += [threads.submit(drive, range(i, i + 10)) for i in range(0, 30, 10)]
        for done in work:
            done.result(SOON)
        metrics = batcher.metrics()
    np.testing.assert_array_equal(given, xs.cumsum(1))
    assert metrics["frames"] == metrics["wait"]["count"] == metrics["latency"]["count"] == streams * time
    assert metrics["waiting"] == metrics["failed"] == metrics["late"] == metrics["cancelled"] == 0
    assert metrics["rounds"] < streams * time / 2
    assert metrics["mean_batch"] == streams * time / metrics["rounds"]
    assert pool.metrics()["frames"] == streams * time


# --- when a round starts, and with whom


def test_a_round_has_one_frame_of_a_stream_the_oldest_first(held):
    a, b, c, d = held.ids
    order = [b, b, a, b, c, a]
    later = [held.batcher.submit(stream, ONE * k) for k, stream in enumerate(order, 1)]
    held.gate.opened.set()
    assert [value(s) for s in later] == [1, 3, 3, 7, 5, 9]
    assert held.gate.rounds == [[d], [b, a, c], [b, a], [b]]


def test_a_round_starts_when_every_open_stream_has_a_frame(host):
    pool = host("sum").pool()
    a, b = pool.open(), pool.open()
    with Batcher(pool, max_delay_ms=NEVER_MS) as batcher:
        first = batcher.submit(a, ONE)
        assert wait([first], 0.05).not_done
        second = batcher.submit(b, ONE)
        assert [value(first), value(second)] == [1, 1]
        # A stream that is opened later is counted as well.
        c = pool.open()
        more = [batcher.submit(stream, ONE) for stream in (a, b)]
        assert wait(more, 0.05).not_done
        more.append(batcher.submit(c, ONE))
        assert [value(s) for s in more] == [2, 2, 1]
    assert batcher.metrics()["mean_batch"] == 2.5


def test_a_round_starts_when_max_batch_streams_wait_and_has_no_more(host):
    pool = host("sum").pool()
    ids, gate = [pool.open() for _ in range(6)], Gate(pool)
    gate.opened.set()
    with Batcher(pool, max_delay_ms=NEVER_MS, max_batch=3) as batcher:
        twice = [batcher.submit(ids[0], ONE), batcher.submit(ids[0], ONE), batcher.submit(ids[1], ONE)]
        assert wait(twice, 0.05).not_done == set(twice)
        third = batcher.submit(ids[2], ONE)
        assert [value(s) for s in (twice[0], twice[2], third)] == [1, 1, 1]
        assert not twice[1].done()
    assert value(twice[1]) == 2
    assert gate.rounds == [ids[:3], ids[:1]]
    gate = Gate(pool)
    with Batcher(pool, max_delay_ms=0, max_batch=2) as batcher:
        gate.busy(batcher, ids[5])
        later = [batcher.submit(stream, ONE) for stream in ids[:5]]
        gate.opened.set()
        assert [value(s) for s in later] == [3, 2, 2, 1, 1]
    assert gate.rounds == [[ids[5]], ids[:2], ids[2:4], ids[4:5]]


def test_a_round_starts_when_the_oldest_frame_has_waited_long_enough(host):
    pool = host("sum").pool()
    a, _ = pool.open(), pool.open()
    with Batcher(pool, max_delay_ms=40) as batcher:
        assert value(batcher.submit(a, ONE)) == 1
    metrics = batcher.metrics()
    assert metrics["latency"]["mean_ms"] >= metrics["wait"]["mean_ms"] >= 40


@pytest.mark.parametrize("whose", ["the batcher's", "another's"])
def test_submit_does_not_wait_for_a_round_that_runs(host, whose):
    """The pool is locked during a round: an event loop that submits must go on."""
    pool = host("sum").pool()
    ids, step = [pool.open() for _ in range(3)], pool._store.step
    entered, opened = threading.Event(), threading.Event()

    def hold(*round_):
        entered.set()
        assert opened.wait(SOON)
        return step(*round_)

    pool._store.step = hold
    with Batcher(pool, max_delay_ms=0) as batcher, ThreadPoolExecutor(1) as thread:
        first = (
            batcher.submit(ids[0], ONE) if whose == "the batcher's" else thread.submit(pool.step, ids[:1], ONE[None])
        )
        assert entered.wait(SOON)
        assert pool._lock.locked()
        later = []
        for stream in ids[1:]:
            later.append(batcher.submit(stream, ONE))
            threading.Event().wait(0.02)  # for the worker to look at the pool
        assert batcher.metrics()["waiting"] == 2
        assert not first.done()
        opened.set()
        assert [value(s) for s in later] == [1, 1]
        np.testing.assert_array_equal(first.result(SOON).reshape(3), ONE)


# --- what does not fit


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.ones((1, 3), np.float32), ("wrong-shape-of-input", "'x'", "(1, 3)", "(3,)")),
        (np.ones(3), ("wrong-dtype-of-input", "'x' is float64, but must be float32: convert it with .astype")),
        (np.array([1, np.nan, 1], np.float32), ("frame-not-finite", "'x'", "index (1,)")),
        ({"z": np.ones(3, np.float32)}, ("round-inputs-unknown", "['x']", "['z']")),
        (None, ("wrong-dtype-of-input", "'x' is object, but must be float32")),
    ],
)
def test_a_bad_frame_is_refused_at_once_and_hurts_no_neighbour(held, frame, message):
    a, b, *_ = held.ids
    before = held.batcher.submit(a, ONE)
    with raises(*message):
        held.batcher.submit(b, frame)
    after = [held.batcher.submit(b, ONE), held.batcher.submit(a, ONE)]
    held.gate.opened.set()
    assert [value(before), *map(value, after)] == [1, 1, 2]
    assert held.batcher.metrics()["failed"] == 0


def test_what_is_no_id_or_no_deadline_is_refused_at_once(held):
    for stream in (0, -1, 1 << 63, "7", None, 1.0):
        with raises("batcher-stream-id", f"{stream!r}"):
            held.batcher.submit(stream, ONE)
    for deadline in ("soon", float("nan")):
        with raises("deadline-invalid", f"{deadline!r}"):
            held.batcher.submit(held.ids[0], ONE, deadline_ms=deadline)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_delay_ms": -1}, ("max-delay-invalid", "-1")),
        ({"max_delay_ms": float("nan")}, ("max-delay-invalid", "nan")),
        ({"max_delay_ms": "2"}, ("max-delay-invalid", "'2'")),
        ({"max_batch": 0}, ("batcher-number-invalid", "max_batch=0")),
        ({"max_batch": 1.5}, ("batcher-number-invalid", "max_batch=1.5")),
        ({"max_waiting": 0}, ("batcher-number-invalid", "max_waiting=0")),
    ],
)
def test_options_that_do_not_fit(host, options, message):
    with raises(*message):
        Batcher(host("sum").pool(), **options)


def test_streams_that_are_over_fail_alone(held):
    a, b, c, d = held.ids
    strangers = (1, (1 << 63) - 1)
    held.pool.close([b, d])
    later = {stream: held.batcher.submit(stream, ONE) for stream in (a, b, strangers[0], c, d, strangers[1])}
    again = held.batcher.submit(a, ONE)
    held.gate.opened.set()
    assert [value(later[a]), value(later[c]), value(again)] == [1, 1, 2]
    for stream, why in ((b, "was closed"), (d, "was closed"), *((s, "is not one of this pool") for s in strangers)):
        with raises("stream-closed", f"stream {stream} {why}") as caught:
            later[stream].result(SOON)
        assert caught.value.ids == (stream,)
    # The held round was of a stream that was closed meanwhile.
    with raises("stream-closed", f"{d} was closed"):
        held.first.result(SOON)
    metrics = held.batcher.metrics()
    assert (metrics["frames"], metrics["failed"], metrics["rounds"]) == (3, 5, 2)


def test_a_frame_that_the_graph_refuses_fails_alone(host):
    """Only the graph can reject a token beyond the table; it refuses the whole round."""
    pool = host("tokens").pool()
    ids = [pool.open() for _ in range(9)]
    with Batcher(pool, max_delay_ms=NEVER_MS) as batcher:
        for turn in range(2):
            later = [batcher.submit(s, np.int64(IDS if k in (2, 7) else k % IDS)) for k, s in enumerate(ids)]
            for k, submission in enumerate(later):
                if k in (2, 7):
                    with raises("onnxruntime-step-refused", "round"):
                        submission.result(SOON)
                else:
                    want = np.array([2 * (k % IDS), 2 * (k % IDS) + 1]) * (turn + 1)
                    np.testing.assert_array_equal(submission.result(SOON), want)
    assert batcher.metrics()["frames"] == 14
    assert batcher.metrics()["failed"] == 4


def test_no_frame_is_fed_again_where_a_round_broke(bundle):
    """The engine takes 4 streams at once and fails in its second piece: the first 4 are stepped by then."""
    opened = open_bundle(bundle("tokens"))
    session = host_session(opened.spec, HostEngine(opened.read("step.onnx"), (1, 2, 4)))
    pool = Engine(opened, "tensorrt", session).pool()
    ids = [pool.open() for _ in range(10)]
    with Batcher(pool, max_delay_ms=NEVER_MS) as batcher:
        for submission in [batcher.submit(s, np.int64(IDS if k == 5 else 1)) for k, s in enumerate(ids)]:
            with raises("round-broken", "4", "10"):
                submission.result(SOON)
    fed = [pool.states(s)["h"][0].tolist() for s in ids]
    assert fed == [TABLE[1].tolist()] * 4 + [[0, 0]] * 6
    assert (batcher.metrics()["frames"], batcher.metrics()["failed"]) == (0, 10)


def test_a_stream_that_turns_nan_fails_alone(host):
    pool = host("sum").pool(on_nan="close")
    a, b = pool.open(), pool.open()
    pool._store.write(pool._table.find([b]), {"h": np.full((1, 3), np.nan, np.float32)})
    with Batcher(pool, max_delay_ms=NEVER_MS) as batcher:
        first = [batcher.submit(a, ONE), batcher.submit(b, ONE)]
        assert value(first[0]) == 1
        assert np.isnan(first[1].result(SOON)).all()
        second = [batcher.submit(b, ONE), batcher.submit(a, ONE)]
        assert value(second[1]) == 2
        with raises("stream-closed", "was closed: a NaN came out of it"):
            second[0].result(SOON)


# --- too many, too late, not wanted any more


def test_above_max_waiting_frames_are_refused(held):
    stream = held.ids[0]
    later = [held.batcher.submit(stream, ONE) for _ in range(12)]
    for _ in range(3):
        with raises("batcher-overloaded", "12"):
            held.batcher.submit(held.ids[1], ONE)
    assert held.batcher.metrics()["refused"] == 3
    assert held.batcher.metrics()["waiting"] == 12
    # One that is cancelled makes room at once.
    assert later[5].cancel()
    later[5] = held.batcher.submit(stream, ONE)
    held.gate.opened.set()
    assert sorted(map(value, later)) == list(range(1, 13))
    assert value(held.batcher.submit(held.ids[1], ONE)) == 1


def test_a_frame_whose_deadline_is_over_is_left_out(held):
    a, b, *_ = held.ids
    later = [held.batcher.submit(a, ONE * 1, deadline_ms=1e9), held.batcher.submit(b, ONE)]
    late = [held.batcher.submit(a, ONE * 10, deadline_ms=1), held.batcher.submit(a, ONE * 100, deadline_ms=0)]
    later.append(held.batcher.submit(a, ONE * 1000))
    threading.Event().wait(0.02)
    held.gate.opened.set()
    assert [value(s) for s in later] == [1, 1, 1001]
    for submission in late:
        with raises("frame-past-deadline", a):
            submission.result(SOON)
    metrics = held.batcher.metrics()
    assert (metrics["late"], metrics["frames"], metrics["failed"]) == (2, 4, 0)


def test_a_deadline_ends_the_wait_for_a_round_that_does_not_come(host):
    pool = host("sum").pool()
    a, b = pool.open(), pool.open()
    with Batcher(pool, max_delay_ms=NEVER_MS) as batcher:
        patient = batcher.submit(a, ONE)
        late = batcher.submit(a, ONE, deadline_ms=20)
        with raises("frame-past-deadline"):
            late.result(SOON)
        assert batcher.metrics()["rounds"] == 0
        assert not patient.done()
        assert [value(batcher.submit(b, ONE)), value(patient)] == [1, 1]


def test_a_cancelled_frame_is_not_fed(held):
    a, b, *_ = held.ids
    later = [held.batcher.submit(a, ONE * 10**k) for k in range(4)]
    only = held.batcher.submit(b, ONE)
    assert later[1].cancel()
    assert later[2].cancel()
    assert later[2].cancel()
    assert only.cancel()
    assert wait([later[1], later[2], only], SOON).not_done == set()
    assert held.batcher.metrics()["waiting"] == 2
    assert not held.first.cancel()
    held.gate.opened.set()
    assert [value(later[0]), value(later[3])] == [1, 1001]
    with pytest.raises(CancelledError):
        later[1].result(SOON)
    assert [held.ids[1] in ids for ids in held.gate.rounds] == [False] * 3
    # One whose round has begun cannot be cancelled.
    assert not held.first.cancel()
    assert held.batcher.metrics()["cancelled"] == 3


def test_a_cancelled_task_takes_its_frame_along(held):
    a, b, *_ = held.ids

    async def ask(stream: int, factor: float):
        return await held.batcher.submit(stream, ONE * factor)

    async def main() -> list[float]:
        tasks = [asyncio.create_task(ask(a, factor)) for factor in (1, 10, 100)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(held.batcher.submit(b, ONE), 0.01)
        tasks[1].cancel()
        await asyncio.sleep(0)
        held.gate.opened.set()
        given = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SOON)
        assert isinstance(given[1], asyncio.CancelledError)
        return [float(given[0][0]), float(given[2][0])]

    assert asyncio.run(main()) == [1, 101]
    assert held.batcher.metrics()["cancelled"] == 2


# --- the end


def test_close_runs_what_waits(host):
    pool = host("sum").pool()
    a, _ = pool.open(), pool.open()
    batcher = Batcher(pool, max_delay_ms=NEVER_MS)
    later = [batcher.submit(a, ONE) for _ in range(5)]
    batcher.close(timeout=SOON)
    assert [value(s) for s in later] == [1, 2, 3, 4, 5]
    batcher.close()
    with raises("batcher-closed"):
        batcher.submit(a, ONE)


def test_close_from_a_callback_is_refused_and_closes_nothing(held):
    said = queue.SimpleQueue()

    def close(_):
        with raises("batcher-closed-inside-callback") as refused:
            held.batcher.close()
        said.put(refused.value)

    held.first.add_done_callback(close)
    held.gate.opened.set()
    held.first.result(SOON)
    assert value(held.batcher.submit(held.ids[0], ONE)) == 1
    assert said.get(timeout=SOON)


def test_close_without_drain_fails_what_waits(held):
    later = [held.batcher.submit(held.ids[0], ONE) for _ in range(3)]
    with ThreadPoolExecutor(1) as thread:
        closed = thread.submit(held.batcher.close, drain=False)
        for submission in later:
            with raises("frame-closed-unfed"):
                submission.result(SOON)
        held.gate.opened.set()
        closed.result(SOON)
    assert value(held.first) == 1
    assert held.batcher.metrics()["failed"] == 3


def test_close_in_less_time_than_a_round_takes(held):
    later = [held.batcher.submit(held.ids[0], ONE) for _ in range(3)]
    with raises("batcher-end-late", "0.01 s: 3"):
        held.batcher.close(timeout=0.01)
    for submission in later:
        with raises("frame-unfed-in-time", "0.01"):
            submission.result(SOON)
    held.gate.opened.set()
    assert value(held.first) == 1


def test_async_with_runs_what_waits_and_leaves_the_loop_free(held):
    beats = []

    async def main():
        async with Batcher(held.pool, max_delay_ms=NEVER_MS) as batcher:
            later = batcher.submit(held.ids[0], ONE)

            async def beat():
                while not later.done():
                    beats.append(1)
                    if len(beats) == 5:
                        held.gate.opened.set()
                    await asyncio.sleep(0.001)

            beating = asyncio.create_task(beat())
        await beating
        return await later

    np.testing.assert_array_equal(asyncio.run(main()), ONE)
    assert len(beats) >= 5


@pytest.mark.parametrize("drain", [True, False])
def test_close_under_load_leaves_nobody_waiting(host, drain):
    pool, enough = host("sum").pool(), threading.Semaphore(0)
    batcher = Batcher(pool, max_delay_ms=1, max_waiting=100_000)

    def drive(_: int) -> list:
        stream, given = pool.open(), []
        while True:
            try:
                given.append(batcher.submit(stream, ONE))
            except BatcherStopped:
                return given
            if len(given) == 50:
                enough.release()
            if len(given) > 50:
                threading.Event().wait(1e-4)

    with ThreadPoolExecutor(6) as threads:
        driven = threads.map(drive, range(6))
        assert all(enough.acquire(timeout=SOON) for _ in range(6))
        batcher.close(drain=drain, timeout=SOON)
        given = list(driven)
    fed = 0
    for mine in given:
        errors = [s.exception(SOON) for s in mine]
        done = [value(s) for s, error in zip(mine, errors, strict=True) if error is None]
        # What was fed is the beginning, in order: nothing in between was lost.
        assert done == list(range(1, len(done) + 1))
        assert errors[: len(done)] == [None] * len(done)
        assert all(isinstance(error, BatcherStopped) for error in errors[len(done) :])
        fed += len(done)
    metrics, submitted = batcher.metrics(), sum(map(len, given))
    assert (metrics["waiting"], metrics["frames"], metrics["failed"]) == (0, fed, submitted - fed)
    assert not (drain and metrics["failed"])


def test_a_worker_that_dies_leaves_nobody_waiting(held):
    step = held.gate.step

    def lost(ids, x):
        if len(held.gate.rounds) == 1:
            return step(ids, x)
        raise OSError("the device is lost")

    late = held.batcher.submit(held.ids[1], ONE, deadline_ms=0)
    later = [held.batcher.submit(stream, ONE) for stream in (*held.ids, held.ids[0])]
    held.gate.step = lost
    held.gate.opened.set()
    assert value(held.first) == 1
    assert isinstance(late.exception(SOON), DeadlineExceeded)
    message = ("batcher-worker-died", "OSError: the device is lost")
    for submission in later:
        with raises(*message) as caught:
            submission.result(SOON)
        assert isinstance(caught.value.__cause__, OSError)
    for _ in range(2):
        with raises(*message) as caught:
            held.batcher.submit(held.ids[0], ONE)
        assert isinstance(caught.value.__cause__, OSError)
    held.batcher.close(timeout=SOON)
    metrics = held.batcher.metrics()
    assert (metrics["frames"], metrics["late"], metrics["failed"], metrics["waiting"]) == (1, 1, 5, 0)


def test_several_batchers_may_share_a_pool(host):
    pool = host("sum").pool()
    ids = [pool.open() for _ in range(20)]
    with Batcher(pool, max_delay_ms=1) as one, Batcher(pool, max_delay_ms=1) as other:
        later = [(one, other)[k % 2].submit(s, ONE) for _ in range(10) for k, s in enumerate(ids)]
        assert [value(s) for s in later] == [n for n in range(1, 11) for _ in ids]
