// The model as an AudioWorkletProcessor: blocks of any size in, steps of the model's own size.
import { Model } from "./stream.js";

class RnnProcessor extends AudioWorkletProcessor {
  #stream; #outputs; #heard; #played; #audible; #filled = 0; #steps = 0;

  constructor({ processorOptions: { module, contract, weights } }) {
    super();
    this.#stream = new Model(new WebAssembly.Instance(module, {}), contract, weights).stream();
    this.#outputs = contract.outputs;
    this.#heard = new Float32Array(contract.audio.samples);
    this.#played = new Float32Array(contract.audio.samples);
    this.#audible = contract.outputs.findIndex((tensor) => tensor.name === contract.audio.output);
    this.port.onmessage = ({ data }) => this.#answer(data);
  }

  process([input], [output]) {
    const block = input[0], played = output[0];
    // Nothing is connected, or not yet.
    if (!block) return true;
    const first = this.#steps, given = [];
    for (let i = 0; i < block.length; i++) {
      if (played && this.#audible >= 0) played[i] = this.#played[this.#filled];
      this.#heard[this.#filled++] = block[i];
      if (this.#filled === this.#heard.length) given.push(this.#step());
    }
    const count = this.#steps - first;
    if (count) {
      const outputs = Object.fromEntries(this.#outputs.map(({ name }, o) => [name, joined(given.map((all) => all?.[o]))]));
      this.port.postMessage({ first, count, outputs });
    }
    return true;
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
        this.#filled = this.#steps = 0;
        this.#played.fill(0);
      } else if (call === "snapshot") value = this.#stream.snapshot();
      else if (call === "restore") this.#stream.restore(snapshot);
      else throw new Error(`there is no call ${call}: reset, snapshot or restore.`);
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
