"""Sums over products of two tensors, whose axes have labels: Einsum, and MatMul of computed tensors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.constants import LANES
from rnn_export.export.targets.c.code.tensors import CTensor


@dataclass(frozen=True)
class Term:
    """A tensor of C with a stride for each label of its axes; along other labels it is repeated."""

    tensor: CTensor
    strides: Mapping[str, int]

    def at(self, variables: Mapping[str, str]) -> str:
        """The C of its flat index at the loop variables; labels without a variable are at 0."""
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
    rows = _rows(y, terms, summed)
    if rows:
        _by_rows(code, y, terms, sizes, kept, summed, rows[0], variables)
        return
    if (pair := _weights_and_rows(y, terms, kept, summed)) is not None:
        _weighted(code, y, *pair, sizes, kept, summed[0], variables)
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


def in_a_row(y: Term, terms: Sequence[Term], sizes: Mapping[str, int]) -> bool:
    """True if the values that `contract` reads most are contiguous."""
    kept = [label for label in y.strides if sizes[label] > 1]
    summed = [label for label in sizes if label not in y.strides and sizes[label] > 1]
    return not summed or bool(_rows(y, terms, summed)) or _weights_and_rows(y, terms, kept, summed) is not None


def _rows(y: Term, terms: Sequence[Term], summed: Sequence[str]) -> list[str]:
    """Labels along which both terms lie in a row."""
    floats = len(terms) == 2 and y.tensor.c_type == "float"
    return [label for label in summed if floats and all(t.strides.get(label) == 1 for t in terms)]


def _weights_and_rows(
    y: Term, terms: Sequence[Term], kept: Sequence[str], summed: Sequence[str]
) -> tuple[Term, Term] | None:
    """The terms in this order, where y is a sum of rows of the second, each times a value of the first."""
    if len(terms) != 2 or len(summed) != 1 or not kept or y.tensor.c_type != "float" or y.strides[kept[-1]] != 1:
        return None
    for weights, rows in (terms, terms[::-1]):
        if rows.strides.get(kept[-1]) == 1 and kept[-1] not in weights.strides and summed[0] in rows.strides:
            return weights, rows
    return None


def _weighted(
    code: CodeBuilder,
    y: Term,
    weights: Term,
    rows: Term,
    sizes: Mapping[str, int],
    kept: Sequence[str],
    summed: str,
    variables: Mapping[str, str],
) -> None:
    outer = {label: variables[label] for label in kept[:-1]}
    step, count, row, width = weights.strides.get(summed, 0), sizes[summed], rows.strides[summed], sizes[kept[-1]]
    with code.loops(list(outer.values()) or ["once"], [sizes[label] for label in outer] or [1]):
        a, b, c = (f"{t.tensor.address} + {t.at(outer)}" for t in (weights, rows, y))
        if width >= LANES:
            code.emit(f"rnn_weighted({a}, {step}, {count}, {b}, {row}, {width}, {c});")
            return
        # Compilers keep so few sums in registers.
        code.emit(f"float sums[{width}] = {{0}};")
        with code.loops(["r", "i"], [count, width]):
            code.emit(f"sums[i] += ({a})[r * {step}] * ({b})[r * {row} + i];")
        code.emit(f"memcpy({c}, sums, sizeof sums);")


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
    """As `contract`, where both terms are contiguous along one label."""
    count = math.prod(sizes[label] for label in kept)
    short = sizes[along] < LANES or (sizes[along] <= 2 * LANES and count >= LANES)
    others = [label for label in summed if short or label != along]
    named = {label: variable for label, variable in variables.items() if short or label != along}
    with code.loops([variables[label] for label in kept] or ["once"], [sizes[label] for label in kept] or [1]):
        code.emit("float sum = 0.0f;")
        with code.loops([variables[label] for label in others], [sizes[label] for label in others]):
            if short:
                # A sum across a vector takes longer than so few products, and compilers do several of those at once.
                code.emit(f"sum += {' * '.join(f'{t.tensor.address}[{t.at(named)}]' for t in terms)};")
            else:
                a, b = (f"{t.tensor.address} + {t.at(named)}" for t in terms)
                code.emit(f"sum += rnn_dot({a}, {b}, {sizes[along]});")
        code.emit(f"{y.tensor.address}[{y.at(variables)}] = sum;")
