"""examples/cpp_two_streams: two streams of one model by its C++ header, as its README says."""

import re
from pathlib import Path

from ..native.needs import need  # noqa: TID252
from .running import run


def test_both_are_python_s(tmp_path: Path) -> None:
    need("cmake", "make", "g++|clang++")
    (line,) = run("cpp_two_streams", tmp_path)
    error = re.fullmatch(
        r"2 streams of 2,000 samples in C\+\+, one reset at 700: of Python's off by at most (\S+)", line
    )
    assert error
    assert float(error[1]) < 1e-6
