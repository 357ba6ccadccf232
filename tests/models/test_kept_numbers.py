"""Integer counters in module state: entries and parts that they select, and counters that nothing reads."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from rnn_export.errors import LiftError
from rnn_export.export import export
from rnn_export.export.lift import stages
from rnn_export.export.lift.model.decisions import Decisions
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call
from .whole_streams import streamed

X = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))


def ring(function, n=8, **parts):
    torch.manual_seed(0)
    model = Call(function, lin=nn.Linear(4, 4), buf=torch.zeros(1, n, 4), cells=cells(), h=torch.zeros(1, 4))
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def cells():
    return nn.ModuleList(nn.GRUCell(4, 4) for _ in range(3))


def assert_steps(model, calls=20):
    """Lift `model`, and hold so many steps to it; gives what was lifted."""
    lifted, own = lift(model, (X,)), copy.deepcopy(model)
    states = [lifted.initial[s.name][None] for s in lifted.spec.states]
    for x in torch.randn(calls, 1, 4, generator=torch.Generator().manual_seed(1)):
        with torch.no_grad():
            want, (got, *states) = own(x), lifted.module(x, *states)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-6)
    return lifted


def oldest(self, x):
    y = self.lin(self.buf[:, self.i])
    self.buf[:, self.i] = x
    self.i = (self.i + 1) % 8
    return y + x


def rolled(self, x):
    self.buf[:, self.i] = self.lin(x)
    self.i = (self.i + 1) % 8
    return (torch.roll(self.buf, -self.i, 1) * torch.arange(8.0)[:, None]).sum(1)


def rolled_by_int(self, x):
    self.buf[:, self.i] = self.lin(x)
    self.i = (self.i + 1) % 8
    return (torch.roll(self.buf, -int(self.i), 1) * torch.arange(8.0)[:, None]).sum(1)


def joined(self, x):
    self.buf[:, self.i] = self.lin(x)
    self.i = self.i + 1 if self.i < 7 else 0
    return torch.cat([self.buf[:, self.i :], self.buf[:, : self.i]], 1).cumsum(1)[:, 3]


def joined_by_int(self, x):
    self.buf[:, self.i] = self.lin(x)
    self.i = (self.i + 1) % 8
    return torch.cat([self.buf[:, self.i :], self.buf[:, : self.i]], 1).cumsum(1)[:, 3]


def back(self, x):
    self.buf[:, self.i] = self.lin(x)
    self.i = (self.i + 3) % 8
    return self.buf[:, self.i - 1] + self.buf[..., self.i, :]


def pairs(self, x):
    self.buf[:, self.i : self.i + 2] += x[:, None]
    y = self.buf[:, self.i + 1] * 0.5
    self.i = (self.i + 2) % 8
    return y


def chosen(self, x):
    self.h = self.cells[self.i % 3](x, self.h)
    self.i += 1
    return self.h


def chosen_as_values_go(self, x):
    self.h = self.cells[self.i](x, self.h)
    if x.sum() > 0:
        self.i = (self.i + 1) % 3
    return self.h


def delayed(self, x):
    y = 2 * self.past[self.i]
    self.past[self.i] = self.lin(x)
    self.i = (self.i + 1) % 3
    return y


def in_a_loop(self, x):
    ys = []
    for t in range(x.shape[1]):
        self.buf[:, self.i] = x[:, t]
        self.i = (self.i + 1) % 8
        ys.append(self.lin(self.buf.sum(1)))
    return torch.stack(ys, 1)


@pytest.mark.parametrize("function", [oldest, rolled, rolled_by_int, joined, back, pairs, chosen, chosen_as_values_go])
def test_numbers_pick_entries_and_parts(function):
    lifted = assert_steps(ring(function, i=0))
    assert lifted.spec.rows == 1
    assert "i" in {s.name for s in lifted.spec.states}


@pytest.mark.parametrize("number", [torch.tensor(0), torch.tensor([0])])
@pytest.mark.parametrize("function", [rolled_by_int, joined_by_int])
def test_numbers_in_buffers_pick_too(function, number):
    model = ring(function)
    model.register_buffer("i", number)
    assert_steps(model)


def test_entries_of_a_list_are_states_together():
    lifted = assert_steps(ring(delayed, i=0, past=[torch.zeros(1, 4) for _ in range(3)]))
    assert {s.name for s in lifted.spec.states} == {"i", "past.0", "past.1", "past.2"}


def test_a_ring_in_a_loop_streams():
    lifted, x = lift(ring(in_a_loop, i=0), (torch.randn(1, 11, 4),)), torch.randn(1, 21, 4)
    with torch.no_grad():
        want = ring(in_a_loop, i=0)(x).numpy()
    np.testing.assert_allclose(streamed(lifted, x)[0], want, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("function", [rolled, chosen])
def test_a_ring_in_onnx_and_c(function, tmp_path):
    model = ring(function, i=0)
    export(model, (X,), tmp_path / "ring.rnnx", targets=("onnx", "c"), steps=24)
    for backend in ("onnxruntime", "native"):
        stream, own = load(tmp_path / "ring.rnnx", backend=backend).stream(), ring(function, i=0)
        for x in torch.randn(20, 1, 4):
            with torch.no_grad():
                want = own(x).numpy()[0]
            np.testing.assert_allclose(stream.step(x.numpy()[0]), want, atol=2e-6, rtol=1e-5)


def test_a_number_that_nothing_but_an_index_asks_is_a_state():
    """It picks the same part for hundreds of calls."""

    def forward(self, x):
        self.h = self.cells[self.i // 1000 % 3](x, self.h)
        self.i += 1
        return self.h

    assert {s.name for s in lift(ring(forward, i=0), (X,)).spec.states} == {"h", "i"}


@pytest.mark.parametrize("shown", [lambda t: divmod(t, 500)[0], lambda t: range(9)[t // 500], lambda t: len("a" * t)])
def test_a_number_that_is_asked_otherwise_is_refused(shown):
    def forward(self, x):
        self.i += 1
        return self.lin(x) * self.shown(self.i)

    with pytest.raises(LiftError):
        lift(ring(forward, i=0, shown=shown), (X,))


def test_a_number_that_only_counts_is_no_state():
    def forward(self, x):
        self.i += 1
        return self.lin(x)

    model = Call(forward, lin=nn.Linear(4, 4))
    model.i = 0
    assert not lift(model, (X,)).spec.states


def test_a_table_that_ends_is_refused():
    def forward(self, x):
        self.buf[:, self.i] = x
        self.i += 1
        return self.lin(self.buf.sum(1))

    with raises("counter-beyond-table", "301", "300 of 300"):
        lift(ring(forward, 300, i=0), (X,))
    with raises("counted-call-fails", "9", "at test_kept_numbers.py", "index 8 is out"):
        lift(ring(forward, 8, i=0), (X,))


def test_numbers_of_what_is_fed_are_refused():
    def forward(self, x):
        return self.cells[int(x.argmax()) % 3](x, self.lin(x))

    with raises("number-by-value", "it is not of numbers that calls count alone"):
        lift(ring(forward), (X,))


def test_a_way_that_no_call_went_is_refused():
    """A value that is put there by a way of the code that no call tried went."""

    def forward(self, x):
        self.h = self.cells[self.i](x, self.h)
        self.i = (self.i + 1) % 2
        if x.max() > 1e4:
            self.i = 2
        return self.h

    with raises("decided-by-value", "counted otherwise in a way of the code that was not met"):
        lift(ring(forward, i=0), (X,))


class Pair(NamedTuple):
    h: torch.Tensor
    pos: int


@dataclass
class Record:
    h: torch.Tensor
    pos: int


def turned(h, pos):
    return h * torch.cos(torch.tensor(0.3) * pos)


def of_dict(self, x, state):
    h = self.cells[0](x, state["h"])
    return turned(h, state["pos"]), {"pos": state["pos"] + 1, "h": h}


def of_tuple(self, x, state):
    h = self.cells[0](x, state[0])
    return turned(h, state[1]), (h, state[1] + 1)


def of_names(self, x, state):
    h = self.cells[0](x, state.h)
    return turned(h, state.pos), type(state)(h, state.pos + 1)


def of_lists(self, x, state):
    (h, pos), gain = state["layers"][0], state["gain"]
    h = self.cells[0](x, h)
    return gain * turned(h, pos), {"layers": [(h, pos + 1)], "gain": 0.9 * gain}


def of_a_number(self, x, state):
    return turned(self.lin(x), state), state + 1


def as_a_tensor(self, x, state):
    h = self.cells[0](x, state["h"])
    return turned(h, state["pos"]), {"h": h, "pos": torch.as_tensor(state["pos"]) + 1}


def by_flag(self, x, state):
    h = self.lin(x) if state["first"] else self.cells[0](x, state["h"])
    return h, {"h": h, "first": False}


def by_count(self, x, state):
    h = self.lin(x) if state["pos"] == 0 else self.cells[0](x, state["h"])
    return h, {"h": h, "pos": state["pos"] + 1}


def in_a_table(self, x, state):
    h = self.cells[0](x + self.buf[0, state["pos"] % 8], state["h"])
    return h, {"h": h, "pos": state["pos"] + 1}


def in_a_ring(self, x, state):
    cache = state["h"].clone()
    cache[:, state["pos"] % 3] = self.lin(x)
    return cache.sum(1), {"h": cache, "pos": state["pos"] + 1}


def in_a_list(self, x, state):
    angle = torch.tensor([state["pos"]], dtype=torch.float32)[:, None] * torch.arange(4)
    h = self.cells[0](x, state["h"])
    return h * angle.cos(), {"h": h, "pos": state["pos"] + 1}


def for_all_rows(self, x, state):
    pos = torch.full((x.shape[0],), state["pos"])
    h = self.cells[0](x + self.buf[0, pos % 8], state["h"])
    return h, {"h": h, "pos": state["pos"] + 1}


def sliced(self, x, state):
    """More entries than there may be ways."""
    pos = state["pos"]
    h = self.cells[0](x + self.buf.repeat(1, 8, 1)[0, pos : pos + 1], state["h"])
    return h, {"h": h, "pos": (pos + 1) % 40}


def in_a_cache_that_grows(self, x, state):
    cache = torch.cat([state["h"], self.lin(x)[:, None]], 1)[:, -5:]
    return turned(cache.sum(1), state["pos"]), {"h": cache, "pos": state["pos"] + 1}


H = torch.zeros(1, 4)
COUNTED = {"h": H, "pos": 0}
IN_STATES = {
    "dict": (of_dict, COUNTED, ["state.h", "state.pos"]),
    "tuple": (of_tuple, (H, 0), ["state.0", "state.1"]),
    "named tuple": (of_names, Pair(H, 0), ["state.h", "state.pos"]),
    "dataclass": (of_names, Record(H, 0), ["state.h", "state.pos"]),
    "nested": (of_lists, {"layers": [(H, 0)], "gain": 1.0}, ["state.layers.0.0", "state.layers.0.1", "state.gain"]),
    "alone": (of_a_number, 0, ["state"]),
    "as a tensor": (as_a_tensor, COUNTED, ["state.h", "state.pos"]),
    "flag": (by_flag, {"h": H, "first": True}, ["state.h", "state.first"]),
    "compared": (by_count, COUNTED, ["state.h", "state.pos"]),
    "table": (in_a_table, COUNTED, ["state.h", "state.pos"]),
    "list": (in_a_list, COUNTED, ["state.h", "state.pos"]),
    "full": (for_all_rows, COUNTED, ["state.h", "state.pos"]),
    "slice": (sliced, COUNTED, ["state.h", "state.pos"]),
    "cache": (in_a_cache_that_grows, {"h": torch.zeros(1, 0, 4), "pos": 0}, ["state.h", "state.pos", "state_count"]),
    "ring": (in_a_ring, {"h": torch.zeros(1, 3, 4), "pos": 0}, ["state.h", "state.pos"]),
}


@pytest.mark.parametrize(("function", "state", "names"), IN_STATES.values(), ids=IN_STATES)
def test_a_number_in_a_declared_state_is_a_state(function, state, names):
    model = ring(function, buf=torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(2)))
    lifted = lift(model, (X, state), states={"state": 1}, time_axis=None)
    assert sorted(s.name for s in lifted.spec.states) == sorted(names)
    assert {o.kind for o in lifted.origins} == {"argument"}
    states = [lifted.initial[s.name][None] for s in lifted.spec.states]
    for x in torch.randn(12, 1, 4, generator=torch.Generator().manual_seed(1)):
        with torch.no_grad():
            want, state = model(x, state)
            got, *states = lifted.module(x, *states)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-6)


def test_the_models_own_number_stays_a_number_where_the_model_is_the_reference(tmp_path):
    # A list would be a copy in the reference.
    given = str(tmp_path / "given")

    def forward(self, x, state):
        if type(state["pos"]) is int:
            with open(given, "a") as file:
                print(state["pos"], file=file)
        return of_dict(self, x, state)

    example = torch.zeros(2, 4), {"h": torch.zeros(2, 4), "pos": 0}
    bundle = export(ring(forward), example, tmp_path / "pos.rnnx", states={"state": 1}, time_axis=None, steps=24)
    assert bundle.spec.rows is None
    assert [(s.dtype, s.shape) for s in bundle.spec.states] == [("float32", ("batch", 4)), ("int64", ("batch",))]
    assert "23" in Path(given).read_text().split()


def test_a_number_that_was_frozen_does_not_pass_verification(tmp_path, monkeypatch):
    """The reference feeds back the output of the model."""
    decided = Decisions(checked=False)
    monkeypatch.setattr(stages, "with_states", lambda flat: flat.replace(decisions=decided))
    monkeypatch.setattr(stages.FlatModel, "held", property(lambda self: {}))
    lifted = lift(ring(of_dict), (X, COUNTED), states={"state": 1}, time_axis=None)
    assert [s.name for s in lifted.spec.states] == ["state.h"]
    monkeypatch.undo()
    monkeypatch.setattr("rnn_export.export.export_module.lift", lambda *_, **__: lifted)
    with raises("parity-diverges", "step 2"):
        export(ring(of_dict), (X, COUNTED), tmp_path / "frozen.rnnx", states={"state": 1}, time_axis=None)


def test_a_number_starts_as_in_the_example_or_as_is_said():
    def first_of(pos, **options):
        return lift(ring(of_dict), (X, {"h": H, "pos": pos}), states={"state": 1}, time_axis=None, **options).initial

    assert int(first_of(5)["state.pos"]) == 5
    assert int(first_of(5, initial={"state.pos": torch.tensor(2)})["state.pos"]) == 2


def test_a_state_that_the_example_leaves_out_counts_from_nothing():
    def forward(self, x, state=None):
        return of_dict(self, x, {"h": torch.zeros(x.shape[0], 4), "pos": 0} if state is None else state)

    lifted = lift(ring(forward), (X,), states={"state": 1}, time_axis=None)
    assert int(lifted.initial["state.pos"]) == 0


def test_a_number_that_comes_back_as_it_went_in_is_no_state():
    def forward(self, x, state):
        h = self.cells[0](x, state["h"])
        return h * state["gain"], {"h": h, "gain": state["gain"], "mode": state["mode"]}

    example = X, {"h": H, "gain": 0.5, "mode": "plain"}
    lifted = lift(ring(forward), example, states={"state": 1}, time_axis=None)
    assert [s.name for s in lifted.spec.states] == ["state.h"]


REFUSED = {
    "word": ({"mode": "b"}, ("state-part-not-numeric", "'state.mode'", "'a'", "comes back as 'b'")),
    "left out": ({}, ("state-part-not-numeric", "'state.mode'", "'a'", "does not come back")),
}


@pytest.mark.parametrize(("back", "message"), REFUSED.values(), ids=REFUSED)
def test_a_part_of_a_state_that_is_no_number_is_refused_by_name(back, message):
    def forward(self, x, state):
        h = self.cells[0](x, state["h"])
        return h if state["mode"] == "a" else -h, {"h": h, **back}

    with raises(*message):
        lift(ring(forward), (X, {"h": H, "mode": "a"}), states={"state": 1}, time_axis=None)


def test_a_number_that_python_computes_with_is_refused_by_name():
    def forward(self, x, state):
        h = self.cells[0](x, state["h"])
        return h * math.cos(state["pos"]), {"h": h, "pos": state["pos"] + 1}

    with raises("number-by-value", "test_kept_numbers.py", "state.pos: a number in a declared state"):
        lift(ring(forward), (X, COUNTED), states={"state": 1}, time_axis=None)


def test_a_slice_of_a_table_that_ends_is_refused():
    def forward(self, x, state):
        h = self.cells[0](x + self.buf[0, state["pos"] : state["pos"] + 1], state["h"])
        return h, {"h": h, "pos": state["pos"] + 1}

    with raises("counter-beyond-table", "301", "300 of 300"):
        lift(ring(forward, 300), (X, COUNTED), states={"state": 1}, time_axis=None)
