"""Key and value caches of several attention layers, which grow up to an end or have full size at once."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.export import export
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252

W, D = 6, 8


def attention(q, k, v, how):
    """Queries (B, H, T, E), keys and values (B, H, S, E)."""
    T, S = q.shape[2], k.shape[2]
    if how == "plain":
        return F.scaled_dot_product_attention(q, k, v)
    if how == "causal":
        return F.scaled_dot_product_attention(q, k, v, torch.ones(T, S, dtype=torch.bool).tril(S - T))
    if how == "masked":
        return F.scaled_dot_product_attention(q, k, v, ~torch.ones(T, S, dtype=torch.bool).triu(S - T + 1), scale=0.3)
    if how == "by distance":
        far = torch.arange(S)[None] - torch.arange(T)[:, None] - (S - T)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=far.float() * 0.1)
    if how == "shared heads":
        return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)
    return (q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x, past, how):
        q, k, v = (t.unflatten(-1, (2, D // 2)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = attention(q, k, v, how).transpose(1, 2).flatten(2)
        return x + self.out(y), (k[:, :, -W:], v[:, :, -W:])


class Net(nn.Module):
    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.how = nn.ModuleList([Layer(), Layer()]), how

    def forward(self, x, past=None):
        after = []
        for i, layer in enumerate(self.layers):
            x, kept = layer(x, None if past is None else past[i], self.how)
            after.append(kept)
        return x, tuple(after)


HOWS = ("plain", "causal", "masked", "by distance", "shared heads", "written")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("frames", [1, 2])
def test_caches_that_grow_have_one_count(how, frames):
    model = Net(how).eval()
    lifted = lift(model, (torch.randn(1, frames, D),), states={"past": 1}, time_axis=None)
    assert [s.name for s in lifted.spec.states] == [
        "past.0.0", "past.0.1", "past.1.0", "past.1.1", "past_count",
    ]  # fmt: skip
    held, past = [lifted.initial[s.name][None] for s in lifted.spec.states], None
    for x in torch.randn(12, 1, frames, D, generator=torch.Generator().manual_seed(1)):
        with torch.no_grad():
            (want, past), (got, *held) = model(x, past), lifted.module(x, *held)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-6)


def test_caches_that_grow_in_onnx_and_c(tmp_path):
    model = Net("causal").eval()
    export(
        model, (torch.randn(1, 1, D),), tmp_path / "net.rnnx", states={"past": 1}, time_axis=None,
        targets=("onnx", "c"), steps=32,
    )  # fmt: skip
    frames, past, want = torch.randn(20, 1, 1, D), None, []
    for x in frames:
        with torch.no_grad():
            y, past = model(x, past)
        want.append(y[0].numpy())
    for backend in ("onnxruntime", "native"):
        stream = load(tmp_path / "net.rnnx", backend=backend).stream()
        np.testing.assert_allclose([stream.step(x[0].numpy()) for x in frames], want, rtol=1e-4, atol=1e-5)


class Fixed(nn.Module):
    """One head, without an axis for it, over caches of one size."""

    def __init__(self, mask):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.mask = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D), mask

    def forward(self, x, keys, values):  # (B, D), (B, W, D)
        keys = torch.cat([keys[:, 1:], self.k(x)[:, None]], 1)
        values = torch.cat([values[:, 1:], self.v(x)[:, None]], 1)
        y = F.scaled_dot_product_attention(self.q(x)[:, None], keys, values, attn_mask=self.mask)
        return y[:, 0], keys, values


@pytest.mark.parametrize("mask", [None, torch.arange(W)[None] > 1, torch.linspace(-1, 1, W)[None]], ids=str)
def test_attention_of_three_axes_has_a_form_in_onnx(mask, tmp_path):
    model, caches = Fixed(mask).eval(), [torch.zeros(1, W, D), torch.zeros(1, W, D)]
    example = (torch.randn(1, D), *caches)
    export(model, example, tmp_path / "net.rnnx", states={"keys": 1, "values": 2}, targets=("onnx", "c"), steps=32)
    stream = load(tmp_path / "net.rnnx", backend="onnxruntime").stream()
    for x in torch.randn(9, 1, D):
        with torch.no_grad():
            want, *caches = model(x, *caches)
        np.testing.assert_allclose(stream.step(x[0].numpy()), want[0].numpy(), rtol=1e-4, atol=1e-5)
