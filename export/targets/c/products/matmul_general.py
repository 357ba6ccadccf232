"""MatMul of two computed matrices, each read in place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.tensors import CTensor, Strided
from rnn_export.export.targets.c.operators.elementwise import broadcast
from rnn_export.export.targets.c.products.contraction import Term, contract, in_a_row


@dataclass(frozen=True)
class _Part:
    """A product as `contract` takes it; of a window, that of its state or of its new values."""

    y: Term
    terms: Sequence[Term]
    sizes: Mapping[str, int]


def of_computed(code: CodeBuilder, node: ir.Node) -> None:
    a, b = code.view(node, 0), code.view(node, 1)
    if a.entering is not None and b.entering is not None:
        b = Strided.of(code.read(node, 1))
    y = code.new_output(node)
    parts = list(_parts(a, b, y))
    if not all(in_a_row(part.y, part.terms, part.sizes) for part in parts):
        parts = list(_parts(Strided.of(code.read(node, 0)), Strided.of(code.read(node, 1)), y))
    for number, part in enumerate(parts):
        if number and part.y.tensor.address == y.address:
            more = code.alloc("float", y.shape)
            contract(code, replace(part.y, tensor=more), part.terms, part.sizes)
            broadcast(code, y, [y, more], "{a} + {b}")
        else:
            contract(code, part.y, part.terms, part.sizes)


def _parts(a: Strided, b: Strided, y: CTensor) -> Iterator[_Part]:
    """One part, or two if either is a window: they lie apart in y, or are added if they have its address."""
    left, right = a.whole if len(a.whole) > 1 else (1, *a.whole), b.whole if len(b.whole) > 1 else (*b.whole, 1)
    stack = np.broadcast_shapes(left[:-2], right[:-2])
    labels = [f"stack {axis}" for axis in range(len(stack))]
    sizes = dict(zip([*labels, "row", "along", "column"], [*stack, left[-2], left[-1], right[-1]], strict=True))
    result = Strided.of(replace(y, shape=(*stack, left[-2], right[-1])))
    names = {
        "a": [*labels, "row", "along"][-len(a.whole) :] if len(a.whole) > 1 else ["along"],
        "b": [*labels, "along", "column"][-len(b.whole) :] if len(b.whole) > 1 else ["along"],
        "y": [*labels, "row", "column"],
    }
    views = {"a": a, "b": b, "y": result}
    of = next((name for name in "ab" if views[name].entering is not None), None)
    if of is None:
        yield _part(views, names, sizes, None, 0)
        return
    window = views[of]
    label, length = names[of][window.axis], window.shape[window.axis]
    assert window.entering is not None
    for start, part in ((0, replace(window, entering=None)), (length, window.entering)):
        yield _part({**views, of: part}, names, {**sizes, label: part.shape[window.axis]}, label, start, of)


def _part(
    views: Mapping[str, Strided],
    names: Mapping[str, Sequence[str]],
    sizes: Mapping[str, int],
    label: str | None,
    start: int,
    window: str = "",
) -> _Part:
    """The part from `start` on along `label`; the view named `window` holds that part alone."""
    terms = {}
    for name, view in views.items():
        each = zip(names[name], view.shape, view.strides, strict=True)
        strides = {label: stride for label, size, stride in each if size > 1}
        first = 0 if name == window else start * strides.get(label or "", 0)
        tensor = view.tensor if not first else replace(view.tensor, address=f"({view.tensor.address} + {first})")
        terms[name] = Term(tensor, strides)
    return _Part(terms["y"], [terms["a"], terms["b"]], sizes)
