"""The end of a sequence in the package of the target wasm: its last outputs equal Python's."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rnn_export.runtime import load

from ..messages import raises  # noqa: TID252
from .node import node
from .test_package import drawn, in_graph_order

ENDED = """
const results = [];
for (const simd of [true, false]) {
  const model = await load(undefined, { simd }), stream = model.stream();
  for (const { steps, rest } of given) {
    const outputs = steps.map((x) => stream.step(x)), before = stream.states;
    const left = stream.finish(rest), snapshot = base64(stream.snapshot());
    const over = await refusal(() => stream.step(steps[0] ?? rest)), again = await refusal(() => stream.finish());
    const same = JSON.stringify(stream.states, plain) === JSON.stringify(before, plain);
    results.push({ outputs, left, snapshot, over, again, same, frames: stream.frames, ended: stream.ended });
    stream.reset();
  }
}
return results;
"""
OVER = ["RnnError", "the sequence is over, since finish() ended it: reset the stream before another one."]


def sequences(spec, lengths):
    """For each length: frames of the input by name, what is stepped, and what is left for finish."""
    for frames in lengths:
        whole = {name: a.reshape(-1, *a.shape[2:]) for name, a in drawn(spec, frames // spec.chunk + 1).items()}
        inputs = {name: a[:frames] for name, a in whole.items()}
        stepped = frames - frames % spec.chunk
        steps = [
            {t.name: in_graph_order(t, inputs[t.name][at : at + spec.chunk]) for t in spec.inputs}
            for at in range(0, stepped, spec.chunk)
        ]
        rest = {t.name: in_graph_order(t, inputs[t.name][stepped:]) for t in spec.inputs}
        yield inputs, {"steps": steps, "rest": rest if frames % spec.chunk else None}


def flat(tensor, outputs):
    return np.array(in_graph_order(tensor, outputs)) if len(outputs) else np.zeros(0)


@pytest.mark.parametrize(
    ("name", "lengths"), [("look-ahead", [1, 2, 3, 7, 8]), ("denoised-sound", [9, 16, 30, 31, 33]), ("chunk-of-3", [4])]
)
def test_what_is_left_at_the_end_is_what_python_gives(packed, name, lengths):
    its = packed(name)
    engine = load(its.bundle, "native")
    spec = engine.spec
    (tensor,) = spec.outputs
    cases = list(sequences(spec, lengths))
    results = node(its.folder, ENDED, [sent for _, sent in cases])
    assert len(results) == 2 * len(cases)
    for (inputs, sent), got in zip(cases * 2, results, strict=True):
        stream = engine.stream()
        frames = len(next(iter(inputs.values())))
        stream.run(next(iter(inputs.values())))
        left = stream.finish()
        assert len(got["left"]) == left.size
        np.testing.assert_allclose(got["left"], flat(tensor, left), rtol=1e-4, atol=1e-5)
        assert (got["over"], got["again"], got["same"], got["ended"]) == (OVER, OVER, True, True)
        assert got["frames"] == frames - frames % spec.chunk == len(sent["steps"]) * spec.chunk
        other = engine.stream()
        other.restore(base64.b64decode(got["snapshot"]))
        with raises("sequence-over"):
            other.step(np.zeros((spec.chunk, *spec.inputs[0].frame), np.float32))
    assert any(got["left"] for got in results) == (spec.tail > 0)


def test_a_snapshot_of_an_ended_sequence_comes_from_python_too(packed):
    its = packed("look-ahead")
    stream = load(its.bundle, "native").stream()
    stream.run(np.ones((4, 4), np.float32))
    stream.finish()
    code = """
    const stream = (await load()).stream();
    stream.restore(Buffer.from(given, "base64"));
    return { over: await refusal(() => stream.step(new Float32Array(8))), ended: stream.ended,
             same: base64(stream.snapshot()) === given };
    """
    got = node(its.folder, code, base64.b64encode(stream.snapshot()).decode())
    assert got == {"over": OVER, "ended": True, "same": True}


def test_the_selftest_replays_the_ends(packed, tmp_path):
    its = packed("look-ahead")
    got = node(its.folder, "return (await load()).selftest()")
    golden = json.loads((its.folder / "golden.json").read_text())
    assert got["passed"]
    assert got["ends"] == len(golden["ends"]) > 1
    assert {bool(end["rest"][0]) for end in golden["ends"]} == {True, False}
    end = next(end for end in golden["ends"] if end["left"][0])
    values = np.frombuffer(base64.b64decode(end["left"][0]), "<f4").copy()
    for wrong in (values + np.float32(0.01), values[:-5]):
        folder = shutil.copytree(its.folder, tmp_path / str(len(wrong)))
        end["left"] = [base64.b64encode(wrong.tobytes()).decode()]
        (folder / "golden.json").write_text(json.dumps(golden))
        assert not node(folder, "return (await load()).selftest()")["passed"]


REFUSED = {
    "stream.finish(new Float32Array(8))": '"x" has 8 values, but finish takes frames of 4, fewer than the 2 of a step.',
    "stream.finish([1, 2, 3])": '"x" has 3 values, but finish takes frames of 4, fewer than the 2 of a step.',
    "stream.finish([1, 2, 3, NaN])": '"x" holds NaN or Inf at index 3: it was not fed, the memory is unchanged.',
    "stream.finish('all')": '"x" is a string, but must be a Float32Array or an array of numbers.',
    "stream.finish({ y: [1] })": "finish takes nothing here, but {y} was given.",
}


def test_an_end_that_cannot_be_is_refused_and_changes_nothing(packed):
    calls = ",\n".join(f"[{json.dumps(call)}, await refusal(() => {call})]" for call in REFUSED)
    code = f"""
    const stream = (await load()).stream();
    stream.step(new Float32Array(8).fill(0.5));
    const kept = base64(stream.snapshot()), refused = Object.fromEntries([{calls}]);
    return {{ refused, same: base64(stream.snapshot()) === kept, left: stream.finish([1, 2, 3, 4]).length }};
    """
    got = node(packed("look-ahead").folder, code)
    assert got["refused"] == {call: ["RnnError", message] for call, message in REFUSED.items()}
    assert got["same"]
    assert got["left"] > 0


def test_inputs_without_frames_are_given_to_the_end_too(packed):
    code = """
    const model = await load(), stream = model.stream(), { inputs } = model.contract;
    const held = inputs.filter(({ time }) => time === null), framed = inputs.filter(({ time }) => time !== null);
    const zeros = (list) => Object.fromEntries(list.map((tensor) => [tensor.name, new Float32Array(tensor.size)]));
    const names = (list) => list.map((tensor) => tensor.name);
    stream.step(zeros(inputs));
    return { none: await refusal(() => stream.finish()), bare: await refusal(() => stream.finish([1])),
             held: names(held), framed: names(framed), left: stream.finish(zeros(held)) };
    """
    got = node(packed("several-inputs-and-outputs").folder, code)
    assert got["held"]
    assert got["framed"]
    assert got["none"][1] == f"finish takes {{{', '.join(got['held'])}}} here, but {{}} was given."
    assert got["bare"][1].startswith("this model has 3 inputs: give finish those by name, not Array of 1")
    assert all(left == [] for left in got["left"].values())


def test_of_several_outputs_one_without_frames_has_no_end(packed, tmp_path):
    """As in Python: the last that a step gave stands."""
    folder = shutil.copytree(packed("several-inputs-and-outputs").folder, tmp_path / "fewer")
    contract = json.loads((folder / "model.json").read_text())
    contract["outputs"][1].update(timed=False, time=None, lengths=[])
    (folder / "model.json").write_text(json.dumps(contract))
    code = """
    const model = await load(), stream = model.stream(), { inputs } = model.contract;
    const zeros = (list) => Object.fromEntries(list.map((tensor) => [tensor.name, new Float32Array(tensor.size)]));
    const given = stream.run(zeros(inputs));
    return { given, left: stream.finish(zeros(inputs.filter(({ time }) => time === null))) };
    """
    got = node(folder, code)
    assert list(got["given"]) == ["output0", "output1"]
    assert len(got["given"]["output1"]) == contract["outputs"][1]["size"]
    assert got["left"] == {"output0": []}


def test_a_model_of_single_frames_has_no_end(packed):
    code = """
    const stream = (await load()).stream();
    stream.step(new Float32Array(4));
    const refused = await refusal(() => stream.finish([1]));
    return { refused, left: stream.finish(), ended: stream.ended };
    """
    got = node(packed("counter").folder, code)
    assert got["refused"][1].startswith("finish takes nothing here, but {")
    assert got["ended"]
    assert all(left == [] for left in got["left"].values())


def test_a_stream_with_an_end_takes_no_more_frames(packed, tmp_path):
    folder = shutil.copytree(packed("look-ahead").folder, tmp_path / "bounded")
    contract = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**contract, "max_frames": 3}))
    code = """
    const stream = (await load()).stream(), x = new Float32Array(8);
    stream.step(x);
    const refused = await refusal(() => stream.step(x)), rest = stream.finish([1, 2, 3, 4]).length;
    stream.reset();
    return { refused, rest, again: stream.step(x)?.length ?? 0, frames: stream.frames };
    """
    got = node(folder, code)
    assert got["refused"][1] == (
        "a stream of this model has 3 frames at most (max_frames), and was exported for no more: 2 were fed, and 2 "
        "more go beyond. Nothing was fed: reset it, and begin again."
    )
    assert got["rest"] > 0
    assert got["frames"] == 2


def test_the_javascript_of_the_page_cleans_a_sound_to_its_end(packed, tmp_path):
    its = packed("denoised-sound")
    shutil.copytree(its.bundle, tmp_path / "denoiser.rnnx")
    samples = np.random.default_rng(0).standard_normal(203).astype(np.float32)
    stream = load(its.bundle, "native").stream()
    first = stream.run(samples)
    wanted = np.concatenate([first, stream.finish()])
    page = (Path(__file__).parents[2] / "docs/targets/wasm.md").read_text()
    (code,) = [block for block in re.findall(r"```js\n(.*?)```", page, re.DOTALL) if "finish(" in block]
    given = f"const samples = Float32Array.from({samples.tolist()});\n"
    (tmp_path / "own.mjs").write_text(f"{code}console.log(JSON.stringify(clean));".replace("\n\n", f"\n{given}", 1))
    done = subprocess.run(["node", "own.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(wanted) == len(samples)
    np.testing.assert_allclose(json.loads(done.stdout), wanted, rtol=1e-4, atol=1e-5)
