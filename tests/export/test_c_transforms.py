"""A product with the basis of a transform is computed as one, and no other product is."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rnn_export.export.targets.c.static_graph import static_graph
from rnn_export.export.targets.c.transforms import basis_of

from .c_sheet import Sheet, case, const
from .c_values import floats

HANN = np.hanning(129)[:-1]


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


# By name: values, frequencies, length, and what each row is times.
BASES = {
    "of a real signal": (128, 65, 128, np.ones(128)),
    "of an odd length": (129, 65, 129, np.ones(129)),
    "of all frequencies": (128, 128, 128, np.ones(128)),
    "under a window": (128, 65, 128, HANN),
    "of fewer values": (100, 65, 128, np.ones(100)),
    "back to a real signal": (65, 128, 128, back(128)),
    "back to one of an odd length": (65, 129, 129, back(129)),
    "scaled": (400, 201, 400, np.full(400, 400**-0.5)),
}


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize(("rows", "columns", "length", "scale"), BASES.values(), ids=BASES)
def test_a_basis_is_found(rows, columns, length, scale, part):
    matrix = (scale[:, None] * waves(rows, columns, length, part)).astype(np.float32)
    for found in (basis_of(matrix), basis_of(-matrix)):
        assert found is not None
        assert (found.length, found.part) == (length, part)
    again = basis_of(matrix).scale[:, None] * waves(rows, columns, length, part)
    np.testing.assert_allclose(again, matrix, rtol=0, atol=1e-6 * np.abs(matrix).max())


OTHERS = {
    "random": floats(128, 65),
    "zeros": np.zeros((128, 65), np.float32),
    "constant": np.ones((128, 65), np.float32),
    "a little off": waves(128, 65, 128, 0) + 1e-4 * floats(128, 65),
    "of another length": waves(128, 65, 160, 0),
    "a cosine transform": np.cos(np.pi * np.outer(np.arange(128) + 0.5, np.arange(64)) / 128),
    "another scale for each column": waves(128, 65, 128, 0) * np.linspace(1, 2, 65),
}


@pytest.mark.parametrize("matrix", OTHERS.values(), ids=OTHERS)
def test_what_is_no_basis_stays_a_product(matrix):
    assert basis_of(matrix.astype(np.float32)) is None


def spectrum(opset: int) -> bytes:
    """y = x cos, z = x sin of x (batch, 128)."""
    bases = {name: waves(128, 65, 128, part).astype(np.float32) for part, name in enumerate(("cos", "sin"))}
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], [result]) for name, result in zip(bases, "yz", strict=True)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 128])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 65]) for name in "yz"],
        [numpy_helper.from_array(value, name) for name, value in bases.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("batch", [1, 8])
def test_both_parts_are_of_one_transform(batch):
    graph = static_graph(spectrum(18), batch)
    assert [n.op_type for n in graph.graph] == ["Unsqueeze", "DFT", "Gather", "Gather"]
    assert graph.opset_imports[""] == 20


def test_before_the_operator_was_there_it_stays_a_product():
    assert {n.op_type for n in static_graph(spectrum(13)).graph} == {"MatMul"}


def test_in_c_it_is_the_product():
    cases = []
    for rows, columns, length, scale in BASES.values():
        for part in (0, 1):
            basis = (scale[:, None] * waves(rows, columns, length, part)).astype(np.float32)
            cases.append(case("MatMul", floats(2, 3, rows), const(basis)))
    sheet = Sheet(cases, 18)
    assert {n.op_type for n in static_graph(sheet.graph(sheet.spec)).graph} >= {"DFT"}
    for of, got, want in sheet.compared():
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max(), err_msg=str(of))
