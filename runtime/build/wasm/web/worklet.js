// The model as an AudioWorkletProcessor: blocks of any size in, steps of the model's own size.
import { Model } from "./stream.js";
import { byName } from "./values.js";

class RnnProcessor extends AudioWorkletProcessor {
  #stream; #outputs; #heard; #played; #frame; #audible; #filled = 0; #steps = 0;
  // Samples that were heard, and after how many the sequence ends.
  #samples = 0; #endsAfter;
  // After the end of a sequence: the sound that is still to be played.
  #rest = null;

  constructor({ processorOptions: { module, contract, weights, endsAfter } }) {
    super();
    this.#endsAfter = endsAfter;
    this.#stream = new Model(new WebAssembly.Instance(module, {}), contract, weights).stream();
    this.#outputs = contract.outputs;
    this.#heard = new Float32Array(contract.audio.samples);
    this.#played = new Float32Array(contract.audio.samples);
    // Samples of one frame, of which there may be several in a step.
    const [{ size, time }] = contract.inputs;
    this.#frame = time === null ? size : size / contract.chunk;
    this.#audible = contract.outputs.findIndex((tensor) => tensor.name === contract.audio.output);
    this.port.onmessage = ({ data }) => this.#answer(data);
  }

  process([input], [output]) {
    const block = input[0], played = output[0], first = this.#steps, given = [];
    let i = 0;
    // Without a block nothing is connected, or not yet.
    for (; block && !this.#rest && i < block.length && this.#samples !== this.#endsAfter; i++, this.#samples++) {
      if (played && this.#audible >= 0) played[i] = this.#played[this.#filled];
      this.#heard[this.#filled++] = block[i];
      if (this.#filled === this.#heard.length) given.push(this.#step());
    }
    const count = this.#steps - first;
    if (count) this.port.postMessage({ first, count, outputs: byName(this.#outputs, (_, o) => joined(given.map((all) => all?.[o]))) });
    if (!this.#rest && this.#samples === this.#endsAfter) this.#answer({ call: "finish" });
    if (this.#rest && played) {
      const now = this.#rest.subarray(0, played.length - i);
      played.set(now, i);
      this.#rest = this.#rest.subarray(now.length);
    }
    return true;
  }

  /** End the sequence after the frames that were heard, and say what only its end gives of each output. */
  #finish() {
    const whole = this.#filled - (this.#filled % this.#frame);
    const given = this.#stream.finish(whole ? this.#heard.subarray(0, whole) : undefined);
    const outputs = this.#outputs.length > 1 ? given : { [this.#outputs[0].name]: given };
    const sound = this.#audible < 0 ? [] : [...this.#played.subarray(this.#filled), ...outputs[this.#outputs[this.#audible].name]];
    this.#rest = Float32Array.from(sound);
    return { outputs, playing: this.#rest.length };
  }

  #begin() {
    this.#filled = 0;
    this.#rest = this.#stream.ended ? new Float32Array(0) : null;
    this.#played.fill(0);
  }

  /** The outputs of one step; null where it gives none. */
  #step() {
    this.#filled = 0;
    this.#steps++;
    const many = this.#outputs.length > 1;
    let given = null;
    try {
      const result = this.#stream.step(this.#heard);
      given = result && (many ? Object.values(result) : [result]);
    } catch (error) {
      this.port.postMessage({ error: error.message });
    }
    if (this.#audible >= 0) {
      const sound = given?.[this.#audible];
      this.#played.fill(0);
      // After a delay that ends within a step there are fewer samples, the last of them.
      if (sound) this.#played.set(sound, this.#played.length - sound.length);
    }
    return given;
  }

  #answer({ id, call, snapshot }) {
    try {
      let value;
      if (call === "reset") {
        this.#stream.reset();
        this.#steps = 0;
        this.#endsAfter = undefined;
        this.#begin();
      } else if (call === "finish") {
        this.#endsAfter = undefined;
        value = this.#finish();
      } else if (call === "snapshot") value = this.#stream.snapshot();
      else if (call === "restore") {
        const { ended } = this.#stream, before = this.#stream.snapshot();
        this.#stream.restore(snapshot);
        const { waiting } = this.#stream;
        if (waiting) {
          this.#stream.restore(before);
          throw new Error(`this snapshot has ${waiting} frames that wait for a whole step: run the rest before it is taken.`);
        }
        if (ended || this.#stream.ended) this.#begin();
      } else throw new Error(`there is no call ${call}: reset, finish, snapshot or restore.`);
      this.port.postMessage({ id, call, value });
    } catch (error) {
      this.port.postMessage({ id, call, error: error.message });
    }
  }
}

function joined(parts) {
  const there = parts.filter(Boolean);
  if (!there.length) return null;
  const all = new there[0].constructor(there.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of there) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

// Packages of several models in one page have the same processor.
if (!globalThis.rnnExport) {
  globalThis.rnnExport = true;
  registerProcessor("rnn-export", RnnProcessor);
}
