"""Elementwise operators, in torch."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rnn_export.export.targets.torch_step.operands import DTYPES, Operands, Operator


def _of_one(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda x: function(x[0])


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda x: function(x[0], x[1])


def _of_many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda x: reduce(function, x.all())


def _with(function: Callable[..., Tensor], **defaults: float) -> Operator:
    """With attributes as further arguments, in that order."""
    return lambda x: function(x[0], *(x.attribute(name, value) for name, value in defaults.items()))


def _divided(x: Operands) -> Tensor:
    """ONNX leaves the rest of whole numbers out."""
    return torch.div(x[0], x[1], rounding_mode=None if x[0].is_floating_point() else "trunc")


def _mean(x: Operands) -> Tensor:
    return reduce(torch.add, x.all()) / len(x.all())


def _modulo(x: Operands) -> Tensor:
    return (torch.fmod if x.attribute("fmod", 0) else torch.remainder)(x[0], x[1])


def _power(x: Operands) -> Tensor:
    return torch.pow(x[0], x[1]).to(x[0].dtype)


def _clip(x: Operands) -> Tensor:
    low: Any = x[1] if x.given(1) else x.attribute("min")
    high: Any = x[2] if x.given(2) else x.attribute("max")
    if x.is_constant(1) and x.is_constant(2):
        # As numbers they are what converters know.
        low, high = (
            bound if number is None else number.item() for bound, number in ((low, x.numbers(1)), (high, x.numbers(2)))
        )
    return x[0] if low is None and high is None else torch.clamp(x[0], low, high)


def _cast(x: Operands) -> Tensor:
    number = int(x.attribute("to"))
    if number not in DTYPES:
        raise x.refusal(f"it gives values of kind {number}", id="torch-cast-kind")
    return x[0].to(DTYPES[number])


def _gelu(x: Operands) -> Tensor:
    return F.gelu(x[0], approximate=x.attribute("approximate", "none"))


def _infinite(x: Operands) -> Tensor:
    up, down = x.attribute("detect_positive", 1), x.attribute("detect_negative", 1)
    return torch.isinf(x[0]) & ((x[0] > 0) & bool(up) | (x[0] < 0) & bool(down))


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def _thresholded(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def _selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def _negative_part(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


ONE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Neg": torch.neg, "Abs": torch.abs, "Reciprocal": torch.reciprocal, "Floor": torch.floor, "Ceil": torch.ceil,
    "Round": torch.round, "Sqrt": torch.sqrt, "Exp": torch.exp, "Log": torch.log, "Erf": torch.erf,
    "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "HardSwish": F.hardswish, "Softplus": F.softplus,
    "Softsign": F.softsign, "Mish": F.mish, "Relu": torch.relu, "Sign": torch.sign, "Not": torch.logical_not,
    "IsNaN": torch.isnan, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin,
    "Acos": torch.acos, "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh,
}  # fmt: skip
TWO: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Sub": torch.sub, "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor, "Equal": torch.eq,
    "Less": torch.lt, "LessOrEqual": torch.le, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "PRelu": _negative_part,
}  # fmt: skip
MANY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Mul": torch.mul,
    "Sum": torch.add,
    "Max": torch.maximum,
    "Min": torch.minimum,
}

OPERATORS: Mapping[str, Operator] = {
    **{name: _of_one(function) for name, function in ONE.items()},
    **{name: _of_two(function) for name, function in TWO.items()},
    **{name: _of_many(function) for name, function in MANY.items()},
    "Div": _divided,
    "Mean": _mean,
    "Mod": _modulo,
    "Pow": _power,
    "Clip": _clip,
    "Cast": _cast,
    "Gelu": _gelu,
    "IsInf": _infinite,
    "Where": lambda x: torch.where(x[0], x[1], x[2]),
    "HardSigmoid": _with(_hard_sigmoid, alpha=0.2, beta=0.5),
    "LeakyRelu": _with(F.leaky_relu, alpha=0.01),
    "ThresholdedRelu": _with(_thresholded, alpha=1.0),
    "Elu": _with(F.elu, alpha=1.0),
    "Celu": _with(F.celu, alpha=1.0),
    "Selu": _with(_selu, alpha=1.6732632, gamma=1.0507010),
}
