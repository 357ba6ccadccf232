"""Operators over special values: zeros, halves, denormals and numbers near the ends of float32, in pairs.

Torch, ONNX Runtime and C give the same, but for the sign of a zero, or the row of `KNOWN` says where they do not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rnn_export.export.graph.passes.pipeline import apply, serialise
from rnn_export.export.graph.passes.simplify import Simplify
from rnn_export.export.graph.translation import translate
from rnn_export.export.targets.c.writer import sources

from ..runtime.graphs import spec, tensor  # noqa: TID252
from .c_sheet import compiled

INF = float("inf")
SIZES = [0.0, 1e-40, 1e-3, 0.5, 0.7, 1.0, 1.5, 2.5, 3.0, 17.0, 50.0, 100.0, 1e5, 1e8, 1e20, 1e30, 3e38]
VALUES = torch.tensor([sign * size for size in SIZES for sign in (1.0, -1.0)] + [INF, -INF, float("nan")])
A, B = torch.cartesian_prod(VALUES, VALUES).unbind(1)
RTOL, ATOL = 1e-5, 2e-6

Function = Callable[[Tensor, Tensor], Tensor]


def of_one(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Function:
    return lambda a, b: function(a, *args, **kwargs)


def of_pair(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Function:
    """Along an axis of both."""
    return lambda a, b: function(torch.stack([a, b], -1), *args, **kwargs)


def of_whole(function: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """On whole numbers up to a million, the second from 1 on."""
    return lambda a, b: function(a.nan_to_num().clamp(-1e6, 1e6).long(), b.nan_to_num().clamp(1.0, 1e6).long()).float()


OF_ONE = """
    neg abs sign floor ceil round trunc frac sqrt rsqrt reciprocal square exp exp2 expm1 log log2 log10 log1p sin cos
    tan sinh cosh tanh asin acos atan asinh acosh atanh erf erfc sigmoid relu isnan isinf isfinite sgn angle sinc
    logical_not
"""
ACTIVATIONS = """
    logsigmoid silu gelu softplus softsign hardswish hardsigmoid hardtanh relu6 leaky_relu elu celu selu mish
    tanhshrink softshrink hardshrink
"""
OF_TWO = """
    add sub mul div remainder fmod floor_divide pow atan2 hypot maximum minimum logaddexp logaddexp2 lt le gt ge eq ne
    xlogy heaviside logical_xor
"""
ALONG = "cumsum softmax log_softmax logsumexp sum mean prod amax amin argmax argmin std var any all"
OPERATORS: dict[str, Function] = {
    **{name: of_one(getattr(torch, name)) for name in OF_ONE.split()},
    **{name: of_one(getattr(F, name)) for name in ACTIVATIONS.split()},
    **{name: getattr(torch, name) for name in OF_TWO.split()},
    **{name: of_pair(getattr(torch, name), -1) for name in ALONG.split()},
    "round to hundredths": of_one(torch.round, decimals=2),
    "gelu tanh": of_one(F.gelu, approximate="tanh"),
    "softplus 2": of_one(F.softplus, 2.0, 5.0),
    "x sigmoid(1.7 x)": lambda a, b: a * torch.sigmoid(1.7 * a),
    "threshold": of_one(F.threshold, 0.5, -1.0),
    "clamp": of_one(torch.clamp, -1.5, 2.5),
    "clamp from": of_one(torch.clamp, min=0.5),
    "clamp to": of_one(torch.clamp, max=0.5),
    "clamp between": lambda a, b: torch.clamp(a, b, b + 1),
    "nan_to_num": of_one(torch.nan_to_num, 1.0, 2.0, -2.0),
    "entr": of_one(torch.special.entr),
    "logit": of_one(torch.logit, 1e-3),
    **{f"x^{e}": of_one(torch.pow, e) for e in (2, 3, 0.5, -1, -0.5, 0, 1.7)},
    "2^x": lambda a, b: torch.pow(2.0, a),
    "x % .7": of_one(torch.remainder, 0.7),
    "x % -.7": of_one(torch.remainder, -0.7),
    "7.3 % x": lambda a, b: torch.remainder(7.3, a),
    "x // .7": lambda a, b: a // 0.7,
    "div floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "div trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "where": lambda a, b: torch.where(a > b, a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b, value=0.5),
    "layer_norm": of_pair(F.layer_norm, (2,)),
    "norm": of_pair(torch.linalg.vector_norm, dim=-1),
    "norm 1": of_pair(torch.linalg.vector_norm, 1, dim=-1),
    "normalize": of_pair(F.normalize, dim=-1),
    "glu": of_pair(F.glu, -1),
    "long": of_one(lambda a: a.nan_to_num().clamp(-1e6, 1e6).long()),
    "whole //": of_whole(lambda i, j: i // j),
    "whole // -": of_whole(lambda i, j: i // -j),
    "whole %": of_whole(lambda i, j: i % j),
    "whole % -": of_whole(lambda i, j: i % -j),
    "whole fmod": of_whole(torch.fmod),
    # Beyond what float32 counts to.
    "whole div floor": of_whole(lambda i, j: torch.div(i * 33554433, -j, rounding_mode="floor") % 1000),
    "whole div trunc": of_whole(lambda i, j: torch.div(i * 33554433, -j, rounding_mode="trunc") % 1000),
}


class Difference(NamedTuple):
    """Between torch and ONNX Runtime or C: whose (of "ort c"), where in A and B, and why."""

    whose: str
    where: Callable[[np.ndarray, np.ndarray], np.ndarray]
    why: str


def is_nan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.isnan(a) | np.isnan(b)


def is_large(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (abs(a) >= 1e20) | (abs(b) >= 1e20)


NAN = "a NaN becomes a number, or is passed over: no frame has one, and a step that makes one has lost its state"
SQUARES = "the squares of 1e20 and more are Inf in float32, and torch scales them or has them in float64"
ORDER = "a product beyond 3.4e38 on the way, which torch takes in another order"
# What docs/your-model.md says of them is asserted: there they differ, and nowhere else.
KNOWN = {
    "sign": Difference("ort", is_nan, NAN),
    "sgn": Difference("ort", is_nan, NAN),
    "angle": Difference("ort c", is_nan, NAN),
    "xlogy": Difference("ort c", is_nan, NAN),
    "heaviside": Difference("ort c", is_nan, NAN),
    "logit": Difference("ort c", is_nan, NAN),
    "amax": Difference("ort", is_nan, NAN),
    "amin": Difference("ort", is_nan, NAN),
    "argmax": Difference("ort c", is_nan, NAN),
    "argmin": Difference("ort c", is_nan, NAN),
    "hypot": Difference("ort c", is_large, SQUARES),
    "std": Difference("ort c", is_large, SQUARES),
    "var": Difference("ort c", is_large, SQUARES),
    "layer_norm": Difference("ort c", is_large, SQUARES),
    "normalize": Difference("ort", is_large, SQUARES),
    "hardswish": Difference("ort c", is_large, ORDER),
    "addcmul": Difference("ort c", is_large, ORDER),
    "addcdiv": Difference("ort c", is_large, ORDER),
    "atan2": Difference(
        "ort c",
        lambda a, b: (a == 0) | (b == 0) | (np.isinf(a) & np.isinf(b)) | is_nan(a, b),
        "ONNX has none: it is an atan of a quotient, which has no sign of a zero, and none of two infinities",
    ),
    "clamp from": Difference("ort", lambda a, b: np.isinf(a), "a bound that is left out is 3.4e38"),
    "clamp to": Difference("ort", lambda a, b: np.isinf(a), "a bound that is left out is -3.4e38"),
    "x^0.5": Difference("ort", lambda a, b: np.isinf(a), "a power, which of -Inf is Inf; torch takes a root"),
    "x^-0.5": Difference("ort", lambda a, b: np.isinf(a) | (a == 0), "the same, and of -0.0"),
    "glu": Difference(
        "ort", lambda a, b: (b <= -17) & (abs(a) >= 50), "a sigmoid is right to 1e-7, and no better below"
    ),
}


class Operators(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        values = [function(a, b).float() for function in OPERATORS.values()]
        return torch.cat([v if v.dim() > 2 else v[..., None] for v in values], -1)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, np.ndarray]]:
    """By operator what torch, ONNX Runtime and C give, (pairs, values)."""
    inputs = {"a": A[:, None], "b": B[:, None]}
    wanted = Operators()(*inputs.values())[:, 0].numpy()
    y = tensor("y", "batch", 1, wanted.shape[1])
    contract = spec("operators", [tensor("a", "batch", 1), tensor("b", "batch", 1)], [y], [])
    rows = {"batch": torch.export.Dim("batch", min=2)}
    program = torch.export.export(Operators(), tuple(inputs.values()), dynamic_shapes=({0: rows["batch"]},) * 2)
    graph = apply(translate(program, contract), Simplify())
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape(["batch", *value.shape[1:]])
    step = serialise(graph)
    session = ort.InferenceSession(step, providers=["CPUExecutionProvider"])
    by_ort = session.run(None, {name: x.numpy() for name, x in inputs.items()})[0][:, 0]
    graph_in_c = compiled(sources(step, contract, {}, "operators"), "operators", contract)
    by_c = [graph_in_c({"a": a.numpy(), "b": b.numpy()})["y"] for a, b in zip(*inputs.values(), strict=True)]
    edges, found = 0, {}
    for name, function in OPERATORS.items():
        value = function(A[:1, None], B[:1, None])
        width = value.shape[-1] if value.dim() > 2 else 1
        at = slice(edges, edges + width)
        edges += width
        found[name] = {"torch": wanted[:, at], "ort": by_ort[:, at], "c": np.stack(by_c).reshape(wanted.shape)[:, at]}
    return found


def differing(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """True for pairs (pairs, values) that are not close; NaN and Inf match."""
    return ~np.isclose(got, want, RTOL, ATOL, equal_nan=True).all(1)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_what_torch_gives(results, name):
    by = results[name]
    known = KNOWN.get(name)
    for whose in ("ort", "c"):
        wrong = differing(by[whose], by["torch"])
        if known is not None and whose in known.whose:
            there = known.where(A.numpy(), B.numpy())
            assert (wrong & there).any(), (
                f"{whose} is right now: take the row of {name!r} out of KNOWN, and of the docs"
            )
            wrong &= ~there
        cases = [(A[i].item(), B[i].item(), by[whose][i], by["torch"][i]) for i in np.nonzero(wrong)[0][:4]]
        assert not cases, f"{whose}: a, b, what it gives, what torch gives: {cases}"
