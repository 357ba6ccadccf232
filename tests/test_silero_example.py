"""The example net: torch against stored and independent outputs, its segments and its picture."""

import importlib.util
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

EXAMPLE = Path(__file__).parents[1] / "scripts" / "silero_vad"
UPSTREAM = Path(__file__).parent / "data" / "silero_vad" / "upstream.npz"
FRAME = 512 / 16000  # seconds

Floats = npt.NDArray[np.float32]


def load_script(name: str) -> ModuleType:
    """Import scripts/silero_vad/NAME.py, which is in no package."""
    spec = importlib.util.spec_from_file_location(f"silero_vad_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listen(samples: Floats, *, reset: bool = False) -> Floats:
    """The torch net's probability for each 512 samples (N,), with the state kept or reset at each call."""
    model, (_, *zeros), _ = load_script("model").factory()
    states, probabilities = zeros, []
    with torch.no_grad():
        for chunk in torch.from_numpy(samples).reshape(-1, 1, 512):
            probability, *states = model(chunk, *(zeros if reset else states))
            probabilities.append(probability.item())
    return np.array(probabilities, np.float32)


def full_scale(pcm: npt.NDArray[np.int16]) -> Floats:
    return pcm.astype(np.float32) / np.float32(32768)


def clip() -> Floats:
    with wave.open(str(EXAMPLE / "speech.wav"), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        return full_scale(np.frombuffer(file.readframes(file.getnframes()), "<i2"))


def reference() -> tuple[Floats, Floats]:
    with np.load(EXAMPLE / "reference.npz") as stored:
        return stored["probability"], stored["probability_reset"]


def segments_of(probability: list[float], frame_seconds: float = 0.1) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = load_script("segments").speech_segments(np.array(probability), frame_seconds)
    return found


def test_the_net_gives_the_stored_probabilities_of_the_clip() -> None:
    kept, reset = reference()
    np.testing.assert_allclose(listen(clip()), kept, rtol=0, atol=1e-5)
    np.testing.assert_allclose(listen(clip(), reset=True), reset, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("theirs", "tolerance"), [("prob_jit", 1e-5), ("prob_ort", 1e-4)])
def test_the_net_agrees_with_silero_s_own(theirs: str, tolerance: float) -> None:
    with np.load(UPSTREAM) as stored:
        expected, pcm = stored[theirs], stored["wav_i16"]
    assert expected.min() < 0.1  # there is speech in it, and none
    assert expected.max() > 0.9
    np.testing.assert_allclose(listen(full_scale(pcm)), expected, rtol=0, atol=tolerance)


def test_a_row_of_a_batch_is_heard_as_if_alone() -> None:
    model, _, _ = load_script("model").factory()
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, size, generator=generator) for size in (512, 64, 128, 128)]
    with torch.no_grad():
        together = model(*inputs)
        for row in range(3):
            for one, all_rows in zip(model(*(x[row : row + 1] for x in inputs)), together, strict=True):
                torch.testing.assert_close(one, all_rows[row : row + 1])


def test_the_next_context_is_the_last_64_samples() -> None:
    model, (_, *zeros), _ = load_script("model").factory()
    samples = torch.arange(512.0).unsqueeze(0) / 512
    with torch.no_grad():
        _, context, _, _ = model(samples, *zeros)
    assert torch.equal(context, samples[:, 448:])


def test_the_factory_declares_each_state_by_its_argument_and_output() -> None:
    model, example_inputs, options = load_script("model").factory()
    assert not model.training
    assert [tuple(x.shape) for x in example_inputs] == [(1, 512), (1, 64), (1, 128), (1, 128)]
    with torch.no_grad():
        outputs = model(*example_inputs)
    arguments = {"samples": 0, "context": 1, "h": 2, "c": 3}
    for name, output in options.pop("states").items():
        assert outputs[output].shape == example_inputs[arguments.pop(name)].shape
    assert options == {"sample_rate": 16000, "input_names": ["samples"], "output_names": ["probability"]}
    assert list(arguments) == options["input_names"]


def test_the_clip_has_three_segments_that_the_net_without_its_state_misses() -> None:
    kept, reset = reference()
    speech_segments = load_script("segments").speech_segments
    assert len(kept) == len(clip()) / 512
    expected = [(0.706, 2.814), (3.714, 6.366), (7.298, 9.406)]
    np.testing.assert_allclose(speech_segments(kept, FRAME), expected, rtol=0, atol=1e-9)
    assert len(speech_segments(reset, FRAME)) == 1


def test_a_segment_opens_at_a_half_and_closes_below_035() -> None:
    probability = [0.0, 0.49, 0.5, 0.36, 0.35, 0.9, 0.34, 0.49, 0.0]
    assert segments_of(probability) == [pytest.approx((0.2 - 0.03, 0.6 + 0.03))]


@pytest.mark.parametrize(("frames", "kept"), [(4, False), (5, True)])
def test_a_segment_shorter_than_a_quarter_second_is_dropped(frames: int, kept: bool) -> None:
    found = segments_of([0.0] * 3 + [1.0] * frames + [0.0] * 3, frame_seconds=0.05)
    assert found == ([pytest.approx((0.12, 0.43))] if kept else [])


def test_padding_stays_within_the_clip() -> None:
    assert segments_of([1.0] * 5) == [pytest.approx((0.0, 0.5))]


def test_segments_that_touch_once_padded_are_one() -> None:
    speech = [1.0] * 10
    assert segments_of([*speech, 0.0, *speech], frame_seconds=0.05) == [pytest.approx((0.0, 1.05))]
    assert len(segments_of([*speech, 0.0, 0.0, *speech], frame_seconds=0.05)) == 2


@pytest.mark.parametrize("probability", [[], [0.0] * 20, [0.49] * 20])
def test_no_speech_has_no_segments(probability: list[float]) -> None:
    assert segments_of(probability) == []


def test_probabilities_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(20, 1\); give one number per frame, shape \(T,\)"):
        load_script("segments").speech_segments(np.ones((20, 1)), FRAME)


def test_the_share_found_counts_the_speech_frames_only() -> None:
    pytest.importorskip("matplotlib")
    share_found = load_script("picture").share_found
    assert share_found(np.array([0.9, 0.5, 0.8, 0.7, 0.1]), np.array([0.6, 0.4, 0.1, 0.2, 0.9])) == 0.25
    assert np.isnan(share_found(np.zeros(3), np.ones(3)))
    assert 0.25 < share_found(*reference()) < 0.35


def png_pixels(path: Path) -> npt.NDArray[Any]:
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image = pytest.importorskip("matplotlib.image")
    return np.asarray(image.imread(path))


def test_the_picture_shows_each_curve_and_the_segments(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kept, reset = reference()
    draw = load_script("picture").draw
    draw(tmp_path / "full.png", clip(), 16000, kept, reset, load_script("segments").speech_segments(kept, FRAME))
    draw(tmp_path / "unshaded.png", clip(), 16000, kept, reset, [])
    full, unshaded = png_pixels(tmp_path / "full.png"), png_pixels(tmp_path / "unshaded.png")
    assert full.shape[:2] == (700, 1200)

    def covers(pixels: npt.NDArray[Any], color: tuple[int, int, int]) -> float:
        return float(np.mean(np.all(np.abs(pixels[..., :3] * 255 - color) < 3, axis=-1)))

    kept_tint, reset_tint, shade = (204, 227, 240), (247, 223, 204), (196, 229, 248)
    assert covers(full, kept_tint) > 0.1
    assert covers(full, reset_tint) > 0.03
    assert covers(full, shade) > 0.05
    assert covers(unshaded, shade) < 0.001


def test_a_clip_without_speech_is_drawn_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    silence = np.zeros(512 * 4, np.float32)
    load_script("picture").draw(tmp_path / "silence.png", silence, 16000, np.zeros(4), np.zeros(4), [])
    assert png_pixels(tmp_path / "silence.png").std() > 0.01
