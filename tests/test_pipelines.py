"""Whole pipelines, two of them examples, in small: exported, streamed in C and on ONNX Runtime, equal to the whole."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
# By name: sizes, seconds of sound, frames that come out, delay and tail.
SMALL = {
    "keywords": ({"hidden": 6}, 16000, 97, 480, 1),
    "denoiser": ({"window": 64, "hop": 16, "hidden": 6}, 8007, 8007, 64, 79),
    "conv_tasnet": ({"filters": 8, "channels": 6, "hidden": 8, "layers": 2, "repeats": 1}, 8007, 8000, 16, 16),
    "demucs": ({"channels": 4, "depth": 2}, 8007, 8007, 32, 47),
    "transformer": ({"window": 8, "width": 8, "heads": 2, "layers": 1}, 8007, 50, 0, 0),
}


@pytest.fixture(scope="module")
def run():
    """The module that `scripts/pipelines/run` runs; what it imports is forgotten afterwards."""
    before, places = set(sys.modules), [str(SCRIPTS / "pipelines"), str(SCRIPTS)]
    sys.path[:0] = places
    import run

    yield run
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((f"{SCRIPTS}/", f"{ROOT}/examples/")):
            del sys.modules[name]
    for place in places:
        sys.path.remove(place)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_pipeline_streams_as_the_whole_does(name, run, tmp_path, monkeypatch):
    sizes, samples, frames, delay, tail = SMALL[name]
    sound = torch.randn(1, samples, generator=torch.Generator().manual_seed(0)) * 0.1
    monkeypatch.setitem(run.PIPELINES, name, run.Pipeline(sound=lambda: (sound, None)))
    # Raises where a stream, cut at random and ended, is not the net on the whole.
    line = run.shown(name, tmp_path, steps=4, rounds=3, **sizes)
    ends = f"delay {delay / 16:.0f} ms, tail {tail} frames"
    assert line.startswith(f"{name}: {samples:,} samples in, {frames:,} frames out; {ends}; ")
    separate = re.search(r"largest difference to the whole (\S+) of its scale; a step of \S+ ms: in C \d+ µs \(", line)
    assert float(separate[1]) < 2e-6
    assert "random weights" in line


def test_a_stream_that_differs_is_said(run, tmp_path, monkeypatch):
    class Bundle:
        class spec:  # noqa: N801
            chunk, delay, tail, sample_rate = 1, 0, 0, 16000

    monkeypatch.setattr(run, "exported", lambda *a, **k: (None, Bundle))
    monkeypatch.setattr(run, "whole", lambda *a: np.ones(5))
    monkeypatch.setattr(run, "streamed", lambda bundle, backend, x: np.ones(5) + 1e-3 * (backend == "native"))
    with pytest.raises(AssertionError, match="demucs, native"):
        run.shown("demucs", tmp_path)


def test_a_name_that_is_none_is_refused(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "vocoder"])
    with pytest.raises(SystemExit):
        run.main()
    assert "there is no pipeline 'vocoder': keywords, denoiser, conv_tasnet" in capsys.readouterr().err


def test_training_makes_the_denoiser_better_and_it_is_drawn(run, tmp_path):
    pytest.importorskip("matplotlib")
    torch.manual_seed(0)
    net = run.denoiser.Denoiser(128, 64, 12)
    clean, noisy = run.denoiser.noisy_clip()
    np.testing.assert_allclose(run.decibels(clean, noisy), 5, atol=1e-3)
    run.PIPELINES["denoiser"].train(net, 30)
    with torch.no_grad():
        denoised = net(noisy[None])[0].numpy()
    said = run.denoised(denoised, (clean, noisy), tmp_path)
    before, after = map(float, re.findall(r"(\S+) dB", said))
    assert (before, after > 6) == (5.0, True), said
    assert (tmp_path / "denoiser.png").read_bytes().startswith(b"\x89PNG")


def test_words_are_where_they_are_said_to_be(run):
    sound, words = run.keywords.spoken(4)
    assert len(words) == 4
    assert max(end for end, _ in words) < len(sound)
    scores = torch.zeros(len(sound) // 160, 4)
    for end, number in words:
        scores[end // 160 : end // 160 + 25, number] = 5
    assert run.keywords.words_right(scores, words) == 4
    assert run.keywords.words_right(-scores, words) == 0
