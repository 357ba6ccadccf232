"""Only a product or a convolution with the basis of a transform is computed as a transform."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from onnx import helper

from rnn_export.export.targets.c.fourier_detection import basis_of
from rnn_export.export.targets.c.static_graph import static_graph

from .c_cases import floats
from .c_sheet import Case, Sheet, case, const
from .rewriting import built

HANN = np.hanning(129)[:-1]
ENDS = np.array([0.5**0.5, *np.ones(63), 0.5**0.5])


def waves(rows: int, columns: int, length: int, part: int) -> np.ndarray:
    angles = 2 * np.pi * (np.outer(np.arange(rows), np.arange(columns)) % length) / length
    return -np.sin(angles) if part else np.cos(angles)


def back(length: int) -> np.ndarray:
    """By what each frequency of a real signal counts in it."""
    scale = np.full(length // 2 + 1, 2 / length)
    scale[0] = 1 / length
    if length % 2 == 0:
        scale[-1] = 1 / length
    return scale


@dataclass
class Made:
    """`scale` of each row, times waves of `length` values, times `weight` of each column."""

    rows: int
    columns: int
    length: int
    scale: np.ndarray = field(default_factory=lambda: np.ones(1))
    weight: np.ndarray = field(default_factory=lambda: np.ones(1))

    def matrix(self, part: int) -> np.ndarray:
        whole = self.scale[:, None] * waves(self.rows, self.columns, self.length, part) * self.weight
        return whole.astype(np.float32)


BASES = {
    "of a real signal": Made(128, 65, 128),
    "of an odd length": Made(129, 65, 129),
    "of all frequencies": Made(128, 128, 128),
    "under a window": Made(128, 65, 128, HANN),
    "of fewer values": Made(100, 65, 128),
    "back to a real signal": Made(65, 128, 128, back(128)),
    "back to one of an odd length": Made(65, 129, 129, back(129)),
    "scaled": Made(400, 201, 400, np.full(1, 400**-0.5)),
    "less at the ends": Made(128, 65, 128, HANN, ENDS),
}


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("made", BASES.values(), ids=BASES)
def test_a_basis_is_found(made, part):
    matrix = made.matrix(part)
    for given in (matrix, -matrix):
        found = basis_of(given)
        assert found is not None
        assert (found.length, found.part) == (made.length, part)
        again = found.scale[:, None] * waves(made.rows, made.columns, made.length, part) * found.weight
        np.testing.assert_allclose(again, given, rtol=0, atol=1e-6 * np.abs(matrix).max())


OTHERS = {
    "random": floats(128, 65),
    "zeros": np.zeros((128, 65)),
    "constant": np.ones((128, 65)),
    "a little off": waves(128, 65, 128, 0) + 1e-4 * floats(128, 65),
    "of another length": waves(128, 65, 160, 0),
    "a cosine transform": np.cos(np.pi * np.outer(np.arange(128) + 0.5, np.arange(64)) / 128),
    "another scale for each number": waves(128, 65, 128, 0) * (1 + np.eye(128, 65)),
}


@pytest.mark.parametrize("matrix", OTHERS.values(), ids=OTHERS)
def test_what_is_no_basis_stays_a_product(matrix):
    assert basis_of(matrix.astype(np.float32)) is None


def spectrum(opset: int) -> bytes:
    """y = x cos, z = x sin of x (batch, 128)."""
    bases = {name: BASES["of a real signal"].matrix(part) for part, name in enumerate(("cos", "sin"))}
    nodes = [helper.make_node("MatMul", ["x", name], [result]) for name, result in zip(bases, "yz", strict=True)]
    outputs = {name: ["batch", 65] for name in "yz"}
    return built(nodes, {"x": ["batch", 128]}, outputs, opset, **bases).SerializeToString()


@pytest.mark.parametrize("batch", [1, 8])
def test_both_parts_are_of_one_transform(batch):
    graph = static_graph(spectrum(18), batch)
    assert [n.op_type for n in graph.graph] == ["Unsqueeze", "DFT", "Gather", "Gather"]
    assert graph.opset_imports[""] == 20


def test_before_the_operator_was_there_it_stays_a_product():
    assert {n.op_type for n in static_graph(spectrum(13)).graph} == {"MatMul"}


def operators(sheet: Sheet) -> set[str]:
    return {n.op_type for n in static_graph(sheet.graph(sheet.spec)).graph} - {"Reshape"}


def assert_alike(sheet: Sheet) -> None:
    for of, got, want in sheet.compared():
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max(), err_msg=str(of))


def test_a_product_is_the_same_in_c():
    sheet = Sheet([case("MatMul", floats(2, 3, m.rows), const(m.matrix(p))) for m in BASES.values() for p in (0, 1)])
    assert operators(sheet) <= {"DFT", "Unsqueeze", "Gather", "Mul"}
    assert_alike(sheet)


def convolved(made: Made, sign: int = 1, **attributes) -> Case:
    kernels = np.concatenate([made.matrix(0), sign * made.matrix(1)], 1).T[:, None]
    return case("Conv", floats(2, 1, 400), const(np.ascontiguousarray(kernels)), **attributes)


def test_a_convolution_is_the_same_in_c():
    """Silero VAD, for one, has its transform as a convolution."""
    frames = [BASES[name] for name in ("of a real signal", "of an odd length", "under a window", "less at the ends")]
    mixed = np.concatenate([frames[2].matrix(0), Made(128, 65, 128, HANN + 0.1).matrix(1)], 1).T[:, None]
    others = [convolved(frames[0]), case("Conv", floats(1, 1, 128), const(np.ascontiguousarray(mixed)))]
    sheet = Sheet([convolved(m, sign, strides=[64]) for m in frames for sign in (1, -1)] + others)
    assert operators(sheet) <= {"Squeeze", "Gather", "Mul", "Unsqueeze", "DFT", "Concat", "Transpose"}
    assert_alike(sheet)


def test_other_convolutions_stay_as_they_are():
    usual, swapped = BASES["under a window"], BASES["of a real signal"]
    kernels = {
        "padding": convolved(usual, pads=[1, 1]),
        "dilation": convolved(usual, dilations=[2]),
        "sines first": np.concatenate([swapped.matrix(1), swapped.matrix(0)], 1),
        "cosines alone": np.concatenate([swapped.matrix(0), swapped.matrix(0)], 1),
    }
    cases = [
        k if isinstance(k, Case) else case("Conv", floats(2, 1, 300), const(np.ascontiguousarray(k.T[:, None])))
        for k in kernels.values()
    ]
    sheet = Sheet(cases)
    assert operators(sheet) == {"Conv"}
    assert_alike(sheet)


def test_both_halves_of_the_kernels_are_of_one_transform():
    sheet = Sheet([convolved(BASES["under a window"], -1, strides=[64])])
    assert [n.op_type for n in static_graph(sheet.graph(sheet.spec)).graph].count("DFT") == 1
