"""A step in OpenVINO's IR, as a bundle has it: inspected, read, and held to the contract before it is compiled.

IR is data: OpenVINO runs operators of its own sets alone, since it gets no extension here, and from memory it opens no
other file. The risk left is the size a graph grows to. OpenVINO folds constants while it reads; so nothing may follow
from constants alone but weights that are stored in fewer bits, and no operator's output size may depend on values. Then
all sizes follow from shapes, and are added up before anything runs. OpenVINO gets a graph that is written anew from the
inspected one, without the notes for its plugins.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from rnn_export import limits
from rnn_export.contract.spec import METADATA_KEY, StateSpec, StreamSpec, TensorSpec, sized
from rnn_export.errors import BundleError
from rnn_export.runtime.backends.openvino.ir_operators import OPERATORS
from rnn_export.runtime.backends.openvino.library import cause, ov

# One stream with its state inside, several with their states as inputs and outputs, and the weights of both.
STATEFUL, STATELESS, WEIGHTS = "step.xml", "rows.xml", "step.bin"
# Streams of a step without state: more take longer for the few streams of a small pool.
ROWS = 16
VERSION = "11"
# Bytes of a value by what IR calls its type.
ITEM_BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u64": 8, "u32": 4}
ITEM_BYTES |= {"u16": 2, "u8": 1, "boolean": 1}


def variable(state: StateSpec) -> str:
    """OpenVINO's name of a state that was made of an input and an output."""
    return state.input + state.output


def read_graph(file: str, raw: bytes, weights: bytes, spec: StreamSpec) -> Any:
    """The model of `file`; raises BundleError where it is damaged, too large, or not of the contract."""
    try:
        net = check_layers(raw, len(weights))
        if _contract(net) != spec.dumps():
            raise ValueError("it was written for another contract than the bundle's")
        for parent in [*net.iter()]:
            for notes in parent.findall("rt_info"):
                parent.remove(notes)
        text = ElementTree.tostring(net, encoding="utf-8", xml_declaration=True)
        model = ov.Core().read_model(text, ov.Tensor(np.frombuffer(weights, np.uint8)))
        for excess in limits.excess(_sizes(model), "the graph"):
            raise ValueError(excess)
    except ValueError as error:
        raise BundleError(
            f"{file} cannot be used: {str(error).removesuffix('.')}. Export the bundle again.",
            id="openvino-graph-unusable",
        ) from error
    except RuntimeError as error:
        raise BundleError(
            f"{file} cannot be read by OpenVINO: {cause(error)} Export the bundle again.",
            id="openvino-graph-unreadable",
        ) from error
    _check_contract(file, model, spec)
    return model


def _parsed(raw: bytes) -> Element:
    text = raw.decode("utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares a document type, which no graph of a bundle does")
    try:
        net = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML: {error}") from error
    if net.tag != "net" or net.get("version") != VERSION:
        raise ValueError(f"it is <{net.tag} version={net.get('version')!r}>, not IR of version {VERSION}")
    return net


def check_layers(raw: bytes, nbytes: int) -> Element:
    """The IR `raw`, whose weights are a file of `nbytes` bytes.

    Raises ValueError where it is damaged, or a layer is none of a bundle or would give OpenVINO a result of any size.
    """
    net = _parsed(raw)
    sources: dict[str, list[str]] = {}
    for edge in net.iterfind("edges/edge"):
        sources.setdefault(edge.get("to-layer", ""), []).append(edge.get("from-layer", ""))
    layers = {layer.get("id", ""): layer for layer in net.iterfind("layers/layer")}
    if len(layers) != sum(1 for _ in net.iter("layer")):
        raise ValueError("it has layers inside of layers, or two of one id, which no graph of a bundle has")
    known: dict[str, tuple[int, ...]] = {}
    for key, layer in layers.items():
        kind, version = layer.get("type", ""), layer.get("version", "")
        title = f"layer {layer.get('name', '')!r} ({kind} of {version})"
        if kind not in OPERATORS or not version.startswith("opset"):
            raise ValueError(f"{title} is an operator that no graph of a bundle has")
        given = sources.get(key, [])
        if kind == "Const":
            known[key] = _constant(title, layer, nbytes)
        elif given and kind != "ReadValue" and all(source in known for source in given):
            known[key] = _from_constants(title, kind, [known[source] for source in given])
        elif any(source not in layers for source in given):
            raise ValueError(f"{title} reads a layer that is not there")
    return net


def _constant(title: str, layer: Element, nbytes: int) -> tuple[int, ...]:
    """The shape of a constant, which lies in the file of weights."""
    data = layer.find("data")
    values = {} if data is None else data.attrib
    shape = tuple(int(size) for size in values.get("shape", "").split(",") if size.strip())
    start, size, kind = int(values.get("offset", -1)), int(values.get("size", -1)), values.get("element_type", "")
    wanted = math.prod(shape) * ITEM_BYTES.get(kind, 0)
    if min(shape, default=0) < 0 or size != wanted or start < 0 or start + size > nbytes or kind not in ITEM_BYTES:
        raise ValueError(
            f"{title} is {kind} {shape} in {size} bytes from {start} on, which a file of {nbytes} bytes does not hold"
        )
    return shape


def _from_constants(title: str, kind: str, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of weights that were stored in fewer bits, which is the only thing that is computed from constants."""
    if kind == "Convert" and len(shapes) == 1:
        return shapes[0]
    if kind == "Multiply" and len(shapes) == 2 and np.broadcast_shapes(*shapes) == shapes[0]:
        return shapes[0]
    raise ValueError(f"{title} computes from constants alone, of which a graph of a bundle has the result")


def _contract(net: Element) -> str | None:
    noted = net.find(f"rt_info/framework/{METADATA_KEY}")
    return None if noted is None else noted.get("value")


def _sizes(model: Any) -> Iterator[tuple[str, int]]:
    for node in model.get_ops():
        for output in node.outputs():
            if output.get_partial_shape().is_dynamic:
                raise ValueError(f"the size of {node.get_friendly_name()!r} follows from values: it has no bound")
            yield node.get_friendly_name(), math.prod(output.get_shape()) * output.get_element_type().size


def _check_contract(file: str, model: Any, spec: StreamSpec) -> None:
    """Raise BundleError where inputs, outputs or states are others than those of the contract."""
    inputs: list[tuple[str, TensorSpec | StateSpec]] = [(t.name, t) for t in spec.inputs]
    outputs: list[tuple[str, TensorSpec | StateSpec]] = [(t.name, t) for t in spec.outputs]
    states: Mapping[str, tuple[str, tuple[int, ...]]] = {}
    rows = 1
    if file.rpartition("/")[2] == STATELESS:
        rows = ROWS
        inputs += [(s.input, s) for s in spec.states]
        outputs += [(s.output, s) for s in spec.states]
    else:
        states = {variable(s): (s.dtype, sized(s.shape, rows, 1)) for s in spec.states}
    for what, ports, expected in (("takes", model.inputs, inputs), ("gives", model.outputs, outputs)):
        wanted = [(name, port.dtype, sized(port.shape, rows, spec.chunk)) for name, port in expected]
        named = [name for name, _ in expected] + [""] * len(ports)
        found = [(_name(port, name), *_form(port)) for port, name in zip(ports, named, strict=False)]
        if found != wanted:
            raise BundleError(
                f"{file} {what} {found}, but the contract says {wanted}. Export the bundle again.",
                id="openvino-contract-differs",
            )
    infos = [v.get_info() for v in model.get_variables()]
    kept = {i.variable_id: (_dtype(i.data_type), tuple(d.get_length() for d in i.data_shape)) for i in infos}
    if kept != states:
        raise BundleError(
            f"{file} keeps {kept}, but the contract says {states}. Export the bundle again.",
            id="openvino-kept-states-differ",
        )


def _name(port: Any, wanted: str) -> str:
    names = port.get_names()
    return wanted if wanted in names else min(names, default="")


def _form(port: Any) -> tuple[str, tuple[int, ...]]:
    return _dtype(port.get_element_type()), tuple(port.get_shape())


def _dtype(kind: Any) -> str:
    return str(np.dtype(kind.to_dtype()))
