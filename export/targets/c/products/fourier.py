"""DFT and STFT: fast transforms over tables of roots of unity, of any length.

Lengths are products of 4, 2, 3, 5 and any primes up to 61, whose passes are in kernels/fourier.h; any other is a
convolution of such a length (L. Bluestein, 1970). Real values are transformed in pairs, half as long.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rnn_export.export.graph.passes.nodes import input_of
from rnn_export.export.targets.c.code.code_builder import CodeBuilder
from rnn_export.export.targets.c.code.notation import float_literal
from rnn_export.platform.arrays import Array

# From here on a prime factor costs more by its own sum than the length by a convolution.
LARGEST_RADIX = 64
# From the index of a value, and 0 for its real or 1 for its imaginary part, to C; `q` counts the numbers of a value.
Read = Callable[[str, int], str]
Pair = tuple[str, str]


def dft(code: CodeBuilder, node: ir.Node) -> None:
    """Up to opset 19 the axis is an attribute."""
    x, length, axis = code.read(node, 0), code.constant(node, 1), code.constant(node, 2)
    y, rank, attributes = code.new_output(node), len(x.shape), node.attributes
    assert node.graph is not None
    default = 1 if node.graph.opset_imports[""] < 20 else -2
    along = (attributes.get_int("axis", default) if axis is None else int(axis.reshape(-1)[0])) % rank
    inverse, onesided = (bool(attributes.get_int(name, 0)) for name in ("inverse", "onesided"))
    given, inner, parts = x.shape[along], math.prod(x.shape[along + 1 : -1]), x.shape[-1]
    n = (2 * (given - 1) if inverse and onesided else given) if length is None else int(length.reshape(-1)[0])
    transform = Transform(code, n, given, inner, parts == 1, onesided, inverse)

    def read(j: str, part: int) -> str:
        return f"{x.address}[((o * {given} + {j}) * {inner} + q) * {parts} + {part}]"

    with code.loop("o", math.prod(x.shape[:along])):
        transform.emit(read, f"({y.address} + o * {math.prod(y.shape[along:])})")


def stft(code: CodeBuilder, node: ir.Node) -> None:
    """Frames of a signal (batch, values, 1 or 2), each under the window: (batch, frames, frequencies, 2)."""
    x, step = code.read(node, 0), int(code.required(node, 1).reshape(-1)[0])
    length, y = code.constant(node, 3), code.new_output(node)
    window = code.read(node, 2) if input_of(node, 2) is not None else None
    n = window.size if length is None and window is not None else int(np.asarray(length).reshape(-1)[0])
    transform = Transform(code, n, n, 1, x.shape[-1] == 1, y.shape[2] <= n // 2 + 1, False)
    values, parts, frames = x.shape[1], x.shape[2] if len(x.shape) > 2 else 1, y.shape[1]

    def read(j: str, part: int) -> str:
        value = f"{x.address}[(o * {values} + f * {step} + {j}) * {parts} + {part}]"
        return value if window is None else f"{value} * {window.address}[{j}]"

    with code.loops(["o", "f"], [x.shape[0], frames]):
        transform.emit(read, f"({y.address} + (o * {frames} + f) * {math.prod(y.shape[2:])})")


@dataclass(frozen=True)
class Transform:
    """One transform of `n` values, of which `given` are there, each of `inner` numbers side by side.

    `real`: the input has no imaginary part; `onesided`: of the output, or with `inverse` of the input, only the
    frequencies up to n / 2 are there.
    """

    code: CodeBuilder
    n: int
    given: int
    inner: int
    real: bool
    onesided: bool
    inverse: bool

    def emit(self, read: Read, y: str) -> None:
        """Write the statements for one; its result lies at `y`."""
        code, n, inner = self.code, self.n, self.inner
        to_real = self.inverse and self.onesided
        in_pairs = n % 2 == 0 and (to_real or (self.real and not self.inverse))
        length = n // 2 if in_pairs else n
        size = max(_padded_length(length), length + 1) * inner
        here = (code.alloc("float", (size,)).address, code.alloc("float", (size,)).address)
        there = here
        if length > 1 or (in_pairs and self.inverse):
            there = (code.alloc("float", (size,)).address, code.alloc("float", (size,)).address)
        if in_pairs and not self.inverse:
            self._load_pairs(read, here)
            a, b = _transform(code, length, inner, here, there)[0]
            code.emit(f"rnn_fft_real({a}, {b}, {length}, {inner}, {_name(code, _roots(n, length))}, {y});")
            if not self.onesided:
                self._mirror(y)
            return
        if in_pairs:
            self._load(read, there, length + 1)
            for k in (0, length):
                code.emit(f"memset({there[1]} + {k * inner}, 0, {inner} * sizeof(float));")
            roots = _name(code, _roots(n, length))
            code.emit(f"rnn_fft_of_real({there[0]}, {there[1]}, {length}, {inner}, {roots}, {here[0]}, {here[1]});")
        else:
            self._load(read, here, n // 2 + 1 if to_real else n)
            if to_real:
                self._conjugate(here)
        if self.inverse:
            here, there = here[::-1], there[::-1]
        result = _transform(code, length, inner, here, there)[0]
        self._store(result[::-1] if self.inverse else result, y, length, in_pairs)

    def _load_pairs(self, read: Read, to: Pair) -> None:
        """Load every other real value as if it were imaginary."""
        for part, name in enumerate(to):
            there = (min(self.given, self.n) + 1 - part) // 2
            with self.code.loops(["j", "q"], [there, self.inner]):
                self.code.emit(f"{name}[j * {self.inner} + q] = {read(f'(2 * j + {part})', 0)};")
            self._zero(name, there, self.n // 2)

    def _load(self, read: Read, to: Pair, count: int) -> None:
        there = min(self.given, count)
        for part, name in enumerate(to):
            known = 0 if part and self.real else there
            if known:
                with self.code.loops(["j", "q"], [known, self.inner]):
                    self.code.emit(f"{name}[j * {self.inner} + q] = {read('j', part)};")
            self._zero(name, known, count)

    def _zero(self, name: str, first: int, end: int) -> None:
        if first < end:
            values = (end - first) * self.inner
            self.code.emit(f"memset({name} + {first * self.inner}, 0, {values} * sizeof(float));")

    def _conjugate(self, to: Pair) -> None:
        """The frequencies beyond n / 2 of an inverse to real values."""
        a, b = to
        self.code.emit(f"memset({b}, 0, {self.inner} * sizeof(float));")
        with self.code.loops(["j", "q"], [(self.n - 1) // 2, self.inner]):
            at, other = f"({self.n} - 1 - j) * {self.inner} + q", f"(j + 1) * {self.inner} + q"
            self.code.emit(f"{a}[{at}] = {a}[{other}];")
            self.code.emit(f"{b}[{at}] = -{b}[{other}];")

    def _mirror(self, y: str) -> None:
        """The frequencies beyond n / 2 of real values."""
        with self.code.loops(["j", "q"], [self.n // 2 - 1, self.inner]):
            at, other = f"(({self.n} - 1 - j) * {self.inner} + q) * 2", f"((j + 1) * {self.inner} + q) * 2"
            self.code.emit(f"{y}[{at}] = {y}[{other}];")
            self.code.emit(f"{y}[{at} + 1] = -{y}[{other} + 1];")

    def _store(self, of: Pair, y: str, length: int, in_pairs: bool) -> None:
        scale = f" * {float_literal(1 / length)}" if self.inverse else ""
        to_real = self.inverse and self.onesided
        count = self.n // 2 + 1 if self.onesided and not self.inverse else length
        with self.code.loops(["j", "q"], [count, self.inner]):
            for part, name in enumerate(of[:1] if to_real and not in_pairs else of):
                target = (
                    f"(2 * j + {part}) * {self.inner} + q"
                    if in_pairs
                    else f"(j * {self.inner} + q) * {2 - to_real} + {part}"
                )
                self.code.emit(f"{y}[{target}] = {name}[j * {self.inner} + q]{scale};")


def _transform(code: CodeBuilder, n: int, inner: int, here: Pair, there: Pair) -> tuple[Pair, Pair]:
    """Write the transform of n values that lie `here`; return the memory of the result and a free one."""
    radices = _radices(n)
    if radices is None:
        return _by_convolution(code, n, inner, here, there)
    stride = inner
    for radix in radices:
        m = n * inner // (stride * radix)
        p, k = np.arange(m), np.arange(1, radix)
        roots = np.exp(-2j * np.pi * (k[:, None] * p % (radix * m)) / (radix * m))
        table = _name(code, np.stack([roots.real, roots.imag], 1))
        arguments = ", ".join([*here, str(m), str(stride), table, *there])
        if radix <= 5:
            code.emit(f"rnn_fft_{radix}({arguments});")
        else:
            code.emit(f"rnn_fft_any({radix}, {_name(code, _roots(radix, radix))}, {arguments});")
        here, there, stride = there, here, stride * radix
    return here, there


def _by_convolution(code: CodeBuilder, n: int, inner: int, here: Pair, there: Pair) -> tuple[Pair, Pair]:
    """X[k] = c[k] sum over j of (x[j] c[j]) conj(c[k - j]) with c[j] = e^(-pi i j^2 / n): circular, of _room(n)."""
    size, j = _padded_length(n), np.arange(n)
    chirp = np.exp(-1j * np.pi * (j * j % (2 * n)) / n)
    kernel = np.zeros(size, np.complex128)
    kernel[:n] = chirp.conj()
    kernel[size - n + 1 :] = chirp[:0:-1].conj()
    of_kernel, of_chirp = _name(code, _parts(np.fft.fft(kernel) / size)), _name(code, _parts(chirp))
    code.emit(f"rnn_fft_turn({here[0]}, {here[1]}, {n}, {inner}, {of_chirp});")
    for name in here:
        code.emit(f"memset({name} + {n * inner}, 0, {(size - n) * inner} * sizeof(float));")
    here, there = _transform(code, size, inner, here, there)
    code.emit(f"rnn_fft_turn({here[0]}, {here[1]}, {size}, {inner}, {of_kernel});")
    # Back is forwards with the parts in each other's place.
    here, there = _transform(code, size, inner, here[::-1], there[::-1])
    here, there = here[::-1], there[::-1]
    code.emit(f"rnn_fft_turn({here[0]}, {here[1]}, {n}, {inner}, {of_chirp});")
    return here, there


def _radices(n: int) -> list[int] | None:
    """Factors of n in the order of their passes; None where one is too large."""
    found = []
    for radix in (4, 2, *range(3, LARGEST_RADIX, 2)):
        while n % radix == 0:
            found.append(radix)
            n //= radix
    return found if n == 1 else None


def _padded_length(n: int) -> int:
    """The size of a transform of n: n, or a length of small factors for its convolution."""
    if _radices(n) is not None:
        return n
    power = 1 << (2 * n - 2).bit_length()
    return min(length for length in (power * 9 // 16, power * 5 // 8, power * 3 // 4, power) if length >= 2 * n - 1)


def _roots(n: int, count: int) -> Array:
    """The first powers of e^(-2 pi i / n)."""
    return _parts(np.exp(-2j * np.pi * np.arange(count) / n))


def _parts(values: Array) -> Array:
    return np.concatenate([values.real, values.imag])


def _name(code: CodeBuilder, table: Array) -> str:
    code.more_kernels.add("fourier")
    return code.weights.name_of(table.astype(np.float32))
