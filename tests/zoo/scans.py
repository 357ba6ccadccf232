"""Running sums, counts, positions and parallel scans stream; a parallel scan is the recurrence that it computes."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..models.scan_nets import MinGRU  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))  # (B, T, C)


def numbers(x, axis=1):
    return torch.arange(x.shape[axis])


def of_valid(s, x, stride=1):
    y = s.c(x.mT) if stride == 1 else F.conv1d(x.mT, s.c.weight, stride=stride)
    return (y.cumsum(2) / torch.arange(1, y.shape[2] + 1)).mT


def variance(s, x):
    """Values of one axis alone, the counts, stand beside two running sums."""
    counts = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
    return x.square().cumsum(1) / counts - (x.cumsum(1) / counts).square()


def periodic(s, x):
    return x * (numbers(x) % 3 == 0)[:, None]


def late(s, x):
    return s.c(x.mT).cumsum(2).mT


def sums(forward, states, **options):
    def make():
        return Call(forward, c=nn.Conv1d(4, 4, 3), e=nn.Embedding(7, 4))

    return case(make, X, time_axis=1, **options).streams(states=states)


# --- scans


class MinGRUFromState(MinGRU):
    """The same as the paper writes it, with a frame for the state that it starts from."""

    def forward(self, x):
        k, candidate = self.gate(x), self.hidden(x)
        first = torch.full((x.shape[0], 1, 5), math.log(0.5))
        log_x = torch.cat([first, F.logsigmoid(k) + F.logsigmoid(candidate)], 1)
        sums = F.pad((-F.softplus(k)).cumsum(1), (0, 0, 1, 0))
        return self.out((sums + (log_x - sums).logcumsumexp(1)).exp()[:, 1:])


def doubled(a, x):
    """h[t] = a[t] h[t - 1] + x[t] along axis 1, after Hillis and Steele: each pass reaches twice as far."""
    reach = 1
    while reach < x.shape[1]:
        x = torch.cat([x[:, :reach], x[:, reach:] + a[:, reach:] * x[:, :-reach]], 1)
        a = torch.cat([a[:, :reach], a[:, reach:] * a[:, :-reach]], 1)
        reach *= 2
    return x


def filled_up(a, x):
    """The same over the next power of two of frames, with zeros moved in."""
    frames, reach = x.shape[1], 1
    more = (1 << (frames - 1).bit_length()) - frames
    a, x = F.pad(a, (0, 0, 0, more)), F.pad(x, (0, 0, 0, more))
    while reach < x.shape[1]:
        x = x + a * F.pad(x, (0, 0, reach, 0))[:, :-reach]
        a = a * F.pad(a, (0, 0, reach, 0), value=1.0)[:, :-reach]
        reach *= 2
    return x[:, :frames]


def after(left, right):
    return left[0] * right[0], right[0] * left[1] + right[1]


def halves(a, x):
    frames = a.shape[1]
    if frames == 1:
        return a, x
    if frames % 2:
        some = halves(a[:, :-1], x[:, :-1])
        last = after((some[0][:, -1:], some[1][:, -1:]), (a[:, -1:], x[:, -1:]))
        return torch.cat([some[0], last[0]], 1), torch.cat([some[1], last[1]], 1)
    even, odd = (a[:, ::2], x[:, ::2]), (a[:, 1::2], x[:, 1::2])
    ends = halves(*after(even, odd))
    between = after((ends[0][:, :-1], ends[1][:, :-1]), (even[0][:, 1:], even[1][:, 1:]))
    starts = [torch.cat([e[:, :1], b], 1) for e, b in zip(even, between, strict=True)]
    return tuple(torch.stack([s, e], 2).flatten(1, 2) for s, e in zip(starts, ends, strict=True))


def halved(a, x):
    """The same after Blelloch: pairs of frames are one, down to a single frame."""
    return halves(a, x)[1]


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, x):
        return doubled(a.clone(), x.clone())


LIMIT = 32767.0


class DoublingLimited(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, x):
        return doubled(a.clone(), x.clone()).clamp(-LIMIT, LIMIT)


def limited_in_each(a, x):
    """No recurrence: what passes over in each pass is limited."""
    reach = 1
    while reach < x.shape[1]:
        later = x[:, reach:] + a[:, reach:] * x[:, :-reach]
        x = torch.cat([x[:, :reach], later.clamp(-LIMIT, LIMIT)], 1)
        a = torch.cat([a[:, :reach], a[:, reach:] * a[:, :-reach]], 1)
        reach *= 2
    return x


def in_place(a, x):
    """Pairs of frames at distances that double, up and down again, written into one tensor."""
    frames = x.shape[1]
    size = 1 << (frames - 1).bit_length()
    a, x = (F.pad(v, (0, 0, 0, size - frames)).clone() for v in (a, x))
    reaches = [1 << i for i in range(size.bit_length() - 1)]
    for first, reach in [(2, r) for r in reaches] + [(3, r) for r in reversed(reaches[:-1])]:
        for i in range(first * reach - 1, size, 2 * reach):
            x[:, i] += a[:, i] * x[:, i - reach]
            a[:, i] *= a[:, i - reach]
    return x[:, :frames]


def by_matrices(a, x):
    """h[t] = a[t] @ h[t - 1] + x[t] for vectors h, by any operator's prefixes."""

    def after(left, right):
        return right[0] @ left[0], right[0] @ left[1] + right[1]

    return prefixes([a, x[..., None]], after)[1][..., 0]


def by_vectors(a, x):
    def after(left, right):
        return right[0] @ left[0], torch.einsum("btij,btj->bti", right[0], left[1]) + right[1]

    return prefixes([a, x], after)[1]


def prefixes(values, combine):
    """The combination of all frames up to each, in passes."""
    reach = 1
    while reach < values[0].shape[1]:
        later = combine([v[:, :-reach] for v in values], [v[:, reach:] for v in values])
        values = [torch.cat([v[:, :reach], new], 1) for v, new in zip(values, later, strict=True)]
        reach *= 2
    return values


def rotating(s, x):
    """The complex recurrence of a linear recurrent unit."""
    factor = torch.polar(torch.sigmoid(s.a.bias), s.b.bias).expand(*x.shape[:2], 5)
    return doubled(factor, torch.complex(s.a(x), s.b(x))).real


def from_a_state(s, x):
    """A frame more, which holds the first state."""
    first = s.b.bias.expand(x.shape[0], 1, 5)
    return doubled(F.pad(torch.sigmoid(s.a(x)), (0, 0, 1, 0)), torch.cat([first, s.b(x)], 1))[:, 1:]


def of_signs(s, x):
    """Logarithms of values of both signs, which are complex."""
    sums = -F.softplus(s.a(x)).cumsum(1)
    return (sums + (s.b(x).to(torch.complex64).log() - sums).logcumsumexp(1)).exp().real


def combined(a, x):
    """By torch's own."""
    from torch._higher_order_ops import associative_scan

    return associative_scan(after, (a, x), dim=1, combine_mode="generic")[1]


def two():
    return {"a": nn.Linear(4, 5), "b": nn.Linear(4, 5)}


def scan(forward, **expected):
    def one_state(lifted):
        return len([s for s in lifted.spec.states if s.name != "iteration"]) == 1

    model = (lambda: Call(forward, **two())) if callable(forward) else forward[0]
    return case(model, X, time_axis=1).streams(holds=one_state, **expected)


def limited(function):
    """A limit that noise does not come near stays: beside the recurrence there is a clamp in the step."""
    return case(
        lambda: Call(lambda s, x: function(torch.sigmoid(s.a(x)), s.b(x)), a=nn.Linear(4, 5), b=nn.Linear(4, 5)),
        X,
        time_axis=1,
    ).streams(holds=lambda lifted: any("clamp" in str(n.target) for n in lifted.step.graph.nodes))


def passes(function):
    """Two layers of a gated recurrence in passes over the sequence."""

    def forward(s, x):
        for layer in (s.first, s.second):
            gate, value = layer(x).chunk(2, -1)
            x = function(gate.sigmoid(), value)
        return x

    model = lambda: Call(forward, first=nn.Linear(4, 10), second=nn.Linear(5, 10))  # noqa: E731
    return case(model, X, time_axis=1).streams(states=["h", "call1.h"])


def of_maxima(s, x):
    y, reach = s.a(x), 1
    while reach < x.shape[1]:
        y = torch.cat([y[:, :reach], torch.maximum(y[:, reach:], y[:, :-reach] * 0.5)], 1)
        reach *= 2
    return y


def over_pieces(s, x):
    state, ys = x.new_zeros(x.shape[0], 1, 4), []
    for piece in x.split(6, 1):
        ys.append(piece.flip(1) + state)
        state = torch.tanh(s.a(piece.amax(1, keepdim=True)) + state)
    return torch.cat(ys, 1)


# --- functions over chunks


def chunkwise_attention(query, key, value, decay, initial_state=None, output_final_state=False, chunk_size=8):
    """S[t] = decay[t] S[t - 1] + key[t] value[t]^T, query[t] S[t], of axes (B, T, D), by whole chunks."""
    batch, frames, size = key.shape
    more = -frames % chunk_size
    q, k, v = (F.pad(x, (0, 0, 0, more)).unflatten(1, (-1, chunk_size)) for x in (query, key, value))
    sums = F.pad(decay.log(), (0, more)).unflatten(1, (-1, chunk_size)).cumsum(-1)
    within = (sums[..., :, None] - sums[..., None, :]).masked_fill(
        ~torch.ones(chunk_size, chunk_size).tril().bool(), -1e9
    )
    inside = (q @ k.mT * within.exp()) @ v
    state, outputs = key.new_zeros(batch, size, size) if initial_state is None else initial_state, []
    for i in range(q.shape[1]):
        outputs.append(inside[:, i] + sums[:, i, :, None].exp() * (q[:, i] @ state))
        kept = (sums[:, i, -1:] - sums[:, i]).exp()
        state = sums[:, i, -1, None, None].exp() * state + (kept[..., None] * k[:, i]).mT @ v[:, i]
    return torch.cat(outputs, 1)[:, :frames], state if output_final_state else None


def chunkwise_with_normaliser(q, k, c_initial=None, n_initial=None, return_last_states=False, chunk_size=4):
    """Two states, a weighted sum and its normaliser: axes (B, D, T)."""
    if c_initial is None:
        c_initial, n_initial = torch.zeros_like(q[..., :1]), torch.zeros_like(q[..., :1])
    sums, counts = c_initial + (q * k.exp()).cumsum(-1), n_initial + k.exp().cumsum(-1)
    last = (sums[..., -1:], counts[..., -1:])
    return (sums / counts, last) if return_last_states else sums / counts


def chunkwise(x, initial_state=None, output_final_state=False):
    return x - x.mean(1, keepdim=True), None


def chunkwise_limited(x, y, initial_state=None, output_final_state=False, chunk_size=8):
    """Running sums, whose state is limited at the end of each chunk."""
    state, parts = torch.zeros_like(x[:, 0]) if initial_state is None else initial_state, []
    for piece in (x * y).split(chunk_size, 1):
        parts.append(piece.cumsum(1) + state[:, None])
        state = parts[-1][:, -1].clamp(-LIMIT, LIMIT)
    return torch.cat(parts, 1), state if output_final_state else None


def chunks(q, k, v, decay, s0=None, want=False, block=8):
    return chunkwise_attention(q, k, v, decay, s0, want, block)


def chunks_and_state(q, k, v, decay, memory, block=8):
    return chunkwise_attention(q, k, v, decay, memory, True, block)


def chunks_of_heads(q, k, v, decay):
    """Axes (B, T, H, D), whose heads are rows of a function within."""
    rows = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v, decay)]
    return chunkwise_attention(*rows, chunk_size=4)[0].unflatten(0, (len(q), -1)).transpose(1, 2)


def of_heads(s, x):
    parts = [t.unflatten(-1, (2, 2)) for t in s.parts(x).chunk(3, -1)]
    return chunks_of_heads(*parts, 0.9 * s.gate(x).sigmoid().expand(-1, -1, 2) + 0.05).flatten(2)


def forgets(s, x):
    """Linear attention that forgets, chunk by chunk."""
    return chunkwise_attention(*s.parts(x).chunk(3, -1), s.gate(x).sigmoid().squeeze(-1))[0]


def in_chunks(forward):
    model = lambda: Call(forward, parts=nn.Linear(4, 12), gate=nn.Linear(4, 1))  # noqa: E731
    return case(model, X, time_axis=1).streams(holds=lambda lifted: lifted.has_loop)


def refused(forward, *message):
    return case(lambda: Call(forward, a=nn.Linear(4, 4)), X, time_axis=1).refused(*message)


# --- a table of positions


def by_rows(s, x):
    return s.gru(x + s.table.weight[: x.shape[1]])[0]


def by_numbers(s, x):
    return s.gru(x + s.table(numbers(x)))[0]


def table(forward, **options):
    return case(lambda: Call(forward, table=nn.Embedding(90, 4), gru=nn.GRU(4, 5, batch_first=True)), X, **options)


ASKED = "max_frames=90 (--max-frames 90)", "time_axis=None (--time-axis none)"
SOME = {"lengths": range(1, 6), "atol": 1e-4}
TABLE = {
    "what is summed or counted over time streams": {
        "minimum": sums(lambda s, x: torch.cummin(x, -2), ["min", "at", "frame"], chunk=4),
        "mean of a late value": sums(of_valid, ["c.frames", "sum", "warm_up", "frame", "delay"]),
        "mean of a late value of half the frames": sums(
            lambda s, x: of_valid(s, x, 2), ["frames", "sum", "warm_up", "frame", "delay"], chunk=2
        ),
        "sum": sums(lambda s, x: x.cumsum(1), ["sum"]),
        "sum of wholes": sums(lambda s, x: (x > 0).cumsum(1), ["sum"]),
        "product": sums(lambda s, x: torch.sigmoid(x + 3).cumprod(1), ["product"], chunk=2),
        "maximum": sums(lambda s, x: x.cummax(1).values, ["max"]),
        "place of the maximum": case(Call(lambda s, x: x.round().cummax(1).indices / 1), X, time_axis=1).streams(),
        "place of the minimum": case(Call(lambda s, x: x.round().cummin(1).indices / 1), X, time_axis=1).streams(),
        "log of a sum": sums(lambda s, x: (5 * x).logcumsumexp(1), ["largest", "sum"]),
        "sum of a late value": sums(late, ["c.frames", "sum", "warm_up"]),
        "sum in chunks of a late value": sums(late, ["c.frames", "delay", "sum", "warm_up"], chunk=4),
        "sum of ones": sums(lambda s, x: x / torch.ones_like(x).cumsum(1), ["frame"]),
        "mean": sums(lambda s, x: x.cumsum(1) / (numbers(x) + 1)[:, None], ["frame", "sum"], chunk=3),
        "mean and variance, by counts in fp32": sums(variance, ["frame", "sum", "call1.sum"]),
        "mean, time first": case(
            Call(lambda s, x: x.cumsum(0) / torch.arange(1, x.shape[0] + 1).view(-1, 1, 1)),
            X.transpose(0, 1),
            time_axis=0,
        ).streams(),
        "every third frame": sums(periodic, ["frame"]),
        "a table looked up periodically": sums(lambda s, x: x + s.e(numbers(x) % 7), ["frame"]),
        "numbers of each row": sums(lambda s, x: x + s.e(numbers(x).expand(len(x), -1) % 7), ["frame"]),
        "the first frames masked": sums(lambda s, x: x.masked_fill(numbers(x)[None, :, None] < 4, 0.5), ["frame"]),
        "zeros filled": sums(lambda s, x: x + torch.zeros(x.shape[1], 4).add(numbers(x)[:, None]), ["frame"]),
    },
    "a parallel scan is the recurrence": {
        "minGRU from a state": scan([MinGRUFromState]),
        "doubling": scan(lambda s, x: torch.tanh(Doubling.apply(torch.sigmoid(s.a(x)), s.b(x)))),
        "associative_scan": scan(lambda s, x: combined(torch.sigmoid(s.a(x)), s.b(x))),
        "minGRU": scan([MinGRU]),
        "logarithms alone": scan(
            lambda s, x: (a := (-x.exp()).cumsum(1)) + (x - a).logcumsumexp(1), lengths=range(1, 6)
        ),
        "products": scan(lambda s, x: (p := torch.sigmoid(x + 2).cumprod(1)) * (x / p).cumsum(1), **SOME),
        "a sum of logarithms and its exponential": scan(
            lambda s, x: (a := F.logsigmoid(x + 2).cumsum(1)).exp() * (x * (-a).exp()).cumsum(1), **SOME
        ),
        "logarithms of values of both signs": scan(of_signs, **SOME),
        "a product held above a number": case(
            lambda: Call(lambda s, x: (p := s.a(x).sigmoid().cumprod(1).clamp(1e-2)) * (s.b(x) / p).cumsum(1), **two()),
            X,
            time_axis=1,
        ).streams(states=["product", "sum"]),
        "an inverse, written twice": scan(
            lambda s, x: (x * (x + 2).sigmoid().cumprod(1).reciprocal()).cumsum(1) * (x + 2).sigmoid().cumprod(1),
            **SOME,
        ),
    },
    "passes over the sequence are the recurrence that their values show": {
        "doubled": passes(doubled),
        "halved": passes(halved),
        "filled up": passes(filled_up),
        "in place": scan(lambda s, x: in_place(s.a(x).sigmoid(), s.b(x))),
        "from a state": scan(from_a_state),
        "a factor for all entries": scan(lambda s, x: doubled(s.a(x).sigmoid()[..., :1], s.b(x))),
        "complex": scan(rotating),
        "of matrices": scan(lambda s, x: by_matrices(s.a(x)[..., :4].tanh().unflatten(-1, (2, 2)), s.b(x)[..., :2])),
        "of matrices and vectors": scan(
            lambda s, x: by_vectors(s.a(x)[..., :4].tanh().unflatten(-1, (2, 2)), s.b(x)[..., :2])
        ),
        "of an operator that is not linear": case(
            lambda: Call(
                lambda s, x: prefixes([s.a(x), s.b(x)], lambda a, b: (torch.maximum(a[0], b[0]), a[1] + b[1]))[0],
                **two(),
            ),
            X,
            time_axis=1,
        ).streams(),
    },
    "a limit of a scan stays": {
        "behind doubling": limited(DoublingLimited.apply),
        "behind passes": limited(lambda a, x: doubled(a, x).clamp(-LIMIT, LIMIT)),
        "before passes": limited(lambda a, x: doubled(a, x.clamp(-LIMIT, LIMIT))),
        "of a state between chunks": case(
            lambda: Call(lambda s, x: chunkwise_limited(s.a(x), s.b(x))[0], a=nn.Linear(4, 4), b=nn.Linear(4, 4)),
            X,
            time_axis=1,
        ).streams(chunk=8),
    },
    "a chunkwise function goes frame by frame": {
        "attention": in_chunks(forgets),
        "parameters of any names": in_chunks(
            lambda s, x: chunks(*s.parts(x).chunk(3, -1), s.gate(x).sigmoid()[..., 0])[0]
        ),
        "a state given and returned": in_chunks(
            lambda s, x: chunks_and_state(
                *s.parts(x).chunk(3, -1), s.gate(x).sigmoid()[..., 0], x.new_zeros(len(x), 4, 4)
            )[0]
        ),
        "heads as rows": in_chunks(of_heads),
        "two states, time last": in_chunks(lambda s, x: chunkwise_with_normaliser(*s.parts(x).mT.chunk(3, 1)[:2]).mT),
    },
    "what computes no recurrence is refused": {
        "in passes": refused(of_maxima, "loop-in-passes", "recurrent, sequential"),
        "in passes, each with a limit": refused(
            lambda s, x: limited_in_each(torch.sigmoid(s.a(x)), x), "loop-in-passes", "recurrent, sequential"
        ),
        "over pieces": refused(over_pieces, "loop-over-segments", "6", "often called recurrent, sequential"),
        "chunkwise": refused(
            lambda s, x: s.a(chunkwise(x)[0]), "not-frame-local", "statistics over time look at all frames"
        ),
    },
    "a table of positions asks for the most frames": {
        "by rows": table(by_rows).refused("axis-with-end", *ASKED),
        "by numbers": table(by_numbers).refused("position-table-ends", *ASKED),
        "by rows, said": table(by_rows, max_frames=90).streams(holds=lambda lifted: lifted.spec.max_frames == 90),
        "by numbers, said": table(by_numbers, max_frames=90).streams(holds=lambda lifted: lifted.spec.max_frames == 90),
    },
}
