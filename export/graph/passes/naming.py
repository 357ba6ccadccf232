"""Name a graph as its reader knows the model: nodes by module and operator, weights as in its state_dict."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from rnn_export.errors import ExportError
from rnn_export.export.graph.passes.module_paths import INSIDE
from rnn_export.export.graph.passes.nodes import values
from rnn_export.onnx.onnx_file import MODULE
from rnn_export.platform.arrays import Array
from rnn_export.platform.terminal_text import visible

# A weight of a recurrent layer in ONNX's form, by its place in a lifted module: "rnn.layers.0.W".
_LAYER = re.compile(r"(?P<path>(.*\.)?)layers\.(?P<number>\d+)\.(?P<letter>[WRBP])")
# By that letter, torch's own weights that it is made of; and the order of ONNX's gates by operator.
_SOURCES = {"W": ("weight_ih",), "R": ("weight_hh",), "B": ("bias_ih", "bias_hh"), "P": ("weight_hr",)}
_GATES = {"LSTM": ", gates i, o, f, c", "GRU": ", gates z, r, h"}
# Values of a shared constant that its name shows.
_SHOWN = 4
# Values by which a weight is looked for among those of the model.
_COMPARED = 8


def names_in(model: ir.Model) -> frozenset[str]:
    """The names of all nodes and values of a graph, those inside of nodes too."""
    found = {value.name for graph in model.graphs() for value in (*graph.inputs, *graph.initializers.values())}
    found |= {name for node in model.graph.all_nodes() for name in (node.name, *(value.name for value in node.outputs))}
    return frozenset(name for name in found if name)


class NameByModules(InPlacePass):
    """Give every node and value a name, but the inputs and outputs of graphs and those of the names `keep`.

    A node is named after its module and its operator, "rnn.l0/GRU", or after its operator alone; its outputs like
    itself, and then "rnn.l0/GRU:1". A weight has its name in `weights`, those of the model by name; a changed one
    says so, and its doc string names its sources. Any other constant is named after the node and the input that it is
    for, "Slice/axes", or after its value where several nodes share it, "int64[0]". `inside` is the path of the user's
    model in the exported one.

    After: names are unique, and inputs and outputs have those that they had.
    """

    def __init__(
        self, keep: Collection[str] = (), weights: Mapping[str, Array] | None = None, inside: str = INSIDE
    ) -> None:
        super().__init__()
        self.keep, self.inside, self.weights = keep, inside, weights or {}
        self.ports: list[str | None] = []

    def requires(self, model: ir.Model) -> None:
        self.ports = _ports(model)

    def call(self, model: ir.Model) -> PassResult:
        _Naming(model, self).run()
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        nodes = list(model.graph.all_nodes())
        given = [*model.graph.inputs, *model.graph.initializers.values(), *(v for node in nodes for v in node.outputs)]
        for names in ([node.name for node in nodes], [value.name for value in given if value.name != ""]):
            twice = [name for name, times in Counter(names).items() if times > 1 and name not in self.keep]
            if twice or None in names:
                raise ExportError(
                    f"the names {twice[:3]} stand twice or nowhere, which is a fault of rnn-export.",
                    id="node-names-twice",
                )
        if _ports(model) != self.ports:
            raise ExportError(
                f"inputs and outputs were {self.ports} and are {_ports(model)} now.", id="graph-ports-renamed"
            )


def _ports(model: ir.Model) -> list[str | None]:
    return [value.name for value in (*model.graph.inputs, *model.graph.outputs)]


class _Unique:
    """Gives names that are not taken: a second "Slice" is "Slice_2"."""

    def __init__(self, taken: Collection[str]) -> None:
        self.taken, self.times = {*taken}, Counter[str]()

    def new(self, wanted: str) -> str:
        wanted = found = visible(wanted)
        while found in self.taken:
            self.times[wanted] += 1
            found = f"{wanted}_{self.times[wanted] + 1}"
        self.taken.add(found)
        return found


class _Naming:
    def __init__(self, model: ir.Model, to: NameByModules) -> None:
        self.graph, self.to, self.nodes = model.graph, to, list(model.graph.all_nodes())
        self.opsets = dict(model.opset_imports)
        self.modules = {node: path for node in self.nodes if (path := node.metadata_props.get(MODULE))}
        ports = {value for graph in model.graphs() for value in (*graph.inputs, *graph.outputs)}
        fixed = {value.name for value in ports}

        def new(among: Iterable[ir.Value]) -> list[ir.Value]:
            """Values to be named; the names of others are taken."""
            named = [value for value in among if value.name != "" and value not in ports]
            fixed.update(value.name for value in named if value.name in to.keep)
            return [value for value in named if value.name not in to.keep]

        self.new_weights = new(self.graph.initializers.values())
        self.new_values = new(value for node in self.nodes for value in node.outputs)
        self.value_names = _Unique([name for name in fixed if name])

    def run(self) -> None:
        stored = list(self.graph.initializers.values())
        self.graph.initializers.clear()
        known = self.name_weights()
        self.name_nodes()
        for value in self.new_values:
            node = value.producer()
            assert node is not None
            place = f":{value.index()}" if value.index() else ""
            value.name = self.value_names.new(f"{node.name}{place}")
        self.name_constants({value for value in self.new_weights if value not in known})
        for value in stored:
            self.graph.register_initializer(value)

    def name_nodes(self) -> None:
        names = _Unique([node.name for node in self.nodes if node.name and node.name in self.to.keep])
        for node in self.nodes:
            path = self.modules.get(node)
            node.metadata_props.clear()
            if path:
                node.metadata_props[MODULE] = path
            if not node.name or node.name not in self.to.keep:
                node.name = names.new(f"{path}/{node.op_type}" if path else node.op_type)

    def name_weights(self) -> set[ir.Value]:
        """Name the weights of the model, and return them."""
        found, like = set[ir.Value](), _Alike(self.to.weights)
        for value in self.new_weights:
            origin = self.origin(value) or like.origin(value)
            if origin is not None:
                value.name = self.value_names.new(origin[0])
                _describe(value, origin[1])
                found.add(value)
        return found

    def origin(self, value: ir.Value) -> tuple[str, str] | None:
        """A name for a weight by that of the lifted module, and its sources; None if it is none."""
        weights, own = self.to.weights, str(value.name).rpartition(f"{self.to.inside}.")[2]
        if own != value.name and (known := weights.get(own)) is not None:
            if np.array_equal(known, values(value)):
                return own, ""
            # A node that was merged with those behind it is of the last one's module.
            path, nodes = own.rpartition(".")[0], _readers(value)
            self.modules.update(dict.fromkeys(nodes, path))
            others = {other for node in nodes if (other := node.metadata_props.get(MODULE, path)) != path}
            return f"{own}.folded", f"{own}, with {' and '.join(sorted(others)) or 'constants'} folded in"
        if own == value.name or not (layer := _LAYER.fullmatch(own)):
            return None
        path, number, letter = layer["path"], layer["number"], layer["letter"]
        ends = (f"_l{number}", f"_l{number}_reverse", *([""] if number == "0" else []))
        sources = [f"{path}{name}{end}" for end in ends for name in _SOURCES[letter]]
        whole = f"the weights of {path[:-1] or 'the model'}" if values(value).any() else "zeros"
        sources = [source for source in sources if source in weights] or [whole]
        kind = next((node.op_type for node in _readers(value)), "")
        form = f"{letter} of ONNX's {kind}{_GATES.get(kind, '')}" if kind else letter
        return f"{path}l{number}.{letter}", f"{' and '.join(sources)} as {form}"

    def name_constants(self, constants: set[ir.Value]) -> None:
        for node in self.nodes:
            for index, value in enumerate(node.inputs):
                if value in constants and value is not None:
                    constants.remove(value)
                    shown = _shown(value) if len({*_readers(value)}) > 1 else None
                    value.name = self.value_names.new(shown or f"{node.name}/{self.formal(node, index)}")
        for value in (value for value in self.new_weights if value in constants):
            value.name = self.value_names.new("constant")

    def formal(self, node: ir.Node, index: int) -> str:
        """ONNX's name for an input of an operator."""
        return _formal(node.op_type, node.domain, self.opsets.get(node.domain, 1), index)


@cache
def _formal(op_type: str, domain: str, opset: int, index: int) -> str:
    inputs = onnx.defs.get_schema(op_type, opset, domain).inputs
    return str(inputs[min(index, len(inputs) - 1)].name)


def _shown(value: ir.Value) -> str | None:
    """A constant by its type and values, where they are few."""
    array = values(value)
    if array.size > _SHOWN or array.ndim > 1:
        return None
    text = ",".join(f"{number:.6g}" if array.dtype.kind == "f" else str(number) for number in array.reshape(-1))
    return f"{array.dtype}[{text}]" if array.ndim else f"{array.dtype}({text})"


def _readers(value: ir.Value) -> list[ir.Node]:
    return [node for node, _ in value.uses()]


def _describe(value: ir.Value, text: str) -> None:
    if text:
        value.const_value = ir.Tensor(values(value), name=value.name, doc_string=text)


class _Alike:
    """Finds the weight of the model that a folded constant is: turned over, or in another shape."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights, self.found = weights, dict[bytes, list[tuple[str, str]]]()
        for name, array in weights.items():
            for end, seen in self.forms(array):
                self.found.setdefault(_first(seen), []).append((name, end))

    def forms(self, array: Array) -> Iterator[tuple[str, Array]]:
        if array.dtype.kind == "f" and array.size > 1:
            yield "", array
            if array.ndim > 1:
                yield ".T", array.T

    def origin(self, value: ir.Value) -> tuple[str, str] | None:
        array = values(value)
        # Equal numbers may be of anything.
        if array.dtype.kind != "f" or array.size < 2 or (array == array.flat[0]).all():
            return None
        for name, end in self.found.get(_first(array), ()):
            seen = self.weights[name].T if end else self.weights[name]
            if array.size == seen.size and np.array_equal(array.reshape(-1), seen.reshape(-1)):
                if array.shape != seen.shape:
                    return f"{name}{end}.reshaped", f"{name}{', transposed' if end else ''}, in shape {array.shape}"
                return f"{name}{end}", f"{name}, transposed" if end else ""
        return None


def _first(array: Array) -> bytes:
    first: bytes = np.ascontiguousarray(array.flat[:_COMPARED]).tobytes()
    return first
