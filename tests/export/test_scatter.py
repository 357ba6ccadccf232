"""Writes into a part of a tensor are joined from pieces in a graph, which every backend has."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rnn_export.export import export
from rnn_export.runtime import load


class Caches(nn.Module):
    """Keeps frames in a buffer for each of `writes`, each written to a part of it."""

    def __init__(self, writes):
        super().__init__()
        self.writes = writes
        for i in range(len(writes)):
            self.register_buffer(f"cache{i}", torch.zeros(1, 6, 4))

    def forward(self, x):
        given = []
        for i, write in enumerate(self.writes):
            cache = getattr(self, f"cache{i}").clone()
            write(cache, x)
            setattr(self, f"cache{i}", cache)
            given.append(cache.sum(1) + cache[:, 2])
        return torch.cat(given, 1)


def _front(cache, x):
    cache[:, :2] = torch.stack([cache[:, 1], x], 1)


def _back(cache, x):
    cache[:, 4:] = torch.stack([cache[:, 5] * 0.5, x], 1)


def _middle(cache, x):
    cache[:, 2:5] += x[:, None]


def _last_of_all(cache, x):
    cache[:, -2:] = cache[:, -3:-1] + x[:, None]


def _one(cache, x):
    cache[:, 3] = x + 0.5 * cache[:, 3]


def _last(cache, x):
    cache[:, -1] = x - 0.5 * cache[:, -1]


def _features(cache, x):
    cache[..., 1:3] = 0.5 * cache[..., 1:3] + x[:, None, :2]


def _whole(cache, x):
    cache[:] = 0.5 * cache + x[:, None]


def _every_other(cache, x):
    cache[:, ::2] = 0.5 * cache[:, ::2] + x[:, None]


PARTS = [_front, _back, _middle, _last_of_all, _one, _last, _features, _whole]


@pytest.mark.parametrize(("writes", "scattered"), [(PARTS, False), ([_every_other], True)], ids=["parts", "steps"])
def test_a_part_of_a_tensor_is_written_without_scattering(writes, scattered, tmp_path):
    """But for steps over entries."""
    model, targets = Caches(writes).eval(), ("onnx",) if scattered else ("onnx", "c")
    bundle = export(model, (torch.randn(1, 4),), tmp_path / "net.rnnx", targets=targets, time_axis=None)
    ops = {node.op_type for node in onnx.load_from_string(bundle.read("step.onnx")).graph.node}
    assert scattered or not any("Scatter" in op or op == "Range" for op in ops)
    model, frames = Caches(writes).eval(), np.random.default_rng(0).standard_normal((9, 4), np.float32)
    with torch.no_grad():
        want = [model(torch.from_numpy(frame[None])).numpy()[0] for frame in frames]
    for backend in ("onnxruntime", "native")[: len(targets)]:
        stream = load(bundle.path, backend=backend).stream()
        np.testing.assert_allclose([stream.step(frame) for frame in frames], want, rtol=1e-5, atol=1e-5)
