"""Cases for every operator that the C writer knows, in every form that it takes, as one table.

A line is `operators: case ; case`, or goes on with the operators of the line before. A case is its operands, then its
attributes: `Concat: 2x3 c2x1 axis=1` joins a fed (2, 3) and a constant (2, 1) of floats. An operand is a shape (`.` for
a single number), or values in JSON (`#` before one), or `_`, left out. Before a shape stands `c` for a constant, and
its kind (KINDS); behind it `*scale`, `+offset`, `~` to round, `<low:high>`, and `!` for no zeros. Values are constants,
and fed with `@`. What `|` separates are several cases.
"""

import json
import re
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from .c_sheet import Array, Case, case, const

random = np.random.default_rng(0)
START = random.bit_generator.state
SPECIAL = np.array([0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3, -3, 30, -30, 1e-30, -1e-3, np.inf, -np.inf, np.nan])
SPECIAL = SPECIAL.astype(np.float32)
INT64 = np.iinfo(np.int64)
DTYPES = {"i": np.int64, "j": np.int32, "b": bool, "f": np.float32}


def floats(*shape: int, scale: float = 1.0) -> Array:
    return np.asarray(random.standard_normal(shape) * scale, np.float32)


def within(*shape: int) -> Array:
    return random.uniform(-0.9, 0.9, shape).astype(np.float32)


def from_the_start() -> None:
    random.bit_generator.state = START


KINDS = {
    "": floats,
    "p": lambda *shape: random.uniform(0.1, 3, shape).astype(np.float32),
    "w": within,
    "z": lambda *shape: np.zeros(shape, np.float32),
    "b": lambda *shape: np.asarray(random.integers(0, 2, shape), bool),
}
OPERAND = re.compile(r"(c?)([pwzbij]?)([\dx]+|\.)(?:\*([\d.]+))?(?:\+([-\d]+))?(~?)(?:<(-?\d+):(-?\d+)>)?(!?)")
VALUES = re.compile(r"(@?)([ijbf]?)(?:#(\S+)|(\[\S*))")


def operand(text: str) -> Any:
    if text in ("_", "S", "-S", "N"):
        # All special values, the same from the end, and those that are numbers.
        return {"_": None, "S": SPECIAL.copy(), "-S": SPECIAL[::-1].copy(), "N": SPECIAL[:-1].copy()}[text]
    if found := VALUES.fullmatch(text):
        fed, kind, *values = found.groups()
        array = np.asarray(json.loads((values[0] or values[1]).replace("MAX", str(INT64.max))))
        array = array.astype(DTYPES[kind or ("f" if array.dtype.kind == "f" and array.size else "i")])
        return array if fed else const(array)
    found = OPERAND.fullmatch(text)
    assert found, text
    constant, kind, sizes, scale, offset, rounded, low, high, nonzero = found.groups()
    shape = () if sizes == "." else tuple(map(int, sizes.split("x")))
    if kind and kind in "ij":
        array = np.asarray(random.integers(int(low or -9), int(high or 10), shape), DTYPES[kind])
    else:
        array = KINDS[kind](*shape)
        array = array if kind == "b" else array * np.float32(scale or 1) + np.float32(offset or 0)
    array = np.rint(array) + np.float32(0) if rounded else array
    array = np.where(array == 0, array.dtype.type(3), array) if nonzero else np.asarray(array)
    return const(array) if constant else array


def attribute(text: str) -> Any:
    """A word, a number, or numbers with commas: `3,` is a list of one."""
    if text[0].isalpha():
        return text
    return json.loads(f"[{text.removesuffix(',')}]" if "," in text else text)


def table(text: str) -> list[Case]:
    cases, operators = [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        head, _, rest = line.rpartition(": ")
        operators = head.split() or operators
        for one, operator in product(rest.split(";"), operators):
            words = []
            for word in one.split():
                named = re.match(r"[A-Za-z_]+=", word)
                name = named[0] if named else ""
                words.append([name + choice for choice in word.removeprefix(name).split("|")])
            for chosen in product(*words):
                own = dict(word.split("=") for word in chosen if "=" in word)
                own = {name: attribute(value) for name, value in own.items()}
                cases.append(case(operator, *(operand(word) for word in chosen if "=" not in word), **own))
    return cases


ALIKE = (
    "Relu Sigmoid Tanh Exp Abs Neg Reciprocal Erf Floor Ceil Softplus Softsign Mish HardSwish HardSigmoid Selu Elu "
    "Celu LeakyRelu ThresholdedRelu Sinh Cosh Atan Round"
)
# Pairs of shapes, which ONNX stretches to each other.
STRETCHED = """
    . . , 1 5 , 17 . , . 33 , 3x5 5 , 3x5 3x1 , 3x1 1x5 , 1x3x1x5 4x1x2x1 , 2x3x4 3x1 , 2x3x4 2x1x4 , 2x3x1x17 17 ,
    2x1x3x17 2x5x3x17 , 1x1x33 33 , 2x3x4x5 1x1x1x1
"""
PAIRS = [pair.split() for pair in STRETCHED.split(",")]
REDUCED = "ReduceMean ReduceSumSquare ReduceL1 ReduceL2 ReduceMax ReduceMin ReduceProd"


def stretched(form: str, pairs: Any = PAIRS) -> str:
    return " ; ".join(form.format(x, y) for a, b in pairs for x, y in ((a, b), (b, a)))


UNARY = f"""
    {ALIKE} Sin Cos Tan Sign: . ; 5 ; 2x3x17
    {ALIKE}: S
    Log Sqrt: p33 ; @[0.0,1,Infinity,NaN,-1,1e-30,1e30]
    Asin Acos: w33
    HardSigmoid: 17 alpha=0.3 beta=-0.1
    Selu: 17 alpha=1.5 gamma=-0.5
    Elu: 17 alpha=-0.7
    Celu: 17 alpha=2.5
    LeakyRelu: 17 alpha=-1e-5
    ThresholdedRelu: 17 alpha=-0.3
    Neg Abs Sign: i9 ; j2x3
    Not: b3x5 ; b.
    Identity: 2x3 ; b5
    Dropout: 2x3 ; 2x3 #0.5 b#false
"""
GELU = "Gelu: 3x33*3 ; 3x33*3 approximate=tanh ; 17 approximate=none"
BINARY = f"""
    Add: {stretched("{} {}")}
    Sub: {stretched("{} c{}")}
    Mul: {stretched("c{} {}", PAIRS[2:10])} ; S 16
    Less: {stretched("{} {}", PAIRS[4:8])}
    Sub: {stretched("i{} i{}", PAIRS[4:8])}
    And: {stretched("b{} b{}", PAIRS[4:8])}
    Where: {stretched("b{0} {1} c{0}", PAIRS[4:9])}
    PRelu: {" ; ".join(f"{b} c{b.split('x')[-1]}" for _, b in PAIRS if b != ".")} ; . c1 ; 2x3x5 3x1
    Add Sub Mul Div Max Min: 3x17*4 3x17! ; 2x1x5*9 c1x5! ; i3x17 i3x17<1:10> ; i2x1x5<-27:30> ci1x5<1:10>
        j3x17 j3x17<1:10> ; j2x1x5<-27:30> cj1x5<1:10>
    Equal Less LessOrEqual Greater GreaterOrEqual: 3x17~ 17~ ; i3x17<-2:3> i17<-2:3> ; j3x17<-2:3> j17<-2:3> ; S -S
    Equal: b5 b5
    And Or Xor: b2x1x5 b3x1
    Max: 3x1 1x5 5 c2x1x1 ; 5 ; i5 i3x1 i. ; S -S
    Min: 3x1 1x5 5 ; i5 ; S -S
    Where: b. i3 i3 ; b2x1x5 j3x1 j. ; b[true,false,true] 4x3 #0.0 ; b4x3 #-Infinity 4x3
"""
LIMITS = """
    Clip: 2x17*4~ #-2.0 #3.0 ; 2x17*4~ #-2.0 ; 2x17*4~ _ #3.0 ; 2x17*4~ ; 2x17*4~ #3.0 #-2.0 ; S #-2.0 #2.0
        i2x17 #-2 #3 ; i2x17 #-2 ; i2x17 _ #3 ; i2x17 ; i2x17 #3 #-2 ; i5 #-MAX #MAX ; 5 #-Infinity #0.5
        j2x17 j#-2 j#3 ; j2x17 j#-2 ; j2x17 _ j#3 ; j2x17 ; j2x17 j#3 j#-2
"""
POWERS = """
    Pow: p3x17 #2.0|#3.0|#0.5|#1.0|#-1.0|#-0.5|#0.0|#1.7|#-2.0|#4.0 ; 3x17 #2|#3|#1|#-1 ; 17 f[[2]] ; 1 f[2,2,2]
        p3 f[0.5,2,3] ; p3x1 5 ; f#2 5
"""
CASTS = """
    Cast: 2x9*9|i2x9|j9|b9 to=1|7|6|9 ; @[0,-0.0,0.3,NaN,Infinity,1e-40] to=9
        @[16777217,-1099511627776,2147483647] to=1
"""
# And what else whole numbers and truths have of their own.
REMAINDERS = """
    Mod Div BitwiseAnd BitwiseOr BitwiseXor: i2x17 i2x17<-4:5>! ; j2x17 j2x17<-4:5>!
    Mod: i2x17 i2x17<-4:5>! fmod=1 ; j2x17 j2x17<-4:5>! fmod=1 ; 3x17*5 p17 fmod=1 ; 3x17*5 #-1.5 fmod=1
    BitwiseNot: i2x17 ; j2x17
    Pow: i2x17 #2|[3]|#0 ; j2x17 j#2|j[3]|j#0 ; p3 i3 ; p3 #5
    Clip: i2x17 i. #5 ; j2x17 j. j#5 ; 3x17 w. #1.5 ; 17 w.+-1 p. ; 17 _ .
    IsNaN: S
    IsInf: S ; S detect_negative=0 ; S detect_positive=0
    Sum Mean: 3x1 5 2x1x1 ; 3x17 3x17 ; 3x17 c17 ; 5
    Shrink: 17 ; 17*3 bias=0.3 lambd=1.2
    Asinh: 17
    Acosh: p17+1
    Atanh: w17
    CastLike: 3x5*9 ci1 ; i3x5 c1
"""
SHAPES = """
    Reshape: 2x3x4 [4,6]|[-1]|[0,-1]|[2,1,3,4]|[24,1]
    Squeeze: 1x3x1x2 ; 1x3x1x2 [-2] ; 1x1x1 [0,1,2]
    Unsqueeze: 3 [0,-1] ; . [0,1] ; b2x3 [1]
    Flatten: 2x3x4 ; 2x3x4 axis=0|-1|3 ; 5
    Transpose: .|5|3x5|1x5|2x3x4|2x1x4|2x3x4x5|1x3x1x5|i3x5 ; 3x5|1x5 perm=1,0|0,1 ; b2x3x5 perm=0,2,1
        2x3x4|2x1x4 perm=0,2,1|1,0,2|2,0,1|1,2,0 ; 2x3x4x5|1x3x1x5 perm=0,2,1,3|0,1,3,2|2,3,0,1|3,1,0,2|1,0,2,3
"""
JOINED = """
    Concat: 2x3 1x3 axis=0 ; 2x3 c2x1 2x17 axis=1 ; 2x3x1 2x1x1 axis=-2 ; 5 1 axis=0 ; 2x3 axis=1
        i2x3 i2x2 axis=-1 ; b2x1x3 b2x1x3 axis=1
    Split: 7 [1,5,1] out=3 axis=0 ; 3x6 out=2 axis=-1 num_outputs=2 ; 3x7 out=3 axis=1 num_outputs=3
        6x3 [2,4] out=2 ; 2x5x3 [1,3,1] out=3 axis=1 ; 1x5 [2,3] out=2 axis=1 ; i4x2 [3,1] out=2 axis=0
    Expand: 3x1 [2,3,5] ; 3x5 [1] ; . [2,17] ; 2x1x3x1 [1,4,1,5] ; i1x3 [2,3] ; b3x1 [3,4]
    Tile: 3 [2] ; 2x3 [3,2] ; 2x1x3 [1,4,1] ; i2x3 [1,2] ; 2x3x2 [2,2,2]
    Slice: 4x5x3 [1] [3] ; 4x5x3 [1] [3] [1] ; 4x5x3 [-2] [MAX] [0] ; 4x5x3 [0,1] [4,2] [0,2] ; 4x5x3 [1] [2] [1]
        4x5x3 [-1] [-MAX] [0] [-1] ; 4x5x3 [-1] [-100] [1] [-2] ; 4x5x3 [3] [0] [0] [-1] ; 4x5x3 [3] [-4] [0] [-1]
        4x5x3 [100] [0] [1] [-1] ; 4x5x3 [0] [5] [1] [2] ; 4x5x3 [1,0] [MAX,MAX] [-2,-1] [3,2] ; 4x5x3 [2] [3] [0]
        4x5x3 [-1,-1,-1] [-MAX,-MAX,-MAX] [0,1,2] [-1,-1,-1] ; 4x5x3 [-100] [2] [0]
        i7 [5] [-MAX] [0] [-2] ; b3x4 [1] [3] [1]
"""
GATHERED = """
    Gather: c7x5 @[3] ; c7x5 @#-1 ; c7x5 @[[0,6],[-7,-1]] axis=0 ; c7x5 @[4,-5,0] axis=1 ; c7x5 @j[1,2] axis=-1
        3x4x5 [2,0] axis=1 ; 3x4x5 #1 axis=1 ; 3x4x5 #-1 axis=0 ; 3x4x5 [-1] axis=2 ; 3x4x5 [[1,-1],[0,0]] axis=-1
        3x4x5 #2 axis=-1 ; 5 #-2 ; i5 @[1,4] ; j5x2 @[1,4] ; b5 [3] ; b5x3 @[3,0]
"""
MODES = "mode=constant|reflect|edge"
PADDED = f"""
    Pad: 5 [2,3] {MODES} ; 3x4 [0,2,1,3] {MODES} ; 2x3x17 [0,0,4,0,0,0] {MODES} ; 3x4 [0,0,0,0] {MODES}
        2x3x1x4 [0,1,0,3,0,2,0,0] {MODES} ; 2x3x5 [1,2] _ [-1] {MODES} ; 2x3x5 [2,1,1,0] _ [2,0] {MODES}
        3x4 [1,0,0,1] #0.1 ; 3 [1,1] #-Infinity|#Infinity|#NaN ; i3 [1,1] #-7 ; j3 [1,1] ; b3 [1,2] b#true ; b3 [1,2]
        1x4 [3,0,2,0] mode=edge ; 3x5 [0,-1,1,-2] ; 3x5 [-1,2,0,-3] #0.5 ; 3x5 [1,0,0,2] .
"""
WRAPPED = "Pad: 5 [2,3] mode=wrap ; 2x3x4 [0,1,3,0,2,4] mode=wrap ; 2x3x4 [1,2] _ [-1] mode=wrap"
REDUCTIONS = f"""
    ReduceSum ReduceMax: 2x3x5x4 [0]|[-1]|[0,1,2,3]|[-2,0]|[3,1] keepdims=0|1
    ReduceSum {REDUCED}: 2x3x5x4 [1,3] keepdims=0 ; 2x17 ; 33 [0] keepdims=0 ; 1x5 [0] ; 2x3 [] ; .
    ReduceLogSum: p3x17 [1]|[0]|[-1,0]
    ReduceLogSumExp: 3x4x5*9+70 [1]|[0]|[-1,0]|[0,1,2] ; @[[-Infinity,-Infinity],[Infinity,0],[0,-Infinity]] [1]
    ReduceSum ReduceMean ReduceSumSquare ReduceL1 ReduceMax ReduceMin ReduceProd: j2x3x4<-3:4> [1]|[0,2]
    ReduceSum ReduceMax ReduceMin ReduceProd: i2x3x4<-3:4> [-1] keepdims=0
    ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd: 2x3 [] noop_with_empty_axes=1 ; 2x3 noop_with_empty_axes=1
    ReduceMax ReduceMin: N
"""
REDUCTIONS_OF_OLD = f"{REDUCED}: 2x3x5 axes=-1,0 keepdims=0|1\nReduceMean: 2x3x5\nReduceSum: 2x3x5 [1] keepdims=0"
REDUCTIONS_OF_TRUTHS = "ReduceMax ReduceMin: b3x4x2 [1]|[0,-1]"
NORMS = """
    Softmax LogSoftmax: 5*4 axis=-1|0 ; 1 axis=0 ; 3x17*4 axis=-1|0|1 ; 2x3x4*4 axis=-1|0|1|2 ; 2x3x4x5*4 axis=0|1|2|3
        1x1 axis=1 ; 3x33 ; 1x5*200 ; 5+80
    LayerNormalization: 17 c17 c17 axis=-1 ; 3x33 c33 c33 axis=-1 ; 3x33 c3x33 c3x33 axis=0 ; 2x5 c5 _ ; 2x5 c1 c.
        2x3x5 c3x5 c3x5 axis=1|-2 ; 2x3x4x5 c3x4x5 c3x4x5 axis=-3 ; 3x33+3 c33 axis=-1 epsilon=1e-3
        2x3x5+3 c3x5 axis=1 epsilon=1e-3 ; 2x3x5 c5 c3x5 axis=-2 ; 4x1 c1 c1
    BatchNormalization: 2x3|1x3x17|2x3x4x5 c3 c3 c3 cp3 ; 1x3x17 c3 c3 c3 cp3 epsilon=0.1 momentum=0.5
        1x1x5 c1 c1 c1 cp1
"""
POOLS = """
    MaxPool AveragePool: 1x3x17 kernel_shape=3, ; 2x3x17 kernel_shape=4, strides=3, ; 1x1x5 kernel_shape=5,
        1x3x17 kernel_shape=3, pads=2,1 strides=2, ; 1x2x7x9 kernel_shape=2,3 ; 1x2x5 kernel_shape=2, auto_pad=VALID
        2x2x7x9 kernel_shape=3,3 pads=1,0,2,1 strides=2,3 ; 1x1x4x5x6 kernel_shape=2,2,3 pads=1,0,0,0,1,1
    MaxPool: 1x3x17 kernel_shape=3, dilations=2, pads=1,2 ; 1x3x8x8 kernel_shape=3,2 dilations=2,3
    AveragePool: 1x3x17 kernel_shape=3, pads=1,2 count_include_pad=1
        1x3x5x5 kernel_shape=3,2 pads=1,1,1,0 count_include_pad=1
"""
SIZES = [(1, 1), (3, 5), (17, 4), (33, 17), (5, 64), (7, 65), (40, 130)]
PRODUCTS = f"""
    MatMul: {" ; ".join(f"{k}|1x{k}|3x{k}|5x{k}|2x3x{k} c{k}x{n} ; c{n}x{k} {k}x1|{k}" for k, n in SIZES)}
        5 5 ; 5 5x3 ; 3x5 5 ; 3x5 5x7 ; 2x3x5 5x7 ; 2x3x5 2x5x7 ; 2x1x3x5 4x5x1 ; 2x3x19 19x1 ; 2x3x9 2x9x37 ; 1x6 6x70
        3x5 2x5x7 ; 2x3x5 c2x5x7 ; 2x3x5 c5 ; 5 c2x5x3 ; c3x5 5x7 ; c5 5x7 ; c3x5 1x5x1 ; c3x5 2x5x1
    Gemm: {" ; ".join(f"1x{k}|3x{k}|4x{k}|9x{k} c{k}x{n} c{n}" for k, n in SIZES)}
        3x5 c5x17 c.|c1|c17|c1x17|c3x17|c3x1|c1x1 beta=0.5 ; 3x5 c5x17 .|1|17|1x17|3x17|3x1|1x1
        3x5 c17x5 .|1|17|1x17|3x17|3x1|1x1 transB=1 beta=-2.5 alpha=0.1 ; 3x5 c5x17 ; 3x5 c17x5 transB=1 alpha=3.0
        5x1 c5x17 c17 transA=1 ; 1x4 c1x6 c4x1 transA=1 ; 1x4 c6x1 transA=1 transB=1 ; 3x5 c5x17 c17 beta=0.0
        2x5 c5x1 c2x1
"""
# The last nine: many places, of as many outputs as blocks have, one more, and one.
CONVOLUTIONS = """
    Conv: 1x3x17 c5x3x3 ; 1x1x64 c6x1x16 c6 strides=8, ; 2x1x9 c6x1x9 ; 2x4x5 c6x4x5 c6 ; 2x4x5 c6x2x5 group=2
        1x4x17 c4x1x3 c4 group=4 pads=2,0 ; 2x4x17 c8x1x3 group=4 pads=1,1 dilations=2,
        1x3x17 c5x3x3 c5 pads=1,3 strides=2, dilations=2, ; 2x3x1 c17x3x1 ; 2x3x7 c17x3x1 c17 ; 2x3x7 c17x3x1 strides=3,
        1x2x7x9 c5x2x3x2 c5 ; 2x4x7x9 c6x2x3x2 group=2 pads=1,0,2,1 strides=2,3 ; 1x4x1x9 c6x4x1x3 c6 pads=0,2,0,0
        1x3x6x7 c3x1x3x3 group=3 dilations=1,2 pads=0,2,0,2 ; 1x1x3x5 c70x1x3x5 c70 ; 1x1x17 c6x1x5 c6 dilations=3,
        1x2x3x4x5 c3x2x2x2x2 pads=0,1,0,1,0,0 ; 1x2x5 c6x2x3 c6 auto_pad=VALID kernel_shape=3,
        1x1x5 c6x1x3 c6 auto_pad=VALID ; 1x2x7 c6x2x4 c6 auto_pad=SAME_UPPER strides=2,
        1x2x7x5 c6x2x4x2 c6 auto_pad=SAME_LOWER
        1x3x40 c7x3x4 c7 ; 2x2x90 c1x2x5 pads=4,1 dilations=2, ; 2x2x83 c4x2x5 c4 pads=1,2 strides=3,
        2x3x9x6 c6x3x3x3 c6 pads=1,1,1,1 ; 1x4x12x11 c6x2x3x2 group=2 pads=2,0,0,1 strides=2,1 dilations=1,2
        2x5x8x9 c10x1x3x5 c10 group=5 pads=1,2,1,2 strides=1,2 ; 1x6x5x5 c5x6x1x1 c5
        1x2x6x5x7 c3x2x3x2x3 c3 pads=1,0,1,1,1,1 strides=2,1,1
"""
TRANSPOSED = """
    ConvTranspose: 1x3x1 c3x5x4 c5 ; 1x3x1 c3x5x4 strides=2, ; 2x3x7 c3x17x4 c17 strides=2, ; 1x3x5 c3x70x1 c70
        1x3x7 c3x2x3 c2 strides=2, pads=1,1 output_padding=1, ; 1x4x7 c4x3x3 c6 group=2 dilations=2, pads=0,2
        2x4x1 c4x1x6 c4 group=4 strides=3, ; 2x4x5 c4x1x2 group=4 strides=3, output_padding=2, ; 1x2x4x5 c2x3x3x2 c3
        2x4x4x5 c4x3x3x2 group=2 strides=2,3 pads=1,0,2,1 ; 1x2x4x3 c2x2x2x3 c2 dilations=2,1
        1x2x1x5 c2x3x1x4 c3 strides=1,2 pads=0,1,0,1 output_padding=0,1 ; 1x2x3x2x3 c2x2x2x2x2 c2 strides=2,1,2
        1x2x5 c2x3x4 c3 strides=2, output_shape=9, ; 1x2x5 c2x3x4 c3 strides=2, auto_pad=SAME_UPPER
        1x2x5 c2x3x3 c3 strides=2, auto_pad=SAME_LOWER|VALID
"""
# Sizes that are rounded up, and padding that is computed. ONNX Runtime's LpPool gives fewer values than ONNX says.
MORE_POOLS = """
    MaxPool AveragePool LpPool: 1x2x7 kernel_shape=4, strides=2, auto_pad=SAME_UPPER|SAME_LOWER
        1x2x7x5 kernel_shape=2,3 auto_pad=SAME_UPPER|SAME_LOWER ; 2x3x9 kernel_shape=3, strides=2, pads=1,1
    MaxPool AveragePool: 1x2x8 kernel_shape=3, strides=2, ceil_mode=1
        1x2x8x9 kernel_shape=3,2 strides=2,2 pads=1,0,1,1 ceil_mode=1
    GlobalMaxPool GlobalAveragePool GlobalLpPool: 2x3x7|2x3x4x5|2x3x1
    AveragePool: 1x2x9 kernel_shape=3, dilations=2, ; 1x2x9 kernel_shape=3, dilations=3, pads=2,1 count_include_pad=1
    LpPool: 1x2x9 kernel_shape=3, p=1 dilations=2, ; 1x2x9 kernel_shape=3, p=3
    GlobalLpPool: 1x2x9 p=1
    MaxPool: 2x3x9 out=2 kernel_shape=3, strides=2, pads=1,1 ; 1x2x5x7 out=2 kernel_shape=2,3 pads=1,0,0,2
"""
WAYS = "coordinate_transformation_mode=half_pixel|pytorch_half_pixel|align_corners|asymmetric|half_pixel_symmetric"
RESIZED = f"""
    Resize: 1x2x7 _ _ [1,2,10] {WAYS} nearest_mode=round_prefer_floor|round_prefer_ceil|floor|ceil
        1x2x7 _ _ [1,2,10] {WAYS} mode=linear ; 2x3x4x5 _ [1,1,2,1.5] {WAYS} mode=linear
        1x2x7 _ [1,1,0.6] {WAYS} mode=linear ; 2x3x5 _ f[1,1,3] ; 2x3x8 _ [0.5] axes=2, ; 2x3x1 _ f[1,1,4] mode=linear
        2x3x5x4 _ f[1,1,2,3] coordinate_transformation_mode=asymmetric nearest_mode=floor ; 2x3x5 _ f[1,1,1]
        j1x2x5 _ f[1,1,2]
    DepthToSpace: 2x8x3x4 blocksize=2 ; 1x18x2x1 blocksize=3 mode=CRD
    SpaceToDepth: 2x3x4x6 blocksize=2
"""
CHANNEL_NORMS = """
    InstanceNormalization: 2x6x5+2 c6 c6 ; 1x4x2 c4 c4 epsilon=1e-2 ; 2x2x3x17 c2 c2 ; 1x3x33 c3 c3
    GroupNormalization: 2x6x5+2 c6 c6 num_groups=3 ; 1x4x2 c4 c4 num_groups=2 ; 2x2x3x17 c2 c2 num_groups=1 epsilon=1e-2
        1x3x33 c3 c3 num_groups=3 ; 2x6x5 c6 c6 num_groups=1
    LpNormalization: 2x3x5 p=1|2 axis=0|1|-1 ; z2x3 p=1|2
    LayerNormalization: 2x3x5 5 5 ; 2x3x5 3x5 axis=1 ; 2x5 c5 5
"""
CHANNEL_NORMS_OF_OLD = "GroupNormalization: 2x6x5 c3 c3 num_groups=3"
# The equation, and the shapes of a fed and of a fed or constant operand.
SUMS = {
    "bi,io->bo": "3x5 c5x7|5x7", "bi,oi->bo": "3x17 c9x17|9x17", "bi,io": "3x5 c5x7",
    "bhi,hio->bho": "2x3x5 c3x5x4|3x5x4",
    "bhi,hio->boh": "2x3x5 c3x5x4|3x5x4", "bthd,bshd->bhts": "1x3x2x8 1x4x2x8", "bhts,bshd->bthd": "1x2x3x4 c1x4x2x8",
    "bn,bd->bdn": "2x3 2x4", "bdn,bn->bd": "2x4x3 c2x3|2x3", "...i,ij->...j": "2x3x5 c5x4|5x4",
    "...i,...i->...": "2x3x5 c2x1x5|2x1x5", "...ij,...jk": "2x3x4 c2x4x5|2x4x5", "b...d,de->b...e": "2x3x1x5 c5x4",
    "ij,jk->ik": "1x5 c5x1|5x1", "ij,kl->ijkl": "2x3 4x5", "i,i->": "17 c17|17", "i,j->ij": "3 4",
    "ijk,ilm->kjl": "2x3x4 2x5x6", "ij,ij->ij": "3x5 c3x5", "ij,kj->k": "3x5 2x5", "bij,ji->b": "2x3x4 c4x3|4x3",
    "bi,ijk->bj": "2x3 c3x4x5|3x4x5", "oi,bi->bo": "c4x5 3x5", "ii->i": "3x3", "ii": "3x3", "bij->bji": "2x3x4",
    "bij->b": "2x3x4", "bii,bi->b": "2x3x3 2x3", "ij,jk,kl->il": "2x3 3x4 4x5", "bi,ij,bj->b": "2x3 c3x4 2x4",
    "bi,bj,bjk,k->bik": "2x3 2x4 2x4x5 5", "bi , io -> bo": "2x3 c3x1",
}  # fmt: skip
INDICES = """
    GatherElements: 3x4x5 i3x2x5<-4:4> axis=1 ; 3x4x5 i2x4x5<-3:3> ; 3x4x5 cj3x4x2<0:5> axis=-1 ; i5 i3<0:5>
    GatherND: 3x4x5 i2x3x1<-3:3>|i4x2<0:3>|i7x3<-3:3> ; 3x4x5 i3x2x1<0:4> batch_dims=1 ; b3x4 ci5x2<0:3>
        2x3x4x5 i2x3x2<0:4> batch_dims=2
    OneHot: i3<-5:5> #5 [0.5,2.0] ; i2x3 #5 2 axis=1 ; i2x3<0:4> #4 [0,1] axis=0 ; i1<0:3> #3 [0,1] axis=-1
    Trilu: 4x5 ; 2x4x5 #1 ; 2x5x4 #-2 upper=0 ; i3x3 upper=0 ; b3x3 #1 ; 4x5 #7 upper=0
    ScatterElements: 3x4x5 @[[[2,0]],[[0,1]]] 2x1x2 axis=0 ; 3x4x5 @[[[3,0],[1,2]]] 1x2x2 axis=1
        i3x4x5 @[[[4,0],[1,2]]] i1x2x2 axis=-1
    ScatterElements: 3x4x5 i2x3x5<-3:3> 2x3x5 axis=0 reduction=add|mul|max|min
    ScatterND: 3x4x5 i2x2x1<-3:3> 2x2x4x5 reduction=add|mul|max|min ; i3x4 i5x2<0:3> i5 reduction=add|mul|max|min
        3x4x5 @[[2],[0]] 2x4x5 ; 3x4x5 [[-1,2],[0,-4]] 2x5 ; 3x4x5 @[[[1,2,3]],[[0,0,0]]] 2x1 ; b4 @[[1],[3]] b2
"""
CACHES = """
    TensorScatter: 2x8x4 2x2x4 @[1,6] ; 2x8x4 2x1x4 ; 2x8x4 2x3x4 @[7,0] mode=circular ; i1x2x6x3 i1x2x1x3 @[5]
        2x3x5x4 2x3x5x2 @[1,0] axis=-1
    Swish: 3x17 ; 17 alpha=1.7
    RMSNormalization: 3x17 c17 ; 2x3x5 c3x5 axis=1 epsilon=1e-3 ; 2x5 5
    Attention: 2x3x1x8 2x3x5x8 2x3x5x4 ; 2x3x1x8 2x3x5x8 2x3x5x4 c1x5 scale=0.3
    RotaryEmbedding: 2x2x3x8 w2x3x4 w2x3x4
    MeanVarianceNormalization: 1x2x3x4
"""
RUNNING = """
    CumSum CumProd: 2x5x3 #0|#1|#-1 exclusive=0|1 reverse=0|1 ; i7 #0 exclusive=0|1 reverse=0|1
        j2x3 [1] exclusive=0|1 reverse=0|1
    CumSum: 1x33 #1
"""
ORDERED = """
    ArgMax ArgMin: 3x4x5 axis=0|1|-1 ; 3x4x5~ axis=0|1|-1 keepdims=0 ; 3x4x5~ axis=0|1|-1 select_last_index=1
        1x17 axis=1 ; j5x3 ; 7 keepdims=0
    Hardmax: 3x4x5|3x4x5~ axis=0|1|-1 ; 3x4x5
    TopK: 3x4x5 [2] out=2 axis=0|1|-1 largest=0|1 ; 3x4x5~ [3] out=2 axis=0|1|-1 largest=0|1 ; 33 [33] out=2
        i2x9 [4] out=2 ; j9 [4] out=2
"""
# Powers of two and not, small primes, the largest radix, primes beyond it, odd and even numbers that have one.
LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 30, 49, 60, 61, 64, 67, 100, 128, 134, 201, 240, 320, 512)
ONE_AXIS = "1x{0}x1 _ #1 onesided=1 ; 1x{0}x2 _ #1 inverse=0|1"
AXES = """
    2x{0}x1 onesided=0 ; 2x{0}x1 inverse=1 ; {0}x3x1 _ #0 onesided=1 ; 2x{0}x5x2 _ #-3 ; 2x{0}x5x2 _ #1 inverse=1 ;
    2x{0}x1 #{1} #-2 onesided=1 ; 2x{0}x1 #{2} #-2 onesided=1 ; 2x{0}x2 #{2} #-2 ; 2x{0}x2 #{1} #-2 inverse=1 ;
    2x{0}x5x1 #{1} #1 onesided=1
"""
# Opset 17 has the axis as an attribute.
TRANSFORMS_OF_OLD = """
    DFT: 2x12x1 ; 2x12x1 onesided=1 axis=-2 ; 2x12x3x2 axis=2 ; 2x12x3x2 axis=1 inverse=1 ; 2x12x1 #10 axis=1
    STFT: 1x64x1 #4 c16 #16 onesided=1 ; 2x64x1 #8 c16 onesided=0 ; 2x64x1 #8 _ #16 onesided=1
        1x40x1 #5 c15 #15 onesided=1 ; 1x64x2 #8 c16 #16 onesided=0 ; 1x512x1 #128 c512 #512 onesided=1
"""


def spectrum(n: int, rows: int) -> Array:
    """The spectrum of a real signal, (rows, n / 2 + 1, 2): the first and for an even n the last value are real."""
    values = np.fft.rfft(floats(rows, n).astype(np.float64), axis=1)
    return np.stack([values.real, values.imag], -1).astype(np.float32)


def transforms() -> list[Case]:
    """Opset 20, with the axis as an input."""
    cases = [found for n in LENGTHS for found in table(f"DFT: {ONE_AXIS.format(n)}")]
    for n in (8, 15, 67):
        cases += table("DFT: " + " ".join(AXES.format(n, n - 3, n + 5).split()))
    for n, rows in (*((n, 1) for n in LENGTHS[1:]), (16, 2)):
        cases.append(case("DFT", spectrum(n, rows), const(n), const(1), inverse=1, onesided=1))
    return cases


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def cell(
    kind: str,
    units: int = 5,
    frames: int = 1,
    rows: int = 1,
    values: int = 3,
    bias: bool = True,
    start: str = "fed",
    out: Any = None,
    **attributes: Any,
) -> Case:
    """`start`: the first states are fed, constant, or left out."""
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    height = GATES[kind] * units
    inputs: list[Any] = [floats(frames, rows, values), *(const(within(ways, height, k)) for k in (values, units))]
    inputs.append(const(within(ways, 2 * height)) if bias else None)
    states = [within(ways, rows, units) for _ in range(2 if kind == "LSTM" else 1)]
    if start != "none":
        inputs += [None, *(states if start == "fed" else map(const, states))]
    names = out or ["Y", "Y_h", *(["Y_c"] if kind == "LSTM" else [])]
    return case(kind, *inputs, out=names, hidden_size=units, **attributes)


def cells() -> list[Case]:
    cases = []
    for kind, form in (("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})):
        for direction in ("forward", "reverse", "bidirectional"):
            own: dict[str, Any] = {**form, "direction": direction}
            cases += [
                cell(kind, **own),
                cell(kind, units=17, frames=3, **own),
                cell(kind, units=16, frames=2, rows=3, bias=False, **own),
                cell(kind, units=7, frames=3, rows=2, start="none", **own),
                cell(kind, units=1, values=1, start="constant", **own),
                cell(kind, frames=3, out=["", "Y_h"], **own),
                cell(kind, frames=3, out=["Y"], **own),
            ]
        cases += [cell(kind, units=33, values=40, **form)]
    cases += [
        cell("LSTM", frames=3, out=["Y", "", "Y_c"]),
        cell("LSTM", frames=3, out=["", "", "Y_c"], direction="bidirectional"),
        cell("LSTM", frames=2, out=["", "Y_h"], direction="reverse"),
        cell("RNN", frames=3, activations=["Relu"]),
        cell("RNN", frames=3, activations=["Relu", "Relu"], direction="bidirectional"),
    ]
    for start in ("fed", "constant"):
        cases += [
            cell("RNN", frames=3, rows=2, activations=["Tanh", "Relu"], direction="bidirectional", start=start),
            cell("RNN", frames=2, activations=["Sigmoid"], start=start),
            cell("LSTM", frames=2, rows=2, activations=["Sigmoid", "Relu", "Tanh"], start=start),
            cell("LSTM", frames=2, out=["Y", "", "Y_c"], activations=["HardSigmoid", "Softsign", "Tanh"], start=start),
            cell("GRU", frames=2, activations=["Sigmoid", "Relu"], start=start),
            cell("GRU", frames=2, activations=["Sigmoid", "Relu"], linear_before_reset=1, start=start),
            cell("GRU", frames=2, activations=["HardSigmoid", "Tanh"], direction="reverse", start=start),
        ]
    return cases


def sums() -> list[Case]:
    rows = [(equation, found) for equation, shapes in SUMS.items() for found in table(f"Einsum: {shapes}")]
    return [case(found.op, *found.inputs, equation=equation) for equation, found in rows]


# By name: the opset, and what makes the cases. The default lane has the first.
FAMILIES: dict[str, tuple[int, Any]] = {
    "shapes": (18, SHAPES),
    "convolutions": (18, CONVOLUTIONS),
    "unary": (18, UNARY),
    "gelu": (20, GELU),
    "binary": (18, BINARY),
    "limits": (18, LIMITS),
    "powers": (18, POWERS),
    "casts": (18, CASTS),
    "joined": (18, JOINED),
    "gathered": (18, GATHERED),
    "padded": (18, PADDED),
    "reductions": (18, REDUCTIONS),
    "reductions of old": (17, REDUCTIONS_OF_OLD),
    "norms": (18, NORMS),
    "pools": (18, POOLS),
    "products": (18, PRODUCTS),
    "cells": (18, cells),
    "wrapped": (19, WRAPPED),
    "sums": (18, sums),
    "remainders": (18, REMAINDERS),
    "indices": (18, INDICES),
    "caches": (24, CACHES),
    "running": (26, RUNNING),
    "ordered": (18, ORDERED),
    "reductions of truths": (20, REDUCTIONS_OF_TRUTHS),
    "more pools": (19, MORE_POOLS),
    "transposed": (18, TRANSPOSED),
    "resized": (18, RESIZED),
    "channel norms": (21, CHANNEL_NORMS),
    "channel norms of old": (18, CHANNEL_NORMS_OF_OLD),
    "transforms": (20, transforms),
    "transforms of old": (17, TRANSFORMS_OF_OLD),
}


@cache
def cases_of(family: str) -> tuple[int, list[Case]]:
    from_the_start()
    opset, made = FAMILIES[family]
    return opset, table(made) if isinstance(made, str) else made()
