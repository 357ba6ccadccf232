"""What each TensorRT reads of ONNX, as data: operators, types, and what has to be constant.

Sources: docs/operators.md of onnx-tensorrt at its releases 8.2, 8.5, 8.6, 10.0 and 10.15, and where that page says too
little the importers of the same releases; for TensorRT-RTX what its parser, 1.7.1, takes and refuses. TensorRT 11 has
the rows of 10.15, the last that is documented.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rnn_export.precision import GRAPH_PRECISIONS, PRECISIONS
from rnn_export.targets import Target, version_key


@dataclass(frozen=True)
class ParserRules:
    """What one library, in one family of versions, reads: up to which opset, which operators of the default domain.

    float64 is in no `dtypes`: all make it float32 and say nothing. By operator, `build_time_inputs` has the input that
    must be known when the engine is built, `float_constants` those that are read as float32 when constant, whatever
    they are. What is `float_only` takes no integers and what is in `no_bool` no bool, though ONNX allows them. Without
    `int64` that is clamped to int32, silently. With `exponents` that of Pow may have another type than its base.
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
        """Those that a graph can be typed in."""
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

_AXES = {name: 1 for name in _8_2 if name.startswith("Reduce")}
_AXES |= {"CumSum": 1, "OneHot": 1, "Squeeze": 1, "Unsqueeze": 1}
_OLDER_AXES = {**_AXES, "Pad": 3, "Slice": 3}

TENSORRT_8_2 = ParserRules(
    name="TensorRT 8.2",
    opset=13,
    operators=_8_2,
    dtypes=_names("float32 float16 int8 int32 int64 bool"),
    build_time_inputs={**_OLDER_AXES, "TopK": 1},
    no_bool=_names("Gather GatherElements GatherND Where"),
    int64=False,
    float_constants={"Clip": (1, 2), "Pad": (2,)},
)
TENSORRT_8_5 = replace(
    TENSORRT_8_2,
    name="TensorRT 8.5",
    opset=17,
    operators=_8_5,
    dtypes=TENSORRT_8_2.dtypes | {"uint8"},
    no_bool=frozenset(),
    float_constants={},
)
TENSORRT_8_6 = replace(TENSORRT_8_5, name="TensorRT 8.6", operators=_8_6, build_time_inputs=_OLDER_AXES)
TENSORRT_10 = replace(
    TENSORRT_8_6,
    name="TensorRT 10",
    opset=20,
    operators=_10,
    dtypes=TENSORRT_8_6.dtypes | _names("bfloat16 float8e4m3fn int4"),
    int64=True,
)
TENSORRT_11 = replace(
    TENSORRT_10,
    name="TensorRT 11",
    opset=24,
    operators=_10_15,
    dtypes=TENSORRT_10.dtypes | {"float4e2m1"},
    build_time_inputs=_AXES,
    exponents=True,
)
TENSORRT_RTX = replace(TENSORRT_11, name="TensorRT-RTX", operators=_RTX)

# By library and the first version of a family.
RULES = {
    "tensorrt-8.2": TENSORRT_8_2,
    "tensorrt-8.5": TENSORRT_8_5,
    "tensorrt-8.6": TENSORRT_8_6,
    "tensorrt-10.0": TENSORRT_10,
    "tensorrt-11.0": TENSORRT_11,
    "tensorrt-rtx-1.0": TENSORRT_RTX,
}


def parser_rules(target: Target, precision: str = "fp32") -> ParserRules:
    """The rules of the oldest library that must take the target's graph in `precision`.

    Raises KeyError where the row has no library, or the library no such precision: `find_target` refuses that.
    """
    oldest = version_key(target.min_version_for(precision) or "0")
    families = [key.removeprefix(f"{target.library}-") for key in RULES if key.rpartition("-")[0] == target.library]
    family = max((f for f in families if version_key(f) <= oldest), key=version_key, default="")
    return RULES[f"{target.library}-{family}"]
