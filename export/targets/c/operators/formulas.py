"""Formulas of C for elementwise operators."""

from collections.abc import Mapping

# Formulas of C, in which {a}, {b} and {c} are a value of each input, and other names are attributes.
ARITHMETIC = {"Add": "{a} + {b}", "Sub": "{a} - {b}", "Mul": "{a} * {b}"}
# Of vectors of floats.
VECTOR = {
    **ARITHMETIC,
    "Div": "{a} / {b}",
    # A NaN of either stays one.
    "Max": "RNN_IF(({a} < {b}) | ({b} != {b}), {b}, {a})",
    "Min": "RNN_IF(({a} > {b}) | ({b} != {b}), {b}, {a})",
    "Neg": "-{a}",
    "Abs": "rnn_abs({a})",
    "Reciprocal": "1.0f / {a}",
    "Floor": "rnn_floor({a})",
    "Ceil": "-rnn_floor(-{a})",
    "Sqrt": "rnn_sqrt({a})",
    "Exp": "rnn_exp({a})",
    "Log": "rnn_log({a})",
    "Erf": "rnn_erf({a})",
    "Tanh": "rnn_tanh({a})",
    "Sigmoid": "rnn_sigmoid({a})",
    "HardSigmoid": "rnn_min(rnn_max({alpha} * {a} + {beta}, rnn_all(0.0f)), rnn_all(1.0f))",
    "HardSwish": "{a} * rnn_min(rnn_max({a} * 0.166666667f + 0.5f, rnn_all(0.0f)), rnn_all(1.0f))",
    "Softplus": "rnn_softplus({a})",
    "Softsign": "{a} / (1.0f + rnn_abs({a}))",
    "Mish": "{a} * rnn_tanh(rnn_softplus({a}))",
    "Gelu": "0.5f * {a} * (1.0f + rnn_erf({a} * 0.707106781f))",
    "Relu": "rnn_relu({a})",
    "PRelu": "RNN_IF({a} < 0.0f, {b} * {a}, {a})",
    "LeakyRelu": "RNN_IF({a} < 0.0f, {alpha} * {a}, {a})",
    "ThresholdedRelu": "RNN_IF({a} > {alpha}, {a}, rnn_all(0.0f))",
    "Elu": "RNN_IF({a} < 0.0f, {alpha} * rnn_em1({a}), {a})",
    "Celu": "RNN_IF({a} < 0.0f, {alpha} * rnn_em1({a} / {alpha}), {a})",
    "Selu": "{gamma} * RNN_IF({a} < 0.0f, {alpha} * rnn_em1({a}), {a})",
    "Shrink": "RNN_IF({a} < -{lambd}, {a} + {bias}, RNN_IF({a} > {lambd}, {a} - {bias}, rnn_all(0.0f)))",
    "Swish": "{a} * rnn_sigmoid({alpha} * {a})",
    "Sum": "{a} + {b}",
}
GELU_BY_TANH = "0.5f * {a} * (1.0f + rnn_tanh(0.797884561f * ({a} + 0.044715f * {a} * {a} * {a})))"
# Attributes that a node may leave out, by the ONNX operator reference.
DEFAULTS = {
    "Celu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "Shrink": {"bias": 0.0, "lambd": 0.5},
    "Swish": {"alpha": 1.0},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "ThresholdedRelu": {"alpha": 1.0},
}
# Of single values: all that integers and booleans have, and floats where there is none of vectors.
SCALAR = {
    **ARITHMETIC,
    # Nothing is divided by zero: a step cannot fail.
    "Div": "{b} == 0 ? 0 : {b} == -1 ? (int64_t)(0 - (uint64_t){a}) : {a} / {b}",
    "Max": "{a} > {b} ? {a} : {b}",
    "Min": "{a} < {b} ? {a} : {b}",
    "Neg": "-{a}",
    "Abs": "{a} < 0 ? -{a} : {a}",
    "Sign": "({a} > 0) - ({a} < 0)",
    "Not": "!{a}",
    "And": "{a} && {b}",
    "Or": "{a} || {b}",
    "Xor": "!{a} != !{b}",
    "Equal": "{a} == {b}",
    "Less": "{a} < {b}",
    "LessOrEqual": "{a} <= {b}",
    "Greater": "{a} > {b}",
    "GreaterOrEqual": "{a} >= {b}",
    "Where": "{a} ? {b} : {c}",
    "IsNaN": "{a} != {a}",
    "IsInf": "{a} == 1.0f / 0.0f || {a} == -1.0f / 0.0f",
    "BitwiseAnd": "{a} & {b}",
    "BitwiseOr": "{a} | {b}",
    "BitwiseXor": "{a} ^ {b}",
    "BitwiseNot": "~{a}",
    # The remainder has the sign of the divisor.
    "Mod": "{b} == 0 || {b} == -1 ? 0 : {a} % {b} && ({a} % {b} ^ {b}) < 0 ? {a} % {b} + {b} : {a} % {b}",
}
# What an attribute makes of an operator, by the attribute and its value.
VARIANTS: Mapping[tuple[str, str, str | int], str] = {
    ("Gelu", "approximate", "tanh"): GELU_BY_TANH,
    ("IsInf", "detect_negative", 0): "{a} == 1.0f / 0.0f",
    ("IsInf", "detect_positive", 0): "{a} == -1.0f / 0.0f",
    ("Mod", "fmod", 1): "{b} == 0 || {b} == -1 ? 0 : {a} % {b}",
}
LIBM = ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh")
# The host's mathematical library has these; a microcontroller may have none.
LIBRARY = {
    **{name: f"{name.lower()}f({{a}})" for name in LIBM},
    "Mod": "fmodf({a}, {b})",
    "Round": "rintf({a})",
}
POWERS = {
    2.0: "{a} * {a}",
    3.0: "{a} * {a} * {a}",
    0.5: "rnn_sqrt({a})",
    1.0: "{a}",
    -1.0: "1.0f / {a}",
    -0.5: "1.0f / rnn_sqrt({a})",
}
