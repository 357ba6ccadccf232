"""Every operator of the C writer in every form, compiled, against ONNX Runtime."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from rnn_export.export.targets.c import static_graph as static_graph_module
from rnn_export.export.targets.c.operator_table import OPERATORS

from .c_cases import FAMILIES, cases_of, floats, from_the_start
from .c_sheet import Case, Constant, Sheet, case, const, lanes_of_this_cpu, pages

# What is computed in fp32 in another order; most are within 3e-7 of the largest.
TOLERANCE = 2e-6
# ONNX Runtime takes the angles of a transform in fp32; numpy's, in float64, is the measure there.
OF_ANGLES = 1e-4
# The first pages of each family before their second ones.
PAGES = sorted(
    ((number, name, page) for name in FAMILIES for number, page in enumerate(pages(cases_of(name)[1]))),
    key=lambda row: row[0],
)
# Those that go through the kernels that depend on the width of a vector.
VECTORS = ("products", "cells", "norms", "transforms", "convolutions")
# What ONNX defines by other operators.
WRITTEN_OUT = {"Attention", "GroupNormalization", "MeanVarianceNormalization", "RotaryEmbedding"}


@pytest.fixture(autouse=True)
def _seeded():
    from_the_start()


def fourier(found: Case) -> np.ndarray:
    """numpy's result of a DFT, in float64, as pairs or as real values."""
    x, length, axis = (*found.inputs, None, None)[:3]
    assert isinstance(x, np.ndarray)
    along = int(axis.value) if isinstance(axis, Constant) else found.attributes.get("axis", 1)
    along %= x.ndim
    n = int(length.value) if isinstance(length, Constant) else None
    values = x[..., 0] + (1j * x[..., 1].astype(np.float64) if x.shape[-1] == 2 else 0)
    values = values.astype(np.complex128 if x.shape[-1] == 2 else np.float64)
    inverse, onesided = (bool(found.attributes.get(name)) for name in ("inverse", "onesided"))
    if inverse and onesided:
        return np.fft.irfft(values, n, along)
    result = (np.fft.ifft if inverse else np.fft.rfft if onesided else np.fft.fft)(values, n, along)
    return np.stack([result.real, result.imag], -1)


def check(sheet: Sheet, lanes: int | None = None) -> None:
    for found, got, want in sheet.compared(lanes):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        scale = sheet.scale(want)
        near = OF_ANGLES if found.op in ("DFT", "STFT") else TOLERANCE
        np.testing.assert_allclose(got, want, rtol=0, atol=near * scale, err_msg=str(found))
        if found.op == "DFT":
            exact = fourier(found).reshape(got.shape)
            np.testing.assert_allclose(got, exact, rtol=0, atol=TOLERANCE / 4 * scale, err_msg=str(found))


@pytest.mark.parametrize(("number", "name", "page"), PAGES, ids=[f"{name} {number}" for number, name, _ in PAGES])
def test_as_onnx_runtime_has_it(number, name, page):
    check(Sheet(page, FAMILIES[name][0]))


@pytest.mark.parametrize(("name", "lanes"), [*product(VECTORS, lanes_of_this_cpu())])
def test_with_vectors_of_any_width(name, lanes):
    opset, cases = cases_of(name)
    for page in pages(cases[lanes % 5 :: 5]):
        check(Sheet(page, opset), lanes)


def test_every_operator_is_here():
    tried = {found.op for name in FAMILIES for found in cases_of(name)[1]}
    assert tried - WRITTEN_OUT | {"ConstantOfShape"} == set(OPERATORS)


def test_the_page_lists_all_of_them():
    text = (Path(__file__).parents[2] / "docs/c-operators.md").read_text()
    rows = re.findall(r"^\| [\w ,']+ \| (`.*`) \|$", text, re.MULTILINE)
    assert {name for row in rows for name in row.strip("`").split("` `")} == set(OPERATORS)


VALUES = [
    *(helper.make_tensor("v", TensorProto.FLOAT, [1], [value]) for value in (-np.inf, np.nan, 0.1)),
    helper.make_tensor("v", TensorProto.INT64, [1], [-(2**63)]),
    helper.make_tensor("v", TensorProto.INT32, [1], [-(2**31)]),
    helper.make_tensor("v", TensorProto.BOOL, [1], [True]),
    None,
]


def test_a_constant_that_is_too_large_to_be_folded(monkeypatch):
    monkeypatch.setattr(static_graph_module, "FOLDED", 0)
    cases = [case("ConstantOfShape", [2, 3], **({} if v is None else {"value": v})) for v in VALUES]
    sheet = Sheet([*cases, case("Relu", floats(3))])
    assert sheet.written()["sheet.c"].count(b"for (int i = 0; i < 6; i++)") == len(cases)
    check(sheet)


def test_an_index_beyond_the_table_takes_its_nearest_row():
    table = floats(5, 3)
    index = np.array([5, 100, 2**62, -6, -100, -(2**63), 0, -1])
    sheet = Sheet([case("Gather", const(table), np.zeros(8, np.int64))])
    (name,) = sheet.feed
    sheet.feed[name] = index.reshape(1, -1)
    (got,) = sheet.computed().values()
    np.testing.assert_array_equal(got.reshape(8, 3), table[[4, 4, 4, 0, 0, 0, 0, 4]])


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_a_division_never_ends_the_process(kind):
    least = np.iinfo(kind).min
    sheet = Sheet([case(op, np.ones(4, kind), np.ones(4, kind)) for op in ("Div", "Mod")])
    for name in sheet.feed:
        values = [least, least, 7, -7] if name.split(".")[1] == "0" else [-1, 0, 0, -1]
        sheet.feed[name] = np.array([values], kind)
    quotient, rest = sheet.computed().values()
    assert quotient.tolist() == [[least, 0, 0, 7]]
    assert rest.tolist() == [[0, 0, 0, 0]]


def test_an_update_beyond_the_axis_is_left_out():
    x, update = floats(4, 3), floats(3, 3)
    cases = [
        case("ScatterND", x, np.zeros((3, 1), np.int64), update),
        case("ScatterElements", x, np.zeros((3, 3), np.int64), update),
        case("TensorScatter", x[None], update[None, :1], np.array([0])),
    ]
    sheet = Sheet(cases, 24)
    places = {"c0.1": [4, -5, -1], "c1.1": [4, 4, 4, -5, -5, -5, 2, 2, 2], "c2.2": [9]}
    sheet.feed.update({f"{name}.fed": np.array([values]) for name, values in places.items()})
    got = [y.reshape(4, 3) for y in sheet.computed().values()]
    np.testing.assert_array_equal(got[0], np.concatenate([x[:3], update[2:]]))
    np.testing.assert_array_equal(got[1], np.concatenate([x[:2], update[2:], x[3:]]))
    np.testing.assert_array_equal(got[2], x)


def test_a_nan_goes_through():
    x = np.array([1, np.nan, 2, np.nan], np.float32)
    y = np.array([np.nan, 3, 0, np.nan], np.float32)
    sheet = Sheet(
        [
            *(case(op, x, y) for op in ("Max", "Min", "Add", "Sub")),
            *(case(op, x, keepdims=0) for op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1")),
            *(case(op, x) for op in ("Softmax", "LogSoftmax")),
            case("Clip", x, -1.0, 1.0),
            case("MatMul", x, const(floats(4, 7))),
            case("MatMul", x, const(floats(4, 1))),
            case("MaxPool", x.reshape(1, 1, 4), kernel_shape=[4]),
            case("LayerNormalization", x, const(floats(4))),
        ]
    )
    got = list(sheet.computed().values())
    for number, (values, found) in enumerate(zip(got, sheet.cases, strict=True)):
        want = [True, True, False, True] if number < 4 else np.isnan(x) if found.op == "Clip" else True
        np.testing.assert_array_equal(np.isnan(values), np.broadcast_to(want, values.shape), err_msg=str(found))
