"""A bundle whose states are packed: its streams, what its verification and its pages name, and its contract."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rnn_export.cli.main import main
from rnn_export.contract.spec import PackedState, StateSpec, StreamSpec
from rnn_export.export import export
from rnn_export.runtime import load

from ..messages import raises  # noqa: TID252
from ..zoo.packing import X, ahead  # noqa: TID252
from .streams import Call


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("packed") / "packed.rnnx"
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
    def both(s, x, h, g):
        h = s.a(x, h)
        g = s.b(h, g)
        return g.tanh(), h, g

    example = (torch.randn(2, 4), torch.zeros(2, 6), torch.zeros(2, 6))
    model = Call(both, a=nn.GRUCell(4, 6), b=nn.GRUCell(6, 6))
    bundle = export(model, example, tmp_path / "it.rnnx", states={"h": 1, "g": 2}, pack_states=True, steps=16)
    assert [p.name for p in bundle.spec.states[0].parts] == ["h", "g"]
    drifts = json.loads(bundle.read("parity.json"))["drifts"]
    assert {"h", "g"} <= {d["tensor"] for d in drifts if d["check"] == "lifted"}


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
