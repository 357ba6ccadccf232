"""The package of the target wasm in Node: the same steps and snapshots as Python's, and its refusals."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest

from rnn_export.bundle import open_bundle
from rnn_export.contract.layout import graph_layout
from rnn_export.runtime import load

from .node import node

NETS = [
    "lstm", "counter", "ids", "several-inputs-and-outputs", "chunk-of-3", "valid-chunk-of-4", "last-frame", "two-rates",
    "strided-valid-then-gru", "windows", "large",
]  # fmt: skip
STEPS, CUT = 12, 5

STEPPED = """
const results = [];
for (const simd of [true, false]) {
  const model = await load(undefined, { simd }), selftest = await model.selftest();
  const stream = model.stream(), outputs = [];
  let snapshot;
  for (const x of given.steps) {
    if (outputs.length === given.cut) snapshot = base64(stream.snapshot());
    outputs.push(stream.step(x));
  }
  const restored = model.stream();
  restored.restore(Buffer.from(given.snapshot, "base64"));
  const rest = given.steps.slice(given.cut).map((x) => restored.step(x));
  results.push({ selftest, outputs, snapshot, rest, frames: restored.frames, states: stream.states });
}
return results;
"""


def drawn(spec, steps):
    """Frames of each input for so many steps, canonical (steps, chunk, ...)."""
    random = np.random.default_rng(3)
    inputs = {}
    for tensor in spec.inputs:
        time = (tensor.frames_of(spec.chunk),) if spec.has_time and spec.timed(tensor) else ()
        shape = (steps, *time, *tensor.frame)
        whole = tensor.dtype.startswith("int")
        values = random.integers(0, 4, shape) if whole else random.standard_normal(shape) / 2
        inputs[tensor.name] = values.astype(tensor.dtype)
    return inputs


def in_graph_order(tensor, frames):
    """One step's frames of a tensor as its values lie in a step: (chunk, ...) or (...) as a flat list."""
    if tensor.axis("time") is None:
        return frames.reshape(-1).tolist()
    return graph_layout(frames.reshape(1, -1, *tensor.frame), tensor).reshape(-1).tolist()


@pytest.mark.parametrize("name", NETS)
def test_steps_and_snapshots_are_those_of_python(packed, name):
    its = packed(name)
    engine = load(its.bundle, "native")
    spec, stream = engine.spec, engine.stream()
    inputs, wanted, snapshot = drawn(spec, STEPS), [], b""
    for step in range(STEPS):
        if step == CUT:
            snapshot = stream.snapshot()
        frame = {n: a[step] if spec.chunk > 1 else a[step].reshape(spec_frame(spec, n)) for n, a in inputs.items()}
        given = stream.step(frame if len(frame) > 1 else next(iter(frame.values())))
        named = given if isinstance(given, dict) or given is None else {spec.outputs[0].name: given}
        wanted.append(named and {t.name: in_graph_order(t, named[t.name]) for t in spec.outputs})
    steps = [{t.name: in_graph_order(t, inputs[t.name][step]) for t in spec.inputs} for step in range(STEPS)]
    sent = {"steps": steps, "cut": CUT, "snapshot": base64.b64encode(snapshot).decode()}
    for result in node(its.folder, STEPPED, sent):
        assert result["selftest"]["passed"], result["selftest"]
        assert result["selftest"]["steps"] > 0
        assert result["frames"] == STEPS * spec.chunk
        same(spec, result["outputs"], wanted)
        same(spec, result["rest"], wanted[CUT:])
        for state, value in stream.states.items():
            np.testing.assert_allclose(result["states"][state], value.reshape(-1), rtol=1e-5, atol=1e-6)
        # What Node saw up to the cut goes on in Python.
        other = engine.stream()
        other.restore(base64.b64decode(result["snapshot"]))
        for state, value in snapshot_states(engine, snapshot).items():
            np.testing.assert_allclose(other.states[state], value, rtol=1e-5, atol=1e-6)
        assert other.snapshot() == base64.b64decode(result["snapshot"])


def spec_frame(spec, name):
    return next(t for t in spec.inputs if t.name == name).frame


def snapshot_states(engine, snapshot):
    stream = engine.stream()
    stream.restore(snapshot)
    return stream.states


def same(spec, got, wanted):
    assert [y is None for y in got] == [y is None for y in wanted]
    for y, want in zip(got, wanted, strict=True):
        for tensor in spec.outputs if want is not None else ():
            mine = y[tensor.name] if len(spec.outputs) > 1 else y
            assert len(mine) == len(want[tensor.name])
            np.testing.assert_allclose(mine, want[tensor.name], rtol=1e-4, atol=1e-5)


def test_several_streams_of_one_model_do_not_know_of_each_other(packed):
    code = """
    const model = await load(), one = model.stream(), frames = given.map((row) => Float32Array.from(row));
    const alone = frames.map((x) => one.step(x)[0]);
    const many = Array.from({ length: 200 }, () => model.stream()), last = many.at(-1);
    const among = frames.map((x) => { many.forEach((s) => s !== last && s.step(frames[1])); return last.step(x)[0]; });
    one.reset();
    const again = frames.map((x) => one.step(x)[0]), out = new Float32Array(1);
    last.close();
    const after = model.stream(), same = after.step(frames[0], out) === out;
    return { alone, among, again, frames: one.frames, same, out, closed: await refusal(() => last.step(frames[0])),
             once: (await load()) === model };
    """
    frames = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32).tolist()
    got = node(packed("lstm").folder, code, frames)
    assert got["alone"] == got["among"] == got["again"]
    assert len(set(got["alone"])) == 6
    assert (got["frames"], got["same"], got["once"]) == (6, True, True)
    assert got["out"] == [got["alone"][0]]
    assert got["closed"] == ["RnnError", "this stream is closed: open another, model.stream()."]


REFUSED = {
    "stream.step([1, 2])": '"x" has 2 values, but a step takes 8, of shape (1, 8).',
    "stream.step(new Float64Array(8))": '"x" is Float64Array of 8, but must be a Float32Array or an array of numbers.',
    "stream.step()": '"x" is undefined, but must be a Float32Array or an array of numbers.',
    "stream.step({ y: zeros })": "the inputs are {x}, but {y} was given.",
    "stream.step(zeros.with(3, NaN))": '"x" holds NaN or Inf at index 3: it was not fed, the memory is unchanged.',
    "stream.step(Array(8).fill(1e39))": '"x" holds NaN or Inf at index 0: it was not fed, the memory is unchanged.',
    "stream.step(Array(8).fill('1'))": '"x" holds a string, which is no number, at index 0: it was not fed, the memory '
    "is unchanged.",
    "stream.step(zeros, [0])": 'out for "output" is Array of 1, but must be a Float32Array of 1.',
    "stream.restore('x')": "this is not a snapshot but a string: give the bytes that stream.snapshot() returned.",
    "stream.restore(new Uint8Array(99))": "this is not a snapshot: give the bytes that stream.snapshot() returned.",
    "stream.restore(kept.slice(8))": "this is not a snapshot: give the bytes that stream.snapshot() returned.",
    "stream.restore(kept.slice(0, -8))": "this snapshot has 180 bytes where 188 are needed: it is truncated or "
    "damaged.",
    "stream.restore(changed(70))": "this snapshot is damaged: its checksum is not that of its values.",
    "stream.restore(changed(40))": "this snapshot has 254 rows, but a stream has one here.",
    "stream.restore(changed(55))": f"this snapshot has 188 bytes where {188 + 32 * 127 * 2**24} are needed: it is "
    "truncated or damaged.",
    "stream.restore(changed(52))": f"this snapshot has 188 bytes where {188 + 32 * 255} are needed: it is truncated or "
    "damaged.",
    "model.audioNode({ sampleRate: 16000 })": "this model cannot be fed from audio: it was exported without a sample "
    "rate, sample_rate=16000 (--sample-rate 16000).",
}


def test_what_cannot_work_is_refused_with_the_reason_and_changes_nothing(packed):
    calls = ",\n".join(f"[{json.dumps(call)}, await refusal(() => {call})]" for call in REFUSED)
    code = f"""
    const model = await load(), stream = model.stream(), zeros = new Float32Array(8);
    stream.step(zeros.map(() => 0.5));
    const kept = stream.snapshot(), changed = (at) => kept.map((byte, i) => (i === at ? byte ^ 255 : byte));
    const other = changed(9), refused = [{calls}];
    return {{ refused: Object.fromEntries(refused), other: await refusal(() => stream.restore(other)),
              unchanged: base64(stream.snapshot()) === base64(kept),
              there: await refusal(() => load("file:///nowhere/")) }};
    """
    got = node(packed("lstm").folder, code)
    assert got["refused"] == {call: ["RnnError", message] for call, message in REFUSED.items()}
    assert got["other"][1].startswith("this snapshot is of another model: its digest starts with ")
    assert got["unchanged"]
    assert got["there"][1].startswith("file:///nowhere/model.json cannot be read: ENOENT")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("11", '"ids" holds 11, which is out of its table of 11 rows, at index 0'),
        ("-12", '"ids" holds -12, which is out of its table of 11 rows, at index 0'),
        ("1.5", '"ids" holds 1.5, which is no int64, at index 0'),
        ("2n", None),
        ("-11", None),
    ],
)
def test_an_index_is_held_to_its_table(packed, value, message):
    got = node(packed("ids").folder, f"return refusal(async () => (await load()).stream().step({value}))")
    assert got is None if message is None else got[1] == f"{message}: it was not fed, the memory is unchanged."


def test_damage_is_seen_before_anything_runs(packed, tmp_path):
    its = packed("large")
    folder = shutil.copytree(its.folder, tmp_path / "large")
    weights = bytearray((folder / "weights.bin").read_bytes())
    weights[100] ^= 1
    (folder / "weights.bin").write_bytes(weights)
    assert node(folder, "return refusal(() => load())")[1] == (
        "weights.bin is not whole, or of another model: fetch it again."
    )
    contract = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**contract, "compiled": "0" * 64}))
    assert "compiled for another contract than model.json" in node(folder, "return refusal(() => load())")[1]


def test_a_wrong_step_fails_the_selftest(packed, tmp_path):
    folder = shutil.copytree(packed("lstm").folder, tmp_path / "lstm")
    golden = json.loads((folder / "golden.json").read_text())
    outputs = np.frombuffer(base64.b64decode(golden["outputs"][0]), "<f4").copy()
    outputs[3] += 0.01
    (folder / "golden.json").write_text(
        json.dumps({**golden, "outputs": [base64.b64encode(outputs.tobytes()).decode()]})
    )
    got = node(folder, "return (await load()).selftest()")
    assert [r["name"] for r in got["results"] if not r["passed"]] == ["output"]
    assert got["passed"] is False


def test_npm_packs_the_folder(packed, tmp_path):
    its = packed("lstm")
    command = ["npm", "pack", "--dry-run", "--json", "--offline", str(its.folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    (told,) = json.loads(done.stdout)
    row = open_bundle(its.bundle).target("wasm", "fp32")
    assert {file["path"] for file in told["files"]} == {path.rpartition("/")[2] for path in row.files}
    assert told["name"] == "lstm"


def test_the_modules_import_nothing_and_one_has_no_vectors(packed):
    code = """
    const modules = await Promise.all(given.map(async (file) =>
      WebAssembly.compile(readFileSync(new URL(file, "FOLDER/")))));
    return modules.map((module) => WebAssembly.Module.imports(module));
    """
    folder = packed("lstm").folder
    assert node(folder, code.replace("FOLDER", folder.as_uri()), ["model.wasm", "model-scalar.wasm"]) == [[], []]
    # An instruction of vectors begins with 0xfd; a scalar module is refused nowhere, so it must have none.
    import wasmtime

    config = wasmtime.Config()
    config.wasm_relaxed_simd = False
    config.wasm_simd = False
    engine = wasmtime.Engine(config)
    wasmtime.Module(engine, (folder / "model-scalar.wasm").read_bytes())
    with pytest.raises(wasmtime.WasmtimeError, match="SIMD support is not enabled"):
        wasmtime.Module(engine, (folder / "model.wasm").read_bytes())
