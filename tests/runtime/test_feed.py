"""Recordings through a stream: those too short to give anything are refused before they run."""

import numpy as np
import pytest

from rnn_export.cli.run_io import run_file
from rnn_export.errors import SourceError

from .graphs import frames


@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("chunked", 2, "has 2 frames, which give no output: a step takes 3, and the first 0 give none"),
        ("delayed", 2, "has 2 frames, which give no output: a step takes 1, and the first 2 give none"),
        ("delayed_chunked", 5, "has 5 frames, which give no output: a step takes 3, and the first 4 give none"),
    ],
)
def test_a_recording_that_gives_nothing(engine, tmp_path, name, length, message):
    np.save(tmp_path / "a.npy", frames(length, 3))
    with pytest.raises(SourceError, match=message):
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
