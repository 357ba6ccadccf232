"""Layouts and the check of values on the way in."""

import numpy as np
import pytest

from rnn_export.contract.layout import canonical, graph_layout
from rnn_export.contract.spec import TensorSpec
from rnn_export.runtime.core.frame_io import FrameInput, check_values, exact_cast, frame_view

from ..messages import raises  # noqa: TID252

LAYOUTS = {
    "batch": (("batch", 2), (4, 2), (4, 2)),
    "last batch": ((2, "batch"), (2, 4), (4, 2)),
    "batch, time": (("batch", "time", 2), (4, 3, 2), (4, 3, 2)),
    "time, batch": (("time", "batch", 2), (3, 4, 2), (4, 3, 2)),
    "batch, features, time": (("batch", 2, "time"), (4, 2, 3), (4, 3, 2)),
    "time in the middle of it all": ((2, "time", 5, "batch"), (2, 3, 5, 4), (4, 3, 2, 5)),
}


@pytest.mark.parametrize(("shape", "graph", "wanted"), LAYOUTS.values(), ids=LAYOUTS)
def test_canonical_and_back(shape, graph, wanted):
    spec, array = TensorSpec("x", "float32", shape), np.arange(np.prod(graph), dtype=np.float32).reshape(graph)
    view = canonical(array, spec)
    assert view.shape == wanted
    assert np.shares_memory(view, array)
    back = graph_layout(view, spec)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, array)


def test_a_frame_has_no_axis_of_one_row_or_one_frame():
    spec = TensorSpec("x", "float32", ("batch", "time", 2))
    for shape, wanted in (((1, 1, 2), (2,)), ((1, 3, 2), (3, 2)), ((4, 1, 2), (4, 2)), ((4, 3, 2), (4, 3, 2))):
        buffer = np.zeros(shape, np.float32)
        view = frame_view(buffer, spec)
        assert view.shape == wanted
        assert np.shares_memory(view, buffer)
    for axes in (("batch",), ("batch", "time")):
        number = np.zeros((1,) * len(axes), np.int64)
        FrameInput(TensorSpec("x", "int64", axes), number).load(7)
        assert number.item() == 7


def test_a_frame_is_laid_out_as_the_graph_wants():
    buffer = np.zeros((2, 3, 1), np.float32)
    port = FrameInput(TensorSpec("x", "float32", (2, "time", "batch")), buffer)
    port.load(np.arange(6, dtype=np.float32).reshape(3, 2))
    np.testing.assert_array_equal(buffer[:, :, 0], [[0, 2, 4], [1, 3, 5]])
    assert frame_view(buffer, TensorSpec("y", "float32", (2, "time", "batch"))).shape == (3, 2)


@pytest.mark.parametrize(
    ("x", "dtype", "wanted"),
    [
        ([1, 2], "float32", [1, 2]),
        ([0.5, 2], "float32", [0.5, 2]),
        ([True, False], "float32", [1, 0]),
        ([1, 255], "uint8", [1, 255]),
        ([-128, 127], "int8", [-128, 127]),
        ([1, 0], "bool", [True, False]),
        (np.array([1, 2], np.uint8), "int64", [1, 2]),
        (np.array([1, 2], np.float16), "float32", [1, 2]),
        (np.array([1, 2], ">f4"), "float32", [1, 2]),
    ],
    ids=str,
)
def test_values_that_fit(x, dtype, wanted):
    array = check_values("x", x, (2,), np.dtype(dtype))
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, wanted)


def test_what_fits_is_not_copied_and_an_empty_list_is_of_every_dtype():
    x = np.ones(3, np.float32)
    assert check_values("x", x, (3,), x.dtype) is x
    assert check_values("x", [], (0,), np.dtype("int64")).shape == (0,)


def test_a_cast_that_would_change_a_value_is_none():
    changed = [([300], "uint8"), ([-1], "uint8"), ([0.5], "int32"), ([np.nan], "int64"), ([1e30], "int64")]
    no_numbers = [(["1"], "float32"), ([None], "float32"), ([1j], "float32")]
    for values, dtype in [*changed, ([2], "bool"), *no_numbers]:
        assert exact_cast(np.array(values), np.dtype(dtype)) is None


def test_the_first_bad_value_is_named():
    x = np.array([[1, np.inf], [np.nan, 1]], np.float32)
    with raises("frame-not-finite", "'x'", "index (0, 1)"):
        check_values("x", x, (2, 2), x.dtype)
