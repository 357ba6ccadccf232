"""The AudioWorkletProcessor, called by Node in the place of an audio thread: blocks of any size, sound in and out."""

import base64

import numpy as np
import pytest

from rnn_export.runtime import load
from rnn_export.runtime.recording import read

from ..native.models import SPEECH  # noqa: TID252
from .node import node

PROCESSOR = """
const posted = [];
let made;
globalThis.AudioWorkletProcessor = class { port = { postMessage: (data) => posted.push(data) }; };
globalThis.registerProcessor = (name, kind) => { made = [name, kind]; };
const model = await load();
await import("FOLDER/worklet.js");
const { endsAfter } = given;
const processor = new made[1]({ processorOptions: { ...model.parts, endsAfter } }), played = [];
const samples = Float32Array.from(given.samples);
const ask = (message) => { posted.length = 0; processor.port.onmessage({ data: message }); return posted[0]; };
"""
BLOCKS = """
let at = 0, block = 0;
while (at < samples.length) {
  const size = Math.min(given.blocks[block++ % given.blocks.length], samples.length - at);
  const out = new Float32Array(size);
  processor.process(size ? [[samples.subarray(at, at + size)]] : [[]], [[out]]);
  played.push(...out);
  at += size;
}
return { name: made[0], posted, played };
"""
SOME = [[128], [1, 700, 128, 0, 33], [4096]]


def run(folder, code, **given):
    return node(folder, PROCESSOR.replace("FOLDER", folder.as_uri()) + code, given)


@pytest.mark.parametrize("blocks", SOME, ids=str)
def test_a_detector_hears_steps_whatever_the_blocks_are(packed, blocks):
    its = packed("silero")
    engine = load(its.bundle, "native")
    frames = read(SPEECH, engine.spec)["samples"][0][:40]
    stream = engine.stream()
    want = np.array([stream.step(frame) for frame in frames])
    got = run(its.folder, BLOCKS, samples=frames.reshape(-1).tolist(), blocks=blocks)
    assert got["name"] == "rnn-export"
    assert [m["first"] for m in got["posted"]] == np.cumsum([0, *[m["count"] for m in got["posted"]]])[:-1].tolist()
    given = np.concatenate([m["outputs"]["probability"] for m in got["posted"]])
    np.testing.assert_allclose(given, want[:, 0], atol=1e-4)
    assert not any(got["played"])


@pytest.mark.parametrize("blocks", SOME, ids=str)
def test_a_model_of_sound_is_played_one_step_late(packed, blocks):
    its = packed("nam")
    engine = load(its.bundle, "native")
    samples = (np.sin(np.arange(1500) / 20) / 3).astype(np.float32)
    stream = engine.stream()
    want = stream.run(samples[:, None])[:, 0]
    got = run(its.folder, BLOCKS, samples=samples.tolist(), blocks=blocks)
    assert np.abs(want).max() > 0.01
    np.testing.assert_allclose(got["played"], [0, *want[:-1]], atol=1e-5)


def test_memory_is_asked_for_by_messages(packed):
    code = """
    const hear = () => processor.process([[samples]], [[new Float32Array(samples.length)]]);
    hear();
    const kept = ask({ id: 1, call: "snapshot" });
    hear();
    const after = ask({ id: 2, call: "snapshot" }), back = ask({ id: 3, call: "restore", snapshot: kept.value });
    hear();
    const again = ask({ id: 4, call: "snapshot" }), reset = ask({ id: 5, call: "reset" });
    hear();
    const fresh = ask({ id: 6, call: "snapshot" });
    samples[7] = NaN;
    posted.length = 0;
    hear();
    return { same: base64(after.value) === base64(again.value), fresh: base64(fresh.value) === base64(kept.value),
             ids: [kept, after, back, again, reset, fresh].map((m) => [m.id, m.call, m.error ?? null]),
             moved: base64(after.value) !== base64(kept.value),
             wrong: ask({ id: 7, call: "stop" }),
             damaged: ask({ id: 8, call: "restore", snapshot: new Uint8Array(4) }) };
    """
    got = run(packed("silero").folder, code, samples=np.linspace(-0.2, 0.2, 512).tolist())
    assert (got["same"], got["fresh"], got["moved"]) == (True, True, True)
    calls = ["snapshot", "snapshot", "restore", "snapshot", "reset", "snapshot"]
    assert got["ids"] == [[i, call, None] for i, call in enumerate(calls, 1)]
    assert got["wrong"]["error"] == "there is no call stop: reset, finish, snapshot or restore."
    assert got["damaged"]["error"].startswith("this is not a snapshot")


def test_a_snapshot_of_frames_that_wait_is_refused_and_changes_nothing(packed):
    """A processor has no place for frames that it did not hear."""
    its = packed("denoised-sound")
    stream = load(its.bundle, "native").stream()
    stream.run(np.ones(1, np.float32))
    code = """
    const before = ask({ id: 1, call: "snapshot" });
    const back = ask({ id: 2, call: "restore", snapshot: Buffer.from(given.kept, "base64") });
    return { back, same: base64(ask({ id: 3, call: "snapshot" }).value) === base64(before.value) };
    """
    got = run(its.folder, code, samples=[0.0], kept=base64.b64encode(stream.snapshot()).decode())
    assert got["back"]["error"] == (
        "this snapshot has 1 frames that wait for a whole step: run the rest before it is taken."
    )
    assert got["same"]


def test_a_sample_that_is_no_number_is_said_and_not_heard(packed):
    code = """
    samples[7] = NaN;
    processor.process([[samples]], [[new Float32Array(samples.length)]]);
    return posted;
    """
    (said, step) = run(packed("silero").folder, code, samples=[0.0] * 512)
    assert said == {"error": '"samples" holds NaN or Inf at index 7: it was not fed, the memory is unchanged.'}
    assert step == {"first": 0, "count": 1, "outputs": {"probability": None}}


@pytest.mark.parametrize(("name", "rate"), [("silero", 16000), ("nam", 48000)])
def test_another_sample_rate_is_refused_with_the_reason(packed, name, rate):
    code = "return refusal(async () => (await load()).audioNode({ sampleRate: 44100 }))"
    kind, message = node(packed(name).folder, code)
    assert kind == "RnnError"
    assert message.startswith(f"the model takes {rate} Hz and this AudioContext has 44100 Hz. Samples of another rate")
    advice = f"new AudioContext({{ sampleRate: {rate} }}), and the browser converts what is played into it."
    assert message.endswith(advice)


ENDS = """
const hear = (at, size) => {
  const out = new Float32Array(size);
  processor.process([[samples.subarray(at, at + size)]], [[out]]);
  played.push(...out);
};
for (let at = 0; at < samples.length; at += 128) hear(at, Math.min(128, samples.length - at));
const said = posted.splice(0), late = ask({ id: 2, call: "finish" });
const kept = ask({ id: 3, call: "snapshot" }), reset = ask({ id: 4, call: "reset" });
posted.length = 0;
hear(0, 128);
const anew = posted.splice(0), now = ask({ id: 5, call: "finish" });
ask({ id: 6, call: "reset" });
const back = ask({ id: 7, call: "restore", snapshot: kept.value });
posted.length = 0;
hear(0, 128);
return { said, played, late, anew, now, back, silent: posted };
"""


@pytest.mark.parametrize("after", [384, 601, 1100])
def test_a_sequence_ends_after_so_many_samples_and_is_played_to_its_end(packed, after):
    its = packed("denoised-sound")
    engine = load(its.bundle, "native")
    (name,) = (t.name for t in engine.spec.outputs)
    samples = np.random.default_rng(0).standard_normal(1280).astype(np.float32) / 4
    stream = engine.stream()
    first = stream.run(samples[:after])
    want = np.concatenate([first, stream.finish()])
    got = run(its.folder, ENDS, samples=samples.tolist(), endsAfter=after)
    *steps, said = got["said"]
    assert said["call"] == "finish"
    outputs = [m["outputs"][name] or [] for m in steps] + [said["value"]["outputs"][name]]
    np.testing.assert_allclose(np.concatenate(outputs), want, atol=1e-5)
    # Late by the delay and one step, then to the end without a gap, then silence.
    late = engine.spec.delay + engine.spec.chunk
    np.testing.assert_allclose(got["played"][late : late + after][: 1280 - late], want[: 1280 - late], atol=1e-5)
    assert said["value"]["playing"] == late
    assert not any(got["played"][late + after : 1280])
    over = "the sequence is over, since finish() ended it: reset the stream before another one."
    assert got["late"] == {"id": 2, "call": "finish", "error": over}
    assert got["anew"][0]["first"] == 0
    assert len(got["now"]["value"]["outputs"][name]) == stream.spec.delay
    assert (got["back"].get("error"), got["silent"]) == (None, [])


def test_samples_below_a_frame_are_no_part_of_the_end(packed):
    code = """
    processor.process([[samples]], [[new Float32Array(samples.length)]]);
    return ask({ id: 1, call: "finish" });
    """
    got = run(packed("silero").folder, code, samples=[0.0] * 600)
    assert got == {"id": 1, "call": "finish", "value": {"outputs": {"probability": []}, "playing": 0}}
