"""Pieces of a sequence in the package of the target wasm: run, the frames that wait, their snapshots, as in Python."""

import base64
import json
import zlib
from itertools import pairwise

import numpy as np
import pytest

from rnn_export.runtime import load

from .node import node
from .test_package import drawn, in_graph_order

NETS = [
    "chunk-of-3",
    "valid-chunk-of-4",
    "look-ahead",
    "windows",
    "several-inputs-and-outputs",
    "ids",
    "counter",
    "last-frame",
    "two-rates",
]
EDGES = [0, 1, 2, 7, 7, 15]

RUN = """
const results = [];
for (const simd of [true, false]) {
  const model = await load(undefined, { simd }), stream = model.stream(), seen = [];
  for (const { x, snapshot } of given.pieces) {
    const before = base64(stream.snapshot()), other = model.stream();
    other.restore(Buffer.from(snapshot, "base64"));
    const anew = other.run(x), outputs = stream.run(x), { waiting, frames } = other;
    seen.push({ before, anew, outputs, waiting, frames });
    other.close();
  }
  const last = base64(stream.snapshot()), [{ x }] = given.pieces;
  const step = stream.waiting ? await refusal(() => stream.step(x)) : null;
  results.push({ seen, last, step, left: stream.finish(given.held), over: await refusal(() => stream.run(x)) });
}
return results;
"""


def shaped(spec, tensor, values):
    """A piece of an input (time, ...) or (...) as JavaScript takes it."""
    return in_graph_order(tensor, values) if spec.timed(tensor) else np.asarray(values).reshape(-1).tolist()


def separate(spec, snapshot):
    """Parts of a snapshot not computed: its head, and the frames that wait."""
    raw = base64.b64decode(snapshot)
    return raw[:56], raw[56 + spec.state_bytes : -4]


def check(spec, got, want):
    named = got if len(spec.outputs) > 1 else {spec.outputs[0].name: got}
    wanted = want if len(spec.outputs) > 1 else {spec.outputs[0].name: want}
    assert list(named) == list(wanted)
    for tensor in spec.outputs:
        if tensor.name not in named:
            continue
        value = wanted[tensor.name]
        if value is None or named[tensor.name] is None:
            assert (value, named[tensor.name]) == (None, None)
        else:
            flat = shaped(spec, tensor, value) if value.size else []
            np.testing.assert_allclose(named[tensor.name], flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_pieces_of_any_length_are_those_of_python_and_so_are_their_snapshots(packed, name):
    its = packed(name)
    engine = load(its.bundle, "native")
    spec, stream, pieces, wanted = engine.spec, engine.stream(), [], []
    whole = {
        t.name: drawn(spec, 15 // spec.chunk + 1)[t.name].reshape(-1, *t.frame)
        if spec.timed(t)
        else drawn(spec, 1)[t.name][0]
        for t in spec.inputs
    }
    for start, stop in pairwise(EDGES):
        x = {
            t.name: whole[t.name][t.frames_of(start) : t.frames_of(stop)] if spec.timed(t) else whole[t.name]
            for t in spec.inputs
        }
        snapshot = base64.b64encode(stream.snapshot()).decode()
        pieces.append({"x": {t.name: shaped(spec, t, x[t.name]) for t in spec.inputs}, "snapshot": snapshot})
        wanted.append(stream.run(x if len(x) > 1 else next(iter(x.values()))))
    last, held = stream.snapshot(), {t.name: whole[t.name] for t in spec.inputs if not spec.timed(t)}
    left = stream.finish(held or None)
    sent = {"pieces": pieces, "held": {name: a.reshape(-1).tolist() for name, a in held.items()}}
    for result in node(its.folder, RUN, sent):
        for seen, want, sent_piece in zip(result["seen"], wanted, pieces, strict=True):
            check(spec, seen["outputs"], want)
            check(spec, seen["anew"], want)
            assert separate(spec, seen["before"]) == separate(spec, sent_piece["snapshot"])
        assert [s["waiting"] for s in result["seen"]] == [stop % spec.chunk for stop in EDGES[1:]]
        assert [s["frames"] for s in result["seen"]] == [stop - stop % spec.chunk for stop in EDGES[1:]]
        check(spec, result["left"], left)
        assert result["over"][1].startswith("the sequence is over")
        other = engine.stream()
        other.restore(base64.b64decode(result["last"]))
        ended = other.finish(held or None)
        for got, want in zip(flat(ended), flat(left), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        assert len(base64.b64decode(result["last"])) == len(last)
        if waiting := EDGES[-1] % spec.chunk:
            message = f"{waiting} frames of a run still wait for a whole step: run the rest, or reset."
            assert result["step"] == ["RnnError", message]


def test_a_fresh_snapshot_of_a_running_maximum_restores_and_no_other_infinity_does(packed):
    its = packed("below-the-peak")
    stream = load(its.bundle, "native").stream()
    fresh, (state,) = stream.snapshot(), stream.spec.states
    assert np.isneginf(stream.states[state.name]).all()
    wrong = []
    for value in (np.inf, np.nan):
        raw = bytearray(fresh)
        raw[-8:-4] = np.float32([value]).tobytes()
        raw[-4:] = zlib.crc32(bytes(raw[:-4])).to_bytes(4, "little")
        wrong.append(bytes(raw))
    code = """
    const stream = (await load()).stream(), refused = [];
    const [fresh, ...wrong] = given.map((text) => Buffer.from(text, "base64"));
    for (const raw of wrong) refused.push(await refusal(() => stream.restore(raw)));
    stream.restore(fresh);
    stream.restore(stream.snapshot());
    return { refused, y: stream.step([3, -2, 1]), again: stream.step([1, -1, 2]) };
    """
    got = node(its.folder, code, [base64.b64encode(raw).decode() for raw in (fresh, *wrong)])
    message = f'this snapshot cannot be used: "{state.name}" has NaN or Inf. The memory is unchanged.'
    assert got == {"refused": [["RnnError", message]] * 2, "y": [0, 0, 0], "again": [-2, 0, 0]}


def flat(outputs):
    return list(outputs.values()) if isinstance(outputs, dict) else [] if outputs is None else [outputs]


REFUSED = {
    "stream.run(new Float32Array(9))": '"x" has 9 values, which are no frames of 4.',
    "stream.run([1, 2, 3, NaN])": '"x" holds NaN or Inf at index 3: it was not fed, the memory is unchanged.',
    "stream.run('all')": '"x" is a string, but must be a Float32Array or an array of numbers.',
    "stream.run({ y: [1] })": "the inputs are {x}, but {y} was given.",
    "stream.step(new Float32Array(8))": "1 frames of a run still wait for a whole step: run the rest, or reset.",
    "stream.finish([1, 2, 3, 4])": "these and the frames that wait are 2, a whole step of 2: run them first.",
    "stream.restore(cut)": "this snapshot has 1",
    "stream.restore(nan)": 'this snapshot cannot be used: "x" has NaN or Inf. The memory is unchanged.',
}


def test_a_piece_that_does_not_fit_is_refused_and_changes_nothing(packed):
    its = packed("look-ahead")
    stream = load(its.bundle, "native").stream()
    stream.run(np.ones((1, 4), np.float32))
    raw = bytearray(stream.snapshot())
    raw[-8:-4] = np.float32([np.nan]).tobytes()
    raw[-4:] = zlib.crc32(bytes(raw[:-4])).to_bytes(4, "little")
    calls = ",\n".join(f"[{json.dumps(call)}, await refusal(() => {call})]" for call in REFUSED)
    code = f"""
    const stream = (await load()).stream(), nan = Buffer.from(given, "base64");
    stream.run([1, 1, 1, 1]);
    const kept = stream.snapshot(), cut = kept.slice(0, -16), refused = Object.fromEntries([{calls}]);
    const same = base64(stream.snapshot()) === base64(kept);
    stream.reset();
    return {{ refused, same, kept: base64(kept), waiting: stream.waiting }};
    """
    got = node(its.folder, code, base64.b64encode(raw).decode())
    assert got["refused"].keys() == REFUSED.keys()
    for call, message in REFUSED.items():
        assert got["refused"][call][1].startswith(message)
    assert got["same"]
    assert got["waiting"] == 0
    assert base64.b64decode(got["kept"]) == stream.snapshot()
