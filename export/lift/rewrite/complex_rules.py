"""Rules for operators on complex values, in pairs of real ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.ir.dependence.axis_table import MOVING
from rnn_export.export.lift.ir.fx_nodes import aten, named_args, overloads
from rnn_export.export.lift.ir.recurrence_operators import LINEAR, MATRIX
from rnn_export.export.lift.ir.source_location import place_of
from rnn_export.export.lift.ir.takes import take_of
from rnn_export.export.lift.rewrite.complex_pairs import Pair, PairWriter, Rule, combined, is_complex
from rnn_export.export.lift.rewrite.constant_values import NEW_FILLED, fill_of

# These do the same to both parts. What pads or fills does so with a real number.
BY_PART = MOVING | overloads(
    "sum sum.dim_IntList mean mean.dim cumsum neg roll index.Tensor index_select gather constant_pad_nd pad tril triu "
    "masked_fill.Scalar masked_fill.Tensor where.self where.ScalarOther where.ScalarSelf select_scatter slice_scatter "
    "index_put copy resolve_conj resolve_neg diag_embed reflection_pad1d "
    "replication_pad1d _reshape_alias"
)
# A real operand beside complex ones is a value here.
JOINING = overloads(
    "cat stack where.self where.ScalarOther where.ScalarSelf select_scatter slice_scatter index_put copy"
)
FILLING = ("value", "fill_value", "other")
CONJUGATES = overloads("_conj _conj_physical conj_physical conj")
# The operands of what is linear in each of them, and the one that is added.
PRODUCTS: Mapping[Any, tuple[tuple[int, ...], int | None]] = {
    **dict.fromkeys(overloads("mul.Tensor matmul mm bmm mv dot outer"), ((0, 1), None)),
    **dict.fromkeys(overloads("linear conv1d conv2d conv_transpose1d conv_transpose2d.input convolution"), ((0, 1), 2)),
    **dict.fromkeys(overloads("addmm baddbmm"), ((1, 2), 0)),
}


def _by_part(write: PairWriter, node: fx.Node) -> Any:
    schema = [a.name for a in node.target._schema.arguments] if hasattr(node.target, "_schema") else ["", ""]

    def part(name: str, value: Any, imaginary: bool) -> Any:
        if isinstance(value, fx.Node):
            if value in write.pairs:
                pair = write.pairs[value]
                return write.imag(pair) if imaginary else write.real(pair)
            tensor = write.value_of(value)
            is_value = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
            return write.call(aten.zeros_like.default, value) if is_value and imaginary else value
        if isinstance(value, list | tuple):
            return [part("", v, imaginary) for v in value]
        if isinstance(value, complex):
            return value.imag if imaginary else value.real
        fills = name in FILLING and isinstance(value, int | float) and not isinstance(value, bool)
        return 0 if fills and imaginary else value

    def of(imaginary: bool) -> fx.Node:
        args = [part(name, value, imaginary) for name, value in zip(schema, node.args, strict=False)]
        kwargs = {name: part(name, value, imaginary) for name, value in node.kwargs.items() if name != "dtype"}
        return write.call(node.target, *args, **kwargs)

    if not is_complex(node):
        return NotImplemented
    leaves = torch.utils._pytree.tree_leaves([*node.args, *node.kwargs.values()])
    fed = [write.pair(v) for v in leaves if isinstance(v, complex) or v in write.pairs]
    fills = any(name in FILLING for name, _ in zip(schema, node.args, strict=False)) or node.target in JOINING
    # What both of the operands lack, the result lacks too.
    return Pair(
        None if all(p.re is None for p in fed) and not fills else of(False),
        None if all(p.im is None for p in fed) else of(True),
    )


def _product(write: PairWriter, node: fx.Node) -> Any:
    places, added = PRODUCTS[node.target]
    args = list(node.args)
    extra = args[added] if added is not None and added < len(args) else None
    if added == 2 and len(args) > 2:
        args[2] = None
    if node.kwargs or (added == 0 and len(args) > 3):
        return NotImplemented
    if added == 0:
        of = aten.mm.default if node.target is aten.addmm.default else aten.bmm.default
        found = _multilinear(write, lambda *xs: write.call(of, *xs), [args[1], args[2]])
    else:

        def call(*operands: Any) -> Any:
            if node.target is aten.mul.Tensor:
                return write.mul(*operands)
            return write.call(node.target, *operands, *args[2:])

        found = _multilinear(write, call, [args[place] for place in places])
    if extra is None:
        return found
    bias = write.pair(extra)
    if added == 2 and node.target is not aten.linear.default:
        # (O,) beside the axes that a window moves over.
        rank = node.meta["val"].dim() - 2
        bias = Pair(
            *(None if b is None else write.call(aten.reshape.default, b, [-1, *[1] * rank]) for b in (bias.re, bias.im))
        )
    return write.plus(found, bias)


def _multilinear(write: PairWriter, call: Callable[..., Any], operands: list[Any]) -> Pair:
    """The product of complex operands, from products of their parts."""
    pairs, sums = [write.pair(x) for x in operands], [None, None]
    for chosen in itertools.product((0, 1), repeat=len(pairs)):
        parts = [p.im if c else p.re for p, c in zip(pairs, chosen, strict=True)]
        if any(p is None for p in parts):
            continue
        imaginary, sign = combined(chosen)
        term = call(*parts)
        sums[imaginary] = write.add(sums[imaginary], term) if sign > 0 else write.sub(sums[imaginary], term)
    return Pair(*sums)


def _einsum(write: PairWriter, node: fx.Node) -> Any:
    equation, operands = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    return _multilinear(write, lambda *xs: write.call(aten.einsum.default, equation, list(xs)), operands)


def _sum_of(sign: int, swapped: bool = False) -> Rule:
    def rule(write: PairWriter, node: fx.Node) -> Any:
        given = named_args(node) | node.kwargs
        a, b = write.pair(given["self"]), write.pair(given["other"])
        a, b = (b, a) if swapped else (a, b)
        alpha = given.get("alpha", 1)
        if alpha != 1:
            b = write.times(b, write.pair(alpha))
        return write.plus(a, b) if sign > 0 else write.minus(a, b)

    return rule


def _pow(write: PairWriter, node: fx.Node) -> Any:
    base, exponent = (write.pair(x) for x in node.args[:2])
    whole = exponent.re if exponent.im is None and isinstance(exponent.re, int | float) else None
    if whole is not None and whole == int(whole) and 1 <= abs(whole) <= 8:
        found = base
        for _ in range(int(abs(whole)) - 1):
            found = write.times(found, base)
        return found if whole > 0 else write.over(Pair(1.0, None), found)
    if not isinstance(base.re, fx.Node):
        number = complex(base.re or 0.0, base.im or 0.0)
        if number == 0:
            return NotImplemented
        size, angle = math.log(abs(number)), math.atan2(number.imag, number.real)
        return write.exp(write.times(exponent, Pair(size, angle or None)))
    return write.exp(write.times(write.log(base), exponent))


def _sqrt(write: PairWriter, node: fx.Node) -> Any:
    a = write.pair(node.args[0])
    size = write.call(aten.sqrt.default, write.abs(a))
    return write.polar(size, write.mul(write.angle(a), 0.5))


def _sgn(write: PairWriter, node: fx.Node) -> Any:
    a = write.pair(node.args[0])
    size = write.abs(a)
    # 0 / 1 where there is no direction.
    one = write.call(aten.add.Tensor, size, write.call(aten.eq.Scalar, size, 0))
    return Pair(write.div(a.re, one), write.div(a.im, one))


def _addcmul(write: PairWriter, node: fx.Node) -> Any:
    a, b, c = (write.pair(x) for x in node.args[:3])
    return write.plus(a, write.times(write.times(b, c), write.pair(node.kwargs.get("value", 1))))


def _vecdot(write: PairWriter, node: fx.Node) -> Any:
    a, b = (write.pair(x) for x in node.args[:2])
    found = write.times(Pair(a.re, write.neg(a.im)), b)
    dim = (named_args(node) | node.kwargs)["dim"]
    return Pair(*(None if p is None else write.call(aten.sum.dim_IntList, p, [dim]) for p in (found.re, found.im)))


def _view_as_real(write: PairWriter, node: fx.Node) -> Any:
    a = write.pair(node.args[0])
    dim, users = node.meta["val"].dim() - 1, list(node.users)
    for user in users:
        take = take_of(user)
        if take is not None and take.axis == dim and take.drops_axis:
            user.replace_all_uses_with(write.imag(a) if take.start else write.real(a))
    return write.call(aten.stack.default, [write.real(a), write.imag(a)], -1)


def _view_as_complex(write: PairWriter, node: fx.Node) -> Any:
    parts = (write.call(aten.select.int, node.args[0], -1, part) for part in (0, 1))
    # Each as it would lie alone, for what looks at it in another shape.
    return Pair(*(write.call(aten.clone.default, part, memory_format=torch.contiguous_format) for part in parts))


def _typed(write: PairWriter, node: fx.Node) -> Any:
    """A conversion from real to complex values, or back, which drops the imaginary part."""
    a, dtype = write.pair(node.args[0]), node.meta["val"].dtype
    return a if dtype.is_complex else write.call(aten._to_copy.default, write.real(a), dtype=dtype)


def _filled(write: PairWriter, node: fx.Node) -> Any:
    given, fill, dtype = named_args(node), write.pair(fill_of(node)), node.meta["val"].dtype.to_real()
    before = [write.real(write.pair(given["self"]))] if "self" in given else []
    target = aten.full_like if "size" not in given else aten.new_full if before else aten.full
    before += [given["size"]] if "size" in given else []
    parts = (fill.re, fill.im)
    return Pair(*(None if n is None else write.call(target.default, *before, n, dtype=dtype) for n in parts))


TRANSFORM_OF_LENGTH = (
    "a transform over an axis of any length takes all of it at once, so no stream has it: a convolution by FFT is the "
    "form for whole sequences, and what streams is the recurrence behind it, the step of the same model with its state"
)


def _compared(write: PairWriter, node: fx.Node) -> Any:
    a, b = (write.pair(x) for x in node.args[:2])
    equal = node.target in (aten.eq.Scalar, aten.eq.Tensor)
    parts = [
        write.call(node.target, write.real(a), b.re or 0 if not isinstance(b.re, fx.Node) else b.re),
        write.call(aten.eq.Scalar if equal else aten.ne.Scalar, write.sub(write.imag(a), b.im), 0),
    ]
    return write.call(aten.logical_and.default if equal else aten.logical_or.default, *parts)


def _tested(joined: Any) -> Rule:
    def rule(write: PairWriter, node: fx.Node) -> Any:
        a = write.pair(node.args[0])
        return write.call(joined, *(write.call(node.target, part) for part in (write.real(a), write.imag(a))))

    return rule


def _fourier(write: PairWriter, node: fx.Node) -> Any:
    """A Fourier transform over a fixed axis, as a product with its basis."""
    given, name = named_args(node), node.target._opname  # type: ignore[union-attr]
    a, dim, norm = write.pair(given["self"]), given["dim"], given["norm"] or "backward"
    one = a.im if a.re is None else a.re
    size, wanted = write.value_of(one).shape[dim], given["n"]
    if not isinstance(size, int) or (wanted is not None and not isinstance(wanted, int)):
        raise LiftError(f"{place_of(node)}: {TRANSFORM_OF_LENGTH} ({name}).", id="transform-of-length")
    inverse = name in ("fft_ifft", "fft_irfft")
    there = (wanted or 2 * (size - 1)) if name == "fft_irfft" else (wanted or size)
    used = min(size, there // 2 + 1 if name == "fft_irfft" else there)
    rows, columns = torch.arange(used), torch.arange(there // 2 + 1 if name == "fft_rfft" else there)
    # Whole turns are left out before the angle loses digits.
    cycles = (rows[:, None] * columns[None, :]) % there
    angle = cycles.double() * (2 * math.pi / there)
    scale = {"backward": 1 / there if inverse else 1.0, "ortho": there**-0.5, "forward": 1.0 if inverse else 1 / there}[
        norm
    ]
    weight = torch.full((used, 1), scale, dtype=torch.double)
    if name == "fft_irfft":
        # What is left out of the spectrum is the mirror image of what is there.
        weight[1 : (there + 1) // 2] *= 2
    dtype = write.value_of(one).dtype
    cos = write.constant((angle.cos() * weight).to(dtype))
    sin = write.constant((angle.sin() * weight * (1 if inverse else -1)).to(dtype))

    def along(part: Any, basis: fx.Node) -> Any:
        if part is None:
            return None
        last = write.call(aten.transpose.int, write.call(aten.slice.Tensor, part, dim, 0, used), dim, -1)
        return write.call(aten.transpose.int, write.call(aten.matmul.default, last, basis), dim, -1)

    re = write.sub(along(a.re, cos), along(a.im, sin))
    if name == "fft_irfft":
        return re
    return Pair(re, write.add(along(a.re, sin), along(a.im, cos)))


def _recurrence(write: PairWriter, node: fx.Node) -> Any:
    """A complex factor is the matrix [[re, -im], [im, re]]."""
    a, x, dim = write.pair(node.args[0]), write.pair(node.args[1]), node.args[2]
    if a.im is None:
        return Pair(*(None if part is None else write.call(LINEAR, a.re, part, dim) for part in (x.re, x.im)))

    def joined(re: Any, im: Any) -> fx.Node:
        return write.call(aten.stack.default, [re, im], -1)

    re, im = write.real(a), write.imag(a)
    factor = write.call(aten.stack.default, [joined(re, write.neg(im)), joined(im, re)], -2)
    term = write.call(aten.unsqueeze.default, joined(write.real(x), write.imag(x)), -1)
    h = write.call(aten.squeeze.dim, write.call(MATRIX, factor, term, dim), -1)
    return Pair(*(write.call(aten.select.int, h, -1, part) for part in (0, 1)))


def _rules() -> Mapping[Any, Rule]:
    def on(names: str, rule: Rule) -> dict[Any, Rule]:
        return dict.fromkeys(overloads(names), rule)

    return {
        **dict.fromkeys(BY_PART, _by_part),
        **dict.fromkeys(PRODUCTS, _product),
        **on("einsum", _einsum),
        **on("add.Tensor add.Scalar", _sum_of(1)),
        **on("sub.Tensor sub.Scalar", _sum_of(-1)),
        **on("rsub.Tensor rsub.Scalar", _sum_of(-1, swapped=True)),
        **on("mul.Scalar", lambda w, n: w.times(*(w.pair(x) for x in n.args[:2]))),
        **on("div.Tensor div.Scalar", lambda w, n: w.over(*(w.pair(x) for x in n.args[:2]))),
        **on("reciprocal", lambda w, n: w.over(Pair(1.0, None), w.pair(n.args[0]))),
        **on("square", lambda w, n: w.times(w.pair(n.args[0]), w.pair(n.args[0]))),
        **on("pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar", _pow),
        **on("exp", lambda w, n: w.exp(w.pair(n.args[0]))),
        **on("log", lambda w, n: w.log(w.pair(n.args[0]))),
        **on("sqrt", _sqrt),
        **on("sgn", _sgn),
        **on("addcmul", _addcmul),
        **on("linalg_vecdot", _vecdot),
        **on("linalg_vector_norm", lambda w, n: w.call(n.target, w.abs(w.pair(n.args[0])), *n.args[1:], **n.kwargs)),
        **on("abs", lambda w, n: w.abs(w.pair(n.args[0]))),
        **on("angle", lambda w, n: w.angle(w.pair(n.args[0]))),
        **on("imag", lambda w, n: w.imag(w.pair(n.args[0]))),
        **on("real", lambda w, n: w.real(w.pair(n.args[0]))),
        **dict.fromkeys(CONJUGATES, lambda w, n: Pair(w.pair(n.args[0]).re, w.neg(w.pair(n.args[0]).im))),
        **on("complex", lambda w, n: Pair(*n.args[:2])),
        **on("polar", lambda w, n: w.polar(*n.args[:2])),
        **on("view_as_real", _view_as_real),
        **on("view_as_complex", _view_as_complex),
        **on("_to_copy to.dtype to.dtype_layout to.other type_as", _typed),
        **dict.fromkeys(NEW_FILLED, _filled),
        **on("eq.Scalar eq.Tensor ne.Scalar ne.Tensor", _compared),
        **on("isnan isinf", _tested(aten.logical_or.default)),
        **on("isfinite", _tested(aten.logical_and.default)),
        LINEAR: _recurrence,
        **on("fft_fft fft_ifft fft_rfft fft_irfft", _fourier),
    }


RULES = _rules()


def make_real(module: fx.GraphModule) -> None:
    """Rewrite complex values in a graph as pairs of real ones, in place; raises LiftError if one has no such form."""
    PairWriter(module).rewrite(RULES)
