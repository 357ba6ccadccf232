// A stream's memory as bytes, the same that Python's streams write and read.
import { ARRAYS, bytesOf, kindOf, RnnError } from "./values.js";

// Magic, digest, rows (u32), frames (u64), frames that wait (u32); little-endian, and a crc32 at the end.
const MAGIC = "rnnxsnp1", HEADER = 56, CHECK = 4;
// Among the frames that wait: the sequence is over.
const ENDED = 0x80000000;

/** `parts` are the bytes of each state, in the order of the contract. */
export function pack({ digest }, { frames, ended, parts }) {
  if (!digest) throw new RnnError("this model has no digest, so a snapshot could be restored into another one.");
  const size = HEADER + parts.reduce((sum, part) => sum + part.length, 0), bytes = new Uint8Array(size + CHECK);
  const data = new DataView(bytes.buffer);
  bytes.set([...MAGIC].map((letter) => letter.charCodeAt(0)));
  bytes.set(ofHex(digest), 8);
  data.setUint32(40, 1, true);
  data.setBigUint64(44, BigInt(frames), true);
  data.setUint32(52, ended ? ENDED : 0, true);
  let at = HEADER;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  data.setUint32(at, crc32(bytes.subarray(0, at)), true);
  return bytes;
}

/** Checked: {frames, ended, parts}. */
export function unpack({ digest, states }, snapshot) {
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
  return { frames: Number(frames), ended, parts };
}

function checkState(values, { name, dtype }) {
  const bad = { float32: (v) => !Number.isFinite(v), float64: (v) => !Number.isFinite(v), bool: (v) => v > 1,
    float16: (v) => (v & 0x7c00) === 0x7c00 }[dtype];
  if (bad && values.some(bad)) {
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
