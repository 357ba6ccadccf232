"""Check graphs that come in a bundle before use, and turn the errors they cause into errors of ours."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx
from onnx import TensorProto

from rnn_export.contract.spec import StreamSpec
from rnn_export.errors import ExportError, RnnExportError, first_line
from rnn_export.onnx.graph_inspection import inspect_graph

_KINDS = {number: name.lower() for name, number in TensorProto.DataType.items()}


@contextmanager
def foreign_graph(file: str, raw: bytes, spec: StreamSpec, any_float: bool = False) -> Iterator[bytes]:
    """The graph `raw` of a bundle, to be rewritten within; with `any_float` its states may be of another float type.

    Raises BundleError if it reads other files, has an operator or a size that no graph of a bundle has, or is not of
    the contract; ExportError in place of errors of onnx and its passes on a graph that is damaged elsewhere.
    """
    try:
        inspect_graph(file, raw, spec, infer_shapes, any_float)
        yield raw
    except RnnExportError:
        raise
    except Exception as error:  # protobuf, onnx, onnx_ir, onnxscript and onnxruntime each have their own
        why = f"{type(error).__name__}: {first_line(error).removesuffix('.')}"
        raise ExportError(
            f"{file} of the bundle cannot be rewritten: {why}. Export the bundle again.", id="bundle-graph-damaged"
        ) from error


def infer_shapes(model: bytes, dims: Mapping[str, int]) -> Iterator[tuple[str, str, Sequence[object]]]:
    """Names, types and shapes of a model's inputs and outputs, inferred by onnx."""
    proto = onnx.load_from_string(model)
    for value in proto.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in dims:
                dim.dim_value = dims[dim.dim_param]
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    found = {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}
    for name, value in found.items():
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise ValueError(f"nothing says which axes {name!r} has")
        yield name, _KINDS.get(tensor.elem_type, "undefined"), [_dim(dim) for dim in tensor.shape.dim]


def _dim(dim: onnx.TensorShapeProto.Dimension) -> object:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param
