// A stream's memory as bytes, the same that Python's streams write and read.
import { hasFrames, transposed } from "./frames.js";
import { ARRAYS, bytesOf, kindOf, RnnError } from "./values.js";

// Magic, digest, rows (u32), frames (u64), frames that wait (u32); little-endian, and a crc32 at the end.
const MAGIC = "rnnxsnp1", HEADER = 56, CHECK = 4;
// Among the frames that wait: the sequence is over.
const ENDED = 0x80000000;

/**
 * `parts` are the bytes of each state, in the order of the contract; `wait` has an array for each input, of frames that
 * wait for a whole step, or is null.
 */
export function pack({ digest, chunk, inputs }, { frames, ended, parts: states, wait }) {
  if (!digest) throw new RnnError("this model has no digest, so a snapshot could be restored into another one.");
  const framed = wait ? inputs.map((tensor, i) => [tensor, wait[i]]).filter(([tensor]) => hasFrames(tensor)) : [];
  const waiting = framed.length ? (framed[0][1].length / framed[0][0].size) * chunk : 0;
  const parts = [...states, ...framed.map(([tensor, values]) => new Uint8Array(transposed(values, tensor).buffer))];
  const size = HEADER + parts.reduce((sum, part) => sum + part.length, 0), bytes = new Uint8Array(size + CHECK);
  const data = new DataView(bytes.buffer);
  bytes.set([...MAGIC].map((letter) => letter.charCodeAt(0)));
  bytes.set(ofHex(digest), 8);
  data.setUint32(40, 1, true);
  data.setBigUint64(44, BigInt(frames), true);
  data.setUint32(52, (ended ? ENDED : 0) + waiting, true);
  let at = HEADER;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  data.setUint32(at, crc32(bytes.subarray(0, at)), true);
  return bytes;
}

/** Checked: {frames, ended, parts, wait}. `start(i)` gives the bytes of state `i` at the start of a stream. */
export function unpack({ digest, chunk, inputs, states }, snapshot, start) {
  const bytes = asBytes(snapshot), magic = String.fromCharCode(...bytes.subarray(0, 8));
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
  const rows = data.getUint32(40, true), frames = data.getBigUint64(44, true), last = data.getUint32(52, true);
  const ended = Boolean(last & ENDED), waiting = (last & ~ENDED) >>> 0;
  if (rows !== 1) throw new RnnError(`this snapshot has ${rows} rows, but a stream has one here.`);
  const framed = waiting ? inputs.map((tensor) => hasFrames(tensor) && { ...tensor, size: (tensor.size / chunk) * waiting }) : [];
  const needed = HEADER + [...states, ...framed.filter(Boolean)].reduce((sum, tensor) => sum + bytesOf(tensor), 0) + CHECK;
  if (waiting >= chunk || bytes.length !== needed) {
    throw new RnnError(`this snapshot has ${bytes.length} bytes where ${needed} are needed: it is truncated or damaged.`);
  }
  if (crc32(bytes.subarray(0, needed - CHECK)) !== data.getUint32(needed - CHECK, true)) {
    throw new RnnError("this snapshot is damaged: its checksum is not that of its values.");
  }
  if (frames > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new RnnError(`this snapshot is damaged: it says that ${frames} frames were fed.`);
  }
  let at = HEADER;
  const take = (tensor, initial) => {
    const values = new ARRAYS[tensor.dtype](bytes.slice(at, (at += bytesOf(tensor))).buffer);
    check(values, tensor, initial);
    return values;
  };
  const parts = states.map((state, i) => new Uint8Array(take(state, () => start(i)).buffer));
  const wait = framed.map((tensor) => (tensor ? transposed(take(tensor), tensor, true) : null));
  return { frames: Number(frames), ended, parts, wait: waiting ? wait : null };
}

/** An Inf that the initial value has at the same place is as it should be: a running maximum starts from -inf. */
function check(values, { name, dtype }, initial) {
  const bad = { float32: (v) => !Number.isFinite(v), float64: (v) => !Number.isFinite(v), bool: (v) => v > 1,
    float16: (v) => (v & 0x7c00) === 0x7c00 }[dtype];
  if (!bad || !values.some(bad)) return;
  const from = initial && dtype !== "bool" ? new ARRAYS[dtype](initial().buffer) : [];
  const same = (v, i) => v === from[i] && (dtype !== "float16" || (v & 0x3ff) === 0);
  if (values.some((v, i) => bad(v) && !same(v, i))) {
    const what = dtype === "bool" ? "a value that is neither true nor false" : "NaN or Inf";
    throw new RnnError(`this snapshot cannot be used: "${name}" has ${what}. The memory is unchanged.`);
  }
}

function asBytes(data) {
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  throw new RnnError(`this is not a snapshot but ${kindOf(data)}: give the bytes that stream.snapshot() returned.`);
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
