"""Stand-ins for the Python API of TensorRT 8.2, 8.5, 8.6, 10 and 11, each without the names its release lacks.

Source: NVIDIA/TensorRT, python/src/infer/pyCore.cpp, pyGraph.cpp and python/src/parsers/pyOnnx.cpp at the tags 8.2.1,
8.5.2, v8.6.1, v10.3.0 and v11.1. They record their calls and build nothing: not run on hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

from rnn_export.runtime.backends.tensorrt.library import Library
from rnn_export.runtime.backends.tensorrt.nvidia import Driver, Gpu

ORIN = Gpu("Orin", "8.7", 8 * 2**30)


@dataclass
class Tensor:
    """ITensor, with the name of its dtype until the network has its library."""

    name: str
    dtype: Any
    shape: tuple[int, ...] = (1, 4)


@dataclass
class Layer:
    """ILayer; before strong typing ended it, with a precision."""

    kind: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    set: dict[str, Any] = field(default_factory=dict)


def half_lstm() -> list[Layer]:
    """A product and an activation in fp16, around them casts, beside them a cell state in fp32 and a shape in int32."""
    x, h = Tensor("x", "FLOAT"), Tensor("h", "HALF")
    return [
        Layer("CONSTANT", [], [Tensor("w", "HALF")]),
        Layer("CAST", [x], [Tensor("x16", "HALF")]),
        Layer("MATRIX_MULTIPLY", [Tensor("x16", "HALF"), Tensor("w", "HALF")], [h]),
        Layer("CAST", [h], [Tensor("h32", "FLOAT")]),
        Layer("ELEMENTWISE", [Tensor("h32", "FLOAT"), Tensor("c", "FLOAT")], [Tensor("c.next", "FLOAT")]),
        Layer("SHAPE", [x], [Tensor("size", "INT32")]),
        Layer("GATHER", [Tensor("size", "INT32")], [Tensor("row", "INT32")]),
    ]


def products(dtype: str) -> list[Layer]:
    return [Layer("MATRIX_MULTIPLY", [Tensor("x", dtype)], [Tensor("y", dtype)])]


@dataclass
class Behaviour:
    """Settings of the stand-in; `calls` records its calls, `layers` is its network, `says` the builder's log."""

    layers: Sequence[Layer] = field(default_factory=half_lstm)
    inputs: Sequence[Tensor] = (Tensor("x", "FLOAT", (-1, 4)), Tensor("c", "FLOAT", (-1, 4)))
    refuses: tuple[str, str, str] | None = None  # operator, node, reason
    says: Sequence[tuple[str, str]] = ()
    reads: Callable[[bytes], None] = lambda graph: None  # called with each graph that is parsed
    plan: bytes | None = b"plan"
    engine: Any = "engine"  # or what makes it of a plan
    fast_fp16: bool = True
    null: bool = False  # pybind's error where a factory gives a null pointer
    profile: int = 0
    known_cache: bytes = b"known"
    calls: list[tuple[Any, ...]] = field(default_factory=list)


RANGE = {"x": ((1, 4), (1, 4), (8, 4)), "c": ((1, 4), (1, 4), (8, 4))}


def library(version: str, gpu: Gpu = ORIN, probe: Callable[[], Driver] | None = None, **changes: Any) -> Library:
    """The adapter over a stand-in; `.trt.did` is its Behaviour."""
    return Library("tensorrt", fake(version, **changes), probe or (lambda: Driver("12.6", (gpu,))))


def fake(version: str, **changes: Any) -> Any:
    """The module `tensorrt` as of a release: "8.2", "8.5", "8.6", "10.3" or "11.1"."""
    major, minor = map(int, version.split("."))
    did = Behaviour(**changes)
    weak, strong, old = major < 11, major >= 10, (major, minor) < (8, 4)

    def names(kind: str, *found: str) -> Any:
        return IntEnum(kind, [(name, number) for number, name in enumerate(found)])

    trt = SimpleNamespace(__version__=f"{version}.0", did=did)
    trt.DataType = names("DataType", "FLOAT", "HALF", "INT8", "INT32", "BOOL", *(["BF16", "INT64"] if strong else []))
    of_weak = ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "STRICT_TYPES", *(["BF16"] if strong else [])]
    trt.BuilderFlag = names("BuilderFlag", "TF32", *(of_weak if weak else []))
    flags = {8: ["EXPLICIT_BATCH", "EXPLICIT_PRECISION"], 10: ["EXPLICIT_BATCH", "STRONGLY_TYPED"]}
    trt.NetworkDefinitionCreationFlag = names("NetworkDefinitionCreationFlag", *flags.get(major, ["STRONGLY_TYPED"]))
    trt.LayerType = names("LayerType", *sorted({layer.kind for layer in half_lstm()}), "IDENTITY", "EINSUM")
    trt.Severity = names("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    trt.MemoryPoolType = names("MemoryPoolType", "WORKSPACE")
    if (8, 6) <= (major, minor) < (11, 0):
        trt.PreviewFeature = names("PreviewFeature", "PROFILE_SHARING_0806")
    if (major, minor) >= (8, 6):
        trt.OnnxParserFlag = names("OnnxParserFlag", "NATIVE_INSTANCENORM")
    trt.ILogger = type("ILogger", (), {"__init__": lambda this: None})

    def writes(*what: Any) -> None:
        did.calls.append(what)

    def speak(logger: Any) -> None:
        for level, text in did.says:
            logger.log(trt.Severity[level], text)

    def typed(tensor: Tensor) -> Tensor:
        dtype = tensor.dtype if isinstance(tensor.dtype, IntEnum) else trt.DataType[tensor.dtype]
        return Tensor(tensor.name, dtype, tensor.shape)

    class Wrapped:
        __slots__ = ("inputs", "layer", "num_inputs", "num_outputs", "outputs", "type")

        def __init__(self, layer: Layer) -> None:
            self.layer, self.type = layer, trt.LayerType[layer.kind]
            self.inputs, self.outputs = [typed(t) for t in layer.inputs], [typed(t) for t in layer.outputs]
            self.num_inputs, self.num_outputs = len(self.inputs), len(self.outputs)

        def get_input(self, index: int) -> Tensor:
            return self.inputs[index]

        def get_output(self, index: int) -> Tensor:
            return self.outputs[index]

    class WeakLayer(Wrapped):
        __slots__ = ()

        @property
        def precision(self) -> Any:
            return self.layer.set.get("precision")

        @precision.setter
        def precision(self, dtype: Any) -> None:
            self.layer.set["precision"] = dtype.name

        def set_output_type(self, index: int, dtype: Any) -> None:
            self.layer.set[f"output {index}"] = dtype.name

    class Network:
        num_layers = num_inputs = 0

        def get_layer(self, index: int) -> Any:
            return (WeakLayer if weak else Wrapped)(did.layers[index])

        def get_input(self, index: int) -> Tensor:
            return typed(did.inputs[index])

    class ParserError:
        code = staticmethod(lambda: 8)
        node = staticmethod(lambda: 3)
        desc = staticmethod(lambda: did.refuses[2] if did.refuses else "")
        if strong:
            node_operator = staticmethod(lambda: did.refuses[0])
            node_name = staticmethod(lambda: did.refuses[1])

    class OnnxParser:
        if hasattr(trt, "OnnxParserFlag"):
            set_flag = staticmethod(lambda flag: writes("parser flag", flag.name))

        def __init__(self, network: Any, logger: Any) -> None:
            self.network, self.logger, self.num_errors = network, logger, 0

        def parse(self, graph: bytes) -> bool:
            writes("parse", graph)
            did.reads(graph)
            if did.refuses:
                op, name, _ = did.refuses
                line = f'ModelImporter.cpp:140: While parsing node number 3 [{op} -> "{name}_out"]:'
                self.logger.log(trt.Severity.ERROR, line)
                self.num_errors = 1
                return False
            self.network.num_layers, self.network.num_inputs = len(did.layers), len(did.inputs)
            return True

        def get_error(self, index: int) -> Any:
            return ParserError()

    class Cache:
        def __init__(self, blob: bytes) -> None:
            self.blob, self.serialize = blob, lambda: blob + b"+timed"

    class Config:
        __slots__ = ("cache",)
        set_flag = staticmethod(lambda flag: writes("set", flag.name))
        clear_flag = staticmethod(lambda flag: writes("clear", flag.name))
        create_timing_cache = staticmethod(Cache)
        if hasattr(trt, "PreviewFeature"):
            set_preview_feature = staticmethod(lambda feature, on: writes("preview", feature.name, on))
        if not old:
            set_memory_pool_limit = staticmethod(lambda pool, size: writes("limit", pool.name, size))
        if major < 10:
            max_workspace_size = property(None, lambda this, size: writes("max_workspace_size", size))

        def add_optimization_profile(self, profile: Any) -> int:
            writes("profile", profile.shapes)
            return did.profile

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            writes("cache", cache.blob, ignore_mismatch)
            if cache.blob in (b"", did.known_cache):
                self.cache = cache
                return True
            return False

        def get_timing_cache(self) -> Any:
            return self.cache

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, name: str, low: Any, likely: Any, high: Any) -> None:
            self.shapes[name] = (low, likely, high)

    class Builder:
        create_builder_config = staticmethod(Config)
        create_optimization_profile = staticmethod(Profile)
        if weak:
            platform_has_fast_fp16 = property(lambda this: did.fast_fp16)

        def __init__(self, logger: Any) -> None:
            if did.null:
                logger.log(trt.Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.logger = logger

        def create_network(self, flags: int = 0) -> Any:
            writes("network", {f.name for f in trt.NetworkDefinitionCreationFlag if flags >> int(f) & 1})
            return Network()

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            writes("build")
            speak(self.logger)
            return did.plan

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            writes("deserialise", plan)
            speak(self.logger)
            engine = did.engine(plan) if callable(did.engine) else did.engine
            if major < 10 and ("preview", "PROFILE_SHARING_0806", True) not in did.calls:
                _refuse_sharing(engine)
            return engine

    trt.Builder, trt.OnnxParser, trt.Runtime = Builder, OnnxParser, Runtime
    return trt


def _refuse_sharing(engine: Any) -> None:
    """Before TensorRT 10 a profile is of one context, unless the builder was told otherwise."""
    if not hasattr(engine, "create_execution_context"):
        return
    create, made = engine.create_execution_context, []

    def create_once(*config: Any) -> Any:
        made.append(config)
        return create(*config) if len(made) == 1 else None

    engine.create_execution_context = create_once
