"""Keep the path of the module that each node comes from, the only one of torch's notes to stay."""

import re
from ast import literal_eval

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, common

from rnn_export.onnx.onnx_file import MODULE

# Where the user's model stands in what is exported.
INSIDE = "flat.model"
# Where torch.onnx notes the modules around a node, outermost first, and then the operator.
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
# A layer of a lifted recurrent module, which the user knows by the module's own path.
_LAYER = "OpaqueLayer"


class KeepModulePaths(InPlacePass):
    """Drop all other notes and doc strings. `inside` is the path of the user's model in the exported one."""

    def __init__(self, inside: str = INSIDE) -> None:
        super().__init__()
        self.inside = inside

    def call(self, model: ir.Model) -> PassResult:
        graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        nodes = [node for graph in graphs for node in ir.traversal.RecursiveGraphIterator(graph)]
        paths = [self._path(node) for node in nodes]
        common.ClearMetadataAndDocStringPass()(model)
        for node, path in zip(nodes, paths, strict=True):
            if path:
                node.metadata_props[MODULE] = path
        return PassResult(model, modified=True)

    def _path(self, node: ir.Node) -> str:
        """The innermost module, as the user knows it: "encoder.0", "rnn.l1"; "" for the model itself."""
        scopes, classes = (literal_eval(node.metadata_props.get(key, "[]"))[:-1] for key in (_SCOPES, _CLASSES))
        inner = f"{self.inside}."
        found = [pair for pair in zip(scopes, classes, strict=False) if pair[0].startswith(inner)]
        if not found:
            return ""
        path, kind = found[-1]
        own = str(path).removeprefix(inner)
        return re.sub(r"(^|\.)layers\.(\d+)$", r"\1l\2", own) if kind.endswith(f".{_LAYER}") else own


def module_of(node: ir.Node) -> str:
    """The path of the module that a node of a step comes from, or else the name of its output."""
    return node.metadata_props.get(MODULE) or str(node.outputs[0].name)
