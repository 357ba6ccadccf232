"""Recordings through a stream: those too short to give anything are refused before they run."""

import numpy as np
import pytest

from rnn_export.cli.run_io import run_file

from ..messages import raises  # noqa: TID252
from .graphs import frames


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("chunked", 2, ("run-without-output", "2", "3", "0")),
        ("delayed", 2, ("run-without-output", "2", "1", "2")),
        ("delayed_chunked", 5, ("run-without-output", "5", "3", "4")),
    ],
)
def test_a_recording_that_gives_nothing(engine, tmp_path, name, length, message):
    np.save(tmp_path / "a.npy", frames(length, 3))
    with raises(*message):
        run_file(engine(name), str(tmp_path / "a.npy"), tmp_path / "out.csv", False)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_the_outputs_are_those_of_a_run(engine, tmp_path, suffix):
    xs = frames(7, 3)
    np.save(tmp_path / "a.npy", xs)
    out = tmp_path / f"out{suffix}"
    result = run_file(engine("chunked"), str(tmp_path / "a.npy"), out, False)
    assert (result["frames"], result["rows"], result["output"]) == (7, 1, str(out))
    given = np.loadtxt(out, delimiter=",") if suffix == ".csv" else np.load(out)
    np.testing.assert_array_equal(given["y"] if suffix == ".npz" else given, xs.cumsum(0)[:6])
