"""States packed into one tensor: the same stream, and a contract with the layout."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.cli.main import main
from rnn_export.contract.layout import unpacked
from rnn_export.contract.spec import PackedState, StateSpec, StreamSpec
from rnn_export.export import export
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .nets import LearnedStart
from .streams import Call
from .whole_streams import assert_whole

X = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))  # (B, C, T)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def conv(size: int = 3, **options) -> nn.Conv1d:
    return nn.Conv1d(4, 4, size, **options)


def ahead() -> nn.Module:
    """Windows and waiting frames, a count of frames until the context is full, an end, and an LSTM."""
    return Call(
        lambda s, x: s.r(s.c(s.d(x)).mT)[0].mT + x[..., 2:], c=conv(padding=1), d=conv(),
        r=nn.LSTM(4, 4, 2, batch_first=True),
    )  # fmt: skip


def test_a_packed_stream_is_the_model_to_its_end_and_counters_stay_separate():
    plain, packed = (assert_whole(ahead(), X, pack_states=yes).spec for yes in (False, True))
    assert [s.name for s in packed.states] == ["states", "past_end", "warm_up"]
    (state, *separate) = packed.states
    assert separate == [s for s in plain.states if s.name in ("warm_up", "past_end")]
    assert packed.end == "past_end"
    assert [p.name for p in state.parts] == [s.name for s in plain.states if s not in separate]
    assert [p.offset for p in state.parts] == [*np.cumsum([0, *(p.size for p in state.parts)])[:-1]]
    assert state.shape == ("batch", sum(p.size for p in state.parts))
    assert packed.digest != plain.digest


def test_a_stored_start_is_packed_too():
    lifted = lift(LearnedStart(), (torch.randn(2, 5, 4),), pack_states=True)
    (state,) = lifted.spec.states
    assert state.initial == "stored"
    plain = lifted.unpacked
    starts = unpacked(lifted.spec, {state.name: lifted.initial[state.name].numpy()})
    for name, start in starts.items():
        np.testing.assert_array_equal(start, plain.initial[name].numpy())


def test_what_a_model_of_one_stream_keeps_is_packed():
    model = Call(lambda s, x: torch.stack([s.r(row)[0] for row in x]), r=nn.LSTM(4, 3, 2, batch_first=True))
    spec = lift(model, (X[:1].mT[None],), pack_states=True, time_axis=2).spec
    assert spec.rows == 1
    assert [len(s.parts) for s in spec.states] == [4]


def test_one_state_is_not_packed_and_a_note_says_so():
    lifted = lift(nn.GRU(4, 3, batch_first=True), (X.mT,), pack_states=True)
    assert [s.parts for s in lifted.spec.states] == [()]
    why = "pack_states: of 1 states 1 could be packed (float32, no count), so none is"
    assert why in lifted.notes


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("packed")
    path = folder / "packed.rnnx"
    return export(ahead().eval(), (X,), path, pack_states=True, targets=("onnx", "c"), steps=32)


def test_it_streams_in_two_backends_and_a_snapshot_travels(bundle):
    torch.manual_seed(0)
    with torch.no_grad():
        want = ahead()(X[:1])[0].T.numpy()
    xs = X[0].T.numpy()
    onnx, native = (load(bundle.path, backend).stream() for backend in ("onnxruntime", "native"))
    first = onnx.run(xs[:9])
    native.restore(onnx.snapshot())
    given = np.concatenate([first, native.run(xs[9:]), native.finish()])
    np.testing.assert_allclose(given, want, atol=2e-6)


def test_verification_names_the_states_one_by_one(bundle):
    report = json.loads(bundle.read("parity.json"))
    parts = {p.name for s in bundle.spec.states for p in s.parts}
    assert parts <= {d["tensor"] for d in report["drifts"]}
    assert "states" not in {d["tensor"] for d in report["drifts"]}


def test_a_step_with_its_own_states_is_held_to_them(tmp_path):
    example = (torch.randn(2, 4), torch.zeros(2, 6), torch.zeros(2, 6))
    bundle = export(TwoCells(), example, tmp_path / "it.rnnx", states={"h": 1, "g": 2}, pack_states=True, steps=16)
    assert [p.name for p in bundle.spec.states[0].parts] == ["h", "g"]
    drifts = json.loads(bundle.read("parity.json"))["drifts"]
    assert {"h", "g"} <= {d["tensor"] for d in drifts if d["check"] == "lifted"}


class TwoCells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRUCell(4, 6), nn.GRUCell(6, 6)
        self.eval()

    def forward(self, x, h, g):
        h = self.a(x, h)
        g = self.b(h, g)
        return g.tanh(), h, g


def test_people_see_what_lies_where(bundle, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", str(bundle.path)])
    shown = capsys.readouterr().out
    readme, header = bundle.read("README.md").decode(), bundle.read("targets/c-fp32/packed.h").decode()
    for part in bundle.spec.states[0].parts:
        assert f"{part.name} " in shown
        assert f"{part.offset} to {part.offset + part.size - 1}" in shown
        assert f"from entry {part.offset} of a row | `{part.name}`" in readme
        assert f"{part.name} {part.shape} from {part.offset}" in header


def test_a_contract_keeps_its_parts_and_refuses_wrong_ones(bundle):
    spec = bundle.spec
    assert StreamSpec.from_json(json.loads(spec.dumps())) == spec
    (state, *separate) = spec.states
    first, *rest = state.parts
    with raises("packed-part-misplaced", "1 of 'states'", "0"):
        replace(state, parts=(replace(first, offset=1), *rest))
    with raises("packed-size-differs", "5"):
        StateSpec("s", "s", "s.next", "float32", ("batch", 4), parts=(PackedState("a", (5,), 0),))
    twice = tuple(replace(p, name="a") for p in state.parts)
    with raises("contract-contradiction", "names must be unique"):
        replace(spec, states=(replace(state, parts=twice), *separate))


def test_equal_states_are_one():
    """Both convolutions of a gate keep the same frames; both outputs wait for the same."""
    gated = Call(lambda s, x: s.a(F.pad(x, (2, 0))).tanh() * s.b(F.pad(x, (2, 0))).sigmoid(), a=conv(), b=conv())
    lifted = assert_whole(gated, X)
    assert [s.name for s in lifted.spec.states] == ["a.frames"]
    assert lifted.origins[0].why.endswith("kept once for 2 places")
    ahead = Call(lambda s, x: (s.a(x) + x, s.b(x) * x), a=conv(padding=1), b=conv(padding=1))
    assert [s.name for s in assert_whole(ahead, X).spec.states] == ["past_end", "a.frames", "delay"]


def test_states_that_start_alike_and_go_on_otherwise_are_two():
    a, b = (nn.GRU(4, 4, batch_first=True) for _ in range(2))
    both = Call(lambda s, x: s.a(s.a(x.mT)[0])[0] + s.a(x.mT)[0] + s.b(x.mT)[0], a=a, b=b)
    assert [s.name for s in assert_whole(both, X).spec.states] == ["a.l0.h", "a.call1.l0.h", "b.l0.h"]
