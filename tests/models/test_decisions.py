"""A decision by value stands in the contract and the report, and is held to recordings."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnn_export.bundle import open_bundle
from rnn_export.errors import LiftError
from rnn_export.export import export
from rnn_export.export.lift.trace.tracing import export_program
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.decisions import FRAME, H, X, at, halves, loud, net, starts  # noqa: TID252
from .streams import Call

LOUD = at(loud)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def at_here(forward):
    return at(forward).replace("decisions.py", "test_decisions.py")


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def test_a_fast_path_gives_way_to_the_general_one(tmp_path):
    model = Call(starts, cell=nn.GRUCell(4, 5))
    example = (FRAME, H, torch.zeros(2))
    bundle = export(model, example, tmp_path / "net.rnnx", states={"h": 1}, time_axis=None, steps=32)
    (seen,) = json.loads(bundle.read("parity.json"))["assumptions"]
    assert (seen["at"], seen["value"], seen["why"]) == (at(starts), False, "either")
    assert min(seen["was_true"], seen["was_false"]) > 10
    stream, h = load(tmp_path / "net.rnnx").stream(), torch.zeros(1, 5)
    random = np.random.default_rng(0)
    for frame in noise(40, 4):
        start = np.float32(random.random() < 0.3)
        y = stream.step({"x": frame, "starts": start})
        with torch.no_grad():
            want, h = model(torch.from_numpy(frame)[None], h, torch.tensor([start]))
        np.testing.assert_allclose(y, want[0], atol=1e-6)


def test_a_branch_that_is_none_of_these_is_refused_with_both_ways():
    ways = (
        f"data-dependent control flow at {LOUD}: `if x.max() > 100:`: ",
        "calls with both, neither was seen to give what the model gives)",
        "Compute both and choose with torch.where.",
        # Noise makes it false, so that verification would break the other assumption.
        f"is always false in a stream, say assume={{'{LOUD}': False}} (--assume {LOUD}=false).",
    )
    with pytest.raises(LiftError) as caught:
        lift(net(loud), (X,))
    assert [part for part in ways if part not in str(caught.value)] == []
    assert "=true" not in str(caught.value)


def resets(s, x, flag, h):
    if torch.any(flag != 0):
        h = h * (1 - flag)
    h = s.cell(x, h)
    return h, h


def test_what_was_assumed_is_taken():
    """A loop is never entered, and an input that is not read then has no time."""
    (assumption,) = lift(net(halves), (X,), assume={at(halves, "while"): False}).spec.assumptions
    assert assumption.why == "said"
    example = (FRAME, torch.zeros(2, 1), H)
    lifted = lift(Call(resets, cell=nn.GRUCell(4, 5)), example, states={"h": 1}, assume={at_here(resets): False})
    assert not lifted.spec.has_time


def test_what_was_assumed_stands_in_contract_report_and_graph(tmp_path):
    export(net(loud), (X,), tmp_path / "net.rnnx", assume={LOUD: False}, steps=32)
    bundle = open_bundle(tmp_path / "net.rnnx")
    (assumption,) = bundle.spec.assumptions
    assert assumption.note == f"{LOUD}: assumed to be false in every stream, as was said"
    report = json.loads(bundle.read("parity.json"))
    (seen,) = report["assumptions"]
    assert (seen["at"], seen["value"], seen["why"]) == (LOUD, False, "said")
    assert seen["was_false"] > seen["was_true"]
    assert report["not_judged"]["loud noise"] == f"on it {LOUD} is True, other than was assumed"
    assert LOUD.encode() in bundle.read("step.onnx")
    assert assumption.note in report["notes"]


def test_an_assumption_is_checked_on_the_recording(tmp_path):
    """On 30 frames of which the last is loud."""
    data = noise(2, 30, 4)
    data[1, 29] = 1000
    said = (
        f"assume={{'{LOUD}': False}} (--assume {LOUD}=false) does not hold on the whole sequence: ",
        "`if x.max() > 100:` asks a tensor that is True. If a stream is fed other values than these, give a recording",
        "(data=, --data); if not, leave the assumption out, compute both and choose with torch.where. Nothing was",
    )
    with raises("assumption-broken", *said):
        export(net(loud), (X,), tmp_path / "net.rnnx", assume={LOUD: False}, data=data)
    assert not (tmp_path / "net.rnnx").exists()


def test_a_broken_assumption_says_its_step(tmp_path):
    data = {"x": np.zeros((1, 12, 4), "float32"), "starts": np.zeros((1, 12), "float32")}
    data["starts"][0, 7] = 1
    options = {"states": {"h": 1}, "time_axis": None, "assume": {at(starts): True}}
    model, example = Call(starts, cell=nn.GRUCell(4, 5)), (FRAME, H, torch.zeros(2))
    with raises("assumption-broken", "True}", "at step 8: `if torch.all(starts == 0.0):`"):
        export(model, example, tmp_path / "net.rnnx", data=data, **options)


def test_a_row_is_held_to_an_assumption_alone(tmp_path):
    """any() over both rows holds where it holds for one of them; a stream has one."""
    data = np.zeros((2, 30, 4), "float32")
    data[0] += 1000
    with raises("assumption-broken", "True}", "on the whole sequence"):
        export(net(loud), (X,), tmp_path / "net.rnnx", assume={LOUD: True}, data=data)


def test_a_row_is_asked_alone_where_the_model_keeps_several(tmp_path):
    """One row of three decides it for all of them, but not for a stream of another row."""

    def forward(s, x):
        if (x > 50).any():
            x = x / 50
        s.h = 0.5 * s.h + x
        return s.h

    data = np.zeros((2, 30, 4), "float32")
    data[0] += 1000
    model, options = Call(forward, h=torch.zeros(3, 4)), {"assume": {at_here(forward): True}, "time_axis": None}
    with raises("assumption-broken", "True}", "at step 1", "False"):
        export(model, (torch.zeros(3, 4),), tmp_path / "net.rnnx", data=data, **options)
    data[1] += 1000
    export(model, (torch.zeros(3, 4),), tmp_path / "net.rnnx", data=data, **options)


PART = """
from torch import nn


class Part(nn.Module):
    def forward(self, x):
        if x.abs().max() > LIMIT:
            return x * LIMIT
        return x
"""


def test_lines_of_one_name_and_number_are_distinguished(tmp_path):
    """One of them was decided as the other is."""
    parts = []
    for name, limit in (("one", "1e6"), ("two", "2e6")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "part.py"
        path.write_text(PART.replace("LIMIT", limit))
        spec = importlib.util.spec_from_file_location(f"{name}_part", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parts.append(module.Part())
    model, x = nn.Sequential(net(lambda s, x: s.gru(x)[0]), *parts).eval(), (X,)
    with raises("assume-line-ambiguous", "part.py:7", "one/part.py and of", "two/part.py"):
        lift(model, x, assume={"part.py:7": False})
    lifted = lift(model, x, assume={"one/part.py:7": False, "two/part.py:7": False})
    assert [a.at for a in lifted.spec.assumptions] == ["one/part.py:7", "two/part.py:7"]


class Noting(nn.Module):
    """A part that keeps what it was given, in the open and in a list, before it decides."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Identity()
        self.part.seen = "nothing"

    def forward(self, x: Tensor) -> Tensor:
        self.part.seen, self.part.more = x + 1, [x + 2]
        return x if x.sum() > 0 else -x


def test_a_trace_leaves_nothing_in_the_model():
    """The values that a trace sets, finished or not, could be copied no more."""
    model = Noting().eval()
    with pytest.raises(LiftError):
        export_program(model, (torch.ones(1, 4),), (None,))
    assert model.part.seen == "nothing"
    assert not hasattr(model.part, "more")
