"""A pool against as many separate streams, through any order of calls that hypothesis finds."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rnn_export.contract.snapshot import Snapshot, pack, unpack
from rnn_export.errors import StreamClosed
from rnn_export.runtime import Engine, slot_table
from rnn_export.runtime.backends.onnxruntime import buffers
from rnn_export.runtime.pool import _Goal

from ..messages import raises  # noqa: TID252
from .graphs import IDS
from .test_pool import assert_row, random_rows, row
from .test_stream_refusals import OUT_OF_TABLE

CAPACITY, TIMEOUT = 13, 8.0
EXAMPLES, STEPS = 40, 50
DTYPES = ("list", "int64", "uint64", ">i8", "tuple")


class Streams(RuleBasedStateMachine):
    """`alone` has what each stream of `pool` must be, `over` the ids of those that are closed, and why."""

    engine: Engine
    clock: list[float]

    @initialize(on_nan=st.sampled_from(["reset", "close", "keep"]), timed=st.booleans())
    def start(self, on_nan, timed):
        self.pool = self.engine.pool(CAPACITY, TIMEOUT if timed else None, on_nan)
        self.spec, self.on_nan, self.timed = self.engine.spec, on_nan, timed
        self.alone, self.last, self.over, self.again = {}, {}, {}, []
        told = ("opened", "closed", "evicted", "rounds", "frames", "nan", "reset", "refused", "full")
        self.told = dict.fromkeys(told, 0)
        self.health = {}
        self.rng = np.random.default_rng(0)

    # --- what is drawn

    def some(self, data, least=0) -> list[int]:
        ids = data.draw(st.permutations(sorted(self.alone)))
        return list(ids[: data.draw(st.integers(least, len(ids)))])

    def one(self, data) -> int:
        return data.draw(st.sampled_from(sorted(self.alone)))

    def written(self, data, ids: list[int]):
        kind = data.draw(st.sampled_from(DTYPES))
        return {"list": list, "tuple": tuple}.get(kind, lambda i: np.array(i, kind))(ids)

    def came(self, stream: int, alone) -> None:
        assert 0 < stream < 2**63
        assert stream not in self.alone
        assert stream not in self.over
        self.alone[stream], self.last[stream], self.health[stream] = alone, self.clock[0], {"resets": 0, "nan": 0}
        self.told["opened"] += 1

    def went(self, stream: int, why: str, count: str) -> None:
        del self.alone[stream], self.last[stream], self.health[stream]
        self.over[stream] = why
        self.told[count] += 1

    def fresh(self, stream: int) -> None:
        self.alone[stream] = self.engine.stream()
        self.health[stream]["resets"] += 1
        self.told["reset"] += 1

    def opened(self, alone, **start) -> None:
        if len(self.alone) == CAPACITY:
            with raises("pool-capacity", CAPACITY):
                self.pool.open(**start)
            self.told["full"] += 1
        else:
            self.came(self.pool.open(**start), alone)

    # --- who comes and goes

    @rule(count=st.integers(1, 6))
    def open(self, count):
        for _ in range(count):
            self.opened(self.engine.stream())

    @rule(value=st.integers(-3, 3))
    def open_with_states(self, value):
        states = {s.name: np.full(s.row, value, s.dtype) for s in self.spec.states}
        self.opened(self.engine.stream(states=states), states=states)

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def open_from_a_snapshot(self, data):
        snapshot, alone = self.pool.snapshot(self.one(data)), self.engine.stream()
        if self.is_refused(snapshot, alone.restore, lambda raw: self.pool.open(snapshot=raw)):
            return
        alone.restore(snapshot)
        self.opened(alone, snapshot=snapshot)

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def close(self, data):
        ids = self.some(data)
        self.pool.close(np.int64(ids[0]) if len(ids) == 1 else self.written(data, ids))
        for stream in ids:
            self.went(stream, "was closed", "closed")

    @precondition(lambda self: self.timed)
    @rule(parts=st.sampled_from([0.25, 0.5, 1.0, 1.5]))
    def time_goes_by(self, parts):
        """At least as long as the pool may leave between two looks, so that it looks at the next call."""
        self.clock[0] += TIMEOUT * parts
        for stream in [s for s, last in self.last.items() if last < self.clock[0] - TIMEOUT]:
            self.went(stream, "no frame for more than idle_timeout", "evicted")

    # --- what they remember

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def reset(self, data):
        ids = self.some(data)
        self.pool.reset(self.written(data, ids))
        for stream in ids:
            self.fresh(stream)

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def restore(self, data):
        stream, snapshot = self.one(data), self.pool.snapshot(self.one(data))
        if self.is_refused(snapshot, self.alone[stream].restore, lambda raw: self.pool.restore(stream, raw)):
            return
        self.pool.restore(stream, snapshot)
        self.alone[stream].restore(snapshot)

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def poison(self, data):
        """A step may make a state NaN; a snapshot of it is taken, and each restore of it is refused."""
        stream = self.one(data)
        states = {n: np.full_like(a, np.nan) for n, a in self.alone[stream].states.items()}
        poisoned = Snapshot(int(self.pool.frames(stream)[0]), states, {})
        raw = pack(self.spec, 1, poisoned)
        assert self.is_refused(raw, self.alone[stream].restore, lambda raw: self.pool.restore(stream, raw))
        with self.pool._lock:
            self.pool._set(_Goal(self.pool._one(stream), poisoned.frames, poisoned.states))
        self.alone[stream]._set(poisoned)

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def look(self, data):
        for stream in self.some(data):
            assert self.pool.snapshot(stream) == self.alone[stream].snapshot()
            for name, value in self.pool.states(stream).items():
                np.testing.assert_array_equal(value, self.alone[stream].states[name])

    def is_refused(self, snapshot, *restores):
        """True if a snapshot holds NaN or Inf, which no restore takes."""
        if all(np.isfinite(value).all() for value in unpack(self.spec, 1, snapshot).states.values()):
            return False
        for restore in restores:
            with raises("frame-not-finite"):
                restore(snapshot)
        return True

    # --- rounds

    @rule(data=st.data())
    def step(self, data):
        self.again = self.some(data)
        self.round(self.written(data, self.again), data.draw(st.booleans()))

    @precondition(lambda self: self.again)
    @rule(times=st.integers(1, 3))
    def step_again(self, times):
        """The very round that the pool and its backend know, unless somebody left it."""
        for _ in range(times):
            gone = [s for s in self.again if s in self.over]
            if not gone:
                self.round(self.again, False)
                continue
            x = random_rows(self.rng, self.spec, len(self.again))
            error = self.refused(self.again, x, "stream-closed", f"stream {gone[0]} was closed")
            assert list(error.ids) == gone

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def steady(self, data):
        """Rounds of the same streams, whose states lie where the last round left them, and what may come between."""
        ids = self.some(data, 1)
        for _ in range(data.draw(st.integers(2, 5))):
            self.round(ids, data.draw(st.booleans()))
            ids = [stream for stream in ids if stream in self.alone]
            if not ids:
                return
            stream = data.draw(st.sampled_from(ids))
            match data.draw(st.sampled_from(["nothing", "order", "reset", "snapshot", "bad frame", "anew", "fewer"])):
                case "order":
                    ids = list(data.draw(st.permutations(ids)))
                case "reset":
                    self.pool.reset(stream)
                    self.fresh(stream)
                case "snapshot":
                    assert self.pool.snapshot(stream) == self.alone[stream].snapshot()
                case "bad frame":
                    self.bad(ids, ids.index(stream))
                case "anew":
                    self.pool.close(stream)
                    self.went(stream, "was closed", "closed")
                    before = set(self.alone)
                    self.opened(self.engine.stream())
                    (ids[ids.index(stream)],) = set(self.alone) - before
                case "fewer" if len(ids) > 1:
                    ids.remove(stream)

    def round(self, ids, into) -> None:
        x, out = random_rows(self.rng, self.spec, len(ids)), None
        if into:
            views = self.engine.stream(batch=2)._outputs.items()
            space = {name: np.zeros((len(ids), *view.shape[1:]), view.dtype) for name, view in views}
            out = space if len(space) > 1 else next(iter(space.values()))
        y = self.pool.step(ids, x, out)
        if len(ids):
            self.told["rounds"] += 1
            self.told["frames"] += len(ids) * self.spec.chunk
        for i, stream in enumerate(map(int, ids)):
            given = row(y, i)
            assert_row(self.spec, given, self.alone[stream].step(row(x, i)))
            self.last[stream] = self.clock[0]
            settled = not self.spec.late(self.alone[stream]._frames - self.spec.chunk)
            if settled and any(np.isnan(a).any() for a in self.alone[stream].states.values()):
                self.turned(stream)

    def turned(self, stream: int) -> None:
        self.told["nan"] += 1
        self.health[stream]["nan"] += 1
        if self.on_nan == "close":
            self.went(stream, "a NaN came out of it", "closed")
        elif self.on_nan == "reset":
            self.fresh(stream)

    # --- what is refused

    def refused(self, ids, x, *message):
        with raises(*message) as raised:
            self.pool.step(ids, x)
        self.told["refused"] += 1
        return raised.value

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def bad_frame(self, data):
        """A float that is not finite, or a token that is none: some of the graph's pieces have run by then."""
        ids = self.some(data, 1)
        self.bad(ids, data.draw(st.integers(0, len(ids) - 1)))

    def bad(self, ids, at) -> None:
        x = random_rows(self.rng, self.spec, len(ids))
        port = self.spec.inputs[0]
        array = x[port.name] if isinstance(x, dict) else x
        array[at] = math.inf if port.dtype == "float32" else IDS
        token = {**OUT_OF_TABLE, "tensorrt": "device-round-refused"}[self.engine.backend]
        self.refused(ids, x, *((token,) if port.dtype == "int64" else ("round-not-finite", ids[at])))

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def stale(self, data):
        stream = data.draw(st.sampled_from(sorted(self.over)))
        ids = data.draw(st.permutations([*self.some(data), stream]))
        x = random_rows(self.rng, self.spec, len(ids))
        error = self.refused(self.written(data, ids), x, "stream-closed", f"stream {stream} was closed")
        assert error.ids == (stream,)
        for call in (self.pool.close, self.pool.reset, self.pool.snapshot, self.pool.states, self.pool.health):
            with raises("stream-closed", f"{stream} was closed"):
                call(stream)

    @precondition(lambda self: self.alone)
    @rule(data=st.data())
    def twice(self, data):
        ids = self.some(data, 1)
        ids = data.draw(st.permutations([*ids, ids[0]]))
        self.refused(ids, random_rows(self.rng, self.spec, len(ids)), "stream-twice-in-round")

    @precondition(lambda self: self.again)
    @rule()
    def the_same_bytes(self):
        ids, x = np.array(self.again), random_rows(self.rng, self.spec, len(self.again))
        for other in (ids.view(np.float64), ids[None], ids[:, None]):
            self.refused(other, x, "ids-not-a-list")
        self.refused(ids.view(">i8"), x, "stream-closed", "is not one of this pool")

    @rule(data=st.data(), stream=st.integers(-(2**63), 2**64 - 1))
    def stranger(self, data, stream):
        """Any other number, and what differs from an id in the sign or in the slot."""
        known = [*self.alone, *self.over, 1 << 31]
        like = data.draw(st.sampled_from(known))
        near = (-like, ~like, 1 - like, -like - (1 << 31), like + (1 << 31), like ^ (1 << 62), like + CAPACITY, 0)
        for number in (stream, *near):
            if number not in known and -(2**63) <= number < 2**64:
                assert number not in self.pool
                with pytest.raises(StreamClosed):
                    self.pool.close(number)

    # --- what is always so

    @invariant()
    def the_same_streams(self):
        assert sorted(self.pool.ids) == sorted(self.alone)
        assert len(self.pool) == len(self.alone)
        metrics = self.pool.metrics()
        assert {name: metrics[name] for name in self.told} == self.told
        assert metrics["open"] == len(self.alone) <= metrics["slots"] <= CAPACITY
        assert all(s in self.pool for s in self.alone)
        assert not any(s in self.pool for s in self.over)
        for stream, told in self.health.items():
            health = self.pool.health(stream)
            assert {name: health[name] for name in told} == told
            assert health["frames"] == self.alone[stream]._frames
            assert health["idle_s"] == self.clock[0] - self.last[stream]


@pytest.mark.parametrize("name", ["sum", "tokens", "delayed_chunked"])
def test_whatever_the_order_of_calls(engine, name, monkeypatch):
    clock = [100.0]
    # Few streams are many then: slots grow often, and rounds have several pieces.
    monkeypatch.setattr(slot_table, "FEWEST", 2)
    monkeypatch.setattr(buffers, "ROWS", 3)
    monkeypatch.setattr("rnn_export.runtime.pool.time.monotonic", lambda: clock[0])

    machine = type("Here", (Streams,), {"engine": engine(name), "clock": clock})
    few = {"max_examples": EXAMPLES, "stateful_step_count": STEPS, "suppress_health_check": HealthCheck}
    run_state_machine_as_test(machine, settings=settings(deadline=None, derandomize=True, database=None, **few))
