// The model of this package in a browser or in Node: load it, open streams, step them.
import { compare } from "./selftest.js";
import { Model } from "./stream.js";
import { RnnError } from "./values.js";

export { Model, Stream } from "./stream.js";
export { RnnError } from "./values.js";

// A module of one function that makes a vector: valid where vectors of 128 bits are.
const VECTORS = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
);
const loaded = new Map();

/**
 * Fetch the files in the folder `url` (by default this package's own) once, and give the model. `simd: false` takes the
 * module without vectors, which any other engine takes by itself.
 */
export function load(url = new URL(".", import.meta.url), { simd = WebAssembly.validate(VECTORS) } = {}) {
  const base = new URL(String(url).endsWith("/") ? url : `${url}/`, globalThis.location?.href);
  const key = `${base.href} ${simd}`;
  if (!loaded.has(key)) {
    const model = open(base, simd);
    model.catch(() => loaded.delete(key));
    loaded.set(key, model);
  }
  return loaded.get(key);
}

async function open(base, simd) {
  const contract = JSON.parse(new TextDecoder().decode(await bytes(base, "model.json")));
  const [module, weights] = await Promise.all([
    bytes(base, simd ? "model.wasm" : "model-scalar.wasm").then((code) => WebAssembly.compile(code)),
    contract.weights ? bytes(base, "weights.bin") : null,
  ]);
  return new LoadedModel(base, module, await WebAssembly.instantiate(module, {}), contract, weights);
}

class LoadedModel extends Model {
  constructor(base, module, instance, contract, weights) {
    super(instance, contract, weights);
    this.base = base;
    this.parts = { module, contract, weights };
  }

  /** Hold this machine to what the trained model itself gave. */
  async selftest() {
    return compare(this, JSON.parse(new TextDecoder().decode(await bytes(this.base, "golden.json"))));
  }

  /**
   * An AudioWorkletNode that feeds the model from what is connected to it, in blocks of any size. `node.port` posts
   * {first, count, outputs}: the outputs of `count` steps, by name, one after the other, from step `first` on. Where
   * the model gives audio, that is what the node gives, late by one step; else it gives silence. After
   * `endsAfter` samples, or the message {id, call: "finish"}, the sequence ends, and it posts what only its end gives.
   */
  async audioNode(context, { endsAfter } = {}) {
    const { audio, sample_rate } = this.contract;
    if (!audio.samples) throw new RnnError(`this model cannot be fed from audio: ${audio.why}.`);
    if (context.sampleRate !== sample_rate) {
      throw new RnnError(
        `the model takes ${sample_rate} Hz and this AudioContext has ${context.sampleRate} Hz. Samples of another rate ` +
          `are another signal to it, and a filter in between would be no part of what was verified: make the context ` +
          `with new AudioContext({ sampleRate: ${sample_rate} }), and the browser converts what is played into it.`,
      );
    }
    await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
    return new AudioWorkletNode(context, "rnn-export", {
      numberOfInputs: 1, numberOfOutputs: 1, outputChannelCount: [1], channelCount: 1, channelCountMode: "explicit",
      processorOptions: { ...this.parts, endsAfter },
    });
  }
}

async function bytes(base, name) {
  const url = new URL(name, base);
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return readFile(url).catch((error) => { throw new RnnError(`${url} cannot be read: ${error.message}.`); });
  }
  const answer = await fetch(url).catch((error) => { throw new RnnError(`${url} cannot be fetched: ${error.message}.`); });
  if (!answer.ok) throw new RnnError(`${url} cannot be fetched: the server says ${answer.status} ${answer.statusText}.`);
  return answer.arrayBuffer();
}
