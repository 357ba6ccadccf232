// A model and its streams: no fetch, no DOM, no TextDecoder, so that an AudioWorklet can have it too.
import { closingSteps, cut, hasFrames, leftInSteps, put, settled } from "./frames.js";
import { inTime, ofStep, ofSteps, piece, rest } from "./sequence.js";
import { pack, unpack } from "./snapshot.js";
import { ARRAYS, byName, bytesOf, fill, isNamed, kindOf, RnnError } from "./values.js";

const LINE = 64, PAGE = 65536, POINTER = 4;

/** A loaded module. `contract` is the content of model.json, `weights` that of weights.bin where there is one. */
export class Model {
  #exports; #free = []; #end; #weights = 0; #views = new Map(); #buffer; #inputs; #outputs; #stride; #offsets; #fronts; #tables; #wrong;

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
    this.#fronts = states.map((_, i) => this.#exports.rnn_state_front(i));
    this.#tables = inputs.map((_, i) => this.#exports.rnn_input_rows(i));
    this.#wrong = this.#exports.rnn_wrong_indices() ? this.#exports.rnn_wrong_offset() : null;
  }

  /** A stream at its start. All streams of a model share its code and weights. */
  stream() {
    return new Stream(this, {
      init: (at) => this.#exports.rnn_init(at, this.#weights),
      open: () => this.#free.pop() ?? this.#take(this.#stride),
      close: (at) => this.#free.push(at),
      load: (x) => this.#load(x),
      piece: (x, wait) => piece(this.contract, this.#tables, x, wait),
      rest: (x, wait) => rest(this.contract, this.#tables, x, wait),
      loadStep: (values, step) => this.#loadStep(values, step),
      step: (at) => this.#step(at),
      output: (i) => this.#view(this.#outputs.ports[i]),
      start: (i) => this.#start(i),
      memory: (at) => new Uint8Array(this.#memory, at, this.#stride),
      state: (at, i) => this.#state(at, i),
    });
  }

  /** One step of the struct at `at`, which is as it was where the step notes an index beyond its table. */
  #step(at) {
    const struct = () => new Uint8Array(this.#memory, at, this.#stride);
    const before = this.#wrong === null ? null : struct().slice();
    this.#exports.rnn_step(at, this.#inputs.pointers, this.#outputs.pointers);
    const number = before && new Uint32Array(this.#memory, at + this.#wrong, 1)[0];
    if (!number) return;
    struct().set(before);
    throw new RnnError(`${this.#text(this.#exports.rnn_wrong_index(number))}: the memory is unchanged.`);
  }

  /** The bytes of state `i` of the struct at `at`: a window that moves along begins some values behind its offset. */
  #state(at, i) {
    const tensor = this.contract.states[i], bytes = bytesOf(tensor), front = this.#fronts[i];
    const before = front ? new Uint32Array(this.#memory, at + front, 1)[0] : 0;
    return new Uint8Array(this.#memory, at + this.#offsets[i] + before * (bytes / tensor.size), bytes);
  }

  /** A copy of the bytes of state `i` as a stream starts. */
  #start(i) {
    const at = this.#free.pop() ?? this.#take(this.#stride);
    this.#exports.rnn_init(at, this.#weights);
    this.#free.push(at);
    return this.#state(at, i).slice();
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
    const { ports } = this.#inputs, names = ports.map((port) => port.tensor.name), named = isNamed(x);
    if (!named && ports.length > 1) {
      throw new RnnError(`this model has ${ports.length} inputs: give {${names.join(", ")}}, not ${kindOf(x)}.`);
    }
    if (named && (Object.keys(x).length !== names.length || names.some((name) => !(name in x)))) {
      throw new RnnError(`the inputs are {${names.join(", ")}}, but {${Object.keys(x).join(", ")}} was given.`);
    }
    ports.forEach((port, i) => fill(this.#view(port), named ? x[names[i]] : x, port.tensor, this.#tables[i]));
  }

  #loadStep(values, step) {
    this.#inputs.ports.forEach((port, i) => this.#view(port).set(ofStep(values[i], port.tensor, step)));
  }

  #text(address) {
    const bytes = new Uint8Array(this.#memory, address);
    return String.fromCharCode(...bytes.subarray(0, bytes.indexOf(0)));
  }
}

/** One stream: its memory, and the step. */
export class Stream {
  #at; #frames = 0; #ended = false; #inside;
  // The frames of a run that wait for a whole step, an array for each input; null where none do.
  #wait = null;

  constructor(model, inside) {
    this.model = model;
    this.#inside = inside;
    this.#at = inside.open();
    this.reset();
  }

  /** Frames that were fed since the start, in whole steps. */
  get frames() { return this.#frames; }

  /** Whether finish() ended the sequence. */
  get ended() { return this.#ended; }

  /** Frames of a run that wait for a whole step. */
  get waiting() {
    const { chunk, inputs } = this.model.contract, i = inputs.findIndex(hasFrames);
    return this.#wait ? (this.#wait[i].length / inputs[i].size) * chunk : 0;
  }

  /**
   * Feed one step: a number, an array or a typed array of the input's size; where there are several inputs, an object
   * by name. Gives the output as a typed array, several as an object by name, and null where no frame gives any yet.
   */
  step(x, out) {
    const { chunk, outputs } = this.model.contract;
    if (out !== undefined) this.#checkOut(out);
    this.advance(x);
    const late = this.#late();
    if (late === chunk) return null;
    if (out !== undefined) {
      outputs.forEach((tensor, i) => (outputs.length > 1 ? out[tensor.name] : out).set(this.raw(i)));
      return out;
    }
    const given = outputs.map((tensor, i) => (late ? settled(this.raw(i), tensor, late) : this.raw(i).slice()));
    return outputs.length > 1 ? byName(outputs, (_, i) => given[i]) : given[0];
  }

  /**
   * Feed any piece of a sequence, its frames one after the other in time, and give all that comes of it in the same
   * form: of length 0 where nothing comes yet. An input without frames is held for the whole piece, an output without
   * is that of the last step, null where there was none. What is left below a whole step waits for the next run, or for
   * finish.
   */
  run(x) {
    this.#checkTakes(0);
    const { chunk, inputs, outputs } = this.model.contract, { frames, values } = this.#inside.piece(x, this.#wait);
    this.#checkTakes(frames);
    const given = outputs.map(() => []), steps = Math.floor(frames / chunk);
    for (let step = 0; step < steps; step++) {
      this.#inside.loadStep(values, step);
      this.#inside.step(this.#at);
      this.#frames += chunk;
      const late = this.#late();
      if (late < chunk) outputs.forEach((tensor, i) => given[i].push(settled(this.raw(i), tensor, late)));
    }
    const left = (tensor, i) => hasFrames(tensor) ? ofSteps(values[i], tensor, steps, steps + 1) : null;
    this.#wait = frames > steps * chunk ? inputs.map(left) : null;
    const result = outputs.map((tensor, i) => (tensor.timed ? inTime(given[i], tensor) : given[i].at(-1) ?? null));
    return outputs.length > 1 ? byName(outputs, (_, i) => result[i]) : result[0];
  }

  /** The same as `step` without an output: that lies in `raw(i)`, of no value during the delay. */
  advance(x) {
    if (this.#wait) {
      throw new RnnError(`${this.waiting} frames of a run still wait for a whole step: run the rest, or reset.`);
    }
    this.#checkTakes(this.model.contract.chunk);
    this.#inside.load(x);
    this.#inside.step(this.#at);
    this.#frames += this.model.contract.chunk;
  }

  /**
   * End the sequence: the frames of the output that only its end gives, in one typed array, of length 0 where there are
   * none, and null of an output without frames, whose last stands; of several outputs those that have frames, as an
   * object by name. `rest` are the frames below a whole step that the sequence ends with, behind those that wait, and
   * the inputs that have no frames. Nothing can be fed after that, until a reset.
   */
  finish(rest) {
    this.#checkTakes(0);
    const { contract } = this.model, { chunk, end, outputs } = contract;
    const { frames: waiting, values } = this.#inside.rest(rest, this.#wait);
    this.#checkTakes(waiting);
    const whole = this.#frames + waiting, steps = whole ? closingSteps(contract, whole) : 0;
    const left = outputs.map((tensor) => hasFrames(tensor) && new ARRAYS[tensor.dtype](steps * tensor.size));
    const before = this.#inside.memory(this.#at).slice();
    try {
      if (end !== null) this.#inside.state(this.#at, end).set(new Uint8Array(Float32Array.of(chunk - waiting).buffer));
      for (let step = 0; step < steps; step++) {
        this.#inside.loadStep(values, step);
        this.#inside.step(this.#at);
        outputs.forEach((tensor, i) => left[i] && put(left[i], this.raw(i), tensor, step * tensor.shape[tensor.time]));
      }
    } finally {
      this.#inside.memory(this.#at).set(before);
    }
    this.#ended = true;
    this.#wait = null;
    const given = outputs.map((tensor, i) => {
      if (!left[i]) return tensor.timed ? new ARRAYS[tensor.dtype](0) : null;
      return whole ? cut(left[i], tensor, ...leftInSteps(contract, tensor, whole)) : left[i];
    });
    if (outputs.length === 1) return given[0];
    return Object.fromEntries(outputs.map(({ name }, i) => [name, given[i]]).filter(([, values]) => values !== null));
  }

  /** Output `i` of the last step of any stream of the model, where it lies: good until the next call. */
  raw(i) { return this.#inside.output(i); }

  /** Back to the start. */
  reset() {
    this.#checkOpen();
    this.#inside.init(this.#at);
    this.#frames = 0;
    this.#ended = false;
    this.#wait = null;
  }

  /** Copies of the states by name. */
  get states() {
    const parts = this.#parts();
    return byName(this.model.contract.states, (tensor, i) => new ARRAYS[tensor.dtype](parts[i].buffer));
  }

  /** The memory as bytes, for `restore` here or for a stream of the same model in Python or elsewhere. */
  snapshot() {
    return pack(this.model.contract, { frames: this.#frames, ended: this.#ended, parts: this.#parts(), wait: this.#wait });
  }

  /** Go on from a snapshot, taken here or by a stream of one row in Python. On an error the memory stays. */
  restore(snapshot) {
    this.#checkOpen();
    const { inputs } = this.model.contract, { frames, ended, parts, wait } = unpack(this.model.contract, snapshot, this.#inside.start);
    // What waits was never fed, so ids are yet to be held to their tables.
    if (wait) this.#inside.piece(byName(inputs, (t, i) => wait[i] ?? new ARRAYS[t.dtype](t.size)), null);
    parts.forEach((part, i) => this.#inside.state(this.#at, i).set(part));
    this.#frames = frames;
    this.#ended = ended;
    this.#wait = wait;
  }

  /** Give its memory back to the model. */
  close() {
    if (this.#at !== null) this.#inside.close(this.#at);
    this.#at = null;
  }

  /** Of the frames of the last step, how many the delay leaves out. */
  #late() {
    const { chunk, delay } = this.model.contract;
    return Math.min(chunk, Math.max(0, delay - (this.#frames - chunk)));
  }

  #parts() {
    this.#checkOpen();
    return this.model.contract.states.map((_, i) => this.#inside.state(this.#at, i).slice());
  }

  #checkOpen() {
    if (this.#at === null) throw new RnnError("this stream is closed: open another, model.stream().");
  }

  /** Whether `more` frames can be fed. */
  #checkTakes(more) {
    this.#checkOpen();
    if (this.#ended) throw new RnnError("the sequence is over, since finish() ended it: reset the stream before another one.");
    const { max_frames: most } = this.model.contract;
    if (most !== null && this.#frames + more > most) {
      throw new RnnError(
        `a stream of this model has ${most} frames at most (max_frames), and was exported for no more: ${this.#frames} ` +
          `were fed, and ${more} more go beyond. Nothing was fed: reset it, and begin again.`,
      );
    }
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
