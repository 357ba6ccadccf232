"""Branches on the value of a tensor: resolved if one side is always right, assumed if declared, else refused."""

import importlib.util
import json
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rnn_export.bundle import open_bundle
from rnn_export.errors import LiftError, ParityError
from rnn_export.export import export
from rnn_export.export.lift.trace.tracing import export_program
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252

X = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
FILE = "test_decisions.py"


def line_of(kind, text):
    """The line of this file on which the class `kind` has `text`."""
    with open(__file__) as file:
        lines = file.readlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"class {kind.__name__}("))
    return next(i + 1 for i, line in enumerate(lines) if i > start and text in line)


def at(kind, text="if "):
    return f"{FILE}:{line_of(kind, text)}"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.register_buffer("trained", torch.tensor(1.0))

    def body(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


class Asserts(Net):
    def forward(self, x):
        assert torch.isfinite(x).all(), "not finite"
        return self.body(x)


class Raises(Net):
    def forward(self, x):
        if x.isnan().any():
            raise ValueError("NaN")
        return self.body(x)


class TorchAsserts(Net):
    def forward(self, x):
        torch._assert((x.abs() < 1e20).all(), "too loud")
        return self.body(x)


class Items(Net):
    def forward(self, x):
        if x.abs().max().item() > 1e20:
            raise ValueError("too loud")
        return self.body(x)


class Helper(Net):
    def forward(self, x):
        self.look(x)
        return self.body(x)

    def look(self, x):
        if not torch.isfinite(x).all():
            raise ValueError("not finite")


class Trained(Net):
    def forward(self, x):
        if self.trained > 0:
            return 2 * self.body(x)
        return self.body(x)


class Equal(Net):
    def forward(self, x):
        if torch.equal(x, torch.zeros_like(x)):
            return self.body(torch.zeros_like(x))
        return self.body(x)


class Loud(Net):
    def forward(self, x):
        if x.max() > 100:
            return 2 * self.body(x)
        return self.body(x)


class Halves(Net):
    def forward(self, x):
        while x.abs().max() > 3:
            x = x / 2
        return self.body(x)


class ClampsBeyond(Net):
    """Clamping is right on both sides of where it begins."""

    def forward(self, x):
        if x.abs().max() < 10:
            return self.body(x)
        return self.body(x.clamp(-10, 10))


class ClampsBelow(Net):
    """Between 5 and 10, clamping is another way than the fast one."""

    def forward(self, x):
        if x.abs().max() < 10:
            return self.body(x)
        return self.body(x.clamp(-5, 5))


class Silent(Net):
    """Not only zeros count as silence."""

    def forward(self, x):
        if x.abs().max() < 1e-4:
            return self.body(torch.zeros_like(x))
        return self.body(x)


class Number(Net):
    def forward(self, x):
        return self.body(x) * float(x.max())


class Starts(nn.Module):
    """A step with a fast path for when no episode starts, as policies have it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(4, 5)

    def forward(self, x, h, starts):
        if torch.all(starts == 0.0):
            h = self.cell(x, h)
            return 1.0 * h, h
        h = self.cell(x, (1.0 - starts)[:, None] * h)
        return 1.0 * h, h


SEEN_THROUGH = {
    "assert": (Asserts, "assert torch", True, "raises"),
    "raise": (Raises, "if ", False, "raises"),
    "torch._assert": (TorchAsserts, "torch._assert", True, "raises"),
    "item": (Items, "if ", False, "raises"),
    "a helper that raises": (Helper, "if ", True, "raises"),
    "weights": (Trained, "if ", True, "weights"),
    "equal": (Equal, "if ", False, "either"),
    "clamping where it changes nothing": (ClampsBeyond, "if ", False, "either"),
}


@pytest.mark.parametrize(("kind", "text", "value", "why"), SEEN_THROUGH.values(), ids=SEEN_THROUGH)
def test_guards_are_seen_through_and_said(kind, text, value, why):
    lifted = lift(kind().eval(), (X,))
    (assumption,) = lifted.spec.assumptions
    assert (assumption.at, assumption.value, assumption.why) == (at(kind, text), value, why)
    assert assumption.note in lifted.notes
    assert len(lifted.spec.states) == 1


def test_notes_say_what_was_found():
    found = {why: lift(kind().eval(), (X,)).notes[-1] for kind, why in ((Raises, 0), (Trained, 1), (Equal, 2))}
    assert found[0].endswith(
        "the way of false is taken: where it is true, the model raises an exception, and a stream does not"
    )
    assert found[1].endswith("always true, since nothing that is fed can change it")
    assert found[2].endswith(
        "the way of false is taken, which is right whatever the tensor holds, as was tried with both"
    )


def test_a_fast_path_gives_way_to_the_general_one(tmp_path):
    model = Starts().eval()
    example = (torch.randn(2, 4), torch.zeros(2, 5), torch.zeros(2))
    bundle = export(model, example, tmp_path / "net.rnnx", states={"h": 1}, time_axis=None, steps=32)
    report = json.loads(bundle.read("parity.json"))
    (seen,) = report["assumptions"]
    assert (seen["at"], seen["value"], seen["why"]) == (at(Starts), False, "either")
    assert min(seen["was_true"], seen["was_false"]) > 10
    stream, h = load(tmp_path / "net.rnnx").stream(), torch.zeros(1, 5)
    random = np.random.default_rng(0)
    for frame in random.standard_normal((40, 4)).astype("float32"):
        start = np.float32(random.random() < 0.3)
        y = stream.step({"x": frame, "starts": start})
        with torch.no_grad():
            want, h = model(torch.from_numpy(frame)[None], h, torch.tensor([start]))
        np.testing.assert_allclose(y, want[0], atol=1e-6)


class AlikeAtBothEnds(Net):
    """For quiet input and for extremely loud input both branches give the same."""

    def forward(self, x):
        x = torch.where(x.abs() > 4, x, 0.0)
        if x.mean() > 0:
            x = 1.5 * x
        return self.body(x.clamp(-6, 6))


def test_ways_that_are_alike_for_quiet_and_loud_input_are_two():
    with raises("decided-by-value", "neither was seen to give what the model gives"):
        lift(AlikeAtBothEnds().eval(), (X,))


def test_a_branch_that_is_none_of_these_is_refused_with_both_ways():
    place = at(Loud)
    with pytest.raises(LiftError) as caught:
        lift(Loud().eval(), (X,))
    message = str(caught.value)
    assert message.startswith(f"data-dependent control flow at {place}: `if x.max() > 100:`: ")
    assert re.search(r"\(in \d+ calls with both, neither was seen to give what the model gives\)", message)
    assert "Compute both and choose with torch.where." in message
    # Noise makes it false, so that verification would break the other assumption.
    assert f"is always false in a stream, say assume={{'{place}': False}} (--assume {place}=false)." in message
    assert "=true" not in message


def test_what_was_assumed_stands_in_contract_report_and_graph(tmp_path):
    place = at(Loud)
    export(Loud().eval(), (X,), tmp_path / "net.rnnx", assume={place: False}, steps=32)
    bundle = open_bundle(tmp_path / "net.rnnx")
    (assumption,) = bundle.spec.assumptions
    assert assumption.note == f"{place}: assumed to be false in every stream, as was said"
    report = json.loads(bundle.read("parity.json"))
    (seen,) = report["assumptions"]
    assert (seen["at"], seen["value"], seen["why"]) == (place, False, "said")
    assert seen["was_false"]
    assert report["not_judged"]["loud noise"] == f"on it {place} is True, other than was assumed"
    assert place.encode() in bundle.read("step.onnx")
    assert assumption.note in report["notes"]


@pytest.mark.parametrize("value", [True, False])
def test_an_assumption_is_checked_on_the_recording(tmp_path, value):
    """On 30 frames of which the last is loud, neither way is the model's on all of them."""
    place = at(Loud)
    data = np.random.default_rng(0).standard_normal((2, 30, 4)).astype("float32")
    if not value:
        data[1, 29] = 1000
    with pytest.raises(ParityError) as caught:
        export(Loud().eval(), (X,), tmp_path / "net.rnnx", assume={place: value}, data=data)
    assert str(caught.value) == (
        f"assume={{'{place}': {value}}} (--assume {place}={str(value).lower()}) does not hold on the whole "
        "sequence: `if x.max() > 100:` asks a tensor that is "
        f"{not value}. If a stream is fed other values than these, give a recording of them (data=, --data); if not, "
        "leave the assumption out, compute both and choose with torch.where. Nothing was written."
    )
    assert not (tmp_path / "net.rnnx").exists()


def test_a_broken_assumption_says_its_step(tmp_path):
    example = (torch.randn(2, 4), torch.zeros(2, 5), torch.zeros(2))
    data = {"x": np.zeros((1, 12, 4), "float32"), "starts": np.zeros((1, 12), "float32")}
    data["starts"][0, 7] = 1
    options = {"states": {"h": 1}, "time_axis": None, "assume": {at(Starts): True}}
    with raises("assumption-broken", "True}", "at step 8: `if torch.all(starts == 0.0):`"):
        export(Starts().eval(), example, tmp_path / "net.rnnx", data=data, **options)


def test_a_row_is_held_to_an_assumption_alone(tmp_path):
    """any() over both rows holds where it holds for one of them; a stream has one."""
    data = np.zeros((2, 30, 4), "float32")
    data[0] += 1000
    with raises("assumption-broken", "True}", "on the whole sequence"):
        export(Loud().eval(), (X,), tmp_path / "net.rnnx", assume={at(Loud): True}, data=data)


class KeepsRows(nn.Module):
    """A state of as many rows as the example has, and a reset by the values of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        if (x > 50).any():
            x = x / 50
        self.h = 0.5 * self.h + x
        return self.h


def test_a_row_is_asked_alone_where_the_model_keeps_several(tmp_path):
    """One row of three decides it for all of them, but not for a stream of another row."""
    data = np.zeros((2, 30, 4), "float32")
    data[0] += 1000
    model, options = KeepsRows(), {"assume": {at(KeepsRows): True}, "time_axis": None}
    with raises("assumption-broken", "True}", "at step 1", "False"):
        export(model.eval(), (torch.zeros(3, 4),), tmp_path / "net.rnnx", data=data, **options)
    data[1] += 1000
    export(model.eval(), (torch.zeros(3, 4),), tmp_path / "net.rnnx", data=data, **options)


TURN = ("decided-by-value", "was seen to give what the model gives")
REFUSED = {
    "a way that is another short of the turn": (ClampsBelow, {}, TURN),
    "a way that is another close to zero": (Silent, {}, TURN),
    "a line without a decision": (Loud, {f"{FILE}:1": True}, ("assume-never-asked", f" {FILE}:1,")),
    "a line of another file beside one that decides": (
        Loud,
        {f"other_{FILE}:1": True, at(Loud): None},
        ("assume-never-asked", f"other_{FILE}:1,"),
    ),
    "no bool": (Loud, {f"{FILE}:1": 1}, ("assume-malformed", f"'{FILE}:1': 1")),
    "no dict": (Number, [FILE], ("option-refused", "assume is ['test_decisions.py']")),
    "no line": (Loud, {"file.py": True}, ("assume-malformed", "'file.py': True")),
    "a loop that never ends": (Halves, {at(Halves, "while"): True}, ("assumed-loop-endless", 10000)),
    "a number": (Number, {}, ("number-by-value", f"{FILE}:")),
}


@pytest.mark.parametrize(("kind", "assume", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_assumed_is_refused(kind, assume, message):
    if kind is Loud:
        assume = {at: value for at, value in {at(Loud): False, **assume}.items() if value is not None}
    with raises(*message, kind=LiftError):
        lift(kind().eval(), (X,), assume=assume)


def test_a_loop_that_is_never_entered_can_be_assumed():
    (assumption,) = lift(Halves().eval(), (X,), assume={at(Halves, "while"): False}).spec.assumptions
    assert assumption.why == "said"


def test_lines_of_one_name_and_number_are_distinguished(tmp_path, monkeypatch):
    """One of them was decided as the other is."""
    code = """
import torch
from torch import nn


class Part(nn.Module):
    def forward(self, x):
        if x.abs().max() > LIMIT:
            return x * OVER
        return x
"""
    parts = []
    for name, limit in (("one", "1e6"), ("two", "2e6")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "part.py"
        path.write_text(code.replace("LIMIT", limit).replace("OVER", limit))
        spec = importlib.util.spec_from_file_location(f"{name}_part", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parts.append(module.Part())
    model, x = nn.Sequential(nn.GRU(4, 5, batch_first=True), First(), *parts).eval(), (X,)
    with raises("assume-line-ambiguous", "part.py:8", "one/part.py and of", "two/part.py"):
        lift(model, x, assume={"part.py:8": False})
    lifted = lift(model, x, assume={"one/part.py:8": False, "two/part.py:8": False})
    assert [a.at for a in lifted.spec.assumptions] == ["one/part.py:8", "two/part.py:8"]


class Resets(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 5)

    def forward(self, x, flag, h):
        if torch.any(flag != 0):
            h = h * (1 - flag)
        h = self.cell(x, h)
        return h, h


def test_an_input_that_is_not_read_where_something_is_assumed_has_no_time():
    """It was asked whether its axis is time."""
    example = (X[:, 0], torch.zeros(2, 1), torch.zeros(2, 5))
    lifted = lift(Resets().eval(), example, states={"h": 1}, assume={at(Resets): False})
    assert not lifted.spec.has_time


class First(nn.Module):
    def forward(self, x):
        return x[0]


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
