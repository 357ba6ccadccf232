"""Loops with different first iterations, that look back further than one frame, or keep frames in lists."""

import collections

import torch
from torch import Tensor, nn

from ..models.streams import Call  # noqa: TID252
from .case import case
from .loops import rolled

X = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def with_all(x, step):
    """The states behind each frame, where a step sees all of those before."""
    hs = []
    for t, frame in enumerate(x.unbind(1)):
        hs.append(step(t, frame, hs))
    return torch.stack(hs, 1)


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
    return with_all(x, lambda t, v, hs: torch.tanh(s.a(v) + s.r(hs[-1])) if t else s.b(v).relu())


def skipping(s, x):
    def step(t, v, hs):
        a = s.a(v)
        if t - 1 >= 0:
            a = a + s.r(hs[t - 1])
        if t - 4 >= 0:
            a = a + s.b(hs[t - 4])
        return a.tanh()

    return with_all(x, step)


def dilated(s, x):
    for layer, d in ((s.a, 1), (s.b, 2), (s.r, 3)):
        x = with_all(
            x,
            lambda t, v, hs, layer=layer, d=d: torch.tanh(
                layer(v) + 0.5 * (hs[t - d] if t - d >= 0 else torch.zeros_like(v))
            ),
        )
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
    return with_all(x, lambda t, v, hs: torch.tanh(s.a(v) + s.r(hs[t - 8] if t >= 8 else x.new_zeros(x.shape[0], 4))))


def two_seeds(s, x):
    def step(t, v, hs):
        if t == 0:
            return s.a(v)
        return s.a(v) + 0.5 * hs[0] if t == 1 else torch.tanh(s.a(v) + 0.5 * hs[-1] - 0.3 * hs[-2])

    return with_all(x, step)


def differences(s, x):
    def step(t, v, hs):
        change = s.a(v - x[:, t - 1] if t > 0 else v)
        return torch.tanh(change + s.r(hs[-1])) if t else change.tanh()

    return with_all(x, step)


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
    return with_all(x, lambda t, v, hs: s.cell(v, hs[-1] if hs else None))


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
    return with_all(x, lambda t, v, h: torch.tanh(s.a(v) + (torch.stack(h[-3:]).max(0).values if h else 0)))


def mean_of_some(s, x):
    h, some, ys = torch.zeros_like(x[:, 0]), collections.deque(maxlen=3), []
    for t in range(x.shape[1]):
        some.append(h)
        h = torch.tanh(s.a(x[:, t]) + torch.stack(list(some)).mean(0))
        ys.append(h)
    return torch.stack(ys, 1)


def looks_ahead_at_first(s, x):
    return with_all(x, lambda t, v, hs: torch.tanh(s.a(v) + s.r(hs[-1])) if hs else s.a(x[:, 1]))


def by_rows(s, x):
    return with_all(x, lambda t, v, hs: torch.tanh(s.a(v) + s.r(hs[-1])) if hs else s.a(v) * x.shape[0])


PARTS = {name: nn.Linear(4, 4) for name in ("a", "b", "r", "q")}
WIDE = {"wide": nn.Linear(4, 12), "wide_of_h": nn.Linear(4, 12, bias=False), "scale": nn.Parameter(torch.randn(4) / 4)}


def loop(function, example=X, parts=PARTS, **options):
    return case(Call(function, **parts), example, **options)


def counter(lifted):
    why = "iterations of the model's own loop, whose first ones are unlike the others"
    return [(o.kind, o.why) for o in lifted.origins if o.name == "iteration"] == [("counter", why)]


AT = "(first_iterations.py:"
OF_LISTS = (before_and_after, mean_of_some, seasons, seasons_by_turns, largest_of_some)
TABLE = {
    "a loop starts as it was written": {
        "another function": loop(another_function).streams(states=["r.state", "iteration"], holds=counter),
        "dilated, in lists": rolled(
            loop(dilated_in_lists), "state", "call1.state", "call2.state", "a.state", "iteration"
        ),
        "another function, in chunks": rolled(loop(another_function, chunk=3), "r.state", "iteration"),
        "h is None": rolled(loop(forget_mult, parts=WIDE), "state", "iteration"),
        "h and c are None": rolled(loop(peephole, parts=WIDE), "wide_of_h.state", "state", "iteration"),
        "frames skipped": rolled(loop(skipping), "r.state", "state", "call1.state", "b.state", "iteration"),
        "dilated": rolled(loop(dilated), "state", *(f"call{i}.state" for i in range(1, 6))),
        "eight frames back": rolled(loop(far_back), "state", *(f"call{i}.state" for i in range(1, 7)), "r.state"),
        "two seeds": rolled(loop(two_seeds), "state", "call1.state", "iteration"),
        "differences": rolled(loop(differences), "state", "r.state", "iteration"),
        "layers, time first": rolled(loop(layers_time_first, X.transpose(0, 1)), "r.state", "q.state", "iteration"),
        "only the last": rolled(loop(last_only, time_axis=1), "state", "iteration", end=False),
        "written into a tensor": rolled(loop(written), "r.state", "iteration"),
        "entries of a state": rolled(loop(entries_of_a_state), "state", "call1.state"),
        "a scripted cell from None": rolled(
            loop(of_cells, parts={"cell": torch.jit.script(OptionalCell().eval())}), "cell.r.state", "cell.iteration"
        ),
    },
    "what a list holds of frames before is a state": {f.__name__: rolled(loop(f, X.abs() + 1)) for f in OF_LISTS},
    "what is no such loop says why": {
        "a later frame at first": loop(looks_ahead_at_first, time_axis=1).refused("loop-start-looks-ahead", AT),
        "rows at first": loop(by_rows).refused(
            "rows-depend", "first_iterations.py", "): mul: the number of rows is used as a value"
        ),
    },
}
