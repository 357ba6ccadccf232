// A model and its streams: no fetch, no DOM, no TextDecoder, so that an AudioWorklet can have it too.

/** What is wrong with a call, a file or an environment, in words for who made it. */
export class RnnError extends Error {
  name = "RnnError";
}

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, bool: Uint8Array, int8: Int8Array,
  uint8: Uint8Array, int16: Int16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array,
};
const LINE = 64, PAGE = 65536, POINTER = 4;
// Of a snapshot: magic, digest, rows (u32), frames (u64), frames that wait (u32); little-endian, and a crc32 at the end.
const MAGIC = "rnnxsnp1", HEADER = 56, CHECK = 4;
// Among the frames that wait: the sequence is over.
const ENDED = 0x80000000;

/** A loaded module. `contract` is the content of model.json, `weights` that of weights.bin where there is one. */
export class Model {
  #exports; #free = []; #end; #weights = 0; #views = new Map(); #buffer; #inputs; #outputs; #stride; #offsets; #tables;

  constructor(instance, contract, weights) {
    this.contract = contract;
    this.#exports = instance.exports;
    this.#exports._initialize();
    this.#end = this.#exports.__heap_base.value;
    if (this.#text(this.#exports.rnn_contract()) !== contract.compiled) {
      throw new RnnError("the module was compiled for another contract than model.json: build the package again.");
    }
    const bytes = weights?.byteLength ?? 0;
    if (bytes) {
      this.#weights = this.#take(bytes);
      new Uint8Array(this.#memory, this.#weights, bytes).set(new Uint8Array(weights));
    }
    if (this.#exports.rnn_weights_bytes() !== bytes || this.#exports.rnn_check(this.#weights, bytes)) {
      throw new RnnError("weights.bin is not whole, or of another model: fetch it again.");
    }
    const { inputs, outputs, states } = contract;
    const ports = [...inputs, ...outputs].map((tensor) => ({ tensor, address: this.#take(bytesOf(tensor)) }));
    const pointers = this.#take(POINTER * ports.length);
    new Uint32Array(this.#memory, pointers, ports.length).set(ports.map((port) => port.address));
    this.#inputs = { ports: ports.slice(0, inputs.length), pointers };
    this.#outputs = { ports: ports.slice(inputs.length), pointers: pointers + POINTER * inputs.length };
    this.#stride = Math.max(1, Math.ceil(this.#exports.rnn_state_bytes() / LINE)) * LINE;
    this.#offsets = states.map((_, i) => this.#exports.rnn_state_offset(i));
    this.#tables = inputs.map((_, i) => this.#exports.rnn_input_rows(i));
  }

  /** A stream at its start. All streams of a model share its code and weights. */
  stream() {
    return new Stream(this, {
      init: (at) => this.#exports.rnn_init(at, this.#weights),
      open: () => this.#free.pop() ?? this.#take(this.#stride),
      close: (at) => this.#free.push(at),
      load: (x) => this.#load(x),
      step: (at) => this.#exports.rnn_step(at, this.#inputs.pointers, this.#outputs.pointers),
      output: (i) => this.#view(this.#outputs.ports[i]),
      state: (at, i) => new Uint8Array(this.#memory, at + this.#offsets[i], bytesOf(this.contract.states[i])),
    });
  }

  /** Hold a stream to the content of golden.json, what the trained model itself gave. */
  compare(golden) {
    const { inputs, outputs, states } = this.contract;
    const read = (list, tensors) => list.map((text, i) => text === null ? null : valuesOf(text, tensors[i]));
    const fed = read(golden.inputs, inputs), wanted = read(golden.outputs, outputs), stream = this.stream();
    const names = [...outputs, ...states].map((tensor) => tensor.name);
    const results = names.map((name) => ({ name, error: 0, scale: 0, passed: true }));
    const hold = (result, got, want) => {
      for (let i = 0; i < want.length; i++) {
        const error = Math.abs(Number(got[i]) - Number(want[i]));
        result.scale = Math.max(result.scale, Math.abs(Number(want[i])));
        result.error = error <= result.error ? result.error : error;
        if (!(error <= golden.atol + golden.rtol * result.scale)) result.passed = false;
      }
    };
    try {
      for (let step = 0; step < golden.steps; step++) {
        stream.advance(byName(inputs, (t, i) => fed[i].subarray(step * t.size, (step + 1) * t.size)));
        const after = step - golden.silent_steps;
        outputs.forEach((tensor, i) => {
          const last = !tensor.timed && step === golden.steps - 1, { size } = tensor;
          if (wanted[i] === null || after < 0 || !(tensor.timed || last)) return;
          hold(results[i], stream.raw(i), tensor.timed ? wanted[i].subarray(after * size, (after + 1) * size) : wanted[i]);
        });
      }
      const kept = stream.states;
      states.forEach((s, i) => hold(results[outputs.length + i], kept[s.name], valuesOf(golden.states[i], s)));
    } finally {
      stream.close();
    }
    return { passed: results.every((result) => result.passed), steps: golden.steps, results };
  }

  get #memory() { return this.#exports.memory.buffer; }

  #take(bytes) {
    const start = Math.ceil(this.#end / LINE) * LINE, { memory } = this.#exports;
    this.#end = start + bytes;
    const lacking = this.#end - memory.buffer.byteLength;
    if (lacking > 0) memory.grow(Math.ceil(lacking / PAGE));
    return start;
  }

  #view({ tensor, address }) {
    // Memory that grew has a buffer of its own.
    if (this.#buffer !== this.#memory) {
      this.#buffer = this.#memory;
      this.#views.clear();
    }
    let view = this.#views.get(address);
    if (!view) this.#views.set(address, (view = new ARRAYS[tensor.dtype](this.#buffer, address, tensor.size)));
    return view;
  }

  #load(x) {
    const { ports } = this.#inputs, names = ports.map((port) => port.tensor.name);
    const named = x !== null && typeof x === "object" && !Array.isArray(x) && !ArrayBuffer.isView(x);
    if (!named && ports.length > 1) {
      throw new RnnError(`this model has ${ports.length} inputs: give {${names.join(", ")}}, not ${kindOf(x)}.`);
    }
    if (named && (Object.keys(x).length !== names.length || names.some((name) => !(name in x)))) {
      throw new RnnError(`the inputs are {${names.join(", ")}}, but {${Object.keys(x).join(", ")}} was given.`);
    }
    ports.forEach((port, i) => fill(this.#view(port), named ? x[names[i]] : x, port.tensor, this.#tables[i]));
  }

  #text(address) {
    const bytes = new Uint8Array(this.#memory, address, LINE);
    return String.fromCharCode(...bytes);
  }
}

/** One stream: its memory, and the step. */
export class Stream {
  #at; #frames = 0; #inside;

  constructor(model, inside) {
    this.model = model;
    this.#inside = inside;
    this.#at = inside.open();
    this.reset();
  }

  /** Frames that were fed since the start. */
  get frames() { return this.#frames; }

  /**
   * Feed one step: a number, an array or a typed array of the input's size; where there are several inputs, an object
   * by name. Gives the output as a typed array, several as an object by name, and null where no frame gives any yet.
   */
  step(x, out) {
    const { chunk, delay, outputs } = this.model.contract;
    if (out !== undefined) this.#checkOut(out);
    this.advance(x);
    const late = Math.min(chunk, Math.max(0, delay - (this.#frames - chunk)));
    if (late === chunk) return null;
    if (out !== undefined) {
      outputs.forEach((tensor, i) => (outputs.length > 1 ? out[tensor.name] : out).set(this.raw(i)));
      return out;
    }
    const given = outputs.map((tensor, i) => (late ? settled(this.raw(i), tensor, late) : this.raw(i).slice()));
    return outputs.length > 1 ? byName(outputs, (_, i) => given[i]) : given[0];
  }

  /** The same without an output: that lies in `raw(i)`, of no value during the delay. */
  advance(x) {
    this.#checkOpen();
    this.#inside.load(x);
    this.#inside.step(this.#at);
    this.#frames += this.model.contract.chunk;
  }

  /** Output `i` of the last step of any stream of the model, where it lies: good until the next call. */
  raw(i) { return this.#inside.output(i); }

  /** Back to the start. */
  reset() {
    this.#checkOpen();
    this.#inside.init(this.#at);
    this.#frames = 0;
  }

  /** Copies of the states by name. */
  get states() {
    this.#checkOpen();
    return byName(this.model.contract.states, (tensor, i) => {
      const bytes = this.#inside.state(this.#at, i).slice();
      return new ARRAYS[tensor.dtype](bytes.buffer);
    });
  }

  /** The memory as bytes, for `restore` here or for a stream of the same model in Python or elsewhere. */
  snapshot() {
    this.#checkOpen();
    const { digest, states } = this.model.contract;
    if (!digest) throw new RnnError("this model has no digest, so a snapshot could be restored into another one.");
    const size = HEADER + states.reduce((sum, state) => sum + bytesOf(state), 0), bytes = new Uint8Array(size + CHECK);
    const data = new DataView(bytes.buffer);
    bytes.set([...MAGIC].map((letter) => letter.charCodeAt(0)));
    bytes.set(ofHex(digest), 8);
    data.setUint32(40, 1, true);
    data.setBigUint64(44, BigInt(this.#frames), true);
    let at = HEADER;
    states.forEach((state, i) => {
      bytes.set(this.#inside.state(this.#at, i), at);
      at += bytesOf(state);
    });
    data.setUint32(at, crc32(bytes.subarray(0, at)), true);
    return bytes;
  }

  /** Go on from a snapshot, taken here or by a stream of one row in Python. On an error the memory stays. */
  restore(snapshot) {
    this.#checkOpen();
    const bytes = asBytes(snapshot), { digest, states } = this.model.contract;
    const magic = String.fromCharCode(...bytes.subarray(0, 8));
    if (bytes.length < HEADER || magic !== MAGIC) {
      throw new RnnError("this is not a snapshot: give the bytes that stream.snapshot() returned.");
    }
    const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), whose = hexOf(bytes.subarray(8, 40));
    if (whose !== digest) {
      throw new RnnError(
        `this snapshot is of another model: its digest starts with ${whose.slice(0, 12)}, this model's with ` +
          `${digest.slice(0, 12)}. A snapshot fits only the contract and weights it was taken with.`,
      );
    }
    const rows = data.getUint32(40, true), frames = data.getBigUint64(44, true), waiting = data.getUint32(52, true);
    if (rows !== 1) throw new RnnError(`this snapshot has ${rows} rows, but a stream has one here.`);
    if (waiting & ENDED) {
      throw new RnnError("this snapshot is of a sequence that has ended, after which nothing can be fed: take one before finish().");
    }
    if (waiting) {
      throw new RnnError(`this snapshot has ${waiting} frames that wait for a whole chunk: run the rest before it is taken.`);
    }
    const needed = HEADER + states.reduce((sum, state) => sum + bytesOf(state), 0) + CHECK;
    if (bytes.length !== needed) {
      throw new RnnError(`this snapshot has ${bytes.length} bytes where ${needed} are needed: it is truncated or damaged.`);
    }
    if (crc32(bytes.subarray(0, needed - CHECK)) !== data.getUint32(needed - CHECK, true)) {
      throw new RnnError("this snapshot is damaged: its checksum is not that of its values.");
    }
    if (frames > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw new RnnError(`this snapshot is damaged: it says that ${frames} frames were fed.`);
    }
    let at = HEADER;
    const parts = states.map((state) => bytes.slice(at, (at += bytesOf(state))));
    states.forEach((state, i) => checkState(new ARRAYS[state.dtype](parts[i].buffer), state));
    parts.forEach((part, i) => this.#inside.state(this.#at, i).set(part));
    this.#frames = Number(frames);
  }

  /** Give its memory back to the model. */
  close() {
    if (this.#at !== null) this.#inside.close(this.#at);
    this.#at = null;
  }

  #checkOpen() {
    if (this.#at === null) throw new RnnError("this stream is closed: open another, model.stream().");
  }

  #checkOut(out) {
    const { delay, outputs } = this.model.contract;
    if (delay) throw new RnnError(`out cannot be used here: the first ${delay} frames give no output.`);
    for (const tensor of outputs) {
      const given = outputs.length > 1 ? out?.[tensor.name] : out, kind = ARRAYS[tensor.dtype];
      if (!(given instanceof kind) || given.length !== tensor.size) {
        throw new RnnError(`out for "${tensor.name}" is ${kindOf(given)}, but must be a ${kind.name} of ${tensor.size}.`);
      }
    }
  }
}

function bytesOf({ dtype, size }) { return ARRAYS[dtype].BYTES_PER_ELEMENT * size; }

function byName(tensors, value) { return Object.fromEntries(tensors.map((t, i) => [t.name, value(t, i)])); }

function kindOf(x) {
  if (x === null || x === undefined) return String(x);
  return typeof x === "object" ? `${x.constructor?.name ?? "object"}${"length" in x ? ` of ${x.length}` : ""}` : `a ${typeof x}`;
}

/** Check `x` and copy it into `view`. */
function fill(view, x, { name, dtype, size, shape }, table) {
  const flat = typeof x === "number" || typeof x === "bigint" || typeof x === "boolean" ? [x] : x;
  const own = flat instanceof view.constructor;
  if (!Array.isArray(flat) && !own) {
    throw new RnnError(`"${name}" is ${kindOf(x)}, but must be a ${view.constructor.name} or an array of numbers.`);
  }
  if (flat.length !== size) {
    throw new RnnError(`"${name}" has ${flat.length} values, but a step takes ${size}, of shape (${shape.join(", ")}).`);
  }
  const floats = dtype === "float32" || dtype === "float64", big = dtype === "int64";
  const refuse = (i, why) => { throw new RnnError(`"${name}" ${why} at index ${i}: it was not fed, the memory is unchanged.`); };
  for (let i = 0; i < size; i++) {
    const value = flat[i];
    if (floats) {
      if (typeof value !== "number") refuse(i, `holds ${kindOf(value)}, which is no number,`);
      view[i] = value;
      if (!Number.isFinite(view[i])) refuse(i, "holds NaN or Inf");
      continue;
    }
    if (big ? typeof value !== "bigint" && !Number.isSafeInteger(value) : typeof value !== "number" && typeof value !== "boolean") {
      refuse(i, `holds ${value}, which is no ${dtype},`);
    }
    view[i] = big ? BigInt(value) : value;
    if (Number(view[i]) !== Number(value) || (dtype === "bool" && view[i] > 1)) refuse(i, `holds ${value}, which is no ${dtype},`);
    if (dtype === "float16" && (view[i] & 0x7c00) === 0x7c00) refuse(i, "holds NaN or Inf");
    if (table && (Number(value) < -table || Number(value) >= table)) {
      refuse(i, `holds ${value}, which is out of its table of ${table} rows,`);
    }
  }
}

function checkState(values, { name, dtype }) {
  const bad = { float32: (v) => !Number.isFinite(v), float64: (v) => !Number.isFinite(v), bool: (v) => v > 1,
    float16: (v) => (v & 0x7c00) === 0x7c00 }[dtype];
  if (bad && values.some(bad)) {
    const what = dtype === "bool" ? "a value that is neither true nor false" : "NaN or Inf";
    throw new RnnError(`this snapshot cannot be used: "${name}" has ${what}. The memory is unchanged.`);
  }
}

/** The frames of an output that come after the delay, where `late` frames of the input gave none. */
function settled(view, { timed, time, rate, shape }, late) {
  if (!timed || time === null) return view.slice();
  const frames = shape[time], first = Math.floor((late * rate[0]) / rate[1]), inner = shape.slice(time + 1).reduce((a, b) => a * b, 1);
  const outer = shape.slice(0, time).reduce((a, b) => a * b, 1), kept = (frames - first) * inner;
  const result = new view.constructor(outer * kept);
  for (let o = 0; o < outer; o++) {
    result.set(view.subarray((o * frames + first) * inner, (o + 1) * frames * inner), o * kept);
  }
  return result;
}

function asBytes(data) {
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  throw new RnnError(`this is not a snapshot but ${kindOf(data)}: give the bytes that stream.snapshot() returned.`);
}

/** The values of one tensor of golden.json. */
export function valuesOf(text, { dtype }) {
  const binary = atob(text), bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
  return new ARRAYS[dtype](bytes.buffer);
}

function ofHex(text) { return Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16)); }

function hexOf(bytes) { return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""); }

function crc32(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (0xedb88320 & -(sum & 1));
  }
  return (sum ^ 0xffffffff) >>> 0;
}
