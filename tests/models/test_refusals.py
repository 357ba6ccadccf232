"""The smallest models for refusals without another test; `scripts/refusals.py` lists untested ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rnn_export.errors import LiftError

from ..lifting import lift  # noqa: TID252
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
        r"chunk is 0, but a step has a whole number of frames: give an int of at least 1",
    ),
    "a tensor of a class of its own": (
        Plain(held=[torch.ones(2).as_subclass(type("Own", (Tensor,), {"__reduce_ex__": None, "__deepcopy__": None}))]),
        (X,),
        {},
        r"'parts.held.0' \(Own\) cannot be copied .*Make a tensor of torch's own class of it: t\.as_subclass",
    ),
    "in parallel": (nn.DataParallel(Plain()), (X,), {}, r"wrapped in a DataParallel: give model.module, the module"),
    "compiled": (torch.compile(Plain()), (X,), {}, r"wrapped in a OptimizedModule: give model._orig_mod, the module"),
    "numbers of another kind": (
        Call(lambda s, x: x.float()),
        (FRAME.to(torch.uint16),),
        {},
        r"'x' is uint16, which a stream does not have: give one of float16, float32, .*, and convert it in the model",
    ),
    "an output of another kind": (
        Call(lambda s, x: x.abs().to(torch.uint16)),
        (FRAME,),
        {},
        r"'output' is uint16, which a stream does not have: convert it in the model to one of float16, float32",
    ),
    "no tensor to start from": (
        Call(lambda s, x, h: (s.cell(x, h),) * 2, cell=cell()),
        (FRAME, torch.zeros(2, 5)),
        {"states": {"h": 1}, "initial": {"h": "zeros"}},
        r"initial\['h'\] cannot be read as a tensor",
    ),
    "a loop that waits": (
        Call(waiting),
        (torch.randn(1, 260, 4),),
        {},
        r"loops over time in Python, and it runs on no sequence of up to 256 frames.* Let it run on shorter ones",
    ),
    "a loop with a table": (
        Call(by_table, cell=cell(), table=torch.zeros(200, 4)),
        (X,),
        {},
        r"may only be up to 200 long: beyond, the loop fails at test_refusals.py:\d+ \(.*\), .* say max_frames=200",
    ),
    "a loop that ends": (
        Call(by_list, cell=cell(), table=[0.5] * 200),
        (X,),
        {},
        r"fails on \d+ frames at test_refusals.py:\d+: ValueError: .* A stream has no end: let the code take any",
    ),
    "short sequences go another way": (
        Call(short_ones, gru=gru()),
        (X,),
        {"sequence_only": True},
        r"the code goes another way over fewer than 6 frames: give it as many",
    ),
    "one length goes another way": (
        Call(one_length, gru=gru()),
        (X,),
        {},
        r"axis 1 of input 0: the code goes another way over 131 frames than over 5 .* Let it go one way at all lengths",
    ),
    "inputs of different lengths": (
        Call(the_shorter, gru=gru()),
        (X, torch.randn(2, 18)),
        {},
        r"inputs with time must have as many frames as each other, .* 'x' has 9, 'y' has 18, .* Give all of them",
    ),
    "nothing left by long ones": (
        Call(none_of_long_ones, gru=gru(), h=torch.zeros(2, 5)),
        (X,),
        {},
        r"'h' is set to None by a call: a state must be a tensor of one shape",
    ),
    "a tensor or a list": (
        Alternating(),
        (FRAME,),
        {},
        r"attribute 'kept', which calls of the model change and read, is a list: a state must be a tensor or a number",
    ),
    "a window of the input": (
        Call(own_window),
        (torch.randn(160),),
        {"chunk": 8},
        r"the window is computed from the input, so it is another one in each call",
    ),
    "scripted code in parallel": (
        torch.jit.script(Forked()),
        (FRAME,),
        {},
        r"Forked: the scripted code uses prim::fork, which is not followed: .*test_refusals.py",
    ),
    "written to behind the back": (
        Call(lambda s, x: setattr(s.h, "data", s.h.data / 2 + x) or s.h + 1, h=torch.zeros(2, 4)),
        (FRAME,),
        {},
        r"the model writes to .data of a tensor.*: drop .data, and use torch.no_grad\(\)",
    ),
    "a table of weights that a call writes to": (
        nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), gru()),
        (torch.arange(9)[None],),
        {},
        r"a call of the model writes to its weights \(0\.weight\), .*once before the export; for nn\.Embedding",
    ),
    "weights without a shape": (
        nn.Sequential(nn.LazyLinear(4), gru()),
        (X,),
        {},
        r"0\.weight, 0\.bias of the model have no shape yet .*: call the model once before the export",
    ),
    "a branch on the number of rows": (
        Call(lambda s, x: s.gru(x)[0] * (2 if x.shape[0] > 4 else 1), gru=gru()),
        (X,),
        {},
        r"axis 0 of input 0 is the batch, and the code does something else where it has more than 4 rows .*any number",
    ),
    "another way beyond a thousand frames": (
        Call(lambda s, x: s.gru(x)[0] * (2 if x.shape[1] > 1000 else 1), gru=gru()),
        (X,),
        {},
        r"axis 1 of input 0 may only be up to 1000 long: .*say max_frames=1000",
    ),
    "a number of calls in scripted code": (
        torch.jit.script(Counting()),
        (FRAME[:1],),
        {},
        r"cannot follow this: .*Scripted code computes with a number that calls change, .*registered buffer",
    ),
}


@pytest.mark.parametrize(("model", "example", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_with_what_to_do(model, example, options, message):
    with pytest.raises(LiftError, match=f"(?s){message}"):
        lift(model.eval(), example, **options)
