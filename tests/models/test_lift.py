"""The user's model after lifting, its mode, its digest and its names; tests/zoo/arguments.py has more."""

import copy

import pytest
import torch
from torch import nn

from rnn_export.errors import LiftError

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from ..zoo.arguments import FRAME, RING, H, X, gru, into  # noqa: TID252
from .nets import LearnedStart, Named, Reassigned, Tagger
from .streams import Call


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("row", [torch.randn(5), torch.randn(1, 5)], ids=["row", "batch of one"])
def test_initial_is_one_row(row):
    lifted = lift(Named().eval(), (FRAME, torch.ones(2, 5)), states={"h": 1}, initial={"h": row})
    assert torch.equal(lifted.initial["h"], row.reshape(5))
    assert lifted.spec.states[0].initial == "stored"


def test_a_model_is_a_module():
    with raises("not-a-module", "function"):
        lift(lambda x: x, (X,))


def test_names_can_be_chosen_and_the_example_may_be_a_bare_tensor():
    spec = lift(Tagger().eval(), X, input_names=["sound"], output_names=["tag"], sample_rate=8000).spec
    assert (spec.inputs[0].name, spec.outputs[0].name, spec.sample_rate) == ("sound", "tag", 8000)


# --- the mode, and the user's own model ---------------------------------------------------------------------------


def with_batch_norm():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    ("model", "x", "names"),
    [
        (nn.LSTM(4, 5, 2, dropout=0.5), X, ["(LSTM)"]),
        (with_batch_norm(), FRAME, []),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), FRAME, ["(Dropout)"]),
    ],
    ids=["a layer", "statistics", "dropout"],
)
def test_train_mode_that_changes_the_outputs_is_refused(model, x, names):
    with raises("train-mode-differs", *names):
        lift(model, (x,))


def test_nan_of_a_kept_probability_is_no_matter_of_train_mode():
    def forward(s, x):
        q = s.p * x.exp()
        s.p = q / q.sum(-1, keepdim=True)
        return s.p

    with raises("noise-gives-nan", "it makes none where 'p', which it keeps, is 1"):
        lift(Call(forward, p=torch.zeros(1, 4)).train(), (FRAME[:1],))


NEVER_CHANGED = {
    "train mode without effect": (Tagger, (X,), {}),
    "a buffer": (Reassigned, (FRAME[:1],), {}),
    "refused train mode": (with_batch_norm, (FRAME,), {}),
    "a learned start": (LearnedStart, (X,), {}),
    "an argument written to": (lambda: Call(into), (FRAME[:1], RING), {"states": {"ring": "ring"}}),
}


@pytest.mark.parametrize(("make", "example", "options"), NEVER_CHANGED.values(), ids=NEVER_CHANGED)
def test_the_users_model_and_example_are_never_changed(make, example, options):
    model = make()
    before, attributes = copy.deepcopy(model.state_dict()), {n: set(vars(m)) for n, m in model.named_modules()}
    modules = [(m, type(m), m.training) for m in model.modules()]
    given = [x.clone() for x in example]
    try:
        lift(model, example, **options)
    except LiftError:
        assert make is with_batch_norm
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {n: set(vars(m)) for n, m in model.named_modules()} == attributes
    assert [(m, type(m), m.training) for m in model.modules()] == modules
    assert all(torch.equal(a, b) for a, b in zip(example, given, strict=True))


# --- the digest ---------------------------------------------------------------------------------------------------


DIGEST = "dbba32cb0e806fa848f56e6fb2527c22df0e725c1ff7dd641bb9fbb8f7b8d410"


def digest(model: nn.Module, **options: object) -> str:
    return lift(model.eval(), (X,), **options).spec.digest


def quarters(model: nn.Module) -> nn.Module:
    for weight in model.parameters():
        nn.init.constant_(weight, 0.25)
    return model


def test_the_digest_is_that_of_contract_and_weights_in_every_run():
    model = quarters(Tagger())
    assert digest(model) == DIGEST
    with torch.no_grad():
        model.rnn.weight_hh_l0[0, 0] += 1e-3
    assert len({DIGEST, digest(model), digest(model, chunk=2), digest(model, output_names=["y"])}) == 4


def test_a_buffer_that_is_not_saved_is_in_the_digest():
    def scaled(value: float) -> nn.Module:
        model = Call(lambda s, x: s.rnn(x)[0] * s.scale, rnn=gru())
        model.register_buffer("scale", torch.tensor(value), persistent=False)
        return quarters(model)

    assert digest(scaled(1.0)) == digest(scaled(1.0)) != digest(scaled(2.0))


def test_initial_values_are_in_the_digest():
    def start(value: float) -> str:
        return lift(model, (FRAME, H), states={"h": 1}, initial={"h": torch.full((5,), value)}).spec.digest

    model = Named().eval()
    assert start(1.0) == start(1.0) != start(2.0)
