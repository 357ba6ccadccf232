"""The closed loop: any cuts of the frames give the outputs of the whole sequence."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_export.contract.spec import StateSpec, StreamSpec, TensorSpec
from rnn_export.runtime.replay.closed_loop import ClosedLoop
from rnn_export.runtime.replay.drivers import StepDriver

X, GAIN = TensorSpec("x", "float32", ("batch", "time", 2)), TensorSpec("gain", "float32", ("batch",))
H = StateSpec("h", "h", "h.next", "float32", ("batch", 2))


def toy_spec(every: int = 1, chunk: int = 1, delay: int = 0) -> StreamSpec:
    time = "time" if every == 1 else f"time/{every}"
    outputs = (TensorSpec("y", "float32", ("batch", time, 2)), TensorSpec("last", "float32", ("batch", 2)))
    return StreamSpec((X, GAIN), outputs, (H,), chunk * every, delay * every)


def toy_inputs(rows: int, frames: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(frames)
    return {
        "x": random.integers(-9, 9, (rows, frames, 2)).astype(np.float32),
        "gain": np.arange(1, rows + 1, dtype=np.float32),
    }


def wanted(spec: StreamSpec, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Running sums as of the last of `every` frames, without those of the delay."""
    sums = inputs["x"].cumsum(1) * inputs["gain"][:, None, None]
    every = spec.outputs[0].every
    return sums[:, every - 1 :: every][:, spec.delay // every :]


@dataclass
class Toy:
    """Sums over all that was fed. Frames of the delay are left out, or NaN."""

    spec: StreamSpec
    leaves_out_delay: bool
    fed: list[np.ndarray] = field(default_factory=list)

    def step(self, inputs):
        every, delay = self.spec.outputs[0].every, self.spec.delay
        before = sum(x.shape[1] for x in self.fed)
        self.fed.append(inputs["x"].copy())
        sums = np.concatenate(self.fed, 1).cumsum(1) * inputs["gain"][:, None, None]
        y, after = sums[:, every - 1 :: every].copy(), sums.shape[1]
        y[:, : delay // every] = np.nan
        new = y[:, before // every : after // every]
        if self.leaves_out_delay:
            new = new[:, max(delay - before // every * every, 0) // every :]
        nothing = after <= delay
        return {"y": new, "last": None if nothing else sums[:, -1]}

    def states(self):
        return {"h": np.concatenate(self.fed, 1).sum(1)}


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_cuts_among_nan_give_the_whole(data):
    every, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    spec = toy_spec(every, data.draw(st.integers(1, 4)), data.draw(st.integers(0, 5)))
    leaves_out = data.draw(st.booleans())
    # What gives the frames of a delay takes no less than one frame of every output.
    unit = 1 if leaves_out else every
    inside = data.draw(st.lists(st.integers(1, 29), max_size=9, unique=True))
    edges = [0, *(n * unit for n in sorted(inside)), 30 * unit]
    inputs = toy_inputs(rows, edges[-1])
    loop = ClosedLoop(spec, inputs)
    trace = loop.run(Toy(spec, leaves_out), edges, nan_filler=True)
    np.testing.assert_array_equal(trace.outputs["y"], wanted(spec, inputs))
    np.testing.assert_array_equal(trace.outputs["last"], (inputs["x"].sum(1) * inputs["gain"][:, None]))
    assert trace.states["h"].shape == (rows, len(edges) - 1, 2)
    np.testing.assert_array_equal(trace.states["h"], inputs["x"].cumsum(1)[:, np.array(edges[1:]) - 1])


@pytest.mark.parametrize("leaves_out", [True, False])
def test_whole_steps_are_fed_and_the_rest_is_left(leaves_out):
    spec, inputs = toy_spec(every=2, chunk=2, delay=3), toy_inputs(2, 23)
    trace = ClosedLoop(spec, inputs).run(Toy(spec, leaves_out), states_at={8, 20})
    np.testing.assert_array_equal(trace.outputs["y"], wanted(spec, inputs)[:, :7])
    np.testing.assert_array_equal(trace.states["h"], inputs["x"].cumsum(1)[:, [7, 19]])


def test_an_output_that_no_frame_gave_is_left_out():
    spec, inputs = toy_spec(delay=5), toy_inputs(2, 4)
    trace = ClosedLoop(spec, inputs).run(Toy(spec, True), states_at=())
    assert (trace.outputs["y"].shape, set(trace.outputs), trace.states) == ((2, 0, 2), {"y"}, {})


def test_a_second_run_goes_on_where_the_first_ended():
    spec, inputs = toy_spec(delay=3), toy_inputs(2, 12)
    loop, driver = ClosedLoop(spec, inputs), Toy(spec, False)
    halves = [loop.run(driver, edges).outputs["y"] for edges in ((0, 2, 5), (5, 12))]
    np.testing.assert_array_equal(np.concatenate(halves, 1), wanted(spec, inputs))


def test_rows_are_taken_in_the_order_that_is_asked_for():
    spec, inputs = toy_spec(), toy_inputs(3, 8)
    trace = ClosedLoop(spec, inputs).of_rows(np.array([2, 0, 2])).run(Toy(spec, True))
    np.testing.assert_array_equal(trace.outputs["y"], wanted(spec, inputs)[[2, 0, 2]])
    np.testing.assert_array_equal(trace.of_rows(slice(1, 2)).outputs["last"], trace.outputs["last"][1:2])
    np.testing.assert_array_equal(trace.of_rows(slice(1, 2)).states["h"], trace.states["h"][1:2])


class Beyond(Toy):
    """Reads the frame after each piece."""

    def step(self, inputs):
        x, outputs = inputs["x"], super().step(inputs)
        longer = np.lib.stride_tricks.as_strided(x, (x.shape[0], x.shape[1] + 1, 2), x.strides)
        return {**outputs, "y": outputs["y"] + 0 * longer[:, -1:]}


def test_a_read_beyond_a_piece_is_nan():
    spec, inputs = toy_spec(), toy_inputs(2, 12)
    trace = ClosedLoop(spec, inputs).run(Beyond(spec, True), (0, 5, 12), nan_filler=True)
    assert np.isnan(trace.outputs["y"]).all()


def test_a_pure_step_has_its_states_fed_back_in_the_layout_of_the_graph():
    x = TensorSpec("x", "float32", (2, "time", "batch"))
    y = TensorSpec("y", "float32", ("time", "batch", 2))
    spec, calls = StreamSpec((x,), (y,), (H,), chunk=3), []

    def call(feed):
        calls.append({name: a.shape for name, a in feed.items()})
        sums = feed["x"].cumsum(1).transpose(1, 2, 0) + feed["h"]
        return {"y": sums, "h.next": sums[-1], "watched": sums}

    inputs = {"x": toy_inputs(4, 9)["x"]}
    start = {"h": np.ones((4, 2), np.float32)}
    driver = StepDriver(spec, call, start)
    trace = ClosedLoop(spec, inputs).run(driver)
    sums = inputs["x"].cumsum(1) + 1
    np.testing.assert_array_equal(trace.outputs["y"], sums)
    np.testing.assert_array_equal(trace.states["h"], sums[:, 2::3])
    np.testing.assert_array_equal(driver.states()["h"], sums[:, -1])
    assert calls == [{"x": (2, 3, 4), "h": (4, 2)}] * 3
    assert set(start["h"].flat) == {1}, "the start is the caller's"


def test_a_step_that_keeps_its_states_is_fed_frames_alone():
    x, y = TensorSpec("x", "float32", ("batch", 2)), TensorSpec("y", "float32", ("batch", 2))
    spec, kept = StreamSpec((x,), (y,), (H,)), np.zeros((4, 2), np.float32)

    def call(feed):
        nonlocal kept
        assert set(feed) == {"x"}
        kept = kept + feed["x"]
        return {"y": kept}

    inputs = {"x": toy_inputs(4, 9)["x"]}
    trace = ClosedLoop(spec, inputs).run(StepDriver(spec, call, {}))
    np.testing.assert_array_equal(trace.outputs["y"], inputs["x"].cumsum(1))
    assert trace.states == {}
