"""Sizes from a counter in a state: memories that fill up, and are cut by it."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call

W, D = 6, 8
X = torch.randn(1, 2, D, generator=torch.Generator().manual_seed(0))


def model_of(function, **parts):
    torch.manual_seed(0)
    layers = {name: nn.Linear(D, D) for name in ("q", "k", "v", "o")}
    return Call(function, **layers, **parts).eval()


def states(*shapes):
    """Memories of so many entries, and how many frames there were."""
    return [*(torch.zeros(n, 1, D) for n in shapes), torch.zeros(1, 1, dtype=torch.int32)]


def assert_steps(model, example, own, calls=9, kept=False, states=None):
    """Lift `model(x, own)`, and hold so many steps to it, from the first call on; if `kept`, all that it keeps."""
    lifted = lift(model, example, states=states, time_axis=None)
    held = [lifted.initial[s.name][None] for s in lifted.spec.states]
    module, own = copy.deepcopy(model), copy.deepcopy(own)
    for x in torch.randn(calls, *example[0].shape, generator=torch.Generator().manual_seed(1)):
        with torch.no_grad():
            result, (got, *held) = module(x, own) if states else (module(x), None), lifted.module(x, *held)
        want, own = result.values() if isinstance(result, dict) else result
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-6)
        for mine, state in zip(held, (t for t in own if t.numel()), strict=True) if kept else ():
            torch.testing.assert_close(mine.flatten(), state.flatten(), rtol=1e-5, atol=2e-6)
    return lifted.spec


def attend(s, x, memory):
    """A segment attends to the last frames, and to means of segments before: their numbers grow up to an end."""
    x = x.transpose(0, 1)
    mems, keys, past = memory
    count = past[0][0].item()
    there, mem = min(W, count), min(3, math.ceil(count / x.shape[0]))
    mems_there, left = mems[3 - mem :], keys[W - there :]
    new = s.k(torch.cat([mems_there, x]))
    key = torch.cat([new[: mems_there.size(0)], left, new[mems_there.size(0) :]])
    queries = s.q(torch.cat([x, x.mean(0, keepdim=True)]))
    q, k, v = (t.contiguous().view(-1, 2, D // 2).transpose(0, 1) for t in (queries, key, s.v(key)))
    mask = torch.zeros(queries.size(0), x.size(0) + mems_there.size(0) + left.size(0)).to(torch.bool)
    mask[-1, : mems_there.size(0)] = True
    scores = torch.bmm(q, k.transpose(1, 2)).masked_fill(mask.unsqueeze(0), -1e8)
    y = torch.bmm(torch.softmax(scores, -1), v).transpose(0, 1).contiguous().view(-1, 1, D)
    y = s.o(y)
    kept = torch.cat([keys, key[mems_there.size(0) :]])
    after = [torch.cat([mems, y[-1:]])[-3:], kept[kept.shape[0] - W :], past + x.shape[0]]
    return y[:-1].transpose(0, 1), after


def attend_fused(s, x, memory):
    """As caches of keys are cut to what is there of them, with a table of places beside them."""
    cache, past = memory
    there = min(W, past.item())
    keys = torch.cat([cache[W - there :], s.k(x[0])[:, None]]).transpose(0, 1)
    places = s.table[W - there :]
    y = F.scaled_dot_product_attention(s.q(x)[:, None], (keys + places)[:, None], s.v(keys)[:, None])
    return s.o(y[:, 0]), [torch.cat([cache, s.k(x[0])[:, None]])[-W:], past + x.shape[1]]


def statistics(s, x, memory):
    """Statistics of the filled part: mean, most, least, spread, and reversed running sums after a zero."""
    buf, past = memory
    there = torch.cat([buf[W - min(W, past.item()) :], x.transpose(0, 1)])[:, 0]
    most, least = there.amax(0), there.amin(0)
    turned = F.pad(there.flip(0).cumsum(0), (0, 0, 1, 0))
    spread = ((there - there.mean(0)) ** 2).sum(0)
    y = most - least + turned[-1] + turned[2] + spread + there.mean(0) * len(s.table) / there.shape[0]
    return x + torch.softmax(y, -1), [torch.cat([buf, x.transpose(0, 1)])[-W:], past + x.shape[1]]


def turned(s, x, memory):
    """A ring, from its oldest entry on: always as many."""
    ring, at = memory
    i = at.item() % W
    inside = torch.cat([ring[i:], ring[:i]])[:, 0]
    y = (inside * torch.arange(1.0, W + 1)[:, None]).cumsum(0)[-2]
    return x + y, [torch.cat([ring[1:], x[:, :1]]), at + 5]


def behind(s, x, memory):
    """Ends that count from the end, and beyond it."""
    buf, past = memory
    n = past.item()
    y = buf[-min(n, 2 * W) - 1 :].sum(0) + buf[: n - 3].sum(0) + buf[n : n + 2].sum(0) / (n + torch.tensor(n % 3 + 1))
    return x + y, [torch.cat([buf, x.transpose(0, 1)])[-W:], past + 1]


MODELS = {
    "attention to a memory that fills up": (attend, states(3, W)),
    "attention fused": (attend_fused, states(W)),
    "statistics of what is there": (statistics, states(W)),
    "a ring": (turned, states(W)),
    "ends beyond the ends": (behind, states(W)),
}


@pytest.mark.parametrize(("function", "memory"), MODELS.values(), ids=MODELS)
def test_a_stream_is_the_model_from_its_first_call_on(function, memory):
    model = model_of(function, table=torch.randn(W + 2, D))
    assert assert_steps(model, (X, memory), memory, kept=True, states={"memory": 1}).rows == 1


def counted(s, x):
    """A memory of more entries than ways of a code are computed, and a count that is an attribute."""
    s.n = min(s.n + 1, 40)
    s.buf = torch.cat([s.buf[:, 1:], s.k(x)[:, None]], 1)
    return s.o(s.buf[:, 40 - s.n :].mean(1))


def test_a_count_in_an_attribute():
    model = model_of(counted, buf=torch.zeros(1, 40, D), n=0)
    assert_steps(model, (X[:, 0],), None, calls=60)


def grown(s, x, memory):
    buf, past = memory
    return torch.cat([buf[: min(W, past.item())], x.transpose(0, 1)]), [buf, past + 1]


def endless(s, x, memory):
    buf, past = memory
    return x + torch.zeros(past.item(), D).sum(0), [buf, past + 1]


def sorted_out(s, x, memory):
    buf, past = memory
    return x + buf[: min(W, past.item()) + 1].sort(0).values[0], [buf, past + 1]


def picked(s, x, memory):
    """Entries picked by a mask, beside a memory that has such sizes."""
    buf, past = memory
    there = buf[W - min(W, past.item()) :].sum(0)
    return x + there + x[x > 0].sum(), [torch.cat([buf, x.transpose(0, 1)])[-W:], past + 2]


def without_end(s, x, cache):
    keys = torch.cat([cache, s.k(x)], 1)
    return keys.mean(1), keys


BOUND = "how many entries there may be has no bound that was seen: min(n, N) is one"
REFUSED = {
    grown: ("ragged-result", "a result of the model, or what it keeps, has such a size"),
    endless: ("ragged-operator-refused", BOUND),
    sorted_out: ("ragged-operator-refused", "sort"),
    picked: ("ragged-operator-refused",),
    without_end: ("state-comes-back-otherwise",),
}


@pytest.mark.parametrize(("function", "why"), REFUSED.items())
def test_what_has_no_fixed_size_is_refused(function, why):
    name, example = (
        ("cache", (X[:, :1], torch.zeros(1, 0, D))) if function is without_end else ("memory", (X, states(W)))
    )
    with raises(*why):
        lift(model_of(function), example, states={name: 1}, time_axis=None)


def causal(s, x, cache=None):
    """Attention to the last frames, kept in a cache that grows up to an end."""
    k = s.k(x) if cache is None else torch.cat([cache, s.k(x)], 1)
    keys = k[:, -W:]
    scores = s.q(x) @ keys.transpose(1, 2) / 3 + s.table[W - keys.size(1) : W, 0]
    return s.o(torch.softmax(scores, -1) @ s.v(keys)), keys


def of_two(s, x, cache):
    keys, values = cache
    keys, values = torch.cat([keys, s.k(x)], 1)[:, -W:], torch.cat([values, s.v(x)], 1)[:, -9:]
    return {"y": s.q(x) + keys.mean(1, keepdim=True) + values.amax(1, keepdim=True), "cache": (keys, values)}


@pytest.mark.parametrize(
    ("function", "first", "ref"),
    [
        (causal, None, 1),
        (causal, torch.zeros(1, 0, D), -1),
        (of_two, (torch.zeros(1, 0, D), torch.zeros(1, 0, D)), "cache"),
    ],
    ids=["left out", "empty", "two in a dict"],
)
def test_a_cache_that_grows_up_to_an_end(function, first, ref):
    model = model_of(function, table=torch.randn(W + 2, D))
    example = (X[:, :1],) if first is None else (X[:, :1], first)
    spec = assert_steps(model, example, first, calls=12, states={"cache": ref})
    assert {s.dtype for s in spec.states} == {"float32", "int64"}
