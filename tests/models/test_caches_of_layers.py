"""Key and value caches are states in every file that is written."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rnn_export.export import export

from ..zoo.layer_caches import LIMIT, Cached, D  # noqa: TID252


class Fixed(nn.Module):
    """One head, without an axis for it, over caches of one size."""

    def __init__(self, mask):
        super().__init__()
        self.q, self.k, self.v, self.mask = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D), mask

    def forward(self, x, keys, values):  # (B, D), (B, W, D)
        keys = torch.cat([keys[:, 1:], self.k(x)[:, None]], 1)
        values = torch.cat([values[:, 1:], self.v(x)[:, None]], 1)
        y = F.scaled_dot_product_attention(self.q(x)[:, None], keys, values, attn_mask=self.mask)
        return y[:, 0], keys, values


@pytest.mark.parametrize(
    ("model", "states", "example"),
    [
        (Cached("causal"), {"past": 1}, [(1, 1, D)]),
        *(
            (Fixed(mask), {"keys": 1, "values": 2}, [(1, D), (1, LIMIT, D), (1, LIMIT, D)])
            for mask in (torch.linspace(-1, 1, LIMIT)[None], torch.arange(LIMIT)[None] > 1, None)
        ),
    ],
    ids=["growing", "three axes, weighted", "three axes, masked", "three axes"],
)
def test_a_bundle_with_caches_is_the_model_in_onnx_and_c(model, states, example, tmp_path):
    bundle = export(
        model.eval(), tuple(map(torch.zeros, example)), tmp_path / "net.rnnx", states=states, time_axis=None,
        targets=("onnx", "c"), steps=32,
    )  # fmt: skip
    assert {row.target for row in bundle.targets} == {"onnx", "c"}
