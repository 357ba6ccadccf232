// A model held to what the trained model itself gave: golden.json, frame by frame and to the end of sequences.
import { byName, valuesOf } from "./values.js";

/** Drive a stream of `model` over the content of golden.json: {passed, steps, results}, a result for each tensor. */
export function compare(model, golden) {
  const { chunk, inputs, outputs, states } = model.contract;
  const fed = inputs.map((tensor, i) => valuesOf(golden.inputs[i], tensor)), stream = model.stream();
  const results = [...outputs, ...states].map(({ name }) => ({ name, error: 0, scale: 0, passed: true }));
  const hold = (result, got, want) => {
    if (got.length !== want.length) result.passed = false;
    for (let i = 0; i < want.length; i++) {
      const error = Math.abs(Number(got[i]) - Number(want[i]));
      result.scale = Math.max(result.scale, Math.abs(Number(want[i])));
      result.error = error <= result.error ? result.error : error;
      if (!(error <= golden.atol + golden.rtol * result.scale)) result.passed = false;
    }
  };
  const frame = (step) => byName(inputs, (t, i) => fed[i].subarray(step * t.size, (step + 1) * t.size));
  try {
    const wanted = outputs.map((tensor, i) => golden.outputs[i] === null ? null : valuesOf(golden.outputs[i], tensor));
    for (let step = 0; step < golden.steps; step++) {
      stream.advance(frame(step));
      const after = step - golden.silent_steps;
      outputs.forEach((tensor, i) => {
        const last = !tensor.timed && step === golden.steps - 1, { size } = tensor;
        if (wanted[i] === null || after < 0 || !(tensor.timed || last)) return;
        hold(results[i], stream.raw(i), tensor.timed ? wanted[i].subarray(after * size, (after + 1) * size) : wanted[i]);
      });
    }
    const kept = stream.states;
    states.forEach((s, i) => hold(results[outputs.length + i], kept[s.name], valuesOf(golden.states[i], s)));
    for (const { frames, rest, left } of golden.ends) {
      stream.reset();
      for (let step = 0; step < Math.floor(frames / chunk); step++) stream.advance(frame(step));
      const given = stream.finish(byName(inputs.filter((_, i) => rest[i] !== null), (t) => valuesOf(rest[inputs.indexOf(t)], t)));
      outputs.forEach(({ name }, i) => {
        if (left[i] !== null) hold(results[i], outputs.length > 1 ? given[name] : given, valuesOf(left[i], outputs[i]));
      });
    }
  } finally {
    stream.close();
  }
  return { passed: results.every((result) => result.passed), steps: golden.steps, ends: golden.ends.length, results };
}
