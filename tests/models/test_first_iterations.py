"""Loops with different first iterations, that look back further than one frame, or are an operator."""

import collections

import pytest
import torch
from torch import Tensor, nn

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call, assert_streams

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))


def forget_mult(s, x):
    """A QRNN's loop; h is None before frame 0."""
    z, f, o = s.wide(x).chunk(3, -1)
    h, ys = None, []
    for t in range(x.shape[1]):
        new = f[:, t].sigmoid() * z[:, t].tanh()
        if h is not None:
            new = new + (1 - f[:, t].sigmoid()) * h
        ys.append(new)
        h = new
    return o.sigmoid() * torch.stack(ys, 1)


def peephole(s, x):
    h = c = None
    ys = []
    for frame in x.unbind(1):
        i, f, o = (s.wide(frame) if h is None else s.wide(frame) + s.wide_of_h(h)).chunk(3, -1)
        new = i.sigmoid() * o.tanh()
        if c is not None:
            new = new + (f + s.scale * c).sigmoid() * c
        c = new
        h = (o + s.scale * c).sigmoid() * c.tanh()
        ys.append(h)
    return torch.stack(ys, 1)


def another_function(s, x):
    ys = []
    for t, frame in enumerate(x.unbind(1)):
        h = s.b(frame).relu() if t == 0 else torch.tanh(s.a(frame) + s.r(h))  # noqa: F821
        ys.append(h)
    return torch.stack(ys, 1)


def skipping(s, x):
    hs = []
    for t in range(x.shape[1]):
        a = s.a(x[:, t])
        if t - 1 >= 0:
            a = a + s.r(hs[t - 1])
        if t - 4 >= 0:
            a = a + s.b(hs[t - 4])
        hs.append(a.tanh())
    return torch.stack(hs, 1)


def dilated(s, x):
    for layer, d in ((s.a, 1), (s.b, 2), (s.r, 3)):
        hs = []
        for t in range(x.shape[1]):
            before = hs[t - d] if t - d >= 0 else torch.zeros_like(x[:, 0])
            hs.append(torch.tanh(layer(x[:, t]) + 0.5 * before))
        x = torch.stack(hs, 1)
    return x


def dilated_in_lists(s, x):
    xs = list(x.unbind(1))
    for layer, d in ((s.a, 1), (s.b, 2)):
        hs = []
        for t, frame in enumerate(xs):
            a = layer(frame)
            hs.append((a + 0.5 * hs[t - d] if t - d >= 0 else a).tanh())
        xs = hs
    return torch.stack(xs, 1)


def far_back(s, x):
    hs = []
    for t in range(x.shape[1]):
        before = hs[t - 8] if t >= 8 else x.new_zeros(x.shape[0], 4)
        hs.append(torch.tanh(s.a(x[:, t]) + s.r(before)))
    return torch.stack(hs, 1)


def two_seeds(s, x):
    hs = []
    for t, frame in enumerate(x.unbind(1)):
        if t == 0:
            h = s.a(frame)
        elif t == 1:
            h = s.a(frame) + 0.5 * hs[0]
        else:
            h = torch.tanh(s.a(frame) + 0.5 * hs[-1] - 0.3 * hs[-2])
        hs.append(h)
    return torch.stack(hs, 1)


def differences(s, x):
    ys = []
    for t in range(x.shape[1]):
        change = x[:, t] - x[:, t - 1] if t > 0 else x[:, t]
        h = s.a(change).tanh() if t == 0 else torch.tanh(s.a(change) + s.r(h))  # noqa: F821
        ys.append(h)
    return torch.stack(ys, 1)


def layers_time_first(s, x):
    hs, ys = [None, None], []
    for t in range(x.shape[0]):
        y = x[t]
        for k, (i, r) in enumerate(((s.a, s.r), (s.b, s.q))):
            hs[k] = i(y).tanh() if hs[k] is None else torch.tanh(i(y) + r(hs[k]))
            y = hs[k]
        ys.append(y)
    return torch.stack(ys, 0)


def last_only(s, x):
    h = None
    for frame in x.unbind(1):
        h = s.a(frame).tanh() if h is None else torch.tanh(s.a(frame) + s.r(h))
    return s.b(h)


def written(s, x):
    hs = x.new_zeros(x.shape[0], x.shape[1], 4)
    for t in range(x.shape[1]):
        hs[:, t] = s.a(x[:, t]).tanh() if t == 0 else torch.tanh(s.a(x[:, t]) + s.r(hs[:, t - 1]))
    return hs


def entries_of_a_state(s, x):
    state, ys = x.new_zeros(2, x.shape[0], 4), []
    for frame in x.unbind(1):
        for k, value in enumerate((s.a(frame), s.b(frame))):
            state[k] = 0.5 * state[k].clone() + value
        ys.append(state.sum(0))
    return torch.stack(ys, 1)


class OptionalCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.r = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, h: Tensor | None) -> Tensor:
        if h is None:
            return torch.tanh(self.i(x))
        return torch.tanh(self.i(x) + self.r(h))


def of_cells(s, x):
    h, ys = None, []
    for frame in x.unbind(1):
        h = s.cell(frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


def scanned(s, x):
    from torch._higher_order_ops.scan import scan

    def step(carried, frame):
        h, total = carried
        h = torch.tanh(s.a(frame) + s.r(h))
        return (h, total + h), (h + total, h.clone())

    ys, zs = scan(step, (x.new_zeros(x.shape[0], 4), x.new_zeros(x.shape[0], 4)), x, dim=1)[1]
    return ys.movedim(0, 1), zs.movedim(0, 1)


def parts(**others) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {**{name: nn.Linear(4, 4) for name in ("a", "b", "r", "q")}, **others}


WIDE = {
    "wide": nn.Linear(4, 12),
    "wide_of_h": nn.Linear(4, 12, bias=False),
    "scale": nn.Parameter(torch.tensor([0.1, 0.2, -0.3, 0.4])),
}
# By model, example, options, and the states.
LOOPS = {
    "h is None": (Call(forget_mult, **WIDE), X, {}, ["state", "iteration"]),
    "h and c are None": (Call(peephole, **WIDE), X, {}, ["wide_of_h.state", "state", "iteration"]),
    "another function": (Call(another_function, **parts()), X, {}, ["r.state", "iteration"]),
    "another function, in chunks": (Call(another_function, **parts()), X, {"chunk": 3}, ["r.state", "iteration"]),
    "frames skipped": (
        Call(skipping, **parts()),
        X,
        {},
        ["r.state", "state", "call1.state", "b.state", "iteration"],
    ),
    "dilated": (
        Call(dilated, **parts()),
        X,
        {},
        ["state", *(f"call{i}.state" for i in range(1, 6))],
    ),
    "dilated, in lists": (
        Call(dilated_in_lists, **parts()),
        X,
        {},
        ["state", "call1.state", "call2.state", "a.state", "iteration"],
    ),
    "eight frames back": (
        Call(far_back, **parts()),
        X,
        {},
        ["state", *(f"call{i}.state" for i in range(1, 7)), "r.state"],
    ),
    "two seeds": (Call(two_seeds, **parts()), X, {}, ["state", "call1.state", "iteration"]),
    "differences": (Call(differences, **parts()), X, {}, ["state", "r.state", "iteration"]),
    "layers, time first": (
        Call(layers_time_first, **parts()),
        X.transpose(0, 1),
        {},
        ["r.state", "q.state", "iteration"],
    ),
    "only the last": (Call(last_only, **parts()), X, {"time_axis": 1}, ["state", "iteration"]),
    "written into a tensor": (Call(written, **parts()), X, {}, ["r.state", "iteration"]),
    "entries of a state": (Call(entries_of_a_state, **parts()), X, {}, ["state", "call1.state"]),
    "a scripted cell from None": (
        Call(of_cells, cell=torch.jit.script(OptionalCell().eval())),
        X,
        {},
        ["cell.r.state", "cell.iteration"],
    ),
    "an operator": (Call(scanned, **parts()), X, {}, ["state", "call1.state"]),
}


@pytest.mark.parametrize(("model", "example", "options", "states"), LOOPS.values(), ids=LOOPS)
def test_a_loop_starts_as_it_was_written(model, example, options, states):
    lifted = assert_streams(model.eval(), example, **options)
    assert [s.name for s in lifted.spec.states] == states
    assert (lifted.has_loop, lifted.dynamic_time) == (True, True)


def test_the_count_of_iterations_is_a_counter():
    lifted = lift(Call(another_function, **parts()), (X,))
    assert [(o.kind, o.why) for o in lifted.origins if o.name == "iteration"] == [
        ("counter", "iterations of the model's own loop, whose first ones are unlike the others")
    ]


def seasons(s, x):
    """Exponential smoothing: factors of a season in a list, which are used four frames later."""
    a, c = s.a.bias.sigmoid(), s.a.weight[0].sigmoid()
    factors = [s.a.weight[i].exp().expand(x.shape[0], -1) for i in range(4)]
    levels = [x[:, 0] / factors[0]]
    factors.append(c * x[:, 0] / levels[0] + (1 - c) * factors[0])
    for t in range(1, x.shape[1]):
        levels.append(a * (x[:, t] / factors[t]) + (1 - a) * levels[t - 1])
        factors.append(c * (x[:, t] / levels[t]) + (1 - c) * factors[t])
    return torch.stack(levels, 1) * torch.stack(factors[: x.shape[1]], 1)


def seasons_by_turns(s, x):
    a, c = s.a.bias.sigmoid(), s.a.weight[0].sigmoid()
    level, ys = torch.zeros_like(x[:, 0]), []
    factors = [s.a.weight[i].exp().expand(x.shape[0], -1) for i in range(4)]
    for t in range(x.shape[1]):
        factor = factors[t % 4]
        level = a * (x[:, t] / factor) + (1 - a) * level
        factors[t % 4] = c * x[:, t] + (1 - c) * factor
        ys.append(level * factor)
    return torch.stack(ys, 1)


def before_and_after(s, x):
    h = [s.a.bias.expand(x.shape[0], -1)] * 2
    for t in range(x.shape[1]):
        h.append(torch.tanh(s.a(x[:, t]) + h[-2]))
    return torch.cat([torch.stack(h[:-2], 1), torch.stack(h[2:], 1)], -1)


def largest_of_some(s, x):
    """The largest of up to three frames before, of one alone at first."""
    h = []
    for t in range(x.shape[1]):
        h.append(torch.tanh(s.a(x[:, t]) + (torch.stack(h[-3:]).max(0).values if h else 0)))
    return torch.stack(h, 1)


def mean_of_some(s, x):
    h, some, ys = torch.zeros_like(x[:, 0]), collections.deque(maxlen=3), []
    for t in range(x.shape[1]):
        some.append(h)
        h = torch.tanh(s.a(x[:, t]) + torch.stack(list(some)).mean(0))
        ys.append(h)
    return torch.stack(ys, 1)


OF_LISTS = (seasons, seasons_by_turns, before_and_after, largest_of_some, mean_of_some)


@pytest.mark.parametrize("forward", OF_LISTS, ids=lambda f: f.__name__)
def test_what_a_list_holds_of_frames_before_is_a_state(forward):
    lifted = assert_streams(Call(forward, **parts()), X.abs() + 1)
    assert (lifted.has_loop, lifted.dynamic_time) == (True, True)


# --- refusals -----------------------------------------------------------------------------------------------------


def every_third(s, x):
    h, ys = x.new_zeros(x.shape[0], 4), []
    for t, frame in enumerate(x.unbind(1)):
        if t % 3 == 0:
            h = torch.tanh(s.a(frame) + h)
        ys.append(h)
    return torch.stack(ys, 1)


def held_below_its_number(s, x):
    h, ys = x.new_zeros(x.shape[0], 4), []
    for t in range(x.shape[1]):
        h = torch.tanh(s.a(x[:, t]) + s.r(h)).clamp(max=t)
        ys.append(h)
    return torch.stack(ys, 1)


def looks_ahead_at_first(s, x):
    h, ys = None, []
    for t in range(x.shape[1]):
        h = s.a(x[:, 1]) if h is None else torch.tanh(s.a(x[:, t]) + s.r(h))
        ys.append(h)
    return torch.stack(ys, 1)


def by_while_loop(s, x):
    from torch._higher_order_ops import while_loop

    T = x.shape[1]

    def holds(t, h, out):
        return t < T

    def body(t, h, out):
        frame = torch.index_select(x, 1, t.reshape(1)).squeeze(1)
        h = torch.tanh(s.a(frame) + s.r(h))
        return t + 1, h, out.index_copy(1, t.reshape(1), h[:, None])

    start = (torch.zeros((), dtype=torch.long), x.new_zeros(x.shape[0], 4), x.new_zeros(x.shape[0], T, 4))
    return while_loop(holds, body, start)[2]


AT = "(test_first_iterations.py:"
REFUSED = {
    "every third": (every_third, ("loop-body-unlike", AT, "aten.addmm.default")),
    "a number that grows": (held_below_its_number, ("loop-frames-unlike", AT, "(aten.clamp.default: ")),
    "a later frame at first": (looks_ahead_at_first, ("loop-start-looks-ahead", AT)),
    "while_loop": (by_while_loop, ("while-loop-by-value", f"the model {AT}", 256)),
}


@pytest.mark.parametrize(("forward", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_loop_says_why(forward, message):
    with raises(*message):
        lift(Call(forward, **parts()), (X,), time_axis=1)


def test_a_first_iteration_that_counts_rows_is_refused():
    def by_rows(s, x):
        h, ys = None, []
        for t in range(x.shape[1]):
            h = s.a(x[:, t]) * x.shape[0] if h is None else torch.tanh(s.a(x[:, t]) + s.r(h))
            ys.append(h)
        return torch.stack(ys, 1)

    with raises("rows-depend", "test_first_iterations.py", "): mul: the number of rows is used as a value"):
        lift(Call(by_rows, a=nn.Linear(4, 4), r=nn.Linear(4, 4)), (X,))
