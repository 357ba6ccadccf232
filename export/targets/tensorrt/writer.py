"""The targets that TensorRT builds an engine for: a typed step without recurrent operators, and the recipe."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from rnn_export.contract.spec import StreamSpec
from rnn_export.contract.target_options import TargetOptions
from rnn_export.contract.target_table import Target
from rnn_export.errors import BackendUnavailable, ExportError
from rnn_export.export.graph.passes.decompose import DecomposeRecurrent
from rnn_export.export.graph.passes.mixed_precision import FLOAT, FLOAT_TYPES, MATRIX, ToMixedPrecision
from rnn_export.export.graph.passes.naming import NameByModules, names_in
from rnn_export.export.graph.passes.nodes import new_constant
from rnn_export.export.graph.passes.opset import ConvertOpset
from rnn_export.export.graph.passes.pipeline import apply, parse, serialise, with_shapes
from rnn_export.export.graph.passes.rounding import NARROW, WriteOutRoundings
from rnn_export.export.targets.base import StepWriter
from rnn_export.export.targets.tensorrt.lint import lint, refuse
from rnn_export.export.targets.tensorrt.parser_rules import parser_rules
from rnn_export.platform.arrays import Arrays
from rnn_export.runtime.backends.onnxruntime.backend import OrtSession, graph_session
from rnn_export.runtime.backends.tensorrt.backend import RECIPE
from rnn_export.runtime.build.tensorrt.recipe import Recipe
from rnn_export.runtime.engine import Engine
from rnn_export.runtime.protocols import Artefacts, folder

DEVICE = "numeric (not run on hardware)"


class Writer(StepWriter):
    """The writer of TensorRT."""

    def from_step(
        self, step: bytes, spec: StreamSpec, initial: Arrays, target: Target, options: TargetOptions
    ) -> dict[str, bytes]:
        """`step.onnx`, typed and without recurrent operators, and `recipe.json`, in the folder of the target."""
        assert options.opset is not None
        graph, place = lower_for_tensorrt(step, target, options), folder(target.name, options.precision)
        name, digest = f"{place}/step.onnx", hashlib.sha256(graph).hexdigest()
        recipe = Recipe(
            target.name, options.precision, options.state_precision, options.opset, name, digest, options.batch
        )
        return {name: graph, f"{place}/{RECIPE}": recipe.to_file(spec)}

    def notes(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[str]:
        """Notes for the user on how the precision was written."""
        if options.precision == "fp32":
            return []
        wide = {op for op, stayed in _products(parse(_step(artefacts, target, options)).graph) if stayed}
        return [
            f"{target.name}: {' and '.join(sorted(wide))} stays in fp32, since ONNX has none in {options.precision} at "
            f"opset {options.opset}"
        ][: len(wide)]

    def requires(self, target: Target, options: TargetOptions) -> dict[str, Any]:
        """The library that builds and runs the engine, and the range of its batch."""
        return {"library": target.library, "batch": list(options.batch)}

    def engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        """On ONNX Runtime: in fp32 the graph itself; below, emulation of a GPU that adds products up in fp32."""
        graph = _step(artefacts, target, options)
        if options.precision != "fp32":
            return [emulated_engine(artefacts, f"{target.name} (fp32 sums)", graph, "fp32")]
        return [Engine(artefacts, f"{target.name} on onnxruntime", graph_session(artefacts.spec, {"step.onnx": graph}))]

    def fp16_accumulate_engines(self, artefacts: Artefacts, target: Target, options: TargetOptions) -> list[Engine]:
        """Emulation of a GPU that adds products of fp16 up in fp16, as some of its kernels do."""
        if options.precision != "fp16":
            return []
        graph = _step(artefacts, target, options)
        return [emulated_engine(artefacts, f"{target.name} (fp16 sums)", graph, "fp16")]


def _step(artefacts: Artefacts, target: Target, options: TargetOptions) -> bytes:
    return artefacts.read(f"{folder(target.name, options.precision)}/step.onnx")


def emulated_engine(artefacts: Artefacts, backend: str, graph: bytes, accumulate: str) -> Engine:
    """An engine called `backend` on `emulated_session`; its device says that no GPU ran."""
    engine = Engine(artefacts, backend, emulated_session(artefacts.spec, graph, accumulate))
    engine.device = DEVICE
    return engine


def emulated_session(spec: StreamSpec, graph: bytes, accumulate: str) -> OrtSession:
    """A session of the typed step graph `graph`: each value is fp32, rounded where the graph says fp16 or bf16.

    `accumulate` is "fp32" or "fp16", see `WriteOutRoundings`. States are float32 on the outside; those that the graph
    has in a narrower type are rounded at the start of each step.

    Raises ExportError where the graph has no such sum, and BackendUnavailable for a model of whole sequences only.
    """
    rounding = WriteOutRoundings(accumulate)
    if spec.sequence_only:
        raise BackendUnavailable(
            "the numeric executor computes steps, and a model of whole sequences only has none.",
            id="emulated-sequence-only",
        )
    model = parse(graph)
    found = {v.dtype for node in with_shapes(model).graph for v in (*node.inputs, *node.outputs) if v} & set(NARROW)
    session = graph_session(spec, {"step.onnx": serialise(apply(model, rounding))}, optimise=False)
    session.precision = next((name for name, dtype in FLOAT_TYPES.items() if dtype in found), "fp32")
    return session


def lower_for_tensorrt(step: bytes, target: Target, options: TargetOptions) -> bytes:
    """`step.onnx` as `target` reads it, at the opset and in the precisions of `options`.

    Raises ExportError, with node and operator, where the opset or the target's TensorRT has no such thing.
    """
    assert options.opset is not None
    model = parse(step)
    try:
        apply(model, DecomposeRecurrent(), ConvertOpset(options.opset), NameByModules(keep=names_in(model)))
    except ExportError as error:
        raise ExportError(f"target {target.name!r} does not take this graph: {error}", id=error.id) from error
    apply(model, ToMixedPrecision(options.precision, options.state_precision))
    _refuse_nothing_typed(model.graph, target, options)
    apply(model, SayConstantsOfSelu(), IndexFromTheFront())
    graph = serialise(model, check=True)
    refuse(lint(model, parser_rules(target, options.precision), options.precision), target.name)
    return graph


def _refuse_nothing_typed(graph: ir.Graph, target: Target, options: TargetOptions) -> None:
    """An engine in a precision that none of its products has would be one of fp32 by another name."""
    products = list(_products(graph))
    if options.precision != "fp32" and products and all(wide for _, wide in products):
        names = " and ".join(sorted({op for op, _ in products}))
        raise ExportError(
            f"target {target.name!r} in {options.precision} would be fp32 throughout: {names} has "
            f"no {options.precision} form at opset {options.opset}. Choose --precision fp16.",
            id="nothing-in-precision",
        )


def _products(graph: ir.Graph) -> Iterator[tuple[str, bool]]:
    """The operator of each product, and whether its weights stayed in fp32."""
    for node in graph:
        if node.op_type in MATRIX:
            weights = [value for value in node.inputs if value is not None and value.is_initializer()]
            yield node.op_type, any(value.dtype is FLOAT for value in weights)


class SayConstantsOfSelu(InPlacePass):
    """Write Selu's two numbers out: TensorRT's parser has them to four digits, which would be 4e-5 off."""

    def call(self, model: ir.Model) -> PassResult:
        known = onnx.defs.get_schema("Selu").attributes
        for node in (n for n in model.graph if n.op_type == "Selu"):
            for name in ("alpha", "gamma"):
                default = ir.AttrFloat32(name, onnx.helper.get_attribute_value(known[name].default_value))
                node.attributes.setdefault(name, default)
        return PassResult(model, modified=True)


class IndexFromTheFront(InPlacePass):
    """A constant index of Gather from the end, as one from the front: TensorRT before 8.2 reads beyond the array."""

    def call(self, model: ir.Model) -> PassResult:
        shaped = ir.convenience.create_value_mapping(with_shapes(model).graph)
        for node in (n for n in model.graph if n.op_type == "Gather"):
            source, index = node.inputs[0], node.inputs[1]
            shape = shaped[str(source.name)].shape if source is not None else None
            if shape is None or index is None or index.const_value is None:
                continue
            size, numbers = shape[node.attributes.get_int("axis", 0)], index.const_value.numpy()
            if isinstance(size, int) and (numbers < 0).any():
                name = f"{node.name or node.outputs[0].name}.index"
                value = new_constant(name, np.where(numbers < 0, numbers + size, numbers))
                model.graph.register_initializer(value)
                node.replace_input_with(1, value)
        return PassResult(model, modified=True)
