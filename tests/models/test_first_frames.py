"""Streams of a pool whose first frames are a state, and sequences of fewer than those."""

import numpy as np
import torch

from rnn_export.export import export
from rnn_export.runtime import load

from ..lifting import lift  # noqa: TID252
from ..zoo.first_frames import PARTS, X, late_start  # noqa: TID252
from .streams import Call


def test_streams_of_a_pool_begin_when_they_do(tmp_path):
    model = Call(late_start, **PARTS)
    export(model, (X,), tmp_path / "it.rnnx", time_axis=1, steps=8)
    pool = load(tmp_path / "it.rnnx", backend="onnxruntime").pool(2)
    frames, given = X.numpy(), {0: [], 1: []}
    ids = [pool.open(), pool.open()]
    for step in range(16):
        open_rows = [row for row in (0, 1) if 0 <= step - 4 * row < 12]
        fed = np.stack([frames[row, step - 4 * row] for row in open_rows])
        for row, y in zip(open_rows, pool.step([ids[row] for row in open_rows], fed), strict=True):
            given[row].append(y)
    with torch.no_grad():
        whole = model(X).numpy()
    for row in (0, 1):
        np.testing.assert_allclose(np.stack(given[row][2:]), whole[row, :10], rtol=1e-5, atol=2e-6)


def test_a_sequence_of_fewer_frames_is_told():
    model = Call(lambda s, x: torch.cat([x, x[:, 2:3].expand(-1, x.shape[1], -1)], -1))
    lifted = lift(model, (X,), time_axis=1)
    assert lifted.shortest == 3
    assert "over fewer than 3 frames the code goes another way" in " ".join(lifted.notes)
