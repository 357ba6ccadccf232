"""The numbers that meet a count in a loop, as they are read from its code."""

import pytest

from rnn_export.export.lift.branches.counter_constants import counted_numbers

from ..zoo import far_frames as loops  # noqa: TID252

NAMED = [
    (loops.by_the_attribute, 300), (loops.by_a_method, 300), (loops.by_the_second, 3), (loops.by_two_counts, 30),
    (loops.counting_down, 300), (loops.by_bits, 256), (loops.far_back, 300), (loops.by_a_table, 300),
    (loops.in_a_comprehension, 300),
]  # fmt: skip


@pytest.mark.parametrize(("function", "number"), NAMED)
def test_numbers_that_meet_a_count_are_read_from_the_code(function, number):
    net = loops.model(function)
    assert number in [n.value for n in counted_numbers(lambda: net(loops.X))]


def test_sizes_are_no_such_numbers():
    net = loops.model(loops.ordinary)
    assert [n.value for n in counted_numbers(lambda: net(loops.X)) if n.value > 8] == []
