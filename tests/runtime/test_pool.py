"""A pool: every stream in it acts as a Stream of its own would, whatever the others do."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import StreamError
from rnn_export.platform import arrays
from rnn_export.platform.arrays import all_finite, has_nan
from rnn_export.runtime import load, slot_table
from rnn_export.runtime.slot_table import SlotTable

from ..messages import raises  # noqa: TID252
from .graphs import IDS, START, WHOLE, frames

NAMES = [
    "sum",
    "timed",
    "chunked",
    "time_major",
    "stored",
    "pair",
    "delayed",
    "delayed_chunked",
    "fewer",
    "fewer_delayed",
]
NAMES += ["fewer_delayed_less", "mixed", "mixed_by_step", "tokens", "tokens_timed", "twins", "previous_int64"]


def random_rows(rng: np.random.Generator, spec: StreamSpec, n: int):
    """Inputs of n streams in a round, as `pool.step` takes them."""
    chunk = {True: (spec.chunk,) if spec.chunk > 1 else (), False: ()}
    low = 0 if spec.inputs[0].name == "id" else -4
    rows = {t.name: rng.integers(low, 5, (n, *chunk[spec.timed(t)], *t.frame)).astype(t.dtype) for t in spec.inputs}
    return rows if len(rows) > 1 else next(iter(rows.values()))


def row(value, i: int):
    return {name: array[i] for name, array in value.items()} if isinstance(value, dict) else value[i]


def assert_row(spec: StreamSpec, given, want) -> None:
    """`want` is what Stream.step gave: None, or fewer frames, where the delay is not over."""
    for tensor in spec.outputs:
        array = np.asarray(given[tensor.name] if isinstance(given, dict) else given)
        if want is None:
            assert np.isnan(array).all()
            continue
        wanted = np.asarray(want[tensor.name] if isinstance(want, dict) else want)
        late = len(array) - len(wanted) if array.ndim else 0
        if late:
            assert np.isnan(array[:late]).all()
            array = array[late:]
        np.testing.assert_array_equal(array, wanted)


@pytest.mark.contract
@pytest.mark.parametrize("name", NAMES)
def test_every_stream_of_ragged_rounds_is_one_of_its_own(engine, name):
    rng, engine = np.random.default_rng(3), engine(name)
    pool, alone = engine.pool(capacity=400), {}
    for _ in range(40 if engine.backend in ("onnxruntime", "native") else 10):
        for _ in range(rng.integers(0, 12)):
            alone[pool.open()] = engine.stream()
        for stream in rng.permutation(list(alone))[: rng.integers(0, 4)]:
            pool.close(int(stream))
            del alone[stream]
        ids = rng.permutation(list(alone))[: rng.integers(0, len(alone) + 1)].tolist()
        x = random_rows(rng, pool.spec, len(ids))
        y = pool.step(ids, x)
        for i, stream in enumerate(ids):
            assert_row(pool.spec, row(y, i), alone[stream].step(row(x, i)))
    assert sorted(pool.ids) == sorted(alone)
    for stream, single in alone.items():
        for state, value in single.states.items():
            np.testing.assert_array_equal(pool.states(stream)[state], value)


def test_ids_are_never_given_twice_and_stale_ones_are_refused(engine):
    pool, seen = engine("sum").pool(capacity=3), set()
    for _ in range(20):
        ids = [pool.open() for _ in range(3)]
        assert not seen & set(ids)
        assert all(0 < i < 2**63 for i in ids)
        seen |= set(ids)
        pool.close(ids)
    last, new = ids, pool.open()
    with raises("stream-closed", f"stream {last[0]} was closed") as refused:
        pool.step([new, last[0]], np.ones((2, 3), np.float32))
    assert refused.value.ids == (last[0],)
    with raises("stream-closed", "and 1 more are over or unknown"):
        pool.reset(last[:2])
    stranger = engine("sum").pool().open()
    calls = (pool.close, pool.reset, pool.states, pool.snapshot, pool.health, pool.frames)
    for number in (*seen, stranger, 5):
        for call in calls:
            with raises("stream-closed", number):
                call(number)
    assert stranger not in pool
    assert "a name" not in pool
    assert new in pool
    np.testing.assert_array_equal(pool.states(new)["h"], np.zeros((1, 3)))


def test_what_is_no_id_is_no_stream(engine):
    """An id that differs in the sign or in the slot is in test_pool_machine.py."""
    pool, one = engine("sum").pool(), np.ones((1, 3), np.float32)
    b = pool.open()
    for call in (pool.close, pool.reset, lambda ids: pool.step(ids, one)):
        for ids in ([[b], [b, b]], True, [True], {b}, None, 2**70):
            with raises("ids-unreadable" if ids == [[b], [b, b]] else "ids-not-a-list"):
                call(ids)
    assert pool.ids == [b]


def test_what_is_for_one_stream_takes_no_more(engine):
    pool = engine("sum").pool()
    ids = [pool.open(), pool.open()]
    pool.step(ids, np.ones((2, 3), np.float32))
    snapshot = pool.snapshot(ids[0])
    for call in (pool.states, pool.snapshot, pool.health, lambda stream: pool.restore(stream, snapshot)):
        for several in (ids, [], ids[:1], "ab"):
            with raises("one-stream-only"):
                call(several)


def test_slots_grow_with_their_values_until_the_pool_is_full(engine):
    pool, ones = engine("sum").pool(capacity=1000), np.ones((1000, 3), np.float32)
    first = pool.open()
    pool.step([first], np.full((1, 3), 7, np.float32))
    slots = [pool.metrics()["slots"]]
    others = [pool.open() for _ in range(999)]
    assert [*slots, pool.metrics()["slots"]] == [slot_table.FEWEST, 1000]
    np.testing.assert_array_equal(pool.step([*others, first], ones), [[1] * 3] * 999 + [[8] * 3])
    with raises("pool-capacity", "1000"):
        pool.open()
    pool.close(others[7])
    np.testing.assert_array_equal(pool.states(pool.open())["h"], np.zeros((1, 3)))
    assert (len(pool), pool.metrics()["full"]) == (1000, 1)


@pytest.mark.contract
def test_reset_goes_back_to_the_models_initial_states(engine):
    pool = engine("stored").pool()
    a, b = pool.open(), pool.open(states={"h": START * 10})
    np.testing.assert_array_equal(pool.step([a, b], np.ones((2, 3), np.float32)), [START + 1, START * 10 + 1])
    pool.reset(b)
    np.testing.assert_array_equal(pool.states(b)["h"], START[None])
    np.testing.assert_array_equal(pool.states(a)["h"], START[None] + 1)
    assert pool.health(b)["resets"] == 1
    with raises("states-do-not-fit", "unknown: g", "h"):
        pool.open(states={"g": START})
    with raises("two-starts-given"):
        pool.open(states={"h": START}, snapshot=b"")
    assert len(pool) == 2


@pytest.mark.contract
def test_snapshots_travel_between_pools_and_streams(engine):
    engine = engine("delayed")
    pool, stream, xs = engine.pool(), engine.stream(), frames(6, 3)
    for x in xs[:3]:
        stream.step(x)
    moved = pool.open(snapshot=stream.snapshot())
    y = pool.step([moved], xs[3][None])[0]
    np.testing.assert_array_equal(y, stream.step(xs[3]))
    back = engine.stream()
    back.restore(pool.snapshot(moved))
    np.testing.assert_array_equal(back.step(xs[4]), stream.step(xs[4]))
    fresh = pool.open()
    pool.restore(fresh, back.snapshot())
    np.testing.assert_array_equal(pool.step([fresh], xs[5][None])[0], stream.step(xs[5]))
    assert pool.frames([fresh, moved]).tolist() == [6, 4]
    with raises("snapshot-checksum-differs"):
        pool.restore(fresh, pool.snapshot(fresh)[:-1] + b"?")
    with raises("snapshot-rows-differ", "2"):
        pool.open(snapshot=engine.stream(batch=2).snapshot())


def test_a_snapshot_with_frames_that_wait_is_refused(engine):
    engine = engine("chunked")
    stream = engine.stream()
    stream.run(frames(4, 3))
    with raises("snapshot-frames-waiting", "1", "3"):
        engine.pool().open(snapshot=stream.snapshot())


@pytest.mark.contract
@pytest.mark.parametrize("policy", ["reset", "close", "keep"])
def test_a_stream_that_turns_nan_harms_no_other(engine, policy):
    pool, big = engine("sum").pool(on_nan=policy), np.finfo(np.float32).max
    a, b, c = (pool.open() for _ in range(3))
    x = np.array([[1] * 3, [big] * 3, [2] * 3], np.float32)
    np.testing.assert_array_equal(pool.step([a, b, c], x), x)
    with np.errstate(over="ignore", invalid="ignore"):
        pool.step([a, b, c], x)  # b's sum is infinite now
        y = pool.step([c, b, a], np.array([[2] * 3, [-big, 0, 0], [1] * 3], np.float32))
    # A sum of LiteRT's ends at the largest number.
    infinite = [0, big, big] if engine("sum").backend == "litert" else [np.inf] * 3
    np.testing.assert_array_equal(y, [[6] * 3, infinite, [3] * 3])
    assert pool.metrics()["nan"] == 0
    # States from outside are checked, so one turns NaN from the inside only.
    pool._store.write(pool._table.find([b]), {"h": np.full((1, 3), np.nan, np.float32)})
    y = pool.step([a, b, c], np.ones((3, 3), np.float32))
    np.testing.assert_array_equal(y, [[4] * 3, [np.nan] * 3, [7] * 3])
    assert pool.metrics()["nan"] == 1
    if policy == "close":
        with raises("stream-closed", "was closed: a NaN came out of it"):
            pool.step([b], np.ones((1, 3), np.float32))
    else:
        assert pool.health(b)["nan"] == 1
        want = 1 if policy == "reset" else np.nan
        np.testing.assert_array_equal(pool.step([b, a], np.ones((2, 3), np.float32)), [[want] * 3, [5] * 3])


@pytest.mark.contract
def test_a_bad_frame_is_fed_to_nobody(engine):
    pool = engine("sum").pool()
    ids = [pool.open() for _ in range(3)]
    x = np.ones((3, 3), np.float32)
    x[1, 2] = np.nan
    with raises("round-not-finite", "1 of 'x'", ids[1]):
        pool.step(ids, x)
    x[2, 0] = np.inf
    with raises("round-not-finite", "and those of 1 more streams"):
        pool.step(ids, x)
    for bad, said in (
        (np.ones((2, 3), np.float32), ("round-rows-differ", "'x'", "2", "(2, 3)", "3")),
        (np.float32(1), ("wrong-shape-of-input", "'x'", "()", "(3, 3)")),
        (np.ones(3, np.float32), ("wrong-shape-of-input", "'x'", "(3,)", "(3, 3)")),
        (np.ones((3, 4), np.float32), ("wrong-shape-of-input", "'x'", "(3, 4)", "(3, 3)")),
        (np.ones((3, 3)), ("wrong-dtype-of-input", "'x' is float64, but must be float32")),
        ({"z": x}, ("round-inputs-unknown", "['x']", "['z']")),
    ):
        with raises(*said):
            pool.step(ids, bad)
    with raises("stream-twice-in-round", ids[0]):
        pool.step([ids[0], ids[1], ids[0]], np.ones((3, 3), np.float32))
    for wrong in ("abc", 3.5, [[1]], [1.5], [ids]):
        with raises("ids-not-a-list"):
            pool.step(wrong, x)
    assert pool.metrics()["refused"] == 14
    assert pool.metrics()["rounds"] == 0
    np.testing.assert_array_equal(pool.step(ids, np.ones((3, 3))[:, :].tolist()), np.ones((3, 3)))


def test_frames_in_any_layout(engine):
    pool = engine("sum").pool()
    ids, x = np.array([pool.open() for _ in range(4)]), frames(3, 4)
    np.testing.assert_array_equal(pool.step(ids, x.T), x.T)
    np.testing.assert_array_equal(
        pool.step(ids[::-1].astype(np.uint64), x.T[::2].repeat(2, 0)), x.T[::-1] + x.T[::2].repeat(2, 0)
    )


def test_outputs_go_where_they_are_asked_for(engine):
    pool = engine("sum").pool()
    ids, out = [pool.open(), pool.open()], np.zeros((2, 3), np.float32)
    y = pool.step(ids, np.ones((2, 3), np.float32), out=out)
    assert y is out
    np.testing.assert_array_equal(out, np.ones((2, 3)))
    out.flags.writeable = False
    for wrong, said in (
        (out, ("out-read-only", "'y'")),
        (np.zeros((3, 3), np.float32), ("out-does-not-fit", "'y' is float32 (3, 3)", "float32 (2, 3)")),
        ([1], ("out-does-not-fit", "'y' is list")),
    ):
        with raises(*said):
            pool.step(ids, np.ones((2, 3), np.float32), out=wrong)
    np.testing.assert_array_equal(pool.states(ids[0])["h"], np.ones((1, 3)))
    several = engine("pair").pool()
    x = {"a": np.ones((1, 2), np.float32), "b": np.ones((1, 2), np.float32)}
    with raises("round-out-not-dict", "['sum', 'dot']"):
        several.step([several.open()], x, out=np.zeros((1, 2), np.float32))
    with raises("round-without-names", "2", "['a', 'b']"):
        several.step([several.open()], x["a"])


def test_a_round_of_nobody(engine):
    pool = engine("chunked").pool()
    for ids in ([], np.zeros(0, np.int64)):
        assert pool.step(ids, np.zeros((0, 3, 3), np.float32)).shape == (0, 3, 3)


def test_ids_of_a_table(engine):
    pool = engine("tokens").pool()
    ids = [pool.open() for _ in range(3)]
    y = pool.step(ids, np.array([0, 2, 4]))
    with pytest.raises(StreamError):
        pool.step(ids, np.array([0, IDS, 1]))
    np.testing.assert_array_equal(pool.step(ids, [0, 2, 4]), 2 * y)


def test_idle_streams_are_closed(engine, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("rnn_export.runtime.pool.time.monotonic", lambda: clock[0])
    pool = engine("sum").pool(capacity=2, idle_timeout=10.0)
    a, b = pool.open(), pool.open()
    for _ in range(4):
        clock[0] += 4.0
        pool.step([a], np.ones((1, 3), np.float32))
    with raises("stream-closed", f"{b} was closed: no frame for more than idle_timeout"):
        pool.step([b], np.ones((1, 3), np.float32))
    c = pool.open()
    assert pool.ids == sorted([a, c])
    assert pool.metrics()["evicted"] == 1
    clock[0] += 11.0
    assert len(pool) == 0
    for wait in (9.5, 0.6, 0.0):
        pool.open()
        clock[0] += wait
    assert pool.metrics()["full"] == 0


def test_health_and_metrics(engine):
    pool = engine("sum").pool(capacity=10)
    a, b = pool.open(), pool.open()
    for _ in range(5):
        pool.step([a, b], np.ones((2, 3), np.float32))
    pool.step([a], np.ones((1, 3), np.float32))
    pool.close(b)
    health, metrics = pool.health(a), pool.metrics()
    assert (health["frames"], health["resets"], health["nan"]) == (6, 0, 0)
    assert health["idle_s"] >= 0
    assert 0 < health["p50_ms"] <= health["p99_ms"]
    wanted = {"capacity": 10, "open": 1, "slots": 10, "opened": 2, "closed": 1, "rounds": 6, "frames": 11, "refused": 0}
    assert {key: metrics[key] for key in wanted} == wanted
    assert metrics["round"]["count"] == 6
    assert metrics["nbytes"] > 0


def test_threads_share_a_pool(engine):
    pool, rounds = engine("sum").pool(), 60
    ready = threading.Barrier(4)

    def client(number: int) -> np.ndarray:
        ids = [pool.open() for _ in range(5)]
        ready.wait()
        for _ in range(rounds):
            y = pool.step(ids, np.full((5, 3), number, np.float32))
        pool.close(ids[:2])
        return y

    with ThreadPoolExecutor(4) as threads:
        for number, y in enumerate(threads.map(client, range(4))):
            np.testing.assert_array_equal(y, np.full((5, 3), number * rounds))
    assert len(pool) == 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"capacity": 0}, ("pool-capacity-range", "0")),
        ({"capacity": 1.5}, ("pool-capacity-range", "1.5")),
        ({"idle_timeout": 0}, ("idle-timeout-invalid", "0")),
        ({"idle_timeout": "60"}, ("idle-timeout-invalid", "'60'")),
        ({"on_nan": "panic"}, ("on-nan-unknown", "'panic'", "reset, close, keep")),
    ],
)
def test_options_that_do_not_fit(engine, options, said):
    with raises(*said):
        engine("sum").pool(**options)


def test_a_model_of_whole_sequences_has_no_pool(tmp_path):
    with raises("pool-cannot-stream"):
        load(WHOLE.write(tmp_path / "whole.rnnx"), backend="onnxruntime").pool()


def test_a_stream_costs_no_more_than_its_states_and_128_bytes(engine):
    pool = engine("sum").pool(capacity=10_000)
    for _ in range(10_000):
        pool.open()
    assert pool.metrics()["nbytes"] <= 10_000 * (3 * 4 + 128)


def test_a_slot_table_grows_whole_or_not_at_all(monkeypatch):
    people, concatenate = SlotTable(8), np.concatenate
    people.grow(2)

    def short(arrays, axis):
        if arrays[0].ndim == 2:
            raise MemoryError
        return concatenate(arrays, axis)

    monkeypatch.setattr(np, "concatenate", short)
    with pytest.raises(MemoryError):
        people.grow(4)
    monkeypatch.undo()
    people.grow(4)
    assert {getattr(people, name).shape[-1] for name in slot_table.COLUMNS} == {4}
    ids = [people.take(people.vacant(), 0.0) for _ in range(4)]
    assert people.ids == sorted(ids)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("n", [3, arrays.DOT, 2 * arrays.DOT + 1])
def test_what_is_not_finite_is_found_wherever_it_is(dtype, n):
    array = np.full((1, n), np.finfo(dtype).max, dtype)
    array[0, ::2] *= -1
    for finite in (array, np.zeros((0, 3), dtype), np.array([1, 2])):
        assert all_finite(finite)
        assert not has_nan(finite)
    for at in (0, n // 2, n - 1):
        for value in (np.inf, -np.inf, np.nan):
            array[0, at] = value
            assert not all_finite(array)
            assert has_nan(array) == np.isnan(value)
        array[0, at] = 1
        assert all_finite(array)
