"""Models that are refused for what they are, before they are traced or after: the smallest for each message."""

import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..models.streams import Call  # noqa: TID252
from .case import case

X = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
FRAME = X[:, 0]
H = torch.zeros(2, 5)


def gru():
    return nn.GRU(4, 5, batch_first=True)


def layer(forward, *example, options=None, **parts):
    """A model with a layer `s.gru`."""
    return case(lambda: Call(forward, gru=gru(), **parts), *(example or (X,)), **(options or {}))


def tagger(forward=lambda s, x: s.out(s.gru(x)[0]), **parts):
    return Call(forward, gru=gru(), out=nn.Linear(5, 3), **parts)


def autocast(s, x):
    with torch.autocast("cpu", torch.bfloat16):
        return s.out(s.gru(x)[0]).float()


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(tagger(), {nn.Linear}, torch.qint8)


def packed(s, x, h):
    rows = pack_padded_sequence(x, [x.shape[1], *[x.shape[1] - 1] * (x.shape[0] - 1)], batch_first=True)
    y, h = s.gru(rows, h)
    return pad_packed_sequence(y, batch_first=True)[0], h


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


def looping(forward, table):
    return case(lambda: Call(forward, cell=nn.GRUCell(4, 5), table=table), X)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0
        self.register_buffer("h", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.n = self.n + 1
        self.h = self.h * 0.9 + x
        return self.h * float(self.n % 3)


class Forked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(torch.relu, x))


def the_shorter(s, x, y):
    frames = min(x.shape[1], y.shape[1])
    return s.gru(x[:, :frames])[0] + y[:, :frames, None]


def none_of_long_ones(s, x):
    y = s.gru(x)[0] + s.h[:, None]
    s.h = None if x.shape[1] > 20 else y[:, -1]
    return y


def alternating(s, x):
    """A tensor at one call, a list with it at the next."""
    old = s.kept if isinstance(s.kept, Tensor) else s.kept[0]
    s.kept = [old + x] if isinstance(s.kept, Tensor) else old + x
    return old + x


def holding(kept):
    model = Call(alternating)
    object.__setattr__(model, "kept", kept)
    return model


def own_window(s, x):
    return torch.stft(x, 16, 8, window=torch.softmax(x[:16], 0), return_complex=True, center=False).abs()


def behind_the_back(s, x):
    s.h.data = s.h.data / 2 + x
    return s.h + 1


UNCOPIED = {"held": [torch.ones(2).as_subclass(type("Own", (Tensor,), {"__reduce_ex__": None, "__deepcopy__": None}))]}
TABLE = {
    "weights and values in another precision are named before anything else": {
        "half": case(lambda: tagger().half(), X.half()).refused("tensor-not-float32", "'gru.weight_ih_l0' is float16"),
        "quantised": case(quantised, X).refused("quantised-weights", "out (Linear)", "--precision int8"),
        "an example alone": case(tagger, X.half()).refused("tensor-not-float32", "'example_inputs[0]' is float16"),
        "autocast inside": case(lambda: tagger(autocast), X).refused("narrow-inside-forward", "in bfloat16"),
        "half inside": case(lambda: tagger(lambda s, x: s.out(s.gru(x)[0].half().float())), X).refused(
            "narrow-inside-forward", "in float16"
        ),
    },
    "what is no model of its own is refused": {
        "compiled": case(lambda: torch.compile(gru()), X).refused("model-wrapped", "OptimizedModule", "_orig_mod"),
        "in parallel": case(lambda: nn.DataParallel(gru()), X).refused("model-wrapped", "DataParallel", "module"),
        "a tensor of a class of its own": layer(lambda s, x: s.gru(x)[0], parts=UNCOPIED).refused(
            "part-not-copyable", "'parts.held.0' (Own"
        ),
        "weights without a shape": case(lambda: nn.Sequential(nn.LazyLinear(4), gru()), X).refused(
            "lazy-weights", "0.weight, 0.bias"
        ),
    },
    "tensors and options of another kind are refused": {
        "an input": case(Call(lambda s, x: x.float()), FRAME.to(torch.uint16)).refused(
            "input-dtype-unknown", "'x' is uint16", "float16, float32"
        ),
        "an output": case(Call(lambda s, x: x.abs().to(torch.uint16)), FRAME).refused(
            "tensor-dtype-unknown", "'output' is uint16", "float16, float32"
        ),
        "no tensor to start from": case(
            lambda: Call(lambda s, x, h: (s.cell(x, h),) * 2, cell=nn.GRUCell(4, 5)),
            FRAME,
            H,
            states={"h": 1},
            initial={"h": "zeros"},
        ).refused("initial-unreadable", "'h'"),
        "a chunk of nothing": case(gru, X, chunk=0).refused("option-refused", "chunk is 0", "an int of at least 1"),
        "a computed window": case(Call(own_window), torch.randn(160), chunk=8).refused("window-computed"),
    },
    "a model that is another one at another length is refused": {
        "beyond a thousand frames": layer(lambda s, x: s.gru(x)[0] * (2 if x.shape[1] > 1000 else 1)).refused(
            "axis-with-end", "1", "0", "1000", "say max_frames=1000"
        ),
        "at one length": layer(lambda s, x: s.gru(x)[0] * (2 if x.shape[1] == 131 else 1)).refused(
            "branch-on-length", "1", "0", "131", "5"
        ),
        "of short sequences": layer(
            lambda s, x: s.gru(x)[0] * (2 if x.shape[1] < 6 else 1), options={"sequence_only": True}
        ).refused("branch-below-length", "6"),
        "of many rows": layer(lambda s, x: s.gru(x)[0] * (2 if x.shape[0] > 4 else 1)).refused(
            "batch-rows-bounded", "0", "0", "4"
        ),
        "long ones leave nothing": layer(none_of_long_ones, h=H).refused(
            "axis-with-end", "'h' is set to None by a call: a state must be a tensor of one shape"
        ),
        "inputs of different lengths": layer(the_shorter, X, torch.randn(2, 18)).refused(
            "unequal-frame-counts", "'x' has 9, 'y' has 18"
        ),
        "rows of different lengths": case(
            lambda: Call(packed, gru=gru()), X, torch.zeros(1, 2, 5), states={"h": 1}
        ).refused("unequal-lengths-inside", "gru (GRU)"),
    },
    "a loop that ends, or waits, is refused": {
        "with a table": looping(by_table, torch.zeros(200, 4)).refused(
            "axis-with-end", "200", "the loop fails at refusals.py:", "say max_frames=200"
        ),
        "with a list": looping(by_list, [0.5] * 200).refused("loop-fails-at-length", "at refusals.py", "ValueError"),
        "that waits": case(Call(waiting), torch.randn(1, 260, 4)).refused("loop-runs-too-long", "256"),
    },
    "what a call changes out of sight is refused": {
        "by .data": case(Call(behind_the_back, h=torch.zeros(2, 4)), FRAME).refused("writes-behind-exporter"),
        "a tensor or a list": case(lambda: holding(torch.zeros(2, 4)), FRAME).refused(
            "state-not-a-tensor", "attribute 'kept'", "list"
        ),
        "a table of weights": case(
            lambda: nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), gru()), torch.arange(9)[None]
        ).refused("call-writes-weights", "0.weight"),
        "a number in scripted code": case(lambda: torch.jit.script(Counting()), FRAME[:1]).refused(
            "trace-failed", "Scripted code computes with a number that calls change", "registered buffer"
        ),
        "scripted code in parallel": case(lambda: torch.jit.script(Forked()), FRAME).refused(
            "script-node-unknown", "Forked", "prim::fork", "refusals.py"
        ),
    },
}
