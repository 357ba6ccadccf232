"""The words that arguments take, as types: a checker refuses a misspelt one before anything runs."""

from typing import Literal, NewType, TypeAlias

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
"""Of weights and arithmetic."""

BackendName: TypeAlias = Literal[
    "auto", "tensorrt", "native", "onnxruntime", "openvino", "litert", "torchscript", "wasm", "coreml", "executorch"
]
"""What computes a step; "auto" takes the fastest that a bundle and a machine support."""

Chunk: TypeAlias = int | Literal["auto"]
"""Frames of a step; "auto" takes the fewest that the strides of a model need."""

OnNan: TypeAlias = Literal["reset", "close", "keep"]
"""What becomes of a stream of a pool with a NaN in an output or a next state."""

ServerAddress = NewType("ServerAddress", str)
"""Servers in the place of a backend: ServerAddress("grpc://HOST:PORT,HOST:PORT/NAME")."""
