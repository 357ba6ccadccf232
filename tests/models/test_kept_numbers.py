"""Counters in exported models, and in the model as the reference of an export; tests/zoo/counters.py has more."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rnn_export.export import export
from rnn_export.export.lift import stages
from rnn_export.export.lift.model.decisions import Decisions
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.counters import COUNTED, X, chosen, of_dict, ring, rolled  # noqa: TID252


@pytest.mark.parametrize("function", [rolled, chosen])
def test_a_ring_in_onnx_and_c(function, tmp_path):
    model = ring(function, i=0)
    export(model, (X,), tmp_path / "ring.rnnx", targets=("onnx", "c"), steps=12)
    for backend in ("onnxruntime", "native"):
        stream, own = load(tmp_path / "ring.rnnx", backend=backend).stream(), ring(function, i=0)
        for x in torch.randn(10, 1, 4):
            with torch.no_grad():
                want = own(x).numpy()[0]
            np.testing.assert_allclose(stream.step(x.numpy()[0]), want, atol=2e-6, rtol=1e-5)


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
