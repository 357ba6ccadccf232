/** What is wrong with a call, a file or an environment, in words for who made it. */
export class RnnError extends Error {}

/** One input, output or state: `shape` is that of one stream's step, flat in a typed array of `size` values. */
export interface Tensor {
  name: string;
  dtype: "float32" | "float64" | "float16" | "bool" | "int8" | "uint8" | "int16" | "int32" | "uint32" | "int64";
  shape: number[];
  size: number;
  /** Whether it has a value for each frame. */
  timed?: boolean;
  /** The axis of its frames, null where a step is one frame. */
  time?: number | null;
  /** How many frames it has, [0], for so many of the input, [1]. */
  rate?: [number, number];
  /** How many frames it has of whole sequences of 0, 1, ... frames; empty where the end of one gives nothing more. */
  lengths?: number[];
}

/** The content of model.json. */
export interface Contract {
  name: string;
  digest: string;
  precision: string;
  /** Frames of one step. */
  chunk: number;
  /** Frames at the start that give no output. */
  delay: number;
  /** The most frames of an output that finish() gives. */
  tail: number;
  /** Which state is told the end of a sequence. */
  end: number | null;
  /** The most frames of a stream; null for any number. */
  max_frames: number | null;
  sample_rate: number | null;
  inputs: Tensor[];
  outputs: Tensor[];
  states: Tensor[];
  /** How audio is fed: samples of a step, and the output that is audio; or why it cannot be. */
  audio: { samples: number; output: string | null } | { samples?: undefined; why: string };
}

/** A float16 is the bits of one, in a Uint16Array. */
export type Values =
  | Float32Array | Float64Array | Uint16Array | Uint8Array | Int8Array | Int16Array | Int32Array | Uint32Array
  | BigInt64Array;
export type Given = number | bigint | boolean | readonly (number | bigint | boolean)[] | Values;
export type Frame = Given | Readonly<Record<string, Given>>;
/** One output, or several by name. */
export type Output = Values | Record<string, Values>;
/** What the end of a sequence gives: of several outputs those that have frames, and null of the only one if it has none. */
export type Left = Values | null | Record<string, Values>;
/** What a piece of a sequence gives; null of an output without frames while a delay lasts. */
export type Piece = Values | null | Record<string, Values | null>;

/** Loads the folder `url`, by default this package's own, once; `simd: false` takes the module without vectors. */
export function load(url?: string | URL, options?: { simd?: boolean }): Promise<Model>;

/** A loaded model; all its streams share code and weights. */
export interface Model {
  readonly contract: Contract;
  stream(): Stream;
  /** Holds this machine to what the trained model itself gave. */
  selftest(): Promise<SelfTest>;
  /**
   * For a model with a sample rate; rejects with the reason where the context has another one. After `endsAfter` samples
   * the sequence ends, as after the message {id, call: "finish"}.
   */
  audioNode(context: BaseAudioContext, options?: { endsAfter?: number }): Promise<AudioWorkletNode>;
}

export interface SelfTest {
  passed: boolean;
  steps: number;
  /** How many sequences were driven to their end. */
  ends: number;
  results: { name: string; error: number; scale: number; passed: boolean }[];
}

/** One stream, with its own memory. */
export interface Stream {
  /** Frames that were fed since the start, in whole steps. */
  readonly frames: number;
  /** Whether finish() ended the sequence. */
  readonly ended: boolean;
  /** Frames of a run that wait for a whole step. */
  readonly waiting: number;
  /** Copies of the states by name. */
  readonly states: Record<string, Values>;
  /** Feeds one step; null where no frame gives an output yet. On an error the memory stays. */
  step(x: Frame): Output | null;
  step<T extends Output>(x: Frame, out: T): T;
  /**
   * Feeds any piece of a sequence, its frames one after the other in time, and gives all that comes of it. What is left
   * below a whole step waits for the next run, or for finish. On an error the memory stays.
   */
  run(x: Frame): Piece;
  /**
   * Ends the sequence, and gives the frames that only its end gives. `rest` are the frames that are left below a whole
   * step, behind those that wait, and the inputs that have no frames. Nothing can be fed after that, until a reset. On an error the memory stays.
   */
  finish(rest?: Frame): Left;
  reset(): void;
  /** The memory as bytes, which a stream of the same model takes here, in Python and on any backend. */
  snapshot(): Uint8Array;
  restore(snapshot: Uint8Array | ArrayBuffer): void;
  /** Gives its memory back to the model. */
  close(): void;
}

/**
 * What `node.port` of an audioNode posts; and {id, call, value} or {id, call, error} after {id, call}. The calls are
 * "reset", "finish", "snapshot" and "restore" (with `snapshot`). The value of "finish" is an AudioEnd.
 */
export interface AudioMessage {
  first: number;
  count: number;
  outputs: Record<string, Values | null>;
}

/** What the end of a sequence gave: frames of each output, and how many samples of sound the node still plays. */
export interface AudioEnd {
  outputs: Record<string, Values | null>;
  playing: number;
}
