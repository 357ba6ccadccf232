// Values as they go in and come out, flat in typed arrays, and what is wrong with them.

/** What is wrong with a call, a file or an environment, in words for who made it. */
export class RnnError extends Error {
  name = "RnnError";
}

export const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, bool: Uint8Array, int8: Int8Array,
  uint8: Uint8Array, int16: Int16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array,
};

export function bytesOf({ dtype, size }) { return ARRAYS[dtype].BYTES_PER_ELEMENT * size; }

export function byName(tensors, value) { return Object.fromEntries(tensors.map((t, i) => [t.name, value(t, i)])); }

/** Whether `x` is an object by name, and not the values themselves. */
export function isNamed(x) {
  return x !== null && typeof x === "object" && !Array.isArray(x) && !ArrayBuffer.isView(x);
}

export function kindOf(x) {
  if (x === null || x === undefined) return String(x);
  return typeof x === "object" ? `${x.constructor?.name ?? "object"}${"length" in x ? ` of ${x.length}` : ""}` : `a ${typeof x}`;
}

/** `x` as something with a length; raises where it is nothing that `view` can be filled from. */
export function listOf(x, kind, name) {
  const flat = typeof x === "number" || typeof x === "bigint" || typeof x === "boolean" ? [x] : x;
  if (!Array.isArray(flat) && !(flat instanceof kind)) {
    throw new RnnError(`"${name}" is ${kindOf(x)}, but must be a ${kind.name} or an array of numbers.`);
  }
  return flat;
}

/** Check `x` and copy it into `view`. */
export function fill(view, x, { name, dtype, size, shape }, table) {
  const flat = listOf(x, view.constructor, name);
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

/** The values of one tensor of golden.json. */
export function valuesOf(text, { dtype }) {
  const binary = atob(text), bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
  return new ARRAYS[dtype](bytes.buffer);
}
