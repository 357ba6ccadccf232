"""The ONNX that each TensorRT reads, as data: operators, types, and required constants.

Sources: docs/operators.md of onnx-tensorrt at its releases 8.2, 8.5, 8.6, 10.0 and 10.15, and where that page says too
little the importers of the same releases; for TensorRT-RTX the behaviour of its parser, 1.7.1. TensorRT 11 has the
rows of 10.15, the last that is documented.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rnn_export.contract.precision import GRAPH_PRECISIONS, PRECISIONS
from rnn_export.contract.target_table import Target, version_key


@dataclass(frozen=True)
class ParserRules:
    """The ONNX that one library, in one family of versions, reads: its opset, and operators of the default domain.

    float64 is in no `dtypes`: all make it float32 and say nothing. By operator, `build_time_inputs` has the input that
    must be known when the engine is built, `float_constants` those that are read as float32 when constant, of any type.
    Operators in `float_only` take no integers and those in `no_bool` no bool, though ONNX allows them. Without `int64`
    it is clamped to int32, silently. With `exponents` that of Pow may have another type than its base.
    """

    name: str
    opset: int
    operators: frozenset[str]
    dtypes: frozenset[str]
    build_time_inputs: Mapping[str, int]
    float_only: frozenset[str] = frozenset({"Einsum", "Erf", "Gemm", "MatMul", "PRelu", "ReduceL2"})
    no_bool: frozenset[str] = frozenset()
    int64: bool = True
    float_constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    exponents: bool = False

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of a typed graph."""
        return tuple(name for name in GRAPH_PRECISIONS if PRECISIONS[name].dtype in self.dtypes)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_8_2 = _names("""
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
    Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu
    Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If InstanceNormalization IsNaN LRN LSTM LeakyRelu Less
    LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression Not Or
    PRelu Pad Pow QuantizeLinear RNN RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence Round Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze
    Upsample Where
""")
_8_5 = _8_2 | _names("""
    GridSample HardSwish MeanVarianceNormalization Mod NonZero OneHot RandomNormal RandomNormalLike RoiAlign Shrink
    Trilu Xor
""")
_8_6 = _8_5 | _names("GroupNormalization IsInf LayerNormalization")
_10 = _8_6 | _names("CastLike Gelu Hardmax Mish")
_10_15 = _10 | _names("""
    Attention BlackmanWindow DeformConv HammingWindow HannWindow RMSNormalization RotaryEmbedding STFT TensorScatter
""")
# The parser says that it has NonZero, and then misses the plugin that it is made of.
_RTX = _10_15 - {"DeformConv", "NonZero"} | {"CausalConvWithState", "LinearAttention", "Swish"}

_TYPES_8_2 = _names("float32 float16 int8 int32 int64 bool")
_TYPES_8_5 = _TYPES_8_2 | {"uint8"}
_TYPES_10 = _TYPES_8_5 | _names("bfloat16 float8e4m3fn int4")
_TYPES_10_15 = _TYPES_10 | {"float4e2m1"}

_AXES = {name: 1 for name in _8_2 if name.startswith("Reduce")}
_AXES |= {"CumSum": 1, "OneHot": 1, "Squeeze": 1, "Unsqueeze": 1}
_OLDER_AXES = {**_AXES, "Pad": 3, "Slice": 3}
_OLDEST_AXES = {**_OLDER_AXES, "TopK": 1}

# By library and the first version of a family.
RULES = {
    "tensorrt-8.2": ParserRules(
        "TensorRT 8.2",
        13,
        _8_2,
        _TYPES_8_2,
        _OLDEST_AXES,
        no_bool=_names("Gather GatherElements GatherND Where"),
        int64=False,
        float_constants={"Clip": (1, 2), "Pad": (2,)},
    ),
    "tensorrt-8.5": ParserRules("TensorRT 8.5", 17, _8_5, _TYPES_8_5, _OLDEST_AXES, int64=False),
    "tensorrt-8.6": ParserRules("TensorRT 8.6", 17, _8_6, _TYPES_8_5, _OLDER_AXES, int64=False),
    "tensorrt-10.0": ParserRules("TensorRT 10", 20, _10, _TYPES_10, _OLDER_AXES),
    "tensorrt-11.0": ParserRules("TensorRT 11", 24, _10_15, _TYPES_10_15, _AXES, exponents=True),
    "tensorrt-rtx-1.0": ParserRules("TensorRT-RTX", 24, _RTX, _TYPES_10_15, _AXES, exponents=True),
}


def parser_rules(target: Target, precision: str = "fp32") -> ParserRules:
    """The rules of the oldest library that must take the target's graph in `precision`.

    Raises KeyError where the row has no library, or the library no such precision: `find_target` refuses that.
    """
    oldest = version_key(target.min_version_for(precision) or "0")
    families = [key.removeprefix(f"{target.library}-") for key in RULES if key.rpartition("-")[0] == target.library]
    family = max((f for f in families if version_key(f) <= oldest), key=version_key, default="")
    return RULES[f"{target.library}-{family}"]
