"""Nets that sum, count and scan over time, as their authors write them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CumulativeNorm(nn.Module):
    """Cumulative layer norm, as of Conv-TasNet, before a GRU: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.gru = nn.Parameter(torch.rand(4) + 0.5), nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(4, 4 * (x.shape[1] + 1), 4, dtype=x.dtype).view(1, -1, 1)
        mean = x.sum(2, keepdim=True).cumsum(1) / count
        power = x.pow(2).sum(2, keepdim=True).cumsum(1) / count
        y, _ = self.gru(self.gain * (x - mean) / (power - mean.pow(2) + 1e-3).sqrt())
        return y


class MinGRU(nn.Module):
    """minGRU in log space (Feng et al. 2024, appendix B), by F. Heinsen's parallel scan: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.hidden, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        k, candidate = self.gate(x), self.hidden(x)
        log_x = -F.softplus(-k) + torch.where(candidate >= 0, (F.relu(candidate) + 0.5).log(), F.logsigmoid(candidate))
        sums = (-F.softplus(k)).cumsum(1)
        return self.out((sums + (log_x - sums).logcumsumexp(1)).exp())


class MinGRUFromState(MinGRU):
    """The same as the paper writes it, with a frame for the state that it starts from."""

    def forward(self, x: Tensor) -> Tensor:
        k, candidate = self.gate(x), self.hidden(x)
        first = torch.full((x.shape[0], 1, 5), math.log(0.5))
        log_x = torch.cat([first, F.logsigmoid(k) + F.logsigmoid(candidate)], 1)
        sums = F.pad((-F.softplus(k)).cumsum(1), (0, 0, 1, 0))
        return self.out((sums + (log_x - sums).logcumsumexp(1)).exp()[:, 1:])


class Sinusoids(nn.Module):
    """Sinusoidal positions, made in forward, before a GRU: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1]).unsqueeze(1) * torch.exp(torch.arange(0, 4, 2) * (-math.log(100) / 4))
        return self.gru(x + torch.cat([angle.sin(), angle.cos()], 1))[0]


class LearnedPositions(nn.Module):
    """A table of positions, `by` its first rows or as an embedding, before a GRU: x (B, T, 4)."""

    def __init__(self, by: str = "rows", positions: int = 90) -> None:
        super().__init__()
        self.by, self.table, self.gru = by, nn.Embedding(positions, 4), nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        return self.gru(x + (self.table.weight[:n] if self.by == "rows" else self.table(torch.arange(n))))[0]


class Doubling(torch.autograd.Function):
    """h[t] = a[t] * h[t - 1] + x[t] along axis 1, by doubling: each pass reaches twice as far."""

    @staticmethod
    def forward(ctx, a: Tensor, x: Tensor) -> Tensor:
        a, x, reach = a.clone(), x.clone(), 1
        while reach < x.shape[1]:
            x = torch.cat([x[:, :reach], x[:, reach:] + a[:, reach:] * x[:, :-reach]], 1)
            a = torch.cat([a[:, :reach], a[:, reach:] * a[:, :-reach]], 1)
            reach *= 2
        return x


class ParallelScan(nn.Module):
    """A gated recurrence by a function of torch.autograd: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(Doubling.apply(torch.sigmoid(self.gate(x)), self.value(x)))


class AssociativeScan(nn.Module):
    """torch's own: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        from torch._higher_order_ops import associative_scan

        pair = torch.sigmoid(self.gate(x)), self.value(x)
        return associative_scan(_after, pair, dim=1, combine_mode="generic")[1]


def _after(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return left[0] * right[0], right[0] * left[1] + right[1]


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


class Chunkwise(nn.Module):
    """Linear attention that forgets, chunk by chunk: x (B, T, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.gate = nn.Linear(4, 12), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = chunkwise_attention(*self.parts(x).chunk(3, -1), self.gate(x).sigmoid().squeeze(-1))
        return y


class ChunkwiseOfTwo(Chunkwise):
    """A sum with its normaliser, time last."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, _ = self.parts(x).mT.chunk(3, 1)
        return chunkwise_with_normaliser(a, b).mT


def doubled(a: Tensor, x: Tensor) -> Tensor:
    """h[t] = a[t] h[t - 1] + x[t] along axis 1, after Hillis and Steele, written out."""
    reach = 1
    while reach < x.shape[1]:
        x = torch.cat([x[:, :reach], x[:, reach:] + a[:, reach:] * x[:, :-reach]], 1)
        a = torch.cat([a[:, :reach], a[:, reach:] * a[:, :-reach]], 1)
        reach *= 2
    return x


def filled_up(a: Tensor, x: Tensor) -> Tensor:
    """The same over the next power of two of frames, with zeros moved in."""
    frames, reach = x.shape[1], 1
    more = (1 << (frames - 1).bit_length()) - frames
    a, x = F.pad(a, (0, 0, 0, more)), F.pad(x, (0, 0, 0, more))
    while reach < x.shape[1]:
        x = x + a * F.pad(x, (0, 0, reach, 0))[:, :-reach]
        a = a * F.pad(a, (0, 0, reach, 0), value=1.0)[:, :-reach]
        reach *= 2
    return x[:, :frames]


def halved(a: Tensor, x: Tensor) -> Tensor:
    """The same after Blelloch: pairs of frames are one, down to a single frame."""
    return _halved(a, x)[1]


def _halved(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    frames = a.shape[1]
    if frames == 1:
        return a, x
    if frames % 2:
        some = _halved(a[:, :-1], x[:, :-1])
        last = _after((some[0][:, -1:], some[1][:, -1:]), (a[:, -1:], x[:, -1:]))
        return torch.cat([some[0], last[0]], 1), torch.cat([some[1], last[1]], 1)
    even, odd = (a[:, ::2], x[:, ::2]), (a[:, 1::2], x[:, 1::2])
    ends = _halved(*_after(even, odd))
    between = _after((ends[0][:, :-1], ends[1][:, :-1]), (even[0][:, 1:], even[1][:, 1:]))
    starts = [torch.cat([e[:, :1], b], 1) for e, b in zip(even, between, strict=True)]
    return tuple(torch.stack([s, e], 2).flatten(1, 2) for s, e in zip(starts, ends, strict=True))


class Passes(nn.Module):
    """Two layers of a gated recurrence in passes over the sequence: x (B, T, 4)."""

    def __init__(self, scan) -> None:
        super().__init__()
        self.scan, self.first, self.second = scan, nn.Linear(4, 10), nn.Linear(5, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            gate, value = layer(x).chunk(2, -1)
            x = self.scan(gate.sigmoid(), value)
        return x
