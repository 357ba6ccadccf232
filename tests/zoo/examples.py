"""Examples and outputs in any form, and models and examples that are refused before anything streams."""

import torch
from torch import nn

from ..models.nets import LearnedStart, Named, Tagger  # noqa: TID252
from ..models.streams import Call  # noqa: TID252
from .arguments import CELL, FRAME, H, X, gru, refused
from .case import case


class OwnForward(nn.GRU):
    def forward(self, x):
        return super().forward(x)[0]


def by_row(s, x):
    h0 = torch.arange(x.shape[0], dtype=x.dtype)[None, :, None].expand(1, -1, 4)
    return s.gru(x, h0.contiguous())[0]


def grown(s, x):
    s.seen = x if s.seen is None else torch.cat([s.seen, x], -1)
    return s.seen.sum(-1, keepdim=True)


def works(function, *example, **parts):
    return case(Call(function, **(parts or {"gru": gru(5)})), *(example or (X,))).streams(
        states=["gru.l0.h"], lengths=range(1, 5)
    )


TABLE = {
    "arguments and outputs may have any form": {
        "a subclass within": works(lambda s, x: s.gru(x), gru=OwnForward(4, 5, batch_first=True)),
        "None among the outputs": works(lambda s, x: (s.gru(x)[0], None)),
        "an example with a gradient": works(lambda s, x: s.gru(x)[0], nn.Linear(4, 4)(X)),
        "a keyword with a default": works(lambda s, x, *, k=1: s.gru(x)[0] * k),
        "an argument given as None": case(Call(lambda s, x, h: s.gru(x, h)[0], gru=gru()), X, None).streams(),
        "positional-only": works(eval("lambda s, x, /: s.gru(x)[0]")),
        "more arguments, not given": works(lambda s, x, *more, **others: s.gru(x)[0]),
        "the input among the outputs": works(lambda s, x: (x, s.gru(x)[0])),
        "one output twice": works(lambda s, x: (s.gru(x)[0],) * 2),
        "float64": works(lambda s, x: s.gru(x)[0], X.double(), gru=gru().double()),
        "features in one dict": case(
            Call(lambda s, x: s.gru(torch.cat([x["a"], x["b"]], -1))[0], gru=gru()), {"a": X[..., :2], "b": X[..., 2:]}
        ).streams(states=["gru.l0.h"], holds=lambda lifted: [t.name for t in lifted.spec.inputs] == ["x.a", "x.b"]),
        "what a star takes": case(Call(lambda s, *x: x[0].cumsum(1)), X).streams(
            holds=lambda lifted: lifted.spec.inputs[0].name == "x.0"
        ),
    },
    "a start that the model makes is that of its states": {
        "learned": case(LearnedStart, X).streams(
            states=[("gru.l0.h", (5,), "stored"), ("gru.l1.h", (5,), "stored")], end=False
        ),
        **{
            name: case(Call(function, gru=gru()), X).streams(states=[("gru.l0.h", (4,), "zeros")], end=False)
            for name, function in {
                "new_zeros": lambda s, x: s.gru(x, x.new_zeros(1, x.size(0), 4))[0],
                "zeros_like": lambda s, x: s.gru(x, torch.zeros_like(x[:, 0])[None])[0],
                "type_as": lambda s, x: s.gru(x, torch.zeros(1, x.shape[0], 4).type_as(x))[0],
                "to": lambda s, x: s.gru(x, torch.zeros(1, x.shape[0], 4).to(x))[0],
            }.items()
        },
    },
    "a model that no step can be made of is refused": {
        "a start that is computed": refused(
            Call(lambda s, x: s.gru(x, x[:, -1:].transpose(0, 1).contiguous())[0], gru=gru()),
            *("computed-initial-state", "gru.l0", "'h'"),
        ),
        "a start by row": refused(Call(by_row, gru=gru()), "rows-depend", "gru.layers.0"),
        "both ways": refused(
            Call(lambda s, x: s.a(x)[0][:, -1], a=gru(bidirectional=True)),
            "bidirectional-layer",
            "a: the GRU",
            time_axis=1,
        ),
        "what grows": refused(
            Call(grown, seen=None), "state-shape-changes", "attribute 'seen'", "(2, 4)", "(2, 8)", x=(FRAME,)
        ),
        "a cell without time": refused(
            Call(lambda s, x, h: s.cell(x, h), cell=CELL),
            "recurrent-without-time",
            "'h'",
            "states={'h': 'output'}",
            x=(FRAME, H),
        ),
        "a data-dependent branch": refused(
            Call(lambda s, x: x if x.sum() > 0 else 2 * x),
            "decided-by-value",
            "examples.py:",
            x=(FRAME,),
            time_axis=None,
        ),
        "it fails": refused(nn.GRU(5, 5), "example-call-fails", "RuntimeError: input.size"),
        "it fails on noise": refused(
            Call(lambda s, x: 1 / 0 if x.any() else x),
            "fails-on-noise",
            "division by zero",
            "examples.py:",
            "1 / 0",
            x=(0 * X,),
        ),
        "another device": refused(nn.GRU(4, 4, device="meta"), "model-on-other-device", "'weight_ih_l0'", "meta"),
    },
    "an example that does not fit is refused": {
        "too many": refused(Tagger, "example-does-not-fit", 2, "forward(x", "too many", x=(X, X)),
        "too few": refused(Named, "forward-argument-missing", "'h'", x=(FRAME,)),
        "none": refused(nn.GRU(4, 5), "forward-argument-missing", "'input'", x=()),
        "a keyword needed": refused(Call(lambda s, x, *, k: k * x), "forward-argument-missing", "'k'"),
        "no tensor": refused(Call(lambda s: H), "example-without-tensors", x=()),
        "numpy": refused(Tagger, "example-not-a-tensor", "'x'", "ndarray", x=(X.numpy(),)),
        "empty": refused(Tagger, "example-axis-empty", "'x'", "(0, 7, 4)", x=(X[:0],)),
        "no output": refused(Call(lambda s, x: ()), "no-output-tensor"),
        "an output that is a number": refused(Call(lambda s, x: (x, 1.5)), "output-not-a-tensor", "'output1'", "float"),
        "a name twice": refused(Call(lambda s, x: {"x": s.gru(x)[0]}, gru=gru()), "input-output-same-name", "'x'"),
        "input names": refused(Tagger, "names-of-wrong-count", "input_names", 2, 1, "['x']", input_names=["a", "b"]),
        "output names": refused(Tagger, "names-of-wrong-count", "output_names", 0, 1, "['output']", output_names=[]),
    },
}
