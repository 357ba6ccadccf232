"""The smallest models for refusals without another test; `scripts/refusals.py` lists untested ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ..lifting import lift  # noqa: TID252
from ..messages import raises  # noqa: TID252
from .streams import Call

X = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
FRAME = X[:, 0]


def gru() -> nn.GRU:
    torch.manual_seed(0)
    return nn.GRU(4, 5, batch_first=True)


def cell() -> nn.GRUCell:
    torch.manual_seed(0)
    return nn.GRUCell(4, 5)


def waiting(s, x):
    if x.shape[1] < 257:
        raise ValueError("257 frames, please")
    h, ys = x.new_zeros(x.shape[0], 4), []
    for t in range(x.shape[1]):
        h = h / 2 + x[:, t]
        ys.append(h)
    return torch.stack(ys, 1)


def by_list(s, x):
    h, ys = x.new_zeros(x.shape[0], 5), []
    for frame, scale in zip(x.unbind(1), s.table[: x.shape[1]], strict=True):
        h = s.cell(scale * frame, h)
        ys.append(h)
    return torch.stack(ys, 1)


def by_table(s, x):
    h, ys = x.new_zeros(x.shape[0], 5), []
    for t in range(x.shape[1]):
        h = s.cell(x[:, t] + s.table[t], h)
        ys.append(h)
    return torch.stack(ys, 1)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0
        self.register_buffer("h", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.n = self.n + 1
        self.h = self.h * 0.9 + x
        return self.h * float(self.n % 3)


def short_ones(s, x):
    return s.gru(x)[0] * (2 if x.shape[1] < 6 else 1)


def one_length(s, x):
    return s.gru(x)[0] * (2 if x.shape[1] == 131 else 1)


def the_shorter(s, x, y):
    frames = min(x.shape[1], y.shape[1])
    return s.gru(x[:, :frames])[0] + y[:, :frames, None]


def none_of_long_ones(s, x):
    y = s.gru(x)[0] + s.h[:, None]
    s.h = None if x.shape[1] > 20 else y[:, -1]
    return y


def in_turn(s, x):
    old = s.kept if isinstance(s.kept, Tensor) else s.kept[0]
    s.kept = [old + x] if isinstance(s.kept, Tensor) else old + x
    return old + x


class Plain(nn.Module):
    def __init__(self, **parts: object) -> None:
        super().__init__()
        self.gru, self.parts = gru(), parts

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


class Alternating(nn.Module):
    """A tensor at one call, a list with it at the next."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: object = torch.zeros(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return in_turn(self, x)


class Forked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(torch.relu, x))


def own_window(s, x):
    return torch.stft(x, 16, 8, window=torch.softmax(x[:16], 0), return_complex=True, center=False).abs()


REFUSED = {
    "a chunk of nothing": (
        Plain(),
        (X,),
        {"chunk": 0},
        ("option-refused", "chunk is 0, but a step has a whole number of frames: give an int of at least 1"),
    ),
    "a tensor of a class of its own": (
        Plain(held=[torch.ones(2).as_subclass(type("Own", (Tensor,), {"__reduce_ex__": None, "__deepcopy__": None}))]),
        (X,),
        {},
        ("part-not-copyable", "'parts.held.0' (Own"),
    ),
    "in parallel": (nn.DataParallel(Plain()), (X,), {}, ("model-wrapped", "DataParallel", "module")),
    "compiled": (torch.compile(Plain()), (X,), {}, ("model-wrapped", "OptimizedModule", "_orig_mod")),
    "numbers of another kind": (
        Call(lambda s, x: x.float()),
        (FRAME.to(torch.uint16),),
        {},
        ("input-dtype-unknown", "'x' is uint16", "float16, float32"),
    ),
    "an output of another kind": (
        Call(lambda s, x: x.abs().to(torch.uint16)),
        (FRAME,),
        {},
        ("tensor-dtype-unknown", "'output' is uint16", "float16, float32"),
    ),
    "no tensor to start from": (
        Call(lambda s, x, h: (s.cell(x, h),) * 2, cell=cell()),
        (FRAME, torch.zeros(2, 5)),
        {"states": {"h": 1}, "initial": {"h": "zeros"}},
        ("initial-unreadable", "'h'"),
    ),
    "a loop that waits": (
        Call(waiting),
        (torch.randn(1, 260, 4),),
        {},
        ("loop-runs-too-long", "256"),
    ),
    "a loop with a table": (
        Call(by_table, cell=cell(), table=torch.zeros(200, 4)),
        (X,),
        {},
        ("axis-with-end", "200", "the loop fails at test_refusals.py:", "say max_frames=200"),
    ),
    "a loop that ends": (
        Call(by_list, cell=cell(), table=[0.5] * 200),
        (X,),
        {},
        ("loop-fails-at-length", "at test_refusals.py", "ValueError"),
    ),
    "short sequences go another way": (
        Call(short_ones, gru=gru()),
        (X,),
        {"sequence_only": True},
        ("branch-below-length", "6"),
    ),
    "one length goes another way": (
        Call(one_length, gru=gru()),
        (X,),
        {},
        ("branch-on-length", "1", "0", "131", "5"),
    ),
    "inputs of different lengths": (
        Call(the_shorter, gru=gru()),
        (X, torch.randn(2, 18)),
        {},
        ("unequal-frame-counts", "'x' has 9, 'y' has 18"),
    ),
    "nothing left by long ones": (
        Call(none_of_long_ones, gru=gru(), h=torch.zeros(2, 5)),
        (X,),
        {},
        ("axis-with-end", "'h' is set to None by a call: a state must be a tensor of one shape"),
    ),
    "a tensor or a list": (
        Alternating(),
        (FRAME,),
        {},
        ("state-not-a-tensor", "attribute 'kept'", "list"),
    ),
    "a window of the input": (
        Call(own_window),
        (torch.randn(160),),
        {"chunk": 8},
        ("window-computed",),
    ),
    "scripted code in parallel": (
        torch.jit.script(Forked()),
        (FRAME,),
        {},
        ("script-node-unknown", "Forked", "prim::fork", "test_refusals.py"),
    ),
    "written to behind the back": (
        Call(lambda s, x: setattr(s.h, "data", s.h.data / 2 + x) or s.h + 1, h=torch.zeros(2, 4)),
        (FRAME,),
        {},
        ("writes-behind-exporter",),
    ),
    "a table of weights that a call writes to": (
        nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), gru()),
        (torch.arange(9)[None],),
        {},
        ("call-writes-weights", "0.weight"),
    ),
    "weights without a shape": (
        nn.Sequential(nn.LazyLinear(4), gru()),
        (X,),
        {},
        ("lazy-weights", "0.weight, 0.bias"),
    ),
    "a branch on the number of rows": (
        Call(lambda s, x: s.gru(x)[0] * (2 if x.shape[0] > 4 else 1), gru=gru()),
        (X,),
        {},
        ("batch-rows-bounded", "0", "0", "4"),
    ),
    "another way beyond a thousand frames": (
        Call(lambda s, x: s.gru(x)[0] * (2 if x.shape[1] > 1000 else 1), gru=gru()),
        (X,),
        {},
        ("axis-with-end", "1", "0", "1000", "say max_frames=1000"),
    ),
    "a number of calls in scripted code": (
        torch.jit.script(Counting()),
        (FRAME[:1],),
        {},
        ("trace-failed", "Scripted code computes with a number that calls change", "registered buffer"),
    ),
}


@pytest.mark.parametrize(("model", "example", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_with_what_to_do(model, example, options, message):
    with raises(*message):
        lift(model.eval(), example, **options)
