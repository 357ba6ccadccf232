"""Einsum, pair by pair; a pair with a constant is a product with a constant matrix."""

import math
from collections.abc import Mapping, Sequence
from string import ascii_letters

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_name
from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.notation import strides_of
from rnn_export.export.targets.c.code.tensors import CTensor
from rnn_export.export.targets.c.operators.data_movement import copy_strided, permute
from rnn_export.export.targets.c.products.contraction import Term, contract
from rnn_export.export.targets.c.products.matrix import Operand, Product

# A constant that both sides have labels in common with is so many matrices at most.
MATRICES = 64


def einsum(code: CodeBuilder, node: ir.Node) -> None:
    tensors = [code.input(node, i) for i in range(len(node.inputs))]
    labels, result = labels_of(node.attributes.get_string("equation", ""), [len(t.shape) for t in tensors])
    sizes: dict[str, int] = {}
    for tensor, of_tensor in zip(tensors, labels, strict=True):
        for label, size in zip(of_tensor, tensor.shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    y = code.new_output(node)
    terms = [_term(tensor, of_tensor) for tensor, of_tensor in zip(tensors, labels, strict=True)]
    while len(terms) > 2:
        needed = {*result, *(label for term in terms[2:] for label in term.strides)}
        kept = [label for label in dict.fromkeys([*terms[0].strides, *terms[1].strides]) if label in needed]
        made = _term(code.alloc(y.c_type, [sizes[label] for label in kept]), kept)
        contract(code, made, [_read(code, term) for term in terms[:2]], sizes)
        terms = [made, *terms[2:]]
    target = Term(y, dict(zip(result, strides_of(y.shape), strict=True)))
    constants = [term for term in terms if term.tensor.constant is not None]
    if len(terms) == 2 and len(constants) == 1 and y.c_type == "float":
        (x,) = (term for term in terms if term is not constants[0])
        if _by_product(code, node, target, x, constants[0], sizes):
            return
    contract(code, target, [_read(code, term) for term in terms], sizes)


def labels_of(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The labels of the axes of each input and of the output: letters, and numbers from the right for an ellipsis."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    labels, wide = [], 0
    for text, rank in zip(left.split(","), ranks, strict=True):
        before, dots, after = text.partition("...")
        hidden = rank - len(before) - len(after) if dots else 0
        wide = max(wide, hidden)
        labels.append([*before, *(str(i) for i in range(hidden, 0, -1)), *after])
    every = [str(i) for i in range(wide, 0, -1)]
    if not arrow:
        letters = [label for of_input in labels for label in of_input if label in ascii_letters]
        return labels, [*every, *sorted(label for label in set(letters) if letters.count(label) == 1)]
    before, dots, after = right.partition("...")
    return labels, [*before, *(every if dots else []), *after]


def _term(tensor: CTensor, labels: Sequence[str]) -> Term:
    """A label that stands twice goes along the diagonal; an axis of one value is repeated."""
    strides: dict[str, int] = {}
    for label, size, stride in zip(labels, tensor.shape, strides_of(tensor.shape), strict=True):
        if size > 1:
            strides[label] = strides.get(label, 0) + stride
    return Term(tensor, strides)


def _read(code: CodeBuilder, term: Term) -> Term:
    return Term(code.with_address(term.tensor), term.strides)


def _by_product(code: CodeBuilder, node: ir.Node, y: Term, x: Term, w: Term, sizes: Mapping[str, int]) -> bool:
    """Write it as rows of x times the constant w, a matrix for each index of common labels; else return False."""
    both = [label for label in x.strides if label in w.strides]
    stack = [label for label in both if label in y.strides]
    summed = [label for label in both if label not in y.strides]
    rows = [label for label in x.strides if label not in w.strides]
    outputs = [label for label in w.strides if label not in both and label in y.strides]
    matrices, k, n = (math.prod(sizes[label] for label in of) for of in (stack, summed, outputs))
    if not summed or not outputs or matrices > MATRICES or any(label not in y.strides for label in rows):
        return False
    weights = _matrices(w, [stack, outputs, summed], sizes).reshape(matrices, n, k)
    count = math.prod(sizes[label] for label in rows)
    source = _laid_out(code, _read(code, x), [*stack, *rows, *summed], sizes)
    order = [*stack, *rows, *outputs]
    plain = [label for label in y.strides if sizes[label] > 1]
    result = y.tensor if plain == order else code.alloc("float", [sizes[label] for label in order])
    name = input_name(node, 0 if code.input(node, 0).constant is None else 1)
    for i, matrix in enumerate(weights):
        operand = Operand(np.ascontiguousarray(matrix), f"({source.address} + {i * count * k})", k, name)
        Product(code, np.zeros(n, np.float32), count, operand).emit(f"({result.address} + {i * count * n})")
    if plain != order:
        permute(code, result, y.tensor, [sizes[label] for label in order], [order.index(label) for label in plain])
    return True


def _matrices(w: Term, groups: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> np.ndarray:
    """The constant with its labels in the order of `groups`, summed over all others."""
    assert w.tensor.constant is not None
    flat = np.ascontiguousarray(w.tensor.constant)
    view = np.lib.stride_tricks.as_strided(
        flat, [sizes[label] for label in w.strides], [stride * flat.itemsize for stride in w.strides.values()]
    )
    places = {label: axis for axis, label in enumerate(w.strides)}
    wanted = [places[label] for group in groups for label in group]
    summed: np.ndarray = np.einsum(view, list(range(view.ndim)), wanted)
    return summed


def _laid_out(code: CodeBuilder, x: Term, order: Sequence[str], sizes: Mapping[str, int]) -> CTensor:
    """The values with labels in this order, in place if they have it."""
    strides = strides_of([sizes[label] for label in order])
    if all(x.strides[label] == stride for label, stride in zip(order, strides, strict=True)):
        return x.tensor
    result = code.alloc("float", [sizes[label] for label in order])
    loops = [(sizes[label], stride, x.strides[label]) for label, stride in zip(order, strides, strict=True)]
    copy_strided(code, result, 0, x.tensor, 0, loops)
    return result
