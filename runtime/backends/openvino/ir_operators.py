"""The operators of OpenVINO that a graph of a bundle may have, as IR names them: functions of tensors.

Left out are those that hold other graphs, draw at random, read images or text, ask for shapes, or give as many values
as their input makes them.
"""

_NAMES = """
    Abs Acos Acosh Add Asin Asinh Assign Atan Atanh AvgPool BatchNormInference BitwiseAnd BitwiseLeftShift BitwiseNot
    BitwiseOr BitwiseRightShift BitwiseXor Broadcast Ceiling Clamp Concat Const Convert ConvertLike Convolution
    ConvolutionBackpropData Cos Cosh CumSum DFT DepthToSpace Divide Einsum Elu Equal Erf Exp FakeQuantize Floor FloorMod
    GRUCell GRUSequence Gather GatherElements GatherND Gelu Greater GreaterEqual GroupConvolution
    GroupConvolutionBackpropData GroupNormalization HSigmoid HSwish HardSigmoid IDFT IRDFT Identity IsFinite IsInf IsNaN
    LRN LSTMCell LSTMSequence Less LessEqual Log LogSoftmax LogicalAnd LogicalNot LogicalOr LogicalXor MVN MatMul
    MaxPool Maximum Minimum Mish Mod Multiply Negative NormalizeL2 NotEqual OneHot PReLU Pad Parameter Power RDFT
    RNNCell RNNSequence ReLU ReadValue ReduceL1 ReduceL2 ReduceLogicalAnd ReduceLogicalOr ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum Reshape Result Reverse ReverseSequence Roll Round ScaledDotProductAttention
    ScatterElementsUpdate ScatterNDUpdate ScatterUpdate Select Selu Sigmoid Sign Sin Sinh Slice SoftMax SoftPlus
    SoftSign SpaceToDepth Split Sqrt SquaredDifference Squeeze StridedSlice Subtract Swish Tan Tanh Tile TopK Transpose
    Unsqueeze VariadicSplit
"""
OPERATORS = frozenset(_NAMES.split())
