"""Sums over products of two tensors, whose axes have labels: Einsum, and MatMul of computed tensors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rnn_export.export.targets.c.code_builder import CodeBuilder
from rnn_export.export.targets.c.tensors import CTensor
from rnn_export.export.targets.c.weights import LANES


@dataclass(frozen=True)
class Term:
    """A tensor of C, and for each label of its axes how far apart neighbours are; along other labels it is repeated."""

    tensor: CTensor
    strides: Mapping[str, int]

    def at(self, variables: Mapping[str, str]) -> str:
        """The C of its value where the loops are; labels without a variable are at their first."""
        used = [(variables[label], stride) for label, stride in self.strides.items() if label in variables]
        return " + ".join(f"{variable} * {stride}" for variable, stride in used) or "0"


def contract(code: CodeBuilder, y: Term, terms: Sequence[Term], sizes: Mapping[str, int]) -> None:
    """y[its labels] = sum over all other labels of the product of one or two terms."""
    kept = [label for label in y.strides if sizes[label] > 1]
    summed = [label for label in dict.fromkeys(each for t in terms for each in t.strides) if label not in y.strides]
    summed = [label for label in summed if sizes[label] > 1]
    code.macs += math.prod(sizes[label] for label in kept + summed)
    variables = {label: f"n{i}" for i, label in enumerate(kept + summed)}

    def product(named: Mapping[str, str]) -> str:
        return " * ".join(f"{t.tensor.address}[{t.at(named)}]" for t in terms)

    if not summed:
        with code.loops([variables[label] for label in kept], [sizes[label] for label in kept]):
            code.emit(f"{y.tensor.address}[{y.at(variables)}] = {product(variables)};")
        return
    rows = [label for label in summed if len(terms) == 2 and all(t.strides.get(label) == 1 for t in terms)]
    if rows and y.tensor.c_type == "float":
        _by_rows(code, y, terms, sizes, kept, summed, rows[0], variables)
        return
    # The last axis of y is the innermost loop, where vectors go along it.
    last, outer = kept[-1:], kept[:-1]
    with code.loops([variables[label] for label in outer], [sizes[label] for label in outer]):
        for label in last:
            code.emit(f"for (int {variables[label]} = 0; {variables[label]} < {sizes[label]}; {variables[label]}++)")
        code.emit(f"    {y.tensor.address}[{y.at(variables)}] = 0;")
        inner = summed + last
        with code.loops([variables[label] for label in inner], [sizes[label] for label in inner]):
            code.emit(f"{y.tensor.address}[{y.at(variables)}] += {product(variables)};")


def _by_rows(
    code: CodeBuilder,
    y: Term,
    terms: Sequence[Term],
    sizes: Mapping[str, int],
    kept: Sequence[str],
    summed: Sequence[str],
    along: str,
    variables: Mapping[str, str],
) -> None:
    """The same where both terms have the values of one label side by side."""
    short = sizes[along] < LANES
    others = [label for label in summed if short or label != along]
    named = {label: variable for label, variable in variables.items() if short or label != along}
    with code.loops([variables[label] for label in kept] or ["once"], [sizes[label] for label in kept] or [1]):
        code.emit("float sum = 0.0f;")
        with code.loops([variables[label] for label in others], [sizes[label] for label in others]):
            if short:
                # A sum across a vector takes longer than one of so few products.
                code.emit(f"sum += {' * '.join(f'{t.tensor.address}[{t.at(named)}]' for t in terms)};")
            else:
                a, b = (f"{t.tensor.address} + {t.at(named)}" for t in terms)
                code.emit(f"sum += rnn_dot({a}, {b}, {sizes[along]});")
        code.emit(f"{y.tensor.address}[{y.at(variables)}] = sum;")
