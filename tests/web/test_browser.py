"""The page and the package in a real Chromium: self-test, steps, an AudioWorklet, the microphone, and the drawing."""

import threading
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.runtime import load
from rnn_export.runtime.recording import read
from rnn_export.runtime.serve.web import PackageServer, read_package

from ..native.models import SPEECH  # noqa: TID252
from ..test_silero_example import load_script  # noqa: TID252
from .chromium import Chromium, find_chromium
from .node import need

SELFTEST = "document.getElementById('selftest').className !== 'wait'"
ENDED = "[.] Its end gave [0-9]+ more frames?[.]$"
OFFLINE = """
const model = await (await import("/index.js")).load(), output = model.contract.outputs[0].name;
const data = await (await fetch("/speech.wav")).arrayBuffer();
const buffer = await new OfflineAudioContext(1, 1, model.contract.sample_rate).decodeAudioData(data);
const context = new OfflineAudioContext(1, buffer.length, model.contract.sample_rate);
const node = await model.audioNode(context), got = [], errors = [];
const steps = Math.floor(buffer.length / model.contract.audio.samples);
const all = new Promise((done) => {
  node.port.onmessage = ({ data }) => {
    if (data.error) errors.push(data.error);
    else got.push(...data.outputs[output]);
    if (got.length >= steps) done();
  };
});
const source = new AudioBufferSourceNode(context, { buffer });
source.connect(node).connect(context.destination);
source.start();
const rendered = (await context.startRendering()).getChannelData(0);
await all;
return { got, errors, played: Array.from(rendered.subarray(0, 2000)) };
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    need("chromium")
    with Chromium(str(find_chromium()), microphone=SPEECH) as page:
        yield page


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """Serves a bundle's page, with the clip beside it; gives the address."""
    servers = []

    def serve(bundle: Path) -> str:
        files = read_package(open_bundle(bundle)) | {"speech.wav": SPEECH.read_bytes()}
        server = PackageServer(files)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.url

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def clip(engine):
    return read(SPEECH, engine.spec)["samples"][0]


def test_the_speech_detector_finds_the_same_segments_in_an_audio_worklet(packed, chromium, served):
    its = packed("silero")
    engine = load(its.bundle, "onnxruntime")
    stream = engine.stream()
    want = np.array([stream.step(frame)[0] for frame in clip(engine)])
    chromium.open(served(its.bundle))
    given = chromium.run(OFFLINE)
    assert given["errors"] == []
    got = np.array(given["got"])
    np.testing.assert_allclose(got, want, atol=1e-4)
    segments = load_script("segments").speech_segments
    assert segments(got, 0.032) == segments(want, 0.032)
    assert len(segments(want, 0.032)) == 3


def test_the_page_listens_to_the_microphone_and_draws(packed, chromium, served, tmp_path):
    chromium.open(served(packed("silero").bundle))
    chromium.wait(SELFTEST)
    assert " passed: largest error " in chromium.run("return document.getElementById('selftest').textContent")
    chromium.run("document.getElementById('microphone').click()")
    chromium.wait("window.steps >= 40")
    assert chromium.run("return document.getElementById('said').textContent") == "Listening to the microphone."
    chromium.wait("/^outputs: probability [0-9]/.test(document.getElementById('given').textContent)")
    inked = """
    const canvas = document.getElementById("outputs"), pixels = canvas.getContext("2d");
    return pixels.getImageData(0, 0, canvas.width, canvas.height).data.filter((v, i) => i % 4 === 3 && v).length;
    """
    assert chromium.run(inked) > 50
    chromium.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    chromium.run("document.getElementById('stop').click()")
    assert chromium.run("return document.getElementById('said').textContent") == "Stopped."
    assert not [line for line in chromium.said if '"level": "error"' in line or "exceptionDetails" in line]


def test_the_page_plays_a_file(packed, chromium, served, tmp_path):
    chromium.open(served(packed("silero").bundle))
    chromium.wait(SELFTEST)
    chromium.choose("document.getElementById('chosen')", SPEECH)
    chromium.wait("window.steps >= 5")
    assert chromium.run("return document.getElementById('said').textContent") == "Playing speech.wav."
    (tmp_path / "noise.wav").write_bytes(b"no sound at all")
    chromium.choose("document.getElementById('chosen')", tmp_path / "noise.wav")
    chromium.wait("document.getElementById('said').className === 'bad'")
    assert "decode" in chromium.run("return document.getElementById('said').textContent")
    assert chromium.run("return document.getElementById('stop').disabled")


def test_the_page_steps_through_lines_of_numbers(packed, chromium, served, tmp_path):
    chromium.open(served(packed("lstm").bundle))
    chromium.wait(SELFTEST)
    (tmp_path / "frames.csv").write_text("1,2,3,4,5,6,7,8\n" * 4)
    chromium.choose("document.getElementById('chosen')", tmp_path / "frames.csv")
    chromium.wait("document.getElementById('said').textContent === 'Stepping through frames.csv. 4 steps done.'")
    (tmp_path / "short.csv").write_text("1,2,3\n")
    chromium.choose("document.getElementById('chosen')", tmp_path / "short.csv")
    chromium.wait("document.getElementById('said').className === 'bad'")
    wanted = '"x" has 3 values, but a step takes 8, of shape (1, 8).'
    assert chromium.run("return document.getElementById('said').textContent") == wanted


def test_a_model_of_sound_plays_in_an_audio_worklet(packed, chromium, served):
    its = packed("nam")
    chromium.open(served(its.bundle))
    given = chromium.run(OFFLINE)
    assert given["errors"] == []
    want = load(its.bundle, "native").stream()
    heard = chromium.run("""
    const data = await (await fetch("/speech.wav")).arrayBuffer();
    const buffer = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(data);
    return Array.from(buffer.getChannelData(0).subarray(0, 2000));
    """)
    outputs = want.run(np.array(heard, np.float32)[:, None])[:, 0]
    np.testing.assert_allclose(given["got"][:2000], outputs, atol=1e-5)
    np.testing.assert_allclose(given["played"], [0, *outputs[:-1]], atol=1e-5)


def test_a_file_is_heard_to_its_end(packed, chromium, served):
    its = packed("denoised-sound")
    chromium.open(served(its.bundle))
    given = chromium.run("""
    const model = await (await import("/index.js")).load(), length = 4000;
    const data = await (await fetch("/speech.wav")).arrayBuffer();
    const buffer = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(data);
    const samples = buffer.getChannelData(0).slice(8000, 8000 + length - 37);
    const context = new OfflineAudioContext(1, length, 16000), got = [];
    const node = await model.audioNode(context, { endsAfter: samples.length });
    const all = new Promise((done) => {
      node.port.onmessage = ({ data }) => {
        got.push(...(Object.values(data.outputs ?? data.value.outputs)[0] ?? []));
        if (data.call) done();
      };
    });
    const source = new AudioBufferSourceNode(context);
    source.buffer = new AudioBuffer({ length: samples.length, sampleRate: 16000 });
    source.buffer.copyToChannel(samples, 0);
    source.connect(node).connect(context.destination);
    source.start();
    const rendered = (await context.startRendering()).getChannelData(0);
    await all;
    return { samples: Array.from(samples), got, played: Array.from(rendered) };
    """)
    stream = load(its.bundle, "native").stream()
    samples = np.array(given["samples"], np.float32)
    first = stream.run(samples)
    want = np.concatenate([first, stream.finish()])
    np.testing.assert_allclose(given["got"], want, atol=1e-4)
    late = stream.spec.delay + stream.spec.chunk
    heard = np.concatenate([np.zeros(late), want, np.zeros(4000)])[:4000]
    np.testing.assert_allclose(given["played"], heard, atol=1e-4)


def test_the_page_says_what_the_end_of_a_file_gave(packed, chromium, served, tmp_path):
    chromium.open(served(packed("denoised-sound").bundle))
    chromium.wait(SELFTEST)
    assert " ends passed: largest error " in chromium.run("return document.getElementById('selftest').textContent")
    write_wav(tmp_path / "short.wav", np.zeros(3203))
    chromium.choose("document.getElementById('chosen')", tmp_path / "short.wav")
    chromium.wait(f"/^Played short.wav: 800 steps{ENDED}/.test(document.getElementById('said').textContent)")
    chromium.open(served(packed("look-ahead").bundle))
    chromium.wait(SELFTEST)
    (tmp_path / "frames.csv").write_text("1,2,3,4,5,6,7,8\n" * 3)
    chromium.choose("document.getElementById('chosen')", tmp_path / "frames.csv")
    chromium.wait(f"/ 3 steps done{ENDED}/.test(document.getElementById('said').textContent)")
    assert not [line for line in chromium.said if '"level": "error"' in line or "exceptionDetails" in line]


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())


def test_a_model_without_sound_steps_through_its_golden_vectors(packed, chromium, served):
    chromium.open(served(packed("several-inputs-and-outputs").bundle))
    chromium.wait(SELFTEST)
    assert chromium.run("return document.getElementById('microphone').disabled")
    chromium.run("document.getElementById('golden').click()")
    chromium.wait("document.getElementById('said').textContent.endsWith('steps done.')")


def test_snapshots_go_from_the_browser_to_python(packed, chromium, served):
    its = packed("lstm")
    chromium.open(served(its.bundle))
    frames = np.random.default_rng(5).standard_normal((6, 8)).astype(np.float32)
    code = f"""
    const model = await (await import("/index.js")).load(), stream = model.stream();
    for (const x of {frames[:3].tolist()}) stream.step(x);
    const snapshot = Array.from(stream.snapshot());
    return {{ snapshot, rest: {frames[3:].tolist()}.map((x) => stream.step(x)[0]) }};
    """
    given = chromium.run(code)
    stream = load(its.bundle, "native").stream()
    stream.restore(bytes(given["snapshot"]))
    np.testing.assert_allclose(given["rest"], [stream.step(x)[0] for x in frames[3:]], atol=1e-6)


def test_a_context_of_another_rate_is_refused(packed, chromium, served):
    chromium.open(served(packed("silero").bundle))
    code = """
    const model = await (await import("/index.js")).load();
    return model.audioNode(new OfflineAudioContext(1, 1, 44100)).then(() => null, (error) => error.message);
    """
    assert chromium.run(code).startswith("the model takes 16000 Hz and this AudioContext has 44100 Hz.")
