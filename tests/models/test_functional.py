"""A program is traced again only if it must be, with the same results."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.export.lift.trace.functionalize import functional, is_functional
from rnn_export.export.lift.trace.tracing import DYNAMIC, export_program


class Written(nn.Module):
    """`write` of frames (B, T, 6)."""

    def __init__(self, write):
        super().__init__()
        self.write, self.norm = write, nn.BatchNorm1d(6)
        self.norm.running_mean.copy_(torch.randn(6)), self.norm.running_var.copy_(torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)


SPARED = {
    "nothing": lambda m, x: x.sin(),
    "to": lambda m, x: x.to(torch.float64) + x.to(torch.float32),
    "to as a copy": lambda m, x: x.double().float(),
    "chunk": lambda m, x: x.chunk(4, -1)[1] * x.chunk(2, 2)[0][..., :2],
    "mT": lambda m, x: x.mT.sin(),
    "movedim": lambda m, x: x.movedim(2, 0).movedim((0, 1), (1, 2)),
    "swapaxes": lambda m, x: x.swapaxes(-1, 1),
    "flatten": lambda m, x: x.flatten(1).sin(),
    "unflatten": lambda m, x: x.unflatten(-1, (2, 3)).flatten(-2),
    "flatten of two sizes": lambda m, x: x.unflatten(-1, (2, 3)).flatten(2),
    "flatten of frames": lambda m, x: x.flatten(0, 1).sin(),
    "contiguous": lambda m, x: x.mT.contiguous().sin(),
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "dropout of itself": lambda m, x: F.dropout(F.dropout(x, 0.5, m.training), 0.5, m.training).contiguous(),
    "batch norm": lambda m, x: m.norm(x.mT),
    "parts": lambda m, x: torch.complex(x, x.sin()).real * torch.complex(x, x.sin()).imag,
    "in place": lambda m, x: x.clone().mul_(2).relu_().add_(x.cos()).clamp_(0, 1),
    "in place and read again": lambda m, x: _read_again(x.sin()),
    "in place behind a norm": lambda m, x: m.norm(x.mT).relu_(),
    "in place of a view": lambda m, x: x.clone().mT.mul_(2),
    "in place behind a reshape": lambda m, x: x.sin().flatten(1).relu_(),
    "narrow": lambda m, x: x.narrow(-1, 1, 3).sin(),
    "a part written over": lambda m, x: _over(x.sin(), slice(None, 3), x[..., 3:]),
    "an entry written over": lambda m, x: _over(x.sin(), 2, x[..., 0]),
    "two parts": lambda m, x: _over(_over(x.sin(), slice(3), x[..., 3:]), slice(2, 5), x[..., :3]),
    "a part of a part": lambda m, x: _over(x.sin(), (slice(1, 2), slice(None), slice(0, 6, 2)), x[1:2, :, :3].cos()),
    "a part that was read before": lambda m, x: _read_before(x.sin(), x),
    "a constant": lambda m, x: x + torch.tensor([1.0, 2, 3, 4, 5, 6]),
    "the input": lambda m, x: x.contiguous(),
}
TRACED = {
    "in place of what has a view": lambda m, x: _seen_by_a_view(x.sin()),
    "a part that a view sees": lambda m, x: _view_over(x.sin(), x),
    "a part of the input": lambda m, x: _over(x, slice(None, 3), x[..., 3:].sin()) + 0,
    "a part by a number": lambda m, x: _over(x.sin(), slice(None, 3), torch.tensor(7.0)),
    "a part by another type": lambda m, x: _over(x.sin(), slice(None, 3), x[..., 3:].double()),
    "in place of a part": lambda m, x: x.sin().chunk(2, -1)[1].mul_(2),
    "in place of another type": lambda m, x: x.sin().mul_(x.double()),
    "in place of a comparison": lambda m, x: x.sin().gt_(0),
    "in place of the input": lambda m, x: x.mul_(1.0),
    "in place through a view": lambda m, x: _written_through_a_view(x),
    "dropout of training": lambda m, x: F.dropout(x, 0.5, True) * 0,
    "parts of a conjugate": lambda m, x: torch.complex(x, x.sin()).conj().imag,
    "a chunk of frames": lambda m, x: x.chunk(2, 1)[0],
    "a view of what was made contiguous": lambda m, x: _seen_by_a_view(
        x.transpose(0, 1).contiguous().view(-1, 6).clone()
    ),
}


def _read_again(y: Tensor) -> Tensor:
    y.mul_(2)
    return y + 1


def _over(y: Tensor, where, part: Tensor) -> Tensor:
    y[where if isinstance(where, tuple) else (..., where)] = part
    return y


def _read_before(y: Tensor, x: Tensor) -> Tensor:
    before = y[..., :3].cos()
    return _over(y, slice(None, 3), x[..., 3:]).sin() + torch.cat([before, before], -1)


def _view_over(y: Tensor, x: Tensor) -> Tensor:
    view = y.mT
    return _over(y, slice(None, 3), x[..., 3:]) + view.mT


def _seen_by_a_view(y: Tensor) -> Tensor:
    view = y.mT
    y.mul_(2)
    return view + 1


def _written_through_a_view(x: Tensor) -> Tensor:
    y = x.clone()
    y.flatten(1)[:, :3] = 7
    return y


@pytest.fixture
def program():
    def export(write):
        model = Written(write).eval()
        return model, export_program(model, (torch.randn(3, 7, 6),), ({0: DYNAMIC, 1: DYNAMIC},))

    return export


@pytest.mark.parametrize("how", SPARED)
def test_what_only_returns_what_it_was_given_is_written_out(how, program, monkeypatch):
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
    model, exported = program(SPARED[how])
    done = functional(exported)
    assert done is exported
    assert is_functional(done)
    for batch, frames in ((3, 7), (2, 5)):
        x = torch.randn(batch, frames, 6)
        assert torch.equal(done.module(check_guards=False)(x), model(x))


@pytest.mark.parametrize("how", TRACED)
def test_all_else_is_traced_anew(how, program):
    model, exported = program(TRACED[how])
    done = functional(exported)
    assert done is not exported
    assert is_functional(done)
    x = torch.randn(2, 5, 6)
    assert torch.equal(done.module(check_guards=False)(x), model(x))
