"""Numbers made of sizes, as tensors: rounded and cut by they stay free, and all else is what torch does with them."""

import pytest
import torch
from torch import nn

from rnn_export.export.lift.program.free_sizes import FreeSizes

from .streams import Call


def half(x):
    return torch.as_tensor(x.shape[1] / 2)


def written(x):
    n = torch.tensor(x.shape[1])
    n -= 4
    return x[:, :n] * n


def exported(model: nn.Module):
    with FreeSizes():
        shapes = ({1: torch.export.Dim.DYNAMIC},)
        return torch.export.export(model.eval(), (torch.randn(2, 9),), dynamic_shapes=shapes).module()


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: x[:, : torch.ceil(half(x)).long()],
        lambda s, x: x[:, : half(x).floor().to(torch.int64)],
        lambda s, x: x[:, : half(x).ceil().int()],
        lambda s, x: x[..., torch.floor(half(x)).long() :],
        lambda s, x: x / torch.as_tensor(x.shape[1]).float().sqrt(),
        lambda s, x: x * (torch.tensor(x.shape[1]) + 1) / 2,
        lambda s, x: x + torch.stack([half(x), torch.as_tensor(x.shape[1], dtype=torch.float32)]).sum(),
        lambda s, x: written(x),
    ],
    ids=["ceil", "floor and to", "int", "from there on", "root", "arithmetic", "stacked", "written"],
)
def test_a_number_made_of_a_size_is_free(forward):
    model = Call(forward)
    program = exported(model)
    for length in (9, 14, 31):
        x = torch.randn(2, length)
        torch.testing.assert_close(program(x), model(x))
