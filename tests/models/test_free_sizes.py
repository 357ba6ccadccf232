"""Tensors computed from sizes: symbolic where code rounds and slices by them, else the same as in torch."""

import pytest
import torch
from torch import nn

from rnn_export.export.lift.model.numbers.symbolic_functions import FreeSizes
from rnn_export.export.lift.trace.tracing import export_program

from ..lifting import lift  # noqa: TID252
from .streams import Call, assert_streams


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
        lambda s, x: x * torch.arange(torch.full((2,), x.shape[1]).to(x.device).max().item()),
        lambda s, x: x[torch.arange(2), torch.full((2,), x.shape[1]) - 1],
    ],
    ids=["ceil", "floor and to", "int", "from there on", "root", "arithmetic", "stacked", "written", "longest", "last"],
)
def test_a_number_made_of_a_size_is_free(forward):
    model = Call(forward)
    program = exported(model)
    for length in (9, 14, 31):
        x = torch.randn(2, length)
        torch.testing.assert_close(program(x), model(x))


def last_window(s, x):
    """Zeros on both sides, so that windows of `size` frames, `stride` apart, take all frames."""
    length = x.shape[1]
    windows = torch.ceil((length - s.size + s.left) / s.stride + 1).to(torch.int64) - 1
    right = windows * s.stride + s.size - s.left - length
    most = max(s.left, right)
    before = torch.nn.functional.pad(x, (s.left, right)) if length > most else x
    return before.unfold(1, 4, 2).sum(-1)


def windows() -> Call:
    numbers = {"size": 4, "stride": 2, "left": 2}
    return Call(last_window, **{name: torch.tensor(value) for name, value in numbers.items()})


def test_whole_numbers_in_buffers_are_numbers():
    model = windows()
    program = export_program(model, (torch.randn(2, 9),), ({1: torch.export.Dim.DYNAMIC},)).module()
    for length in (9, 14, 31):
        x = torch.randn(2, length)
        torch.testing.assert_close(program(x), model(x))


def test_windows_that_buffers_size_are_a_stream():
    spec = assert_streams(windows(), torch.randn(2, 12), chunk=2).spec
    assert spec.tail == 1
    assert not spec.assumptions


def test_a_number_that_calls_change_is_a_state():
    def forward(s, x):
        s.calls += 1
        return x[:, :4] if s.calls > 2 else x[:, 1:5]

    model = Call(forward, calls=torch.tensor(0))
    spec = lift(model, (torch.randn(1, 6),), time_axis=None).spec
    assert ([s.name for s in spec.states], spec.rows) == (["calls"], 1)
