"""One adapter over TensorRT (8.5 to 11) and TensorRT-RTX: a graph goes in, an engine comes out, or the reason why not.

The library itself is asked for its abilities, never its version: precisions, whether types come from the graph (strong
typing), whether it builds without a GPU, the way to limit its memory. No precision is lowered.

TensorRT-RTX really builds in the tests; TensorRT 8.5, 8.6, 10 and 11 are stand-ins there, with the API of NVIDIA's
bindings at those releases (github.com/NVIDIA/TensorRT, python/src): not run on hardware.
"""

import importlib.util
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rnn_export.contract.precision import GRAPH_PRECISIONS, PRECISIONS
from rnn_export.errors import BackendUnavailable, BuildError, ToolUnavailable
from rnn_export.lazy import load_module
from rnn_export.platform.installing import pip_install
from rnn_export.platform.threads import no_collections
from rnn_export.runtime.backends.tensorrt.log import BuilderLog
from rnn_export.runtime.backends.tensorrt.nvidia import Driver, driver, jetson

Shape = tuple[int, ...]

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}

_DTYPES = {name: PRECISIONS[name].tensorrt_type for name in GRAPH_PRECISIONS}
_FLOATS = tuple(_DTYPES.values())
_PRODUCTS = ("MATRIX_MULTIPLY", "FULLY_CONNECTED", "EINSUM", "CONVOLUTION", "DECONVOLUTION")
# Layers that compute nothing, so that they have no precision to compute in.
_COPIES = ("CAST", "IDENTITY", "SHAPE")


@dataclass(frozen=True)
class BuilderSettings:
    """A builder's input beside the graph: the `precision` it is written in, and the limits of the engine.

    `shapes` are the lowest, most likely and highest one of each input with a dynamic axis, `memory` the bytes that the
    builder may plan with, None for no limit, and `cache` the timing cache of an earlier build. TensorRT-RTX builds for
    the capabilities `compute`, or for all from Ampere on; TensorRT for the GPU that is here, which must have one.
    """

    precision: str
    shapes: Mapping[str, tuple[Shape, Shape, Shape]]
    memory: int | None = None
    compute: tuple[str, ...] = ()
    cache: bytes | None = None


class Loaded(NamedTuple):
    """An `ICudaEngine`, and the log that it goes on writing to."""

    engine: Any
    log: BuilderLog


@dataclass(frozen=True)
class Built:
    """A serialised engine, the builder's log, its timing cache (None where there is none) and the seconds it took."""

    plan: bytes
    log: str
    cache: bytes | None
    seconds: float


class Library:
    """TensorRT or TensorRT-RTX: `trt` is the imported module, `probe` starts the driver.

    It logs under a lock of its own, and to free a builder it waits for that lock: if the garbage collector ran while it
    logs, it would wait for itself.
    """

    def __init__(self, name: str, trt: Any, probe: Callable[[], Driver] = driver) -> None:
        self.name, self.trt, self.probe = name, trt, probe
        self.version = str(trt.__version__)
        self.title = f"{TITLES[name]} {self.version}"
        self.ahead = hasattr(trt, "ComputeCapability")
        self.weak = hasattr(trt.BuilderFlag, "FP16")
        self.strong_flag = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @no_collections()
    def build(self, graph: bytes, settings: BuilderSettings) -> Built:
        """Build an engine from an ONNX graph without external data.

        Raises BuildError where graph, settings or builder say no, with node, operator and reason as far as there are
        any; BackendUnavailable where the library needs a driver and there is none.
        """
        self._check_settings(settings)
        started, log = time.perf_counter(), BuilderLog(self.trt)
        # The names of a second network of the same builder differ, and with them the bytes of its plan.
        builder = self._start("Builder", log)
        network = builder.create_network(self._network_flags())
        self._parse(network, graph, log)
        config = builder.create_builder_config()
        self._check_products(network, settings.precision)
        if self.weak and not self.strong_flag:
            self._type_layers(builder, network, config)
        self._set_flags(config)
        if settings.memory is not None:
            self._set_memory(config, settings.memory)
        if self.ahead and settings.compute:
            self._set_compute(config, settings.compute)
        self._set_profile(builder, network, config, settings.shapes, log)
        self._set_cache(config, settings.cache, log)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(
                f"{self.title} cannot build the engine: {log.failure(settings.memory)}", id="tensorrt-build-failed"
            )
        cache = None if self.ahead else bytes(config.get_timing_cache().serialize())
        return Built(bytes(plan), log.text, cache, time.perf_counter() - started)

    def _check_settings(self, settings: BuilderSettings) -> None:
        if not hasattr(self.trt.DataType, _DTYPES.get(settings.precision, "")):
            known = " or ".join(p for p, name in _DTYPES.items() if hasattr(self.trt.DataType, name))
            raise BuildError(
                f"{self.title} has no {settings.precision}: use --precision {known}.", id="tensorrt-without-precision"
            )
        if settings.memory is not None and settings.memory < 1:
            why = "give it more, or no limit"
            raise BuildError(
                f"the builder cannot work in {settings.memory} bytes of memory: {why}.", id="tensorrt-memory-too-small"
            )
        lowest = PRECISIONS[settings.precision].compute
        for compute in self._checked_compute(settings.compute):
            if tuple(map(int, compute.split("."))) < lowest:
                raise BuildError(
                    f"a GPU of compute capability {compute} does not compute in {settings.precision}, which starts at "
                    f"{'.'.join(map(str, lowest))}: export the bundle with another --precision.",
                    id="tensorrt-precision-by-gpu",
                )

    def _checked_compute(self, computes: tuple[str, ...]) -> tuple[str, ...]:
        """The capabilities that are built for: those asked for, which the library does not check, or this GPU's."""
        if self.ahead:
            numbers = [str(int(c)) for n, c in self.trt.ComputeCapability.__members__.items() if n.startswith("SM")]
            known = [f"{number[:-1]}.{number[-1]}" for number in numbers]
            if unknown := [compute for compute in computes if compute not in known]:
                fix = "for other GPUs, Jetson among them, build with TensorRT on the device itself"
                what = f"does not build for compute capability {unknown[0]!r}, only for {', '.join(known)}"
                raise BuildError(f"{self.title} {what}: {fix}.", id="tensorrt-compute-refused")
            return computes
        gpu = self.probe().gpus[0]
        if computes and gpu.compute not in computes:
            raise BuildError(
                f"an engine of {self.title} runs on the GPU it is built on: this one ({gpu.name}) has compute "
                f"capability {gpu.compute}, not {' or '.join(computes)}. Build it on that device, or where there are "
                "several GPUs choose one with CUDA_VISIBLE_DEVICES.",
                id="tensorrt-other-compute",
            )
        return (gpu.compute,)

    def _start(self, kind: str, log: BuilderLog) -> Any:
        try:
            return getattr(self.trt, kind)(log.logger)
        except (TypeError, RuntimeError) as error:  # pybind's word for a null pointer
            reason = log.errors() if log.lines else str(error)
            fix = "Run rnn-export doctor to see what is missing"
            raise BackendUnavailable(
                f"{self.title} does not start here: {reason}. {fix}.", id="tensorrt-not-starting"
            ) from error

    def _network_flags(self) -> int:
        flags = self.trt.NetworkDefinitionCreationFlag
        if not self.weak:
            return 0
        return 1 << int(flags.STRONGLY_TYPED if self.strong_flag else flags.EXPLICIT_BATCH)

    def _parse(self, network: Any, graph: bytes, log: BuilderLog) -> None:
        parser = self.trt.OnnxParser(network, log.logger)
        if hasattr(parser, "set_flag"):
            # Without it InstanceNormalization is a plugin, which the engine would need at run time.
            parser.set_flag(self.trt.OnnxParserFlag.NATIVE_INSTANCENORM)
        if parser.parse(graph):
            return
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = [self._refusal(error, log) for error in errors] or [log.errors()]
        fix = "Export the bundle again for this target, or change the model so that it does without"
        raise BuildError(
            f"{self.title} cannot read the graph: {'; '.join(reasons)}. {fix}.", id="tensorrt-graph-unreadable"
        )

    def _refusal(self, error: Any, log: BuilderLog) -> str:
        """Node, operator and reason; before TensorRT 10 only the log has the first two."""
        op = error.node_operator() if hasattr(error, "node_operator") else ""
        name = error.node_name() if hasattr(error, "node_name") else ""
        match = re.search(rf'While parsing node number {error.node()} \[(\w+)(?: -> "([^"]*)")?', log.text)
        op = op or (match[1] if match else "")
        gives = f"giving {match[2]!r}" if match and match[2] else f"number {error.node()}"
        node = f"node {name!r} ({op})" if name else f"node {op} {gives}"
        return f"{node}: {error.desc()}" if op else str(error.desc())

    def _check_products(self, network: Any, precision: str) -> None:
        """Check the graph's own types: engines in fp32 that were asked for in fp16 have been shipped unnoticed."""
        kinds = [getattr(self.trt.LayerType, name, None) for name in _PRODUCTS]
        found = {layer.get_output(0).dtype.name for layer in _layers(network) if layer.type in kinds}
        if found and _DTYPES[precision] not in found:
            fix = f"export the bundle with --precision {precision}"
            there = f"the products of this graph are all in {', '.join(sorted(found))}"
            raise BuildError(f"{precision} was asked for, but {there}: {fix}.", id="tensorrt-products-untyped")

    def _type_layers(self, builder: Any, network: Any, config: Any) -> None:
        """Hold a library without strong typing to the types of the graph, layer by layer."""
        copies = [getattr(self.trt.LayerType, name, None) for name in _COPIES]
        halves = False
        for layer in _layers(network):
            inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
            outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
            floats = [t.dtype for t in (*inputs, *outputs) if t is not None and t.dtype.name in _FLOATS]
            if not floats:
                continue
            halves |= any(dtype.name == "HALF" for dtype in floats)
            if layer.type not in copies:
                layer.precision = floats[0]
            for index, tensor in enumerate(outputs):
                if tensor.dtype.name in _FLOATS:
                    layer.set_output_type(index, tensor.dtype)
        if not halves:
            return
        if not builder.platform_has_fast_fp16:
            why = f"which this GPU does not compute in, says {self.title}"
            raise BuildError(
                f"the graph is in fp16, {why}: export the bundle with --precision fp32.", id="tensorrt-fp16-graph"
            )
        config.set_flag(self.trt.BuilderFlag.FP16)
        config.set_flag(self.trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)

    def _set_flags(self, config: Any) -> None:
        # On by default, and rounds the operands of fp32 products to 10 bits.
        config.clear_flag(self.trt.BuilderFlag.TF32)
        sharing = getattr(getattr(self.trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
        if sharing is not None and self.weak and not self.strong_flag:
            # Without it a second context of the profile, for the odd steps, is refused; from 10 on it is always so.
            config.set_preview_feature(sharing, True)
        if hasattr(self.trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
            # TensorRT-RTX lets a stream be captured into a CUDA graph only with it.
            config.set_flag(self.trt.BuilderFlag.REQUIRE_USER_ALLOCATION)

    def _set_memory(self, config: Any, memory: int) -> None:
        if hasattr(config, "set_memory_pool_limit"):
            config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, memory)
        else:
            config.max_workspace_size = memory

    def _set_compute(self, config: Any, computes: tuple[str, ...]) -> None:
        config.num_compute_capabilities = len(computes)
        for index, compute in enumerate(computes):
            number = getattr(self.trt.ComputeCapability, f"SM{compute.replace('.', '')}")
            if not config.set_compute_capability(number, index):
                raise BuildError(
                    f"{self.title} refuses compute capability {compute} beside {', '.join(computes)}.",
                    id="tensorrt-compute-together",
                )

    def _set_profile(self, builder: Any, network: Any, config: Any, shapes: Mapping[str, Any], log: BuilderLog) -> None:
        inputs = {t.name: tuple(t.shape) for t in (network.get_input(i) for i in range(network.num_inputs))}
        if unknown := sorted(set(shapes) - set(inputs)):
            raise BuildError(
                f"shapes were given for {unknown}, but the graph takes only {sorted(inputs)}.",
                id="tensorrt-shapes-unknown",
            )
        for name, dims in inputs.items():
            _check_shapes(name, dims, shapes.get(name))
        dynamic = [name for name, dims in inputs.items() if -1 in dims]
        if not dynamic:
            return
        profile = builder.create_optimization_profile()
        for name in dynamic:
            profile.set_shape(name, *shapes[name])
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(
                f"{self.title} refuses the range of shapes {dict(shapes)}: {log.errors()}.", id="tensorrt-range-refused"
            )

    def _set_cache(self, config: Any, cache: bytes | None, log: BuilderLog) -> None:
        """Set the timing cache, but not ahead of the GPU: nothing is timed then, and the cache needs a GPU."""
        if self.ahead:
            if cache:
                log.add("WARNING", f"{self.title} times nothing while it builds: the timing cache is not used")
            return
        timing = config.create_timing_cache(cache or b"")
        if timing is not None and config.set_timing_cache(timing, False):
            return
        log.add("WARNING", "the timing cache is of another GPU or library, so this build starts an empty one")
        config.set_timing_cache(config.create_timing_cache(b""), False)

    @no_collections()
    def load(self, plan: bytes) -> Loaded:
        """The engine of a plan; raises BackendUnavailable with the reason where it does not fit."""
        self.probe()
        log = BuilderLog(self.trt)
        runtime = self._start("Runtime", log)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reasons = [*self._invalidity(runtime, plan), log.errors()]
            why = f"{'; '.join(reasons)}. It is damaged, or was built by another version or for another GPU"
            fix = "build it here with rnn-export build NAME.rnnx --target TARGET --rebuild"
            raise BackendUnavailable(f"{self.title} cannot load this engine: {why}: {fix}.", id="tensorrt-cannot-load")
        return Loaded(engine, log)

    def _invalidity(self, runtime: Any, plan: bytes) -> Iterator[str]:
        if hasattr(runtime, "get_engine_validity"):
            _, bits = runtime.get_engine_validity(plan)
            for name, bit in self.trt.EngineInvalidityDiagnostics.__members__.items():
                if int(bits) & int(bit):
                    yield name


def find_library(name: str) -> Library:
    """Import "tensorrt" or "tensorrt-rtx", without touching a GPU; raises BackendUnavailable with what to do."""
    if name not in MODULES:
        raise BackendUnavailable(
            f"there is no library {name!r}: choose from {', '.join(MODULES)}.", id="tensorrt-library-unknown"
        )
    try:
        return Library(name, load_module(MODULES[name]))
    except Exception as error:  # shared libraries that do not fit end in many kinds of error
        reason = f"cannot be imported ({type(error).__name__}: {error})" if is_installed(name) else "is not installed"
        raise ToolUnavailable(f"{TITLES[name]} {reason}", _install(name), id="tensorrt-library-missing") from error


def is_installed(name: str) -> bool:
    """True if the Python module of the library `name` can be found, importable or not."""
    return importlib.util.find_spec(MODULES[name]) is not None


def _install(name: str) -> str:
    if name == "tensorrt" and jetson():
        return (
            "sudo apt install nvidia-jetpack, and make the virtual environment from the system's python3 with "
            "--system-site-packages: TensorRT comes with JetPack, not from PyPI"
        )
    return pip_install("rtx" if name == "tensorrt-rtx" else name)


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(i) for i in range(network.num_layers))


def _check_shapes(name: str, dims: Shape, shapes: tuple[Shape, Shape, Shape] | None) -> None:
    if shapes is None:
        if -1 in dims:
            raise BuildError(
                f"input {name!r} has the shape {dims}: give the range of its dynamic axis.", id="tensorrt-range-missing"
            )
        return
    ranks = all(len(s) == len(dims) for s in shapes)
    rising = ranks and all(1 <= low <= likely <= high for low, likely, high in zip(*shapes, strict=True))
    if not rising or any(d not in (-1, size) for s in shapes for d, size in zip(dims, s, strict=True)):
        raise BuildError(
            f"input {name!r} has the shape {dims}, which the range {shapes} does not fit.", id="tensorrt-range-unfit"
        )
