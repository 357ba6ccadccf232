"""examples/c_program: a program in C around a generated folder, as its README says."""

import re
from pathlib import Path

from ..native.needs import need  # noqa: TID252
from .running import run


def test_it_is_pytorch(tmp_path: Path) -> None:
    need("cmake", "make", "gcc|clang")
    first, *table = run("c_program", tmp_path)
    error = re.fullmatch(r"100 frames in C, of PyTorch off by at most (\S+)", first)
    assert error
    assert float(error[1]) < 1e-5
    assert [line.split()[0] for line in table if " GRU " in line] == ["rnn.l0"]
