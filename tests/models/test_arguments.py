"""Forms of arguments: starred, or in a dict beside data; a cell that gives its next state alone."""

import pytest
import torch
from torch import nn

from tests.models.streams import Call

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252

FRAMES = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
H = torch.zeros(2, 4)


def stepped(lifted, *states):
    """Outputs of the lifted step, frame by frame, from `states`."""
    ys = []
    for frame in FRAMES:
        y, *states = lifted.module(frame, *states)
        ys.append(y)
    return torch.stack(ys)


def cell_run(cell):
    h, ys = H, []
    for frame in FRAMES:
        h = cell(frame, h)
        ys.append(h)
    return torch.stack(ys)


class OwnCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.of_x, self.of_h = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x, h):
        return torch.tanh(self.of_x(x) + self.of_h(h))


@pytest.mark.parametrize("ref", [0, -1, "output"])
def test_a_cell_that_gives_its_next_state_alone(ref):
    cell = OwnCell().eval()
    lifted = lift(cell, (FRAMES[0], H), states={"h": ref})
    assert [s.name for s in lifted.spec.states] == ["h"]
    torch.testing.assert_close(stepped(lifted, H), cell_run(cell))


def test_such_a_cell_is_asked_about():
    with raises("input-comes-back", "'h' (2, 4)", "most likely states={'h': 'output'}"):
        lift(OwnCell().eval(), (FRAMES[0], H))
    assert not lift(OwnCell().eval(), (FRAMES[0], H), states={"h": None}).spec.states


def starred(self, x, *caches):
    h = self.cell(x, caches[0])
    return 2 * h, h, caches[1] + 1


def test_what_a_star_takes_is_numbered():
    model, example = Call(starred, cell=OwnCell()).eval(), (FRAMES[0], H, torch.zeros(2, 1))
    lifted = lift(model, example, states={"caches.0": 1, "caches.1": 2})
    assert [s.name for s in lifted.spec.states] == ["caches.0", "caches.1"]
    torch.testing.assert_close(stepped(lifted, H, torch.zeros(2, 1)), 2 * cell_run(model.cell))
    assert [t.name for t in lift(Call(lambda s, *x: x[0].cumsum(1)), (FRAMES,)).spec.inputs] == ["x.0"]


def starred_list(self, x, *caches):
    h = self.cell(x, caches[0])
    return 2 * h, [h, caches[1] + 1]


def test_what_a_star_takes_may_come_back_as_one():
    model, example = Call(starred_list, cell=OwnCell()).eval(), (FRAMES[0], H, torch.zeros(2, 1))
    with raises("input-comes-back", "most likely states={'caches': 1}"):
        lift(model, example)
    lifted = lift(model, example, states={"caches": 1})
    torch.testing.assert_close(stepped(lifted, H, torch.zeros(2, 1)), 2 * cell_run(model.cell))


def policy(self, inputs):
    h = self.cell(inputs["obs"], inputs["memory"][0])
    return 2 * h, (h,)


def test_a_state_with_data_in_one_argument():
    model, example = Call(policy, cell=OwnCell()).eval(), ({"obs": FRAMES[0], "memory": (H,)},)
    with raises("input-comes-back", "most likely states={'inputs.memory': 1}"):
        lift(model, example)
    lifted = lift(model, example, states={"inputs.memory": 1})
    assert [t.name for t in lifted.spec.inputs] == ["inputs.obs"]
    assert [s.name for s in lifted.spec.states] == ["inputs.memory.0"]
    torch.testing.assert_close(stepped(lifted, H), 2 * cell_run(model.cell))
    with raises("state-names-no-argument", "'inputs.other'"):
        lift(model, example, states={"inputs.other": 1})


def test_features_in_one_dict_are_data():
    model = Call(lambda s, x: s.gru(torch.cat([x["a"], x["b"]], -1))[0], gru=nn.GRU(2, 1, batch_first=True)).eval()
    spec = lift(model, ({"a": torch.randn(2, 6, 1), "b": torch.randn(2, 6, 1)},)).spec
    assert ([t.name for t in spec.inputs], [s.name for s in spec.states]) == (["x.a", "x.b"], ["gru.l0.h"])
