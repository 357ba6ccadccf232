// The page: the model on the microphone, on a file or on its golden vectors, its outputs drawn as they come.
import { hasFrames, pieces } from "./frames.js";
import { load, RnnError } from "./index.js";
import { Plot } from "./plot.js";
import { byName, valuesOf } from "./values.js";

const $ = (id) => document.getElementById(id);
const say = (text, bad = false) => {
  $("said").textContent = text;
  $("said").className = bad ? "bad" : "";
};
// What is running: a function that ends it.
let end = () => {};

const model = await load().catch((error) => {
  say(error.message, true);
  throw error;
});
const { contract } = model, { audio, sample_rate } = contract, first = contract.inputs[0];
const labels = contract.outputs.flatMap(({ name, size }) =>
  size === 1 ? [name] : Array.from({ length: Math.min(size, 8) }, (_, i) => `${name}[${i}]`));

document.title = $("name").textContent = contract.name;
const shapes = (tensors) => tensors.map(({ name, shape }) => `${name} (${shape.join(", ")})`).join(", ");
$("contract").textContent = `${shapes(contract.inputs)} → ${shapes(contract.outputs)}, ${contract.precision}` +
  (sample_rate ? `, ${sample_rate} Hz` : "") + (contract.delay ? `, ${contract.delay} frames late` : "");
selftest();
for (const [id, start] of Object.entries({ microphone, file: () => $("chosen").click(), golden })) {
  $(id).onclick = () => attempt(start);
}
$("chosen").onchange = () => attempt(() => file($("chosen").files[0]));
$("stop").onclick = () => stop("Stopped.");
$("microphone").disabled = !audio.samples;
$("microphone").title = audio.samples ? "" : audio.why;
$("file").disabled = $("golden").disabled = false;
say("Ready.");

async function selftest() {
  const { passed, steps, ends, results } = await model.selftest();
  const worst = results.reduce((a, b) => (b.error > a.error ? b : a));
  const took = stepTime();
  $("selftest").className = passed ? "good" : "bad";
  $("selftest").textContent = `self-test of ${steps} steps${ends ? ` and ${ends} ends` : ""} ${passed ? "passed" : "FAILED"}: largest error ` +
    `${worst.error.toExponential(1)} (${worst.name}); ${took.toFixed(1)} µs a step on this machine`;
}

/** µs of one step, the best of some rounds. */
function stepTime() {
  const stream = model.stream(), zeros = Object.fromEntries(contract.inputs.map((t) => [t.name, Array(t.size).fill(0)]));
  const x = contract.inputs.length > 1 ? zeros : zeros[first.name];
  let best = Infinity, count = 1;
  for (const until = performance.now() + 150; performance.now() < until; ) {
    const begin = performance.now();
    for (let i = 0; i < count; i++) {
      if (stream.frames + contract.chunk > (contract.max_frames ?? Infinity)) stream.reset();
      stream.advance(x);
    }
    const took = performance.now() - begin;
    if (took < 5) count *= 2;
    else best = Math.min(best, (1000 * took) / count);
  }
  stream.close();
  return best;
}

async function attempt(start) {
  stop();
  try {
    await start();
  } catch (error) {
    stop();
    say(error instanceof RnnError ? error.message : String(error), true);
  }
}

function stop(text) {
  end();
  end = () => {};
  $("stop").disabled = true;
  if (text) say(text);
}

function running(text, ending) {
  end = ending;
  $("stop").disabled = false;
  say(text);
}

function plots() {
  const names = audio.samples ? ["peak"] : Array.from({ length: first.size }, (_, i) => `[${i}]`);
  const outputs = audio.samples ? labels.map((name) => (name.startsWith(`${audio.output}[`) ? "" : name)) : labels;
  const shown = outputs.filter(Boolean);
  return {
    input: new Plot($("input"), $("heard"), first.name, names),
    outputs: new Plot($("outputs"), $("given"), "outputs", [...shown, ...(audio.output ? [`peak of ${audio.output}`] : [])]),
  };
}

/** The values that are drawn of one step's outputs. */
function drawn(outputs) {
  const values = contract.outputs.flatMap(({ name, size }) =>
    name === audio.output && audio.samples ? [] : Array.from({ length: Math.min(size, 8) }, (_, i) => outputs[name]?.[i] ?? NaN));
  return audio.output ? [...values, peak(outputs[audio.output] ?? [])] : values;
}

function peak(samples) { return samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0); }

/**
 * Feed what `source(context)` plays through the worklet and draw it, as a sequence that ends after `endsAfter(played)`
 * samples: `over` says what its end gave, once all sound is played.
 */
async function listen(text, source, endsAfter = () => undefined) {
  const context = new AudioContext({ sampleRate: sample_rate });
  running(text, () => context.close());
  const played = await source(context), { input, outputs } = plots();
  const node = await model.audioNode(context, { endsAfter: endsAfter(played) }), meter = context.createAnalyser();
  meter.fftSize = Math.min(32768, Math.max(32, 2 ** Math.ceil(Math.log2(audio.samples))));
  const samples = new Float32Array(meter.fftSize);
  window.steps = 0;
  const ended = new Promise((done) => {
    node.port.onmessage = ({ data }) => {
      if (data.error) return say(data.error, true);
      if (data.call) return done(data.value);
      window.steps += data.count;
      meter.getFloatTimeDomainData(samples);
      input.add([peak(samples)]);
      for (let step = 0; step < data.count; step++) outputs.add(drawn(ofStep(data, step)));
    };
  });
  played.connect(meter);
  played.connect(node).connect(context.destination);
  await context.resume();
  const over = ended.then(async (value) => {
    const said = drawEnd(value.outputs, outputs);
    await new Promise((done) => setTimeout(done, (1000 * value.playing) / sample_rate));
    return said;
  });
  return { context, played, over };
}

/** Draw what the end of a sequence gave, and say how much that is. */
function drawEnd(left, plot) {
  const framed = contract.outputs.filter(hasFrames), steps = framed.map((tensor) => pieces(left[tensor.name], tensor));
  for (let i = 0; steps.some((all) => i < all.length); i++) plot.add(drawn(byName(framed, (_, o) => steps[o][i])));
  const frames = Math.max(0, ...framed.map((tensor) => (left[tensor.name].length * tensor.shape[tensor.time]) / tensor.size));
  return frames ? ` Its end gave ${frames} more frame${frames > 1 ? "s" : ""}.` : "";
}

/** The outputs of one of the steps of a message. Those of a delay are not there. */
function ofStep({ count, outputs }, step) {
  const late = ({ name, size }) => count - (outputs[name]?.length ?? 0) / size;
  return Object.fromEntries(contract.outputs.map((tensor) => {
    const { name, size } = tensor, at = step - late(tensor);
    return [name, at < 0 || !outputs[name] ? null : outputs[name].subarray(at * size, (at + 1) * size)];
  }));
}

async function microphone() {
  const media = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const { context } = await listen("Listening to the microphone.", (context) => context.createMediaStreamSource(media));
  end = () => {
    media.getTracks().forEach((track) => track.stop());
    context.close();
  };
}

async function file(chosen) {
  if (!chosen) return;
  $("chosen").value = "";
  if (!audio.samples) return frames(await chosen.text(), chosen.name);
  const data = await chosen.arrayBuffer();
  const sound = async (context) => new AudioBufferSourceNode(context, { buffer: await context.decodeAudioData(data) });
  const { context, played, over } = await listen(`Playing ${chosen.name}.`, sound, ({ buffer }) => buffer.length);
  if (!audio.output) played.connect(context.destination);
  played.start();
  const mine = end, said = await over;
  if (end === mine) stop(`Played ${chosen.name}: ${window.steps} steps.${said}`);
}

/** Lines of numbers, a step each, at 50 steps a second. */
async function frames(text, name) {
  const steps = text.split(/\n/).filter((line) => line.trim()).map((line) => line.trim().split(/[\s,;]+/).map(Number));
  if (contract.inputs.length > 1) throw new RnnError(`this model has several inputs, and a file of numbers has one.`);
  play(`Stepping through ${name}.`, steps.length, (i) => steps[i]);
}

async function golden() {
  const vectors = await (await fetch("golden.json")).json();
  const fed = contract.inputs.map((tensor, i) => valuesOf(vectors.inputs[i], tensor));
  const x = (i, t) => fed[t].subarray(i * contract.inputs[t].size, (i + 1) * contract.inputs[t].size);
  const all = (i) => Object.fromEntries(contract.inputs.map((tensor, t) => [tensor.name, x(i, t)]));
  play("Stepping through the golden vectors.", vectors.steps, (i) => (contract.inputs.length > 1 ? all(i) : x(i, 0)));
}

function play(text, count, frame) {
  const stream = model.stream(), { input, outputs } = plots();
  const named = (given) => (contract.outputs.length > 1 ? given : { [contract.outputs[0].name]: given });
  const held = contract.inputs.some(hasFrames) ? contract.inputs.filter((tensor) => !hasFrames(tensor)) : [];
  let at = 0, x = null;
  const timer = setInterval(() => {
    try {
      if (at === count) {
        const said = drawEnd(named(stream.finish(byName(held, ({ name }) => x[name]))), outputs);
        return stop(`${text} ${count} steps done.${said}`);
      }
      x = frame(at++);
      const y = stream.step(x);
      input.add(audio.samples ? [peak(x)] : Array.from(contract.inputs.length > 1 ? x[first.name] : x));
      if (y !== null) outputs.add(drawn(named(y)));
    } catch (error) {
      stop();
      say(error.message, true);
    }
  }, 20);
  running(text, () => {
    clearInterval(timer);
    stream.close();
  });
}
