import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError
from rnn_export.models import CustomGRU, SimpleRNN

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .nets import Dict, Explicit, LearnedStart, Named, Tagger, Tuple

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
FRAME = X[:, 0]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Call(nn.Module):
    """A model whose forward is a function of (self, ...)."""

    def __init__(self, function, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.__class__ = type("Call", (Call,), {"forward": function})
        self.eval()


def gru(**options) -> nn.GRU:
    return nn.GRU(4, 4, batch_first=True, **options)


def states_of(model: nn.Module, *example, **options) -> list[str]:
    return [s.name for s in lift(model, example, **options).spec.states]


# --- names --------------------------------------------------------------------------------------------------------

SHARED = gru()
NAMES = {
    "bare layer": (nn.LSTM(4, 5, 2), ["l0.h", "l0.c", "l1.h", "l1.c"]),
    "bare layer of ours": (CustomGRU(4, 5, 2), ["l0.h", "l1.h"]),
    "simple network": (SimpleRNN(4, 5, 3), ["l0.h"]),
    "inside a model": (Tagger(nn.LSTM), ["rnn.l0.h", "rnn.l0.c"]),
    "named layer": (Call(lambda s, x: s.layer(x)[0], layer=gru()), ["layer.l0.h"]),
    "nested": (
        Call(lambda s, x: s.a[1]["b"](x)[0], a=nn.ModuleList([nn.ReLU(), nn.ModuleDict({"b": gru()})])),
        ["a.1.b.l0.h"],
    ),
    "called twice": (
        Call(lambda s, x: s.a(s.a(x)[0])[0], a=gru(num_layers=2)),
        ["a.l0.h", "a.l1.h", "a.call1.l0.h", "a.call1.l1.h"],
    ),
    "under two names": (Call(lambda s, x: s.b(s.a(x)[0])[0], a=SHARED, b=SHARED), ["a.l0.h", "b.l0.h"]),
    "in two parents": (
        Call(lambda s, x: s.b.gru(s.a.gru(x)[0])[0], a=Call(None, gru=SHARED), b=Call(None, gru=SHARED)),
        ["a.gru.l0.h", "b.gru.l0.h"],
    ),
    "a subclass": (Call(lambda s, x: s.a(x)[0], a=type("Mine", (nn.GRU,), {})(4, 5)), ["a.l0.h"]),
    "with a projection": (nn.LSTM(4, 6, 2, proj_size=3), ["l0.h", "l0.c", "l1.h", "l1.c"]),
    "a parametrised layer": (
        Call(lambda s, x: s.a(x)[0], a=nn.utils.parametrizations.weight_norm(gru(), "weight_hh_l0")),
        ["a.l0.h"],
    ),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(("model", "names"), NAMES.values(), ids=NAMES)
def test_states_are_named_by_module_path(model, names):
    lifted = lift(model.eval(), (X,))
    assert [s.name for s in lifted.spec.states] == names
    assert [s.output for s in lifted.spec.states] == [f"{name}.next" for name in names]
    assert_steps_equal_the_whole(lifted, model)


def assert_steps_equal_the_whole(lifted, model):
    """The lifted step, frame after frame with its states fed back, against one call of the model."""
    axis = lifted.axes.input_time[0]
    x = torch.randn(2, 5, 4).transpose(1, axis)
    states = [lifted.initial[s.name].expand(x.shape[1 - axis], *s.row) for s in lifted.spec.states]
    outputs = []
    with torch.no_grad():
        for frame in x.split(1, axis):
            y, *states = lifted.module(frame, *states)
            outputs.append(y)
        args = (torch.zeros(x.shape[1], model.hidden_size),) if isinstance(model, SimpleRNN) else ()
        whole = model(x, *args)
    torch.testing.assert_close(torch.cat(outputs, axis), whole if isinstance(whole, Tensor) else whole[0])


# --- declared states ----------------------------------------------------------------------------------------------


def test_an_explicit_state_has_the_batch_first():
    h, c = torch.zeros(2, 2, 2, 5)
    lifted = lift(Explicit().eval(), (X, h, c), states={"h": 1, "c": -1})
    assert [(s.name, s.shape) for s in lifted.spec.states] == [("h", ("batch", 2, 5)), ("c", ("batch", 2, 5))]
    assert [layout.axis for layout in lifted.axes.states] == [1, 1]
    assert [t.name for t in lifted.spec.outputs] == ["output"]


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_bare_layer_called_with_its_state_declares_it(kind):
    spec = lift(nn.LSTM(4, 5, 2).eval(), (X, kind([torch.zeros(2, 7, 5)] * 2))).spec
    assert [(s.name, s.shape) for s in spec.states] == [("h", ("batch", 2, 5)), ("c", ("batch", 2, 5))]


def test_a_tuple_of_states_is_numbered():
    assert states_of(Tuple().eval(), X, (torch.zeros(1, 2, 5),) * 2, states={"hx": 1}) == ["hx.0", "hx.1"]


def test_a_tree_of_states_is_paired_by_name_not_by_order():
    model, zeros = Dict().eval(), torch.zeros(2, 5)
    lifted = lift(model, (FRAME, {"h": zeros, "c": zeros, "g": zeros}), states={"memory": "next"})
    assert [s.name for s in lifted.spec.states] == ["memory.h", "memory.c", "memory.g"]
    assert [t.name for t in lifted.spec.outputs] == ["sum", "both"]
    h, c, g = torch.randn(3, 2, 5)
    after = model(FRAME, {"h": h, "c": c, "g": g})["next"]
    given = lifted.module(FRAME, h, c, g)[2:]
    torch.testing.assert_close(list(given), [after["h"], after["c"], after["g"]])


@dataclass
class Answer:
    y: Tensor
    h: Tensor | None = field(default=None)


@pytest.mark.parametrize("ref", ["h", 1, -1])
def test_a_named_tuple_names_its_results(ref):
    spec = lift(Named().eval(), (FRAME, torch.zeros(2, 5)), states={"h": ref}).spec
    assert ([t.name for t in spec.outputs], [s.name for s in spec.states]) == (["y"], ["h"])


def test_a_dataclass_names_its_results():
    def forward(self, x, h):
        h = self.cell(x, h)
        return Answer(2 * h, h)

    spec = lift(Call(forward, cell=nn.GRUCell(4, 5)), (FRAME, torch.zeros(2, 5)), states={"h": "h"}).spec
    assert ([t.name for t in spec.outputs], [s.name for s in spec.states]) == (["y"], ["h"])
    assert states_of(Call(lambda s, x: Answer(s.gru(x)[0]), gru=gru()), X) == ["gru.l0.h"]


def keyword_state(self, x, *, h=None):
    h = self.cell(x, h)
    return 2 * h, h


def test_a_state_that_the_model_makes_itself():
    spec = lift(Call(keyword_state, cell=nn.GRUCell(4, 5)), (FRAME,), states={"h": 1}).spec
    assert [(s.name, s.shape, s.initial) for s in spec.states] == [("h", ("batch", 5), "zeros")]


def test_a_state_that_the_model_starts_elsewhere_must_be_given():
    class Start(nn.Module):
        def __init__(self):
            super().__init__()
            self.h, self.cell = nn.Parameter(torch.randn(5)), nn.GRUCell(4, 5)

        def forward(self, x, h=None):
            h = self.cell(x, self.h.expand(len(x), 5) if h is None else h)
            return 2 * h, h

    model = Start().eval()
    with raises("omitted-state-starts-otherwise", "'h'"):
        lift(model, (FRAME,), states={"h": 1})
    lifted = lift(model, (FRAME,), states={"h": 1}, initial={"h": model.h})
    assert lifted.spec.states[0].initial == "stored"
    assert torch.equal(lifted.initial["h"], model.h)


# --- initial values -----------------------------------------------------------------------------------------------


def test_a_learned_start_is_stored():
    model = LearnedStart().eval()
    lifted = lift(model, (X,))
    assert [s.initial for s in lifted.spec.states] == ["stored", "stored"]
    for layer in range(2):
        assert torch.equal(lifted.initial[f"gru.l{layer}.h"], model.h0[layer, 0])


@pytest.mark.parametrize("row", [torch.randn(5), torch.randn(1, 5)], ids=["row", "batch of one"])
def test_initial_is_one_row(row):
    lifted = lift(Named().eval(), (FRAME, torch.ones(2, 5)), states={"h": 1}, initial={"h": row})
    assert torch.equal(lifted.initial["h"], row.reshape(5))
    assert lifted.spec.states[0].initial == "stored"


def test_the_examples_state_is_not_where_it_starts():
    lifted = lift(Named().eval(), (FRAME, torch.ones(2, 5)), states={"h": 1})
    assert not lifted.initial["h"].any()
    assert lifted.spec.states[0].initial == "zeros"


BAD_INITIAL = {
    "shape": ({"h": torch.zeros(6)}, ("initial-shapes-unfit", "'h'", "(6,)", "(5,)")),
    "rows": ({"h": torch.zeros(2, 5)}, ("initial-shapes-unfit", "'h'", "(2, 5)")),
    "unknown": ({"c": torch.zeros(5)}, ("initial-names-unknown", "['c']", "['h']")),
}


@pytest.mark.parametrize(("initial", "message"), BAD_INITIAL.values(), ids=BAD_INITIAL)
def test_a_wrong_initial_is_refused(initial, message):
    with raises(*message):
        lift(Named().eval(), (FRAME, torch.zeros(2, 5)), states={"h": 1}, initial=initial)


def by_row(self, x):
    h0 = torch.arange(x.shape[0], dtype=x.dtype)[None, :, None].expand(1, -1, 4)
    return self.gru(x, h0.contiguous())[0]


ZEROS = {
    "zeros": lambda s, x: s.gru(x, torch.zeros(1, x.shape[0], 4))[0],
    "new_zeros": lambda s, x: s.gru(x, x.new_zeros(1, x.size(0), 4))[0],
    "type_as": lambda s, x: s.gru(x, torch.zeros(1, x.shape[0], 4).type_as(x))[0],
    "to": lambda s, x: s.gru(x, torch.zeros(1, x.shape[0], 4).to(x))[0],
    "zeros_like": lambda s, x: s.gru(x, torch.zeros_like(x[:, 0])[None])[0],
}


@pytest.mark.parametrize("forward", ZEROS.values(), ids=ZEROS)
def test_zeros_made_in_the_shape_of_the_input_are_a_start(forward):
    spec = lift(Call(forward, gru=gru()), (X,)).spec
    assert [(s.name, s.initial) for s in spec.states] == [("gru.l0.h", "zeros")]


# --- refusals -----------------------------------------------------------------------------------------------------


def stack(self, x):
    self.seen = x if self.seen is None else torch.cat([self.seen, x], -1)
    return self.seen.sum(-1, keepdim=True)


def counted(self, x):
    self.count.add_(1)
    return x * self.count


def remembering() -> nn.Module:
    model = Call(stack)
    model.seen = None
    return model


def counting() -> nn.Module:
    model = Call(counted)
    model.register_buffer("count", torch.zeros(1))
    return model


class OwnForward(nn.GRU):
    def forward(self, x):
        return super().forward(x)[0]


def cell_model(function) -> nn.Module:
    return Call(function, cell=nn.LSTMCell(4, 5))


H = torch.zeros(2, 5)
KEPT = {"states": {"h": 1}}
REFUSED = {
    "computed": (
        Call(lambda s, x: s.gru(x, x[:, -1:].transpose(0, 1).contiguous())[0], gru=gru()),
        (X,),
        {},
        ("computed-initial-state", "gru.l0", "'h'"),
    ),
    "by row": (Call(by_row, gru=gru()), (X,), {}, ("rows-depend", "gru.layers.0")),
    "forgotten": (
        Named(),
        (FRAME, H),
        {},
        ("input-comes-back", "'h' (2, 5)", "output 'y' or 'h'", "states={'h': 'h'}", "If it is none, "),
    ),
    "forgotten pair": (
        Explicit(),
        (X, torch.zeros(2, 2, 5), torch.zeros(2, 2, 5)),
        {},
        ("input-comes-back", "'h'", "output 1 or 2", "states={'h': 1, 'c': 2}", "If it is none"),
    ),
    "forgotten tuple": (
        Tuple(),
        (X, (torch.zeros(1, 2, 5),) * 2),
        {},
        ("input-comes-back", "'hx.0'", "output 1:", "states={'hx': 1} (--state hx=1)"),
    ),
    "bidirectional": (
        Call(lambda s, x: s.a(x)[0][:, -1], a=gru(bidirectional=True)),
        (X,),
        {"time_axis": 1},
        ("bidirectional-layer", "a: the GRU"),
    ),
    "grows": (
        remembering(),
        (FRAME,),
        {},
        ("state-shape-changes", "attribute 'seen'", "(2, 4)", "(2, 8)"),
    ),
    "random": (
        Call(lambda s, x: x * torch.rand(1)),
        (FRAME,),
        {},
        ("state-drawn-at-random", "it draws random"),
    ),
    "fails": (nn.GRU(5, 5), (X,), {}, ("example-call-fails", "RuntimeError: input.size")),
    "fails on noise": (
        Call(lambda s, x: 1 / 0 if x.any() else x),
        (0 * X,),
        {},
        ("fails-on-noise", "division by zero", "test_lift.py:", "`Call(lambda s, x: 1 / 0 if x.any() else x),`"),
    ),
    "too many": (Tagger(), (X, X), {}, ("example-does-not-fit", 2, "forward(x", "too many")),
    "too few": (Named(), (FRAME,), {}, ("forward-argument-missing", "'h'")),
    "no example": (nn.GRU(4, 5), (), {}, ("forward-argument-missing", "'input'")),
    "no tensor": (Call(lambda s: H), (), {}, ("example-without-tensors",)),
    "cell": (
        Call(lambda s, x, h: s.cell(x, h), cell=nn.GRUCell(4, 5)),
        (FRAME, H),
        {},
        ("recurrent-without-time", "'h'", "states={'h': 'output'}"),
    ),
    "keyword needed": (Call(lambda s, x, *, k: k * x), (X,), {}, ("forward-argument-missing", "'k'")),
    "numpy": (Tagger(), (X.numpy(),), {}, ("example-not-a-tensor", "'x'", "ndarray")),
    "empty": (Tagger(), (X[:0],), {}, ("example-axis-empty", "'x'", "(0, 7, 4)")),
    "nothing": (Call(lambda s, x: ()), (X,), {}, ("no-output-tensor",)),
    "float output": (
        Call(lambda s, x: (x, 1.5)),
        (X,),
        {},
        ("output-not-a-tensor", "'output1'", "float"),
    ),
    "unknown state": (
        Named(),
        (FRAME, H),
        {"states": {"g": 1}},
        ("state-names-no-argument", "'g'", "['x', 'h']"),
    ),
    "unknown output": (
        Named(),
        (FRAME, H),
        {"states": {"h": "g"}},
        ("state-output-missing", "'h'", "'g'", "keys ['y', 'h']"),
    ),
    "output out of range": (
        Explicit(),
        (X, torch.zeros(2, 2, 5), torch.zeros(2, 2, 5)),
        {"states": {"h": 3, "c": 2}},
        ("state-output-missing", "output 3", "3 values"),
    ),
    "one tensor": (
        Call(lambda s, x, h: x + h),
        (H, H),
        {"states": {"h": 1}},
        ("state-output-missing", "output 1", "one tensor"),
    ),
    "one output twice": (
        Call(lambda s, x, h, c: (x + h + c, h)),
        (H, H, H),
        {"states": {"h": 1, "c": -1}},
        ("output-of-two-states", "output -1", "'h' and 'c'"),
    ),
    "another shape": (
        Call(lambda s, x, h: (x, torch.cat([h, h], 1))),
        (H, H),
        KEPT,
        ("state-comes-back-otherwise", "'h'", "float32 (2, 5)", "float32 (2, 10)"),
    ),
    "another dtype": (
        Call(lambda s, x, h: (x, h.double())),
        (H, H),
        KEPT,
        ("state-comes-back-otherwise", "float64 (2, 5)"),
    ),
    "another count": (
        cell_model(lambda s, x, h: (x, s.cell(x, (h, h)))),
        (FRAME, H),
        KEPT,
        ("state-comes-back-otherwise", "float32 (2, 5)", "float32 (2, 5), float32 (2, 5)"),
    ),
    "a name twice": (
        Call(lambda s, x: {"x": s.gru(x)[0]}, gru=gru()),
        (X,),
        {},
        ("input-output-same-name", "'x'"),
    ),
    "input names": (
        Tagger(),
        (X,),
        {"input_names": ["a", "b"]},
        ("names-of-wrong-count", "input_names", 2, 1, "['x']"),
    ),
    "output names": (
        Tagger(),
        (X,),
        {"output_names": []},
        ("names-of-wrong-count", "output_names", 0, 1, "['output']"),
    ),
    "a data-dependent branch": (
        Call(lambda s, x: x if x.sum() > 0 else 2 * x),
        (FRAME,),
        {"time_axis": None},
        ("decided-by-value", "test_lift.py:"),
    ),
}


@pytest.mark.parametrize(("model", "example", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_lifted_is_refused(model, example, options, message):
    with raises(*message):
        lift(model.eval(), example, **options)


def test_a_model_is_a_module():
    with raises("not-a-module", "function"):
        lift(lambda x: x, (X,))


# --- what works all the same --------------------------------------------------------------------------------------

WORKS = {
    "a subclass within": (Call(lambda s, x: s.gru(x), gru=OwnForward(4, 5, batch_first=True)), (X,)),
    "None among the outputs": (Call(lambda s, x: (s.gru(x)[0], None), gru=gru()), (X,)),
    "a bare tensor": (Tagger(), X),
    "an example with a gradient": (Tagger(), (nn.Linear(4, 4)(X),)),
    "a keyword with a default": (Call(lambda s, x, *, k=1: s.gru(x)[0] * k, gru=gru()), (X,)),
    "an argument given as None": (Call(lambda s, x, h: s.gru(x, h)[0], gru=gru()), (X, None)),
    "positional-only": (Call(eval("lambda s, x, /: s.gru(x)[0]"), gru=gru()), (X,)),
    "more arguments, not given": (Call(lambda s, x, *more, **others: s.gru(x)[0], gru=gru()), (X,)),
    "the input among the outputs": (Call(lambda s, x: (x, s.gru(x)[0]), gru=gru()), (X,)),
    "one output twice": (Call(lambda s, x: (s.gru(x)[0],) * 2, gru=gru()), (X,)),
    "float64": (Tagger().double(), (X.double(),)),
}


@pytest.mark.parametrize(("model", "example"), WORKS.values(), ids=WORKS)
def test_it_is_lifted(model, example):
    lifted = lift(model.eval(), example)
    assert [s.name for s in lifted.spec.states] in (["gru.l0.h"], ["rnn.l0.h"])
    x = torch.randn(2, 5, 4, dtype=lifted.original.inputs[0].example.dtype)
    start = x.new_zeros(2, lifted.spec.states[0].row[0])
    with torch.no_grad():
        torch.testing.assert_close(lifted.module(x, start)[-2], lifted.original(x)[-1])


def test_names_can_be_chosen():
    spec = lift(Tagger().eval(), (X,), input_names=["sound"], output_names=["tag"], sample_rate=8000).spec
    assert (spec.inputs[0].name, spec.outputs[0].name, spec.sample_rate) == ("sound", "tag", 8000)


# --- the mode, and the user's own model ---------------------------------------------------------------------------


def test_train_mode_that_changes_the_outputs_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    with raises("train-mode-differs", "(Dropout)"):
        lift(model, (FRAME,))
    with raises("train-mode-differs", "(LSTM)"):
        lift(nn.LSTM(4, 5, 2, dropout=0.5), (X,))
    with raises("train-mode-differs"):
        lift(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), (FRAME,))


def test_train_mode_without_effect_is_accepted_and_kept():
    model = Tagger()
    assert states_of(model, X) == ["rnn.l0.h"]
    assert all(module.training for module in model.modules())


def buffers_changed_in_training() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    ("make", "example"),
    [
        (Tagger, (X,)),
        (lambda: nn.LSTM(4, 5), (X,)),
        (LearnedStart, (X,)),
        (buffers_changed_in_training, (FRAME,)),
        (counting, (FRAME,)),
    ],
    ids=["hidden", "bare", "learned", "refused train", "a buffer"],
)
def test_the_users_model_is_never_changed(make, example):
    model = make()
    before, attributes = copy.deepcopy(model.state_dict()), {n: set(vars(m)) for n, m in model.named_modules()}
    modules, mode, kinds = list(model.modules()), model.training, [type(m) for m in model.modules()]
    given = [x.clone() for x in example]
    try:
        lift(model, example)
    except LiftError:
        assert make is buffers_changed_in_training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {n: set(vars(m)) for n, m in model.named_modules()} == attributes
    assert list(model.modules()) == modules
    assert [type(m) for m in model.modules()] == kinds
    assert model.training is mode
    assert all(torch.equal(a, b) for a, b in zip(example, given, strict=True))


# --- the digest ---------------------------------------------------------------------------------------------------


DIGEST = "dbba32cb0e806fa848f56e6fb2527c22df0e725c1ff7dd641bb9fbb8f7b8d410"


def digest(model: nn.Module, **options: object) -> str:
    return lift(model.eval(), (X,), **options).spec.digest


def test_the_digest_is_that_of_contract_and_weights():
    model = Tagger()
    same = digest(model)
    assert same == digest(copy.deepcopy(model))
    with torch.no_grad():
        model.rnn.weight_hh_l0[0, 0] += 1e-3
    assert digest(model) != same
    assert len({digest(model), digest(model, chunk=2), digest(model, output_names=["y"])}) == 3


def test_the_digest_is_the_same_in_every_run():
    model = Tagger()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(0.25)
    assert digest(model) == DIGEST


def test_a_buffer_that_is_not_saved_is_in_the_digest():
    def scaled(value: float) -> nn.Module:
        model = Call(lambda s, x: s.rnn(x)[0] * s.scale, rnn=gru())
        model.register_buffer("scale", torch.tensor(value), persistent=False)
        for weight in model.parameters():
            nn.init.constant_(weight, 0.25)
        return model

    assert digest(scaled(1.0)) == digest(scaled(1.0)) != digest(scaled(2.0))


def test_initial_values_are_in_the_digest():
    def start(value: float) -> str:
        return lift(model, (FRAME, H), states={"h": 1}, initial={"h": torch.full((5,), value)}).spec.digest

    model = Named().eval()
    assert start(1.0) == start(1.0) != start(2.0)


def test_a_weight_may_have_the_name_of_a_state():
    model = Call(keyword_state, cell=nn.GRUCell(4, 5))
    model.register_buffer("h", torch.zeros(5))
    assert states_of(model, FRAME, states={"h": 1}) == ["h"]


def test_a_model_on_another_device_is_asked_back() -> None:
    with raises("model-on-other-device", "'weight_ih_l0'", "meta"):
        lift(nn.GRU(3, 4, device="meta").eval(), (torch.zeros(2, 1, 3),))


def test_a_state_forgotten_next_to_a_declared_one_is_refused() -> None:
    model, example = Explicit().eval(), (X, torch.zeros(2, 2, 5), torch.zeros(2, 2, 5))
    with raises("input-comes-back", "'c'", "output 2:"):
        lift(model, example, states={"h": 1})
    lifted = lift(Gated().eval(), (FRAME, FRAME, H), states={"gate": None, "h": 1})
    assert [t.name for t in lifted.spec.inputs] == ["x", "gate"]
    assert [s.name for s in lifted.spec.states] == ["h"]


class Gated(nn.Module):
    """An input that comes back in its own shape, but is no state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 5)

    def forward(self, x: torch.Tensor, gate: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x * gate, self.cell(x, h)


class Asking(nn.Module):
    """A model that asks its layers for their sizes and weights."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.cell = nn.LSTM(4, 5, 2, batch_first=True), nn.GRUCell(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rnn.flatten_parameters()
        zeros = torch.zeros(self.rnn.num_layers, x.shape[0], self.rnn.hidden_size)
        y: torch.Tensor = self.rnn(x, (zeros, zeros))[0]
        return y * self.cell.hidden_size * self.rnn.weight_hh_l0.sum()


def test_a_model_may_ask_its_layers_for_sizes_and_weights() -> None:
    assert states_of(Asking().eval(), torch.randn(2, 3, 4)) == ["rnn.l0.h", "rnn.l0.c", "rnn.l1.h", "rnn.l1.c"]


def test_a_start_that_shows_late_is_refused() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.h0 = nn.GRU(4, 5, batch_first=True), nn.Parameter(torch.ones(5))

        def forward(self, x: torch.Tensor, h: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            if h is None:
                h = self.h0.expand(1, x.shape[0], -1).contiguous()
            y, h = self.gru(x, h)
            return y * x[..., :1], h

    with raises("omitted-state-starts-otherwise", "'h'"):
        lift(Late().eval(), (torch.zeros(2, 3, 4),), states={"h": 1})


def test_nan_in_the_weights_is_said() -> None:
    model = nn.GRU(4, 5).eval()
    with torch.no_grad():
        model.weight_ih_l0[0, 0] = float("nan")
    with raises("noise-gives-nan"):
        lift(model, (torch.zeros(3, 2, 4),))


def test_a_model_without_a_state_is_noted() -> None:
    assert lift(nn.Linear(4, 5).eval(), (torch.zeros(2, 4),)).notes == (
        "this model has no state: each frame is computed from itself alone",
    )


def test_an_empty_part_of_a_state_stays_as_it_is():
    """As an encoder without look-ahead keeps of what it looks ahead at."""

    def forward(s, x, kept):
        h, ahead = kept
        new = s.cell(x, h) + ahead.sum(0)
        return new, [new, ahead]

    model = Call(forward, cell=nn.GRUCell(4, 5))
    example = (torch.randn(2, 4), [torch.zeros(2, 5), torch.zeros(0, 1, 5)])
    spec = lift(model, example, time_axis=None, states={"kept": 1}).spec
    assert [s.name for s in spec.states] == ["kept.0"]

    def grows(s, x, kept):
        new = s.cell(x, kept[0])
        return new, [new, new[None]]

    with raises("state-comes-back-otherwise", "'kept'", "float32 (2, 5)", "1, 2, 5"):
        lift(Call(grows, cell=nn.GRUCell(4, 5)), example, time_axis=None, states={"kept": 1})
