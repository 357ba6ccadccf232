// Pieces of a sequence, of any number of frames: checked, joined to the frames that wait, and cut into steps.
import { cut, hasFrames, put, shapeOver } from "./frames.js";
import { ARRAYS, fill, isNamed, kindOf, listOf, RnnError } from "./values.js";

/**
 * What run takes: `x` after the frames that `wait`, an array for each input or null. Gives {frames, values}: how many
 * frames these are, and all of them, an array for each input.
 */
export function piece(contract, tables, x, wait) {
  const { inputs } = contract, names = inputs.map((tensor) => tensor.name), named = isNamed(x);
  if (!named && inputs.length > 1) {
    throw new RnnError(`this model has ${inputs.length} inputs: give {${names.join(", ")}}, not ${kindOf(x)}.`);
  }
  if (named && (Object.keys(x).length !== names.length || names.some((name) => !(name in x)))) {
    throw new RnnError(`the inputs are {${names.join(", ")}}, but {${Object.keys(x).join(", ")}} was given.`);
  }
  return joined(contract, tables, named ? x : { [names[0]]: x }, wait);
}

/** What finish takes: the frames that are left below a step, if any, and the inputs that have none. As `piece` has it. */
export function rest(contract, tables, x, wait) {
  const { chunk, inputs } = contract, framed = inputs.filter(hasFrames);
  const held = framed.length ? inputs.filter((tensor) => !hasFrames(tensor)) : [];
  const given = x === undefined || x === null ? {} : isNamed(x) ? x : { [inputs[0].name]: x };
  if (given !== x && inputs.length > 1 && Object.keys(given).length) {
    throw new RnnError(`this model has ${inputs.length} inputs: give finish those by name, not ${kindOf(x)}.`);
  }
  const takes = [...framed, ...held].map(({ name }) => name), asked = Object.keys(given);
  const fewest = asked.some((name) => framed.some((t) => t.name === name)) ? takes : held.map(({ name }) => name);
  if (asked.some((name) => !takes.includes(name)) || fewest.some((name) => !(name in given))) {
    const needed = fewest.length ? `{${fewest.join(", ")}}` : "nothing";
    throw new RnnError(`finish takes ${needed} here, but {${asked.join(", ")}} was given.`);
  }
  for (const { name, dtype, size } of framed.filter((tensor) => tensor.name in given)) {
    const { length } = listOf(given[name], ARRAYS[dtype], name), frame = size / chunk;
    if (length % frame || length / frame >= chunk) {
      throw new RnnError(
        `"${name}" has ${length} values, but finish takes frames of ${frame}, fewer than the ${chunk} of a step.`,
      );
    }
  }
  const { frames, values } = joined(contract, tables, given, wait);
  if (frames >= chunk) throw new RnnError(`these and the frames that wait are ${frames}, a whole step of ${chunk}: run them first.`);
  return { frames, values };
}

/** The values of one input of step `step` of a piece; zeros behind its end, where anything may stand. */
export function ofStep(all, tensor, step) {
  if (!tensor.timed) return all;
  const over = shapeOver(tensor), whole = new all.constructor(tensor.size);
  put(whole, ofSteps(all, tensor, step, step + 1), over, 0);
  return whole;
}

/** The values of one input of the steps from `first` to `stop` of a piece, as far as it goes. */
export function ofSteps(all, tensor, first, stop) {
  const over = shapeOver(tensor), size = over.shape[over.time], frames = Math.round((all.length / tensor.size) * size);
  return cut(all, over, Math.min(first * size, frames), Math.min(stop * size, frames));
}

/** Values of so many steps, an array each, one after the other in time. */
export function inTime(parts, tensor) {
  const over = shapeOver(tensor), frame = tensor.size / over.shape[over.time];
  const all = new ARRAYS[tensor.dtype](parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    put(all, part, over, at);
    at += part.length / frame;
  }
  return all;
}

/** The inputs that are `given`, held to the contract, behind the frames that wait; what is not given is zero, or nothing. */
function joined({ chunk, inputs }, tables, given, wait) {
  let more = null;
  const values = inputs.map((tensor, i) => {
    const { name, dtype, size, timed } = tensor, kind = ARRAYS[dtype], waiting = wait?.[i] ?? new kind(0);
    if (!(name in given)) return timed ? waiting : new kind(size);
    if (!timed) {
      const whole = new kind(size);
      fill(whole, given[name], tensor, tables[i]);
      return whole;
    }
    const flat = listOf(given[name], kind, name), frames = (flat.length / size) * chunk;
    if (!Number.isInteger(frames)) throw new RnnError(`"${name}" has ${flat.length} values, which are no frames of ${size / chunk}.`);
    if (more !== null && more !== frames) {
      throw new RnnError(`the inputs have frames for ${more} and ${frames} of the sequence, not for as many.`);
    }
    more = frames;
    const some = new kind(flat.length);
    fill(some, flat, { ...tensor, size: flat.length }, tables[i]);
    return inTime([waiting, some], tensor);
  });
  const first = inputs.findIndex((tensor) => tensor.timed);
  return { frames: first < 0 ? 0 : (values[first].length / inputs[first].size) * chunk, values };
}
